import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from bluesky_ptychonn.core.lift import lift
from bluesky_ptychonn.core.optics import with_counts
from bluesky_ptychonn.core.projection import light, project
from bluesky_ptychonn.engines import torch_physics as physics
from bluesky_ptychonn.training.learning.networks import NETWORKS, LiftNetwork, build_network, multiplications
from bluesky_ptychonn.training.learning.reference_networks import PtychoNN2


def random_case(n, h, seed=0, masked=True):
    """Patterns, probe and estimate without any structure, as NumPy and as torch have them."""
    rng = np.random.default_rng(seed)
    round_ = np.exp(-((np.indices((n, n)) - n / 2) ** 2).sum(axis=0) / (n / 5) ** 2)
    probe = with_counts((rng.normal(size=(n, n)) + 1j * rng.normal(size=(n, n))) * round_, 1e5)
    patterns = rng.poisson(20, (3, n, n)).astype(np.uint16)
    if masked:
        patterns[:, 3] = 65535
    estimate = (0.3 * rng.normal(size=(3, 2, h, h))).astype(np.float32)
    valid = torch.from_numpy(patterns != 65535)
    counts = torch.where(valid, torch.from_numpy(patterns.astype(np.float32)), 0)
    return patterns, probe, estimate, (counts, valid, torch.from_numpy(probe).expand(3, n, n))


@pytest.mark.parametrize(("n", "h"), [(128, 80), (64, 48), (36, 16)])
def test_torch_and_the_reference_agree(n, h):
    patterns, probe, estimate, tensors = random_case(n, h)
    edge = (n - h) // 2
    centre = (..., slice(edge, n - edge), slice(edge, n - edge))
    np.testing.assert_allclose(physics.lift(*tensors, h), lift(patterns, probe)[centre], atol=1e-5)
    asked = physics.project(*tensors, torch.from_numpy(estimate))
    np.testing.assert_allclose(asked, project(patterns, probe, estimate), atol=1e-5)
    np.testing.assert_allclose(physics.light(tensors[2], h)[0, 0], light(probe, h), atol=1e-6)


def test_the_truth_is_left_alone_and_fits_best():
    """Counts of the very estimate: nothing is asked, and no other estimate has a smaller misfit."""
    _, probe, estimate, (_, valid, probes) = random_case(64, 48, masked=False)
    truth = torch.from_numpy(estimate)
    edge = 8
    wave = np.repeat(probe[None], 3, axis=0)
    wave[:, edge:-edge, edge:-edge] *= np.exp(estimate[:, 0] + 1j * estimate[:, 1])
    counts = physics.far_field(torch.from_numpy(wave)).abs() ** 2
    assert float(physics.project(counts, valid, probes, truth).abs().max()) < 1e-3
    least = physics.misfit(counts, valid, probes, truth)
    assert float(least.max()) < 1e-9
    for scale in (0.9, 1.1):
        assert (physics.misfit(counts, valid, probes, scale * truth) > least + 1e-6).all()


def test_the_misfit_finds_the_object_without_a_label():
    """Descending on it from a flat object brings the estimate nearer to the truth, which it never sees."""
    *_, estimate, (_, valid, probes) = random_case(64, 48, masked=False)
    truth = torch.nn.functional.avg_pool2d(torch.from_numpy(estimate), 5, stride=1, padding=2)
    wave = torch.nn.functional.pad(torch.polar(truth[:, 0].exp(), truth[:, 1]) - 1, (8, 8, 8, 8)) + 1
    counts = physics.far_field(probes * wave).abs() ** 2
    found = torch.zeros_like(truth, requires_grad=True)
    optimiser = torch.optim.Adam([found], lr=0.01)
    first = float(physics.misfit(counts, valid, probes, found).mean().detach())
    for _ in range(60):
        misfit = physics.misfit(counts, valid, probes, found).mean()
        optimiser.zero_grad()
        misfit.backward()
        optimiser.step()
    assert float(misfit.detach()) < 0.2 * first
    weight = probes.abs() ** 2
    away = ((found.detach() - truth) ** 2 * weight[:, None, 8:-8, 8:-8]).sum() / (
        truth**2 * weight[:, None, 8:-8, 8:-8]
    ).sum()
    assert float(away) < 0.5


def test_paper_networks_have_their_sizes():
    sizes = {name: sum(p.numel() for p in build_network(name).parameters()) for name in NETWORKS}
    assert sizes["ptychonn2"] == 733_921
    assert sizes["ptychonn"] == pytest.approx(4.7e6, rel=0.01)
    assert multiplications(build_network("ptychonn2")) == pytest.approx(316, abs=1)


def test_ours_stays_within_its_budget():
    assert multiplications(build_network("ptychonn-lift")) <= 50


@pytest.mark.parametrize("name", list(NETWORKS))
def test_every_network_gives_log_amplitude_and_phase(name):
    network = build_network(name)
    *_, tensors = random_case(128, 80)
    with torch.no_grad():
        estimates = network(*tensors)
    assert estimates[-1].shape == (3, 2, network.patch_px, network.patch_px)
    assert float(estimates[-1][:, 1].abs().max()) <= np.pi
    assert type(build_network(name, network.configuration)) is type(network)


def test_guess_alone():
    *_, tensors = random_case(64, 48)
    assert len(LiftNetwork(48, (4, 8, 8), None)(*tensors)) == 1
    assert len(LiftNetwork(48, (4, 8, 8), (4, 8, 8))(*tensors)) == 2


def test_published_names_of_parameters():
    """Those of the paper's state dict: convolutions at their places in two plain sequences."""
    names = list(PtychoNN2().state_dict())
    assert (names[0], names[-1]) == ("encoder.0.weight", "decoder2.20.bias")
    assert len(names) == 2 * 17


def test_unknown_network():
    with pytest.raises(ValueError, match="choose one of ptychonn, ptychonn2, ptychonn-lift"):
        build_network("unet")

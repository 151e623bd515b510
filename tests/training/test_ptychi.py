import logging
import random
import sys

import numpy as np
import pytest
from scipy import ndimage

from bluesky_ptychonn.core.metrics import compare_phase
from bluesky_ptychonn.core.optics import Geometry, intensities, with_counts, zone_plate_probe
from bluesky_ptychonn.core.scan import fermat_spiral
from bluesky_ptychonn.core.scan_data import ScanData
from bluesky_ptychonn.training.retrieval.problem import MARGIN_PX, make_problem
from bluesky_ptychonn.training.retrieval.ptychi_engine import METHODS, POSITIONS_FROM, ptychi_sweeps, why_not

N = 64
GEOMETRY = Geometry(frame_px=N, distance_m=0.45)
PROBE = zone_plate_probe(GEOMETRY, defocus_um=60.0)
COUNTS = 1e6


@pytest.fixture(scope="module")
def ptychi():
    if reason := why_not():
        pytest.skip(reason)


@pytest.fixture
def truth(ptychi, rng):
    """An etched object with room for positions off the pixel grid, and those positions."""
    positions_px = fermat_spiral(0.5, 0.4, 0.055) / GEOMETRY.pixel_size_um
    positions_px -= np.floor(positions_px.min(axis=0)) - N // 2 - MARGIN_PX
    shape = np.ceil(positions_px.max(axis=0)).astype(int) + N // 2 + MARGIN_PX
    etched = ndimage.gaussian_filter(rng.normal(size=shape), 2.0) > 0
    return (np.where(etched, 0.9, 1) * np.exp(-0.6j * etched)).astype(np.complex64), positions_px


def measure(rng, object_, modes, positions_px):
    """Count photons of a known object and probe."""
    expected = sum(intensities(object_, mode, positions_px) for mode in modes)
    return rng.poisson(expected).astype(np.uint32)


def residual(sweep, patterns):
    modelled = sum(intensities(sweep.object_, mode, sweep.positions_px) for mode in sweep.probe)
    valid = patterns != np.iinfo(patterns.dtype).max
    squares = (np.sqrt(modelled) - np.sqrt(patterns)) ** 2
    return np.sum(squares, where=valid) / np.sum(patterns, where=valid, dtype=float)


def last(problem, sweeps, **options):
    *_, sweep = ptychi_sweeps(problem, sweeps=sweeps, batch=24, **options)
    return sweep


def exact(object_, modes, positions_px, patterns):
    """The problem already solved, but for the noise."""
    problem = make_problem(ScanData(patterns, positions_px), PROBE)
    assert problem.object_.shape == object_.shape
    problem.object_, problem.probe = object_.copy(), np.asarray(modes, np.complex64)
    return problem


def field(positions_px):
    return tuple(slice(int(low), int(high)) for low, high in zip(positions_px.min(axis=0), positions_px.max(axis=0)))


def correlation(object_, true, positions_px):
    seen = field(positions_px)
    flat = [np.angle(image * np.exp(-1j * np.angle(image[seen].mean()))) for image in (object_, true)]
    return compare_phase(*flat, region=seen).correlation


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("modes", [1, 2])
def test_leaves_what_is_right(truth, rng, method, modes):
    """Its forward model is ours: positions, orientation and counts; pixels without data pull at nothing."""
    object_, positions_px = truth
    first = with_counts(PROBE, COUNTS)
    tilted = with_counts(first * np.linspace(-1, 1, N)[:, None], COUNTS / 5)
    probe = np.stack([first, tilted])[:modes]
    patterns = measure(rng, object_, probe, positions_px)
    patterns[:, 20:23] = patterns[3] = patterns[rng.random(patterns.shape) < 0.1] = np.iinfo(np.uint32).max
    problem = exact(object_, probe, positions_px, patterns)

    noise = residual(problem, patterns)
    sweep = last(problem, 2, method=method)

    assert residual(sweep, patterns) < 1.02 * noise
    assert np.abs(sweep.object_ - object_)[field(positions_px)].max() < 0.1
    np.testing.assert_allclose(np.sum(np.abs(sweep.probe) ** 2, axis=(1, 2)), [COUNTS, COUNTS / 5][:modes], rtol=0.02)
    np.testing.assert_array_equal(sweep.positions_px, positions_px)


@pytest.mark.parametrize("method", METHODS)
def test_finds_the_object_the_right_way_round(truth, rng, method):
    object_, positions_px = truth
    patterns = measure(rng, object_, [with_counts(PROBE, COUNTS)], positions_px)
    problem = make_problem(ScanData(patterns, positions_px), PROBE)

    sweep = last(problem, 12, method=method)

    assert correlation(sweep.object_, object_, positions_px) > 0.9
    held = np.setdiff1d(np.arange(len(patterns)), problem.used)
    sweep.positions_px = positions_px[held]
    assert residual(sweep, patterns[held]) < 0.02
    assert np.sum(np.abs(sweep.probe) ** 2) == pytest.approx(np.sum(np.abs(problem.probe) ** 2), rel=0.05)


def test_never_sees_frames_that_are_held_out_and_repeats_by_seed(truth, rng):
    object_, positions_px = truth
    patterns = measure(rng, object_, [with_counts(PROBE, COUNTS)], positions_px)
    problem = make_problem(ScanData(patterns, positions_px), PROBE)
    spoilt = make_problem(ScanData(patterns, positions_px), PROBE)
    held = np.setdiff1d(np.arange(len(patterns)), problem.used)
    spoilt.patterns = patterns.copy()
    spoilt.patterns[held] = 7

    seen = last(problem, 2, method="ptychi-lsqml", seed=3, threads=1)
    unseen = last(spoilt, 2, method="ptychi-lsqml", seed=3, threads=1)
    other = last(problem, 2, method="ptychi-lsqml", seed=4, threads=1)

    np.testing.assert_array_equal(unseen.object_, seen.object_)
    assert np.abs(other.object_ - seen.object_).max() > 1e-4


def test_corrects_positions(truth, rng):
    """A slow drift goes from all frames, also from those held out."""
    object_, positions_px = truth
    probe = with_counts(PROBE, COUNTS)[None]
    patterns = measure(rng, object_, probe, positions_px)
    problem = exact(object_, probe, positions_px, patterns)
    drift_px = 0.8 * np.sin(np.arange(len(positions_px)) / 5)[:, None] * [1, -1]
    problem.positions_px = positions_px + drift_px

    sweep = last(problem, POSITIONS_FROM + 20, method="ptychi-lsqml", position_bound_px=6.0)

    assert np.std(sweep.positions_px - positions_px) < 0.75 * np.std(drift_px)


def test_leaves_the_process_as_it_was(truth, rng):
    """Between two sweeps nothing of torch, of logging or of any random generator has changed."""
    import torch

    def state():
        return (
            torch.get_default_dtype(),
            torch.get_default_device(),
            torch.get_num_threads(),
            torch.get_rng_state().tolist(),
            np.random.get_state()[1].tolist(),  # noqa: NPY002
            random.getstate(),
            list(logging.getLogger().handlers),
            logging.getLogger("ptychi").level,
        )

    object_, positions_px = truth
    patterns = measure(rng, object_, [with_counts(PROBE, COUNTS)], positions_px)
    problem = make_problem(ScanData(patterns, positions_px), PROBE)
    torch.set_default_dtype(torch.float64)
    try:
        before = state()
        for sweep in ptychi_sweeps(problem, method="ptychi-epie", sweeps=2, threads=2):
            assert state() == before
            assert (sweep.object_.dtype, sweep.probe.dtype) == (np.complex64, np.complex64)
    finally:
        torch.set_default_dtype(torch.float32)


def test_refuses_an_unknown_method():
    with pytest.raises(ValueError, match="ptychi-lsqml, ptychi-epie, ptychi-rpie"):
        ptychi_sweeps(None, method="ptychi", sweeps=1)


@pytest.mark.parametrize(
    ("source", "remedy"),
    [
        ("raise ModuleNotFoundError('no pandas')", r"no pandas.*pip install 'bluesky-ptychonn\[ptychi\]'"),
        ("raise RuntimeError('operator torchvision::nms does not exist')", "nms.*torchvision built with it"),
    ],
)
def test_says_why_it_cannot_be_imported(tmp_path, monkeypatch, source, remedy):
    for name in [name for name in sys.modules if name.split(".")[0] == "ptychi"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "ptychi.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=remedy) as refusal:
        ptychi_sweeps(None, method="ptychi-lsqml", sweeps=1)
    assert why_not() == str(refusal.value)

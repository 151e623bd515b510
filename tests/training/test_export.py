import io
import logging
import warnings

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

import torch

from bluesky_ptychonn.core.optics import with_counts, zone_plate_probe
from bluesky_ptychonn.engines.registry import open_engine
from bluesky_ptychonn.training.learning import export as export_module
from bluesky_ptychonn.training.learning.checkpoint import write_checkpoint
from bluesky_ptychonn.training.learning.export import export, simulated_scans
from bluesky_ptychonn.training.learning.graphs import onnx_graph
from bluesky_ptychonn.training.learning.networks import build_network
from bluesky_ptychonn.training.learning.published import import_published
from bluesky_ptychonn.training.learning.reference_networks import PtychoNN2
from bluesky_ptychonn.training.learning.simulated import GEOMETRY

LIFT = {"patch_px": 48, "first": [4, 8, 8], "refine": [4, 8, 8]}
SMALL = {
    "ptychonn-lift": LIFT,
    "ptychonn2": {"frame_px": 64, "channels": 4},
    "ptychonn": {"frame_px": 64, "channels": 4},
}


@pytest.fixture(autouse=True)
def few_scans(monkeypatch):
    monkeypatch.setattr(export_module, "CALIBRATION_SCANS", 4)
    monkeypatch.setattr(export_module, "HELD_OUT_SCANS", 2)


def checkpoint(folder, name, configuration, seed=0, gain=1.0):
    """Checkpoint of a network that never learned anything."""
    torch.manual_seed(seed)
    network = build_network(name, configuration).eval()
    with torch.no_grad():
        for values in network.parameters():
            values.mul_(gain)
    figures = {"command": "train", "conditions": {"snapshot": 64 * "5"}, "results": [{"mae_rad": 0.1}]}
    kept = {"network": name, "configuration": network.configuration, "kept": network.state_dict(), "figures": figures}
    folder.mkdir()
    write_checkpoint(folder, kept)
    return network


def by_torch(network, patterns, probe):
    """What the network itself makes of patterns."""
    valid = torch.from_numpy(patterns != np.iinfo(patterns.dtype).max)
    counts = torch.where(valid, torch.from_numpy(patterns.astype(np.float32)), 0)
    with torch.no_grad():
        return network(counts, valid, torch.from_numpy(probe).expand(counts.shape))[-1][:, 1].numpy()


@pytest.mark.parametrize("name", SMALL)
def test_the_engine_does_what_the_network_does(tmp_path, name):
    """From checkpoint to engine, at other doses and probes than those of the golden pair."""
    network = checkpoint(tmp_path / "t", name, SMALL[name])
    card = export(tmp_path / "t", tmp_path / "m", name="test", version="1", eight_bit=False)
    engine = open_engine("openvino", tmp_path / "m", max_batch=5)
    assert engine.card == card
    for scan in simulated_scans(3, 3, card.frame_px):
        engine.set_probe(scan.probe)
        found = engine.infer(scan.patterns[:5])
        wanted = by_torch(network, scan.patterns[:5], scan.probe)
        assert np.sqrt(np.mean((found - wanted) ** 2)) < 0.01 * np.sqrt(np.mean(wanted**2))  # bfloat16 holds 8 bits


def test_card_says_what_was_done(tmp_path):
    checkpoint(tmp_path / "t", "ptychonn-lift", LIFT)
    card = export(
        tmp_path / "t", tmp_path / "m", name="test", version="1", pixel_size_um=0.012, energy_kev=9.5, eight_bit=True
    )
    assert (card.pixel_size_um, card.energy_kev, card.corpus) == (0.012, 9.5, 64 * "5")
    assert (card.preparation, card.refine_file, card.patch_px) == ("lift", "refine.onnx", 48)
    assert card.training["results"] == [{"mae_rad": 0.1}]
    assert card.training["export"]["eight_bit"]
    assert 0 < card.training["export"]["eight_bit_change_rad"] < export_module.EIGHT_BIT_TOLERANCE_RAD
    assert open_engine("openvino", tmp_path / "m").card == card
    whole = export(tmp_path / "t", tmp_path / "w", name="test", version="1", eight_bit=False)
    assert not whole.training["export"]["eight_bit"]
    assert (tmp_path / "m" / "refine.onnx").stat().st_size != (tmp_path / "w" / "refine.onnx").stat().st_size


def test_weights_in_half_precision(tmp_path):
    """Half the size; the golden pair is what the stored weights give, near to what the network gave."""
    network = checkpoint(tmp_path / "t", "ptychonn-lift", LIFT)
    for name, half_weights in (("whole", False), ("half", True)):
        export(tmp_path / "t", tmp_path / name, name="test", version="1", half_weights=half_weights)
    sizes = [(tmp_path / name / "model.onnx").stat().st_size for name in ("whole", "half")]
    weights = sum(4 * values.numel() for values in network.first.parameters())
    assert sizes[0] - sizes[1] > 0.4 * weights
    engine, scan = open_engine("openvino", tmp_path / "half"), simulated_scans(4, 1, 128)[0]
    engine.set_probe(scan.probe)
    wanted = by_torch(network, scan.patterns, scan.probe)
    assert np.sqrt(np.mean((engine.infer(scan.patterns) - wanted) ** 2)) < 0.01 * np.sqrt(np.mean(wanted**2))


def test_eight_bits_that_change_too_much_are_not_taken(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(export_module, "EIGHT_BIT_TOLERANCE_RAD", 1e-9)
    network = checkpoint(tmp_path / "t", "ptychonn-lift", LIFT)
    with caplog.at_level(logging.WARNING, "bluesky_ptychonn"):
        card = export(tmp_path / "t", tmp_path / "m", name="test", version="1", eight_bit=True)
    assert "keeps single precision" in caplog.text
    assert not card.training["export"]["eight_bit"]
    engine = open_engine("openvino", tmp_path / "m")
    scan = simulated_scans(4, 1, 128)[0]
    engine.set_probe(scan.probe)
    wanted = by_torch(network, scan.patterns, scan.probe)
    assert np.sqrt(np.mean((engine.infer(scan.patterns) - wanted) ** 2)) < 0.01 * np.sqrt(np.mean(wanted**2))


def test_smaller_patches_are_the_centre_but_for_the_edge(tmp_path):
    """Of a network that only sees its neighbourhood, as far as that reaches."""
    checkpoint(tmp_path / "t", "ptychonn-lift", {**LIFT, "patch_px": 80, "refine": None})
    parts = []
    for patch_px in (80, 64):
        folder = tmp_path / str(patch_px)
        card = export(tmp_path / "t", folder, name="test", version="1", patch_px=patch_px, eight_bit=False)
        assert (card.patch_px, card.refine_file) == (patch_px, "")
        engine = open_engine("openvino", folder)
        engine.set_probe(with_counts(zone_plate_probe(GEOMETRY), 1e6))
        edge = (patch_px - 8) // 2
        parts.append(engine.infer(simulated_scans(4, 1, 128)[0].patterns)[:, edge:-edge, edge:-edge])
    np.testing.assert_allclose(*parts, atol=0.02)


@pytest.mark.parametrize(("name", "patch_px"), [("ptychonn-lift", 40), ("ptychonn-lift", 64), ("ptychonn2", 48)])
def test_patches_that_cannot_be_had(tmp_path, name, patch_px):
    checkpoint(tmp_path / "t", name, SMALL[name])
    with pytest.raises(ValueError, match=f"patch_px = {patch_px} px; {name} takes multiples of 16"):
        export(tmp_path / "t", tmp_path / "m", name="test", version="1", patch_px=patch_px)
    assert not (tmp_path / "m").exists()


def test_graph_that_is_not_the_network():
    class Restless(torch.nn.Module):
        calls = 0.0

        def forward(self, x):
            self.calls += 1.0
            return x + self.calls

    with pytest.raises(RuntimeError, match="differs from the network by 1"):
        onnx_graph(Restless(), np.zeros((1, 1, 16, 16), np.float32))


@pytest.mark.parametrize("kind", ["state dict", "of several GPUs", "fixed batch"])
def test_published_network(tmp_path, kind):
    torch.manual_seed(1)
    network = PtychoNN2().eval()
    with torch.no_grad():
        network.decoder2[-2].bias.fill_(0.3)
    path = tmp_path / ("net.pth" if "batch" not in kind else "net.onnx")
    if path.suffix == ".pth":
        prefix = "module." if kind == "of several GPUs" else ""
        torch.save({prefix + key: values for key, values in network.state_dict().items()}, path)
    else:
        save_graph(PhaseOf(network), path, 8)
    card = import_published(path, tmp_path / "m", version="2023")
    assert (card.preparation, card.frame_px, card.patch_px, card.reference_counts) == ("counts", 128, 128, None)
    if path.suffix == ".onnx":
        assert (tmp_path / "m" / "model.onnx").read_bytes() == path.read_bytes()
    engine = open_engine("openvino", tmp_path / "m", max_batch=10)
    scan = simulated_scans(6, 1, 128)[0]
    patterns = np.concatenate([scan.patterns, scan.patterns])
    engine.set_probe(scan.probe)
    for size in (1, 10):
        wanted = by_torch(network, patterns[:size], scan.probe)
        np.testing.assert_allclose(engine.infer(patterns[:size]), wanted, atol=1e-3)


class PhaseOf(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, counts):
        return self.network.phase_of(counts)


def save_graph(network, path, batch, shape=(1, 128, 128)):
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(network, (torch.zeros(batch, *shape),), buffer, dynamo=False)
    path.write_bytes(buffer.getvalue())


def test_what_is_no_published_network(tmp_path):
    state = PtychoNN2().state_dict()
    first, *_ = state
    torch.save({key: values for key, values in state.items() if key != first}, tmp_path / "short.pth")
    torch.save({**state, first: torch.zeros(3)}, tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save(PtychoNN2(), tmp_path / "whole.pth")
    (tmp_path / "torn.pth").write_bytes(b"PK\x03\x04")
    (tmp_path / "torn.onnx").write_bytes(b"no graph")
    save_graph(torch.nn.Conv2d(3, 1, 1), tmp_path / "colours.onnx", 8, (3, 64, 64))
    save_graph(torch.nn.Conv2d(1, 3, 1), tmp_path / "three.onnx", 8)
    for file, message in {
        "short.pth": f"no PtychoNN 2.0: {first} is missing where .* should be, and 0 more",
        "other.pth": rf"{first} is \(3,\) where",
        "list.pth": "holds no state dict",
        "whole.pth": "without running its code",
        "torn.pth": "holds no state dict",
        "torn.onnx": "no graph that ONNX Runtime opens",
        "colours.onnx": "is wanted",
        "three.onnx": r"gives \[\(8, 3, 128, 128\)\]",
    }.items():
        with pytest.raises(ValueError, match=message):
            import_published(tmp_path / file, tmp_path / "m", version="1")
    assert not (tmp_path / "m").exists()
    with pytest.raises(FileNotFoundError):
        import_published(tmp_path / "nothing.pth", tmp_path / "m", version="1")


@pytest.mark.parametrize("frame_px", [32, 64, 96])
def test_patterns_of_any_side_that_the_network_learned_from(tmp_path, frame_px):
    checkpoint(tmp_path / "out", "ptychonn-lift", {**LIFT, "patch_px": 32})
    card = export(tmp_path / "out", tmp_path / "model", name="small", version="1", frame_px=frame_px)
    assert (card.frame_px, card.patch_px) == (frame_px, 32)
    assert open_engine("openvino", tmp_path / "model").frame_px == frame_px
    with pytest.raises(ValueError, match="allowed are at most the frame_px = 16 px"):
        export(tmp_path / "out", tmp_path / "other", name="small", version="1", frame_px=16)

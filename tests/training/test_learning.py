import json

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

import torch

from bluesky_ptychonn.core.lift import lift
from bluesky_ptychonn.core.optics import Geometry, with_counts, zone_plate_probe
from bluesky_ptychonn.training.learning import export as export_module
from bluesky_ptychonn.training.learning.networks import PatchNetwork
from bluesky_ptychonn.training.learning.objects import random_object
from bluesky_ptychonn.training.learning.pool import Pool, turn
from bluesky_ptychonn.training.learning.simulated import detect, imperfect, random_probe, simulate_pairs
from bluesky_ptychonn.training.learning.train import CHECKPOINT, errors, learning_rate, train


def test_objects_are_physical_and_various():
    rng = np.random.default_rng(0)
    phases = []
    for _ in range(40):
        object_ = random_object(rng, 96)
        assert object_.dtype == np.complex64
        assert np.abs(object_).max() < 1.5  # above 1 only where a slow field undercuts the background
        phases.append(np.angle(object_))
    contrasts = np.std(phases, axis=(1, 2))
    assert contrasts.min() < 0.15 < 0.4 < contrasts.max()


def test_pairs_repeat_by_seed_and_fit_each_other():
    first, again = (simulate_pairs(np.random.default_rng(3), 4) for _ in range(2))
    np.testing.assert_array_equal(first.lifted, again.lifted)
    assert first.lifted.shape == (4, 2, 96, 96)
    assert first.phase_rad.shape == (4, 96, 96)
    assert first.weight.astype(float).mean() == pytest.approx(1, rel=0.01)
    assert np.isfinite(first.lifted).all()


def test_detector_counts_photons():
    expected = np.full((40, 64, 64), 4.0, np.float32)
    expected[:, 32:] = 400
    counts = detect(np.random.default_rng(1), expected)
    low, high = (part[part != 65535].astype(float) for part in (counts[:, :32], counts[:, 32:]))
    assert (low.mean(), low.var()) == (pytest.approx(4, rel=0.02), pytest.approx(4, rel=0.05))
    assert (high.mean(), high.var()) == (pytest.approx(400, rel=0.01), pytest.approx(400, rel=0.05))


def test_probe_errors_keep_its_power():
    rng = np.random.default_rng(2)
    for _ in range(5):
        probe = random_probe(rng, Geometry())
        assert np.linalg.norm(imperfect(rng, probe)) == pytest.approx(np.linalg.norm(probe), rel=1e-4)


@pytest.mark.parametrize("how", [(True, False, False), (False, True, False), (True, True, False), (False, False, True)])
def test_mirrors_and_turns_are_symmetries_of_the_lift(how):
    """The lift of a mirrored pattern with the mirrored probe is the mirrored lift."""
    probe = with_counts(zone_plate_probe(Geometry(), astigmatism_um=30, astigmatism_angle_rad=0.4), 1e5)
    patterns = np.random.default_rng(5).poisson(50, (2, 128, 128)).astype(np.uint16)

    def turned(array):
        return turn(torch.from_numpy(np.ascontiguousarray(array)), *how).numpy()

    both = lift(turned(patterns.astype(np.int32)).astype(np.uint16), turned(probe))
    np.testing.assert_allclose(both, turned(lift(patterns, probe)), atol=2e-3)


def test_errors_with_and_without_the_constant():
    label, weight = torch.zeros(2, 8, 8), torch.ones(2, 8, 8)
    absolute, free = errors(label + 0.5, label, weight)
    torch.testing.assert_close(absolute, torch.full((2,), 0.5))
    torch.testing.assert_close(free, torch.zeros(2))


def test_learning_rate_rises_and_falls():
    rates = [learning_rate(done) for done in np.linspace(0, 1, 101)]
    assert max(rates) == rates[3]
    assert rates[0] < 0.05 * max(rates)
    assert rates[-1] == pytest.approx(0.01 * max(rates))


def test_pool_keeps_the_newest():
    pool = Pool(np.random.default_rng(0), scans=2, frames=3)
    for filled in (1, 2, 2):
        pool.refresh()
        assert pool.filled == filled
    lifted, label, weight = pool.batch(5)
    assert lifted.shape == (5, 2, 96, 96)
    assert label.shape == weight.shape == (5, 96, 96)


def test_network_is_small_enough():
    assert sum(p.numel() for p in PatchNetwork().parameters()) < 0.3e6


def test_train_resume_export(tmp_path, monkeypatch):
    """A training that was stopped goes on where it was; its checkpoint becomes a model that an engine accepts."""
    size = {"checkpoint_minutes": 0.02, "scans": 2, "frames": 4, "validation_scans": 1}
    first = train(tmp_path / "t", minutes=0.02, seed=4, **size)
    again = train(tmp_path / "t", minutes=0.04, seed=4, **size)
    assert again["conditions"]["frames_seen"] > first["conditions"]["frames_seen"]
    assert json.loads((tmp_path / "t" / "figures.json").read_text())["results"] == again["results"]
    assert (tmp_path / "t" / "samples.png").stat().st_size > 1000
    assert torch.load(tmp_path / "t" / CHECKPOINT, weights_only=True)["spent_s"] >= 0.04 * 60

    monkeypatch.setattr(export_module, "CALIBRATION_SCANS", 1)
    card = export_module.export(tmp_path / "t", tmp_path / "m", name="test", version="1")
    assert card.training["conditions"]["seed"] == 4
    pytest.importorskip("openvino")
    from bluesky_ptychonn.engines.registry import open_engine

    assert open_engine("openvino", tmp_path / "m").card == card


def test_no_time_no_training(tmp_path):
    with pytest.raises(ValueError, match="minutes = 0"):
        train(tmp_path, minutes=0)

import numpy as np
import pytest

from bluesky_ptychonn.core.optics import Geometry, counts_of, far_field
from bluesky_ptychonn.training.learning.objects import random_object
from bluesky_ptychonn.training.learning.simulated import DOSES, detect, imperfect, random_probe, simulate_scan


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


def test_scans_repeat_by_seed_and_fit_each_other():
    first, again = (simulate_scan(np.random.default_rng(3), 4) for _ in range(2))
    np.testing.assert_array_equal(first.patterns, again.patterns)
    np.testing.assert_array_equal(first.labels, again.labels)
    np.testing.assert_array_equal(first.probe, again.probe)
    assert first.patterns.shape == (4, 128, 128)
    assert first.labels.shape == (4, 2, 128, 128)
    assert DOSES[0] <= first.about["photons_per_frame"] <= DOSES[1]


@pytest.mark.parametrize("counts", [1e3, 1e5, 1e7])
def test_scan_has_the_dose_that_is_asked_for(counts):
    """And its probe is scaled to what was counted, as a run would measure it."""
    for seed in range(4):
        scan = simulate_scan(np.random.default_rng([7, seed]), 8, counts=counts)
        assert scan.about["photons_per_frame"] == counts
        power = float(np.sum(np.abs(scan.probe) ** 2))
        assert power == pytest.approx(counts_of(scan.patterns, scan.probe), rel=0.1)
        assert 0.3 < power / counts < 1.2  # the object takes some of the light away


def test_labels_explain_the_patterns():
    """Behind its label the probe gives a scan's patterns better than the empty beam does."""
    better = []
    for seed in range(12):
        scan = simulate_scan(np.random.default_rng([5, seed]), 8, counts=1e6)
        object_ = np.exp(scan.labels[:, 0].astype(float) + 1j * scan.labels[:, 1])
        valid = scan.patterns != np.iinfo(np.uint16).max

        def misfit(waves, scan=scan, valid=valid):
            return np.sum(((np.abs(far_field(waves)) - np.sqrt(scan.patterns)) ** 2)[valid])

        better.append(misfit(scan.probe * object_) / misfit(np.repeat(scan.probe[None], 8, axis=0)))
    assert np.median(better) < 0.5


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

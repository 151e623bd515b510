from dataclasses import replace

import numpy as np
import pytest
from simulated_scan import GEOMETRY, simulate

from bluesky_ptychonn.core.frames import ORIENTATIONS, orient_patterns
from bluesky_ptychonn.core.optics import intensities, near_field, zone_plate_probe
from bluesky_ptychonn.core.scan_data import ScanData
from bluesky_ptychonn.training.retrieval.orientation import CLASSES, find_orientation
from bluesky_ptychonn.training.retrieval.trials import curvature, with_defocus

BACK = {"rot90": "rot270", "rot270": "rot90"}


def turned(scan, orientation):
    return replace(scan, patterns=orient_patterns(scan.patterns, orientation))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_turning_there_and_back_changes_nothing(rng, orientation):
    patterns = rng.integers(0, 99, (2, 6, 6))
    there = orient_patterns(patterns, orientation)
    assert there[:, 3, 3].tolist() == patterns[:, 3, 3].tolist()
    np.testing.assert_array_equal(orient_patterns(there, BACK.get(orientation, orientation)), patterns)


def test_a_flipped_sample_gives_flipped_patterns(rng):
    """What an orientation does to patterns is what it does to object, probe and positions: about pixel N/2."""
    probe = zone_plate_probe(GEOMETRY, defocus_um=60.0, astigmatism_um=20.0)
    probe[:, 0] = 0  # has no mirror image on an even array
    object_ = np.exp(1j * rng.normal(size=(96, 96)))
    at = np.array([[50, 41]])
    pattern = intensities(object_, probe, at)
    mirrored = intensities(np.roll(object_[:, ::-1], 1, axis=1), orient_patterns(probe, "flip_x"), [[50, 96 - 41]])
    np.testing.assert_allclose(mirrored, orient_patterns(pattern, "flip_x"), atol=1e-6)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_each_orientation_of_a_simulation_is_found(orientation):
    scan, _ = simulate(5, start_defocus=1.11)
    found = find_orientation(turned(scan, orientation))
    assert found.best == BACK.get(orientation, orientation)
    assert found.margin > 1.5
    assert found.twin == "decided"


@pytest.mark.soak
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_each_orientation_of_the_star_is_found(real_data, orientation):
    with np.load(real_data / "siemens_star_128.npz") as file:
        star = ScanData(file["patterns"], file["positions_px"], probe=file["probe"])
    found = find_orientation(turned(star, orientation))
    assert (found.best, found.twin) == (BACK.get(orientation, orientation), "decided")
    assert found.margin > 1.3


@pytest.mark.parametrize("why", ["untrusted", "in focus"])
def test_without_a_probe_to_be_trusted_the_twin_is_not_decidable(why):
    scan, _ = simulate(5, defocus_um=75.0 if why == "untrusted" else 0.0)
    found = find_orientation(turned(scan, "rot180"), trusted_probe=why != "untrusted")
    assert found.twin == "not decidable"
    assert found.best == CLASSES[0][0]


def test_a_scan_without_a_probe_is_refused():
    scan, _ = simulate(width_um=0.3)
    with pytest.raises(ValueError, match="no probe to try orientations with"):
        find_orientation(replace(scan, probe=None))


@pytest.mark.parametrize("factor", [0.5, 1.2, -1.0])
def test_defocus_is_scaled(factor):
    probe = zone_plate_probe(GEOMETRY, defocus_um=60.0)
    expected = zone_plate_probe(GEOMETRY, defocus_um=60.0 * factor)
    changed = with_defocus(probe, factor)
    assert abs(np.vdot(changed, expected)) > 0.98
    assert curvature(changed) == pytest.approx(factor * curvature(probe), rel=0.05)
    assert curvature(near_field(np.abs(np.fft.fftshift(np.fft.fft2(probe))))) == pytest.approx(0, abs=1e-4)

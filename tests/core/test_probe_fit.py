import numpy as np
import pytest

from bluesky_ptychonn.core.optics import Geometry, far_field, near_field, shifted, zone_plate_probe
from bluesky_ptychonn.core.probe_fit import defocused, fit_optics

GEOMETRY = Geometry()
OPTICS = [(170.0, 0.0, 0.0), (221.0, 25.0, 0.6), (-119.0, 40.0, 2.8), (60.0, 12.0, 1.57)]


def turn_apart(first_rad, second_rad):
    """Difference of two directions of an axis, rad."""
    return abs((first_rad - second_rad + np.pi / 2) % np.pi - np.pi / 2)


@pytest.mark.parametrize(("defocus_um", "astigmatism_um", "angle_rad"), OPTICS)
def test_the_optics_of_a_probe_are_found_whatever_its_power_phase_and_place(defocus_um, astigmatism_um, angle_rad):
    probe = zone_plate_probe(
        GEOMETRY, defocus_um=defocus_um, astigmatism_um=astigmatism_um, astigmatism_angle_rad=angle_rad
    )
    moved = 300 * np.exp(2j) * shifted(probe, np.array([[0.7, -1.4]]))[0]
    for given in (probe, moved):
        found = fit_optics(given, GEOMETRY)
        assert found.defocus_um == pytest.approx(defocus_um, abs=0.1)
        assert found.astigmatism_um == pytest.approx(astigmatism_um, abs=0.1)
        if astigmatism_um:
            assert turn_apart(found.astigmatism_angle_rad, angle_rad) < 0.01
        assert found.coherence > 0.999
        assert found.believed


def test_the_margins_cover_the_error_that_noise_makes(rng):
    """Noise in the far field, a tenth of the cone's amplitude: the margin is two standard deviations."""
    probe = zone_plate_probe(GEOMETRY, defocus_um=200.0, astigmatism_um=20.0, astigmatism_angle_rad=0.4)
    far = far_field(probe)
    level = 0.1 * np.abs(far).max()
    errors, margins = [], []
    for _ in range(40):
        noise = level * (rng.normal(size=far.shape) + 1j * rng.normal(size=far.shape)) / np.sqrt(2)
        found = fit_optics(near_field(far + noise), GEOMETRY)
        errors.append((found.defocus_um - 200.0, found.astigmatism_um - 20.0))
        margins.append((found.defocus_margin_um, found.astigmatism_margin_um))
    spread = 2 * np.sqrt(np.mean(np.square(errors), axis=0))
    ratio = np.median(margins, axis=0) / spread
    assert np.all((ratio > 0.6) & (ratio < 1.7)), ratio


def test_a_probe_of_no_zone_plate_is_not_believed(rng):
    cone = np.abs(far_field(zone_plate_probe(GEOMETRY)))
    scrambled = near_field(cone * np.exp(2j * np.pi * rng.random(cone.shape)))
    found = fit_optics(scrambled, GEOMETRY)
    assert found.coherence < 0.3
    assert not found.believed


@pytest.mark.parametrize(
    ("probe", "told"),
    [
        (np.ones((64, 64), complex), r"shape \(64, 64\); \(128, 128\) is needed"),
        (np.zeros((128, 128), complex), "only zeros"),
        (np.full((128, 128), np.nan, complex), "not finite"),
        (np.ones((128, 128), complex), "cone has 9 px"),
    ],
)
def test_nonsense_is_refused(probe, told):
    with pytest.raises(ValueError, match=told):
        fit_optics(probe, GEOMETRY)


def test_a_change_of_defocus_can_be_taken_back():
    probe = zone_plate_probe(GEOMETRY, defocus_um=150.0, astigmatism_um=20.0)
    moved = defocused(probe, GEOMETRY, 40.0)
    expected = zone_plate_probe(GEOMETRY, defocus_um=190.0, astigmatism_um=20.0)
    np.testing.assert_allclose(moved, expected, atol=1e-5)
    np.testing.assert_allclose(defocused(moved, GEOMETRY, -40.0), probe, atol=1e-5)

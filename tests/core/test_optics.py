import numpy as np
import pytest

from bluesky_ptychonn.core.optics import (
    Geometry,
    counts_of,
    far_field,
    intensities,
    measured_probe,
    near_field,
    probe_diameter_um,
    with_counts,
    zone_plate_probe,
)

GEOMETRY = Geometry()


def wave(rng, *shape):
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


def test_far_field_is_unitary_and_centred():
    rng = np.random.default_rng(1)
    a, b = wave(rng, 2, 32, 32), wave(rng, 2, 32, 32)
    np.testing.assert_allclose(near_field(far_field(a)), a, atol=1e-5)
    assert np.vdot(far_field(a), b) == pytest.approx(np.vdot(a, near_field(b)), rel=1e-4)
    peak = np.abs(far_field(np.ones((16, 16))))
    assert np.unravel_index(peak.argmax(), peak.shape) == (8, 8)


def test_default_probe_is_the_one_of_the_beamline():
    probe = zone_plate_probe(GEOMETRY)
    assert probe.dtype == np.complex64
    assert np.sum(np.abs(probe) ** 2) == pytest.approx(1, rel=1e-5)
    assert 0.7 < probe_diameter_um(probe, GEOMETRY.pixel_size_um) < 0.75
    disc = np.argwhere(np.abs(far_field(probe)) > 1e-4)
    assert disc.min() > 32  # room for scattering beyond the bright field
    assert disc.max() < 96
    assert np.abs(far_field(probe)[64, 64]) < 1e-4  # central stop


def test_defocus_opposite_sides_are_conjugate():
    before, behind = (zone_plate_probe(GEOMETRY, defocus_um=d) for d in (-100.0, 100.0))
    mirrored = np.roll(np.conj(behind)[::-1, ::-1], 1, (0, 1))
    np.testing.assert_allclose(before, mirrored, atol=1e-5)


def test_astigmatism_lengthens_its_axis():
    power = np.abs(zone_plate_probe(GEOMETRY, defocus_um=100.0, astigmatism_um=80.0)) ** 2
    y, x = np.mgrid[:128, :128] - 64
    assert (power * x**2).sum() > 1.5 * (power * y**2).sum()


def test_integer_shift_moves_probe_over_object():
    """A probe moved by whole pixels sees the object's moved window; half pixels lie between."""
    rng = np.random.default_rng(2)
    probe = zone_plate_probe(GEOMETRY)
    object_ = np.exp(1j * rng.normal(size=(150, 150)))
    patterns = intensities(object_, probe, np.array([[70, 75], [71, 73]]))
    expected = np.abs(far_field(probe * object_[7:135, 9:137])) ** 2
    np.testing.assert_allclose(patterns[1], expected, atol=1e-6)
    flat = intensities(np.ones((150, 150)), probe, np.array([[70.3, 75.5]]))
    np.testing.assert_allclose(flat[0], np.abs(far_field(probe)) ** 2, atol=1e-6)


def test_counts_ignore_pixels_without_data():
    rng = np.random.default_rng(3)
    probe = zone_plate_probe(GEOMETRY)
    patterns = rng.poisson(np.broadcast_to(np.abs(far_field(with_counts(probe, 1e5))) ** 2, (5, 128, 128))).astype("u2")
    patterns[:, 60:64] = 65535
    assert counts_of(patterns, 3 * probe) == pytest.approx(1e5, rel=0.02)
    assert counts_of(np.zeros_like(patterns), probe) == 0


def test_measured_probe_takes_the_mottle_from_the_detector():
    """Amplitudes come from the patterns, phases from the file, masked pixels and the dark field stay as they are."""
    rng = np.random.default_rng(6)
    told = zone_plate_probe(GEOMETRY)
    mottle = rng.uniform(0.7, 1.3, (128, 128))
    true = with_counts(near_field(far_field(told) * mottle), 1e6)
    patterns = rng.poisson(np.broadcast_to(np.abs(far_field(true)) ** 2, (32, 128, 128))).astype("u2")
    patterns[:, 50:53] = 65535
    found = measured_probe(told, patterns)
    assert np.linalg.norm(found) == pytest.approx(1e3, rel=0.01)
    assert abs(np.vdot(found, true)) > 0.995 * 1e6
    assert abs(np.vdot(with_counts(told, 1e6), true)) < 0.99 * 1e6
    angle = far_field(found) * np.conj(far_field(told))
    assert np.abs(np.angle(angle[np.abs(angle) > 1e-2 * np.abs(angle).max()])).max() < 1e-3
    masked = np.abs(far_field(found)[51]) / np.maximum(np.abs(far_field(told)[51]), 1e-9)
    assert np.ptp(masked[45:83]) < 1e-2 * masked[64]


def test_few_frames_say_only_how_bright_the_beam_is():
    told = zone_plate_probe(GEOMETRY)
    patterns = np.rint(np.abs(far_field(with_counts(told, 1e6))) ** 2).astype(np.uint16)[None]
    np.testing.assert_array_equal(measured_probe(told, patterns), with_counts(told, counts_of(patterns, told)))


def test_no_light_no_probe():
    with pytest.raises(ValueError, match="counts = 0"):
        measured_probe(zone_plate_probe(GEOMETRY), np.zeros((2, 128, 128), np.uint16))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Geometry(energy_kev=0), "energy_kev = 0"),
        (lambda: Geometry(frame_px=127), "even"),
        (lambda: zone_plate_probe(GEOMETRY, outermost_zone_nm=5), "radius"),
        (lambda: zone_plate_probe(GEOMETRY, defocus_um=1000), "field"),
        (lambda: zone_plate_probe(GEOMETRY, central_stop_um=200), "allowed"),
        (lambda: with_counts(np.ones((8, 8)), -1), "positive"),
        (lambda: intensities(np.ones((128, 128)), np.ones((128, 128)), np.array([[60, 64]])), "leaves the object"),
    ],
)
def test_impossible_values_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()

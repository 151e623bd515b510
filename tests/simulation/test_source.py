from dataclasses import replace

import numpy as np
import pytest

from bluesky_ptychonn.core.frames import ORIENTATIONS, FrameGeometry
from bluesky_ptychonn.core.optics import Geometry, far_field, intensities, zone_plate_probe
from bluesky_ptychonn.simulation.sample import make_sample
from bluesky_ptychonn.simulation.source import NO_DATA, DetectorFace, PhysicsSource, RecordedSource

GEOMETRY = Geometry(10.0, 0.9, 75.0, 128)
PROBE = zone_plate_probe(GEOMETRY)


def source(field_um=4.0, seed=0):
    sample = make_sample("etched", field_um=field_um, pixel_size_um=GEOMETRY.pixel_size_um, seed=seed)
    return PhysicsSource(sample, PROBE, GEOMETRY, seed)


def still(*positions_um):
    return np.array(positions_um, float)[:, None, :]


def test_face_shows_gap_dead_and_hot_pixels():
    eye = source()
    frame = eye.frames(still([0, 0]), 1e6)[0]

    assert eye.stamp_pixel is not None
    assert frame[eye.stamp_pixel] == NO_DATA
    gap = eye.bad_pixels.all(axis=0)
    assert gap.sum() == 4
    assert np.all(frame[:, gap] == NO_DATA)
    assert np.count_nonzero(eye.bad_pixels[:, ~gap]) >= 12
    assert frame[~eye.bad_pixels].max() < 2000
    assert eye.dark()[~eye.bad_pixels].max() == 0


def test_beam_centre_is_off_the_middle_and_true():
    """In vacuum the frame is the probe's far field, moved to the beam centre."""
    eye = source()
    frame = eye.frames(still([50, 50]), 1e7)[0].astype(float)
    expected = np.roll(1e7 * np.abs(far_field(PROBE)) ** 2, np.subtract(eye.beam_center_px, 64), axis=(0, 1))

    assert eye.beam_center_px == (61, 66)
    good = ~eye.bad_pixels
    assert np.corrcoef(frame[good], expected[good])[0, 1] > 0.99


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_turned_detector_sees_what_its_orientation_turns_right(orientation):
    """Without noise the patterns that are cut at the moved beam are those of a detector which is not turned."""
    sample = make_sample("etched", field_um=3.0, pixel_size_um=GEOMETRY.pixel_size_um)
    face = DetectorFace.of(128).with_beam_moved((9, -8))
    clean = replace(face, dead=face.dead[:0], hot=face.hot[:0], gap_columns=(0, 0))
    turned = PhysicsSource(sample, PROBE, GEOMETRY, face=clean, orientation=orientation)
    assert turned.beam_center_px == (64 - 3 + 9, 64 + 2 - 8)
    at = np.zeros((1, 1, 2))
    frame = turned.frames(at, 1e9)
    cut = FrameGeometry((128, 128), 128, turned.beam_center_px, orientation=orientation).patterns(frame)[0]
    seen = cut[32:97, 32:97].astype(float)  # what lies in the frame however it is turned
    expected = np.minimum(1e9 * turned.mean_intensities(at)[0], NO_DATA - 1)[32:97, 32:97]
    assert np.abs(np.sqrt(seen) - np.sqrt(expected)).max() < 4


def test_a_beam_beyond_the_frame_is_refused():
    with pytest.raises(ValueError, match="leaves the frame"):
        DetectorFace.of(128).with_beam_moved((80, 0))


def test_intensities_are_those_of_the_forward_model(rng):
    """The fast path of the simulation equals the one forward model, summed over the motion."""
    eye = source()
    eighth_um = eye.pixel_size_um / 8
    whole, part = rng.integers(150, 190, size=(3, 5, 2)), rng.integers(-3, 4, size=(3, 5, 2))
    path_um = eye.origin_um + eighth_um * (8 * whole + part)

    fast = eye.mean_intensities(path_um)

    centres_px = (path_um.reshape(-1, 2) - eye.origin_um) / eye.pixel_size_um
    model = intensities(eye.object, PROBE, centres_px).reshape(3, 5, 128, 128).mean(axis=1)
    np.testing.assert_allclose(fast, model, atol=1e-5 * model.max())


def test_counts_follow_the_dose():
    eye = source()
    good = ~eye.bad_pixels
    bright, dim = (eye.frames(still([0, 0]), photons)[0][good].sum(dtype=float) for photons in (1e6, 1e3))
    assert 0.7e6 < bright < 1e6
    assert bright / dim == pytest.approx(1000, rel=0.2)


def test_motion_blurs_the_speckle():
    """Summing over the motion lowers the contrast; standing still over several sub-steps changes nothing."""
    path = np.linspace([0, -0.15], [0, 0.15], 5)[None]
    good = ~source().bad_pixels
    sharp, same, blurred = (
        source().frames(p, 1e7)[0][good].astype(float) for p in (still([0, 0]), np.zeros((1, 5, 2)), path)
    )
    np.testing.assert_allclose(sharp, same, atol=8 * np.sqrt(sharp.max()))
    assert np.linalg.norm(blurred - sharp) > 3 * np.linalg.norm(same - sharp)


@pytest.mark.parametrize("edge_um", [[2.0, 0.0], [-2.0, 1.9], [2.6, 2.6], [40.0, -40.0]])
def test_vacuum_around_the_sample(edge_um):
    """A field that leaves the sample sees vacuum there, as if the sample were that much larger."""
    eye = source()
    small, n = eye.object, 128
    large = PhysicsSource(np.pad(small, n, constant_values=1), PROBE, GEOMETRY)
    if max(map(abs, edge_um)) < 3:
        np.testing.assert_array_equal(eye.frames(still(edge_um), 1e5), large.frames(still(edge_um), 1e5))
    else:
        assert eye.frames(still(edge_um), 1e5).shape == (1, 128, 128)


def test_recorded_frames_come_in_order_and_over_again(tmp_path, rng):
    patterns = rng.integers(0, 100, size=(5, 16, 16)).astype(np.uint16)
    np.savez(tmp_path / "scan.npz", patterns=patterns, probe=np.ones((16, 16), np.complex64))
    record = RecordedSource(tmp_path / "scan.npz")

    played = record.frames(np.zeros((7, 1, 2)), 1e6, first=3)

    np.testing.assert_array_equal(played, patterns[[3, 4, 0, 1, 2, 3, 4]])
    assert record.beam_center_px == (8, 8)
    assert record.probe is not None
    assert np.sum(np.abs(record.probe) ** 2) == pytest.approx(1)


def test_wider_counts_keep_their_mask(tmp_path):
    np.savez(tmp_path / "scan.npz", patterns=np.array([[[0, 70_000], [-1, 5]]], np.int32))
    np.testing.assert_array_equal(
        RecordedSource(tmp_path / "scan.npz").frames(np.zeros((1, 1, 2)), 1.0)[0], [[0, NO_DATA - 1], [NO_DATA, 5]]
    )


def test_file_without_patterns_is_refused(tmp_path):
    np.savez(tmp_path / "scan.npz", images=np.zeros(3))
    with pytest.raises(ValueError, match="no array 'patterns', only \\['images'\\]"):
        RecordedSource(tmp_path / "scan.npz")

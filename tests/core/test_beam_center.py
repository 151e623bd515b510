"""Beam centre and bad pixels of simulated frames with a known face, wherever the beam is."""

import numpy as np
import pytest

from bluesky_ptychonn.core.beam_center import find_bad_pixels, find_beam_center
from bluesky_ptychonn.core.frames import no_data
from bluesky_ptychonn.core.optics import Geometry, far_field, zone_plate_probe
from bluesky_ptychonn.simulation.source import DetectorFace

N = 128
NO_DATA = no_data(np.uint16)


@pytest.fixture(scope="module")
def patterns():
    """Expected counts of a scan over smooth noise under an astigmatic zone plate, of 1 photon."""
    rng = np.random.default_rng(3)
    probe = zone_plate_probe(Geometry(), astigmatism_um=60.0)
    frequency = np.hypot(*(np.fft.fftfreq(4 * N)[axis] for axis in np.ix_(range(4 * N), range(4 * N))))
    phase = np.fft.ifft2(np.fft.fft2(rng.normal(size=(4 * N, 4 * N))) / (1 + (frequency / 0.02) ** 2)).real
    sample = np.exp(0.6j * phase / phase.std())
    corners = rng.integers(0, 3 * N, size=(64, 2))
    waves = np.stack([probe * sample[y : y + N, x : x + N] for y, x in corners])
    return np.abs(far_field(waves)) ** 2


def face_at(center):
    known = DetectorFace.of(N, seed=2)
    dead = np.array([[30, 40], [60, 70], [90, 50], *(np.array(center) + [[0, 18], [12, -12], [-17, 3]])])
    return DetectorFace(known.shape, tuple(center), (104, 108), dead, known.hot)


def seen(patterns, face, photons, count=64, seed=0):
    return face.read(np.random.default_rng(seed).poisson(photons * patterns[:count]).astype(np.uint16))


@pytest.mark.parametrize("center", [(64, 64), (76, 52), (45, 79)])
@pytest.mark.parametrize(("photons", "count"), [(1e6, 64), (1e5, 16), (2e3, 64)])
def test_the_beam_is_found_to_a_part_of_a_pixel(patterns, center, photons, count):
    frames = seen(patterns, face_at(center), photons, count)
    found = find_beam_center(frames, find_bad_pixels(frames).mask)
    error_px = np.linalg.norm(np.subtract(found.center_px, center))
    assert error_px < 0.3
    assert error_px < 4 * found.margin_px
    assert found.margin_px < 0.5


def test_eight_frames_will_do_and_fewer_are_refused(patterns):
    frames = seen(patterns, face_at((76, 52)), 1e6, 8)
    found = find_beam_center(frames, find_bad_pixels(frames).mask)
    assert np.linalg.norm(np.subtract(found.center_px, (76, 52))) < 0.5
    with pytest.raises(ValueError, match="give at least 8 frames"):
        find_bad_pixels(frames[:7])


def test_bad_pixels_in_the_light_are_found_and_no_others(patterns):
    face = face_at((61, 66))
    found = find_bad_pixels(seen(patterns, face, 1e6))
    assert not (found.mask & ~face.bad_pixels).any()
    gap = np.zeros((N, N), bool)
    gap[:, 104:108] = True
    assert found.missing == gap.sum()
    assert (found.mask[tuple(face.hot.T)]).all()
    assert found.mask[tuple(face.dead[3:].T)].all()  # in the cone
    assert found.moved


def test_frames_of_one_place_make_no_pixel_dead(patterns):
    """Between speckles it is dark for good there."""
    face = face_at((61, 66))
    frames = seen(np.repeat(patterns[:1], 64, axis=0), face, 1e6)
    found = find_bad_pixels(frames)
    assert not found.moved
    assert found.dead == 0
    assert found.mask[tuple(face.hot.T)].all()
    center = find_beam_center(frames, found.mask).center_px
    assert np.linalg.norm(np.subtract(center, (61, 66))) < 1


def test_a_cosmic_ray_makes_no_pixel_hot(patterns):
    frames = seen(patterns, face_at((64, 64)), 1e5)
    before = find_bad_pixels(frames)
    frames[5, 20, 20:40] = 30_000
    assert np.array_equal(find_bad_pixels(frames).mask, before.mask)


def test_a_wide_gap_through_the_beam_moves_nothing(patterns):
    frames = seen(patterns, face_at((64, 64)), 1e6)
    frames[:, :, 70:82] = NO_DATA
    found = find_beam_center(frames, find_bad_pixels(frames).mask)
    assert np.linalg.norm(np.subtract(found.center_px, (64, 64))) < 0.3


def test_turning_the_frames_turns_the_result(patterns):
    frames = seen(patterns, face_at((76, 52)), 1e5)
    bad = find_bad_pixels(frames).mask
    turned = np.ascontiguousarray(frames[:, ::-1].swapaxes(1, 2))
    found, again = find_beam_center(frames, bad), find_beam_center(turned, find_bad_pixels(turned).mask)
    y, x = found.center_px
    assert again.center_px == pytest.approx((x, N - 1 - y), abs=1e-6)
    assert np.array_equal(find_bad_pixels(turned).mask, bad[::-1].T)


def test_darkness_is_refused():
    with pytest.raises(ValueError, match="no light; open the shutter"):
        find_beam_center(np.zeros((8, 32, 32), np.uint16), np.zeros((32, 32), bool))


def test_the_cone_of_a_real_scan(real_data):
    """The straight beam leaks through the middle of the zone plate's stop: one bright pixel, (64, 65)."""
    frames = np.load(real_data / "siemens_star_128.npz")["patterns"][::8]
    bad = find_bad_pixels(frames)
    found = find_beam_center(frames, bad.mask)
    assert np.argwhere(bad.mask).tolist() == [[64, 65]]
    assert np.linalg.norm(np.subtract(found.center_px, (64, 65))) < 2 * found.margin_px < 2

import re
from dataclasses import replace

import numpy as np
import pytest

from bluesky_ptychonn.core.frames import ORIENTATIONS, no_data
from bluesky_ptychonn.core.optics import Geometry, far_field, zone_plate_probe
from bluesky_ptychonn.core.raw_scan import RawScan, prepare_scan

GEOMETRY = {"energy_kev": 10.0, "distance_m": 0.9, "detector_pixel_um": 75.0}
NONE = no_data(np.uint16)


@pytest.fixture
def raw(rng):
    frames = rng.poisson(20, size=(6, 16, 16)).astype(np.int32)
    return RawScan(frames, rng.uniform(-1, 1, (6, 2)), "um", **GEOMETRY)


def test_micrometres_become_object_pixels(raw):
    scan = prepare_scan(raw, provenance={"file": "scan.npz"})
    assert scan.geometry == Geometry(10.0, 0.9, 75.0, 16)
    assert scan.pixel_size_um == scan.geometry.pixel_size_um
    np.testing.assert_allclose(scan.positions_px * scan.pixel_size_um, raw.positions)
    np.testing.assert_array_equal(scan.patterns, raw.frames)
    assert (scan.left_out, scan.notes, scan.provenance) == (0, (), {"file": "scan.npz"})


def test_pixels_need_no_geometry(raw):
    scan = prepare_scan(RawScan(raw.frames, raw.positions, "px"))
    assert (scan.geometry, scan.pixel_size_um) == (None, None)
    np.testing.assert_array_equal(scan.positions_px, raw.positions)


@pytest.mark.parametrize("missing", GEOMETRY)
def test_micrometres_without_a_pixel_size_ask_for_what_is_missing(raw, missing):
    with pytest.raises(ValueError, match=f"{missing} is missing; give {missing}, or pixel_size_nm"):
        prepare_scan(replace(raw, **{missing: None}))
    scan = prepare_scan(replace(raw, **{missing: None}), pixel_size_um=0.01)
    np.testing.assert_allclose(scan.positions_px, raw.positions / 0.01)


def test_a_crop_keeps_places_on_the_sample(raw):
    """Fewer detector pixels make larger object pixels, whoever states their size."""
    whole, cropped = prepare_scan(raw), prepare_scan(raw, crop_px=8)
    in_px = replace(raw, positions=whole.positions_px, positions_unit="px", pixel_size_um=whole.pixel_size_um)
    for scan in (cropped, prepare_scan(in_px, crop_px=8)):
        assert scan.pixel_size_um == pytest.approx(2 * whole.pixel_size_um)
        np.testing.assert_allclose(scan.positions_px, whole.positions_px / 2)
        np.testing.assert_array_equal(scan.patterns, raw.frames[:, 4:12, 4:12])
        assert scan.notes[0] == "frames of 16 x 16 px are cut to 8 x 8 px around pixel (8, 8)"


def test_binning_keeps_places_on_the_sample(raw):
    """Superpixels make a smaller field of as large object pixels, whoever states their size."""
    whole, binned = prepare_scan(raw), prepare_scan(raw, binning=2)
    in_px = replace(raw, positions=whole.positions_px, positions_unit="px", pixel_size_um=whole.pixel_size_um)
    sums = raw.frames.reshape(6, 8, 2, 8, 2).sum(axis=(2, 4))
    for scan in (binned, prepare_scan(in_px, binning=2)):
        assert scan.geometry == Geometry(10.0, 0.9, 150.0, 8)
        assert scan.pixel_size_um == pytest.approx(whole.pixel_size_um)
        np.testing.assert_allclose(scan.positions_px, whole.positions_px)
        seen = scan.patterns != NONE
        np.testing.assert_array_equal(scan.patterns[seen], sums[seen])
    assert binned.notes[0] == "2 x 2 detector pixels are one pixel of the patterns of 8 px"


def test_a_probe_for_binned_patterns_has_their_size(raw):
    probe = np.ones((8, 8), np.complex64)
    np.testing.assert_array_equal(prepare_scan(replace(raw, probe=probe), binning=2).probe, probe)
    with pytest.raises(ValueError, match="the probe has 16 px, the binned patterns have 8 px and a smaller field"):
        prepare_scan(replace(raw, probe=np.ones((16, 16), np.complex64)), binning=2)


@pytest.mark.parametrize(("shape", "side"), [((16, 12), 12), ((13, 13), 12), ((16, 16), 16)])
def test_frames_are_cut_to_an_even_square(raw, shape, side):
    scan = prepare_scan(replace(raw, frames=raw.frames[:, : shape[0], : shape[1]]))
    middle = shape[0] // 2, shape[1] // 2
    assert scan.patterns.shape[1:] == (side, side)
    np.testing.assert_array_equal(scan.patterns[:, side // 2, side // 2], raw.frames[:, middle[0], middle[1]])
    assert len(scan.notes) == (shape != (16, 16))


def test_object_pixels_of_oblong_frames_mean_nothing(raw):
    with pytest.raises(ValueError, match=r"16 x 12 px are not square; give positions_um"):
        prepare_scan(RawScan(raw.frames[:, :, :12], raw.positions, "px"))


@pytest.mark.parametrize("orientation", sorted(ORIENTATIONS))
def test_orientation_is_applied_once_and_to_frames_alone(raw, orientation):
    scan = prepare_scan(raw, crop_px=12, beam_center_px=(7, 8), orientation=orientation)
    np.testing.assert_array_equal(scan.patterns[:, 6, 6], raw.frames[:, 7, 8])
    block = scan.patterns[:, 3:10, 3:10]  # around the beam's pixel, the same in every orientation
    np.testing.assert_array_equal(block, ORIENTATIONS[orientation](raw.frames[:, 4:11, 5:12]))
    np.testing.assert_array_equal(scan.positions_px, prepare_scan(raw, crop_px=12).positions_px)


def test_bad_pixels_are_no_data(raw):
    bad = np.zeros((16, 16), bool)
    bad[2:4, 5] = True
    scan = prepare_scan(replace(raw, bad_pixels=bad))
    np.testing.assert_array_equal(scan.patterns == NONE, np.broadcast_to(bad, scan.patterns.shape))


def test_frames_without_beam_or_place_are_left_out(raw):
    positions, frames = raw.positions.copy(), raw.frames.copy()
    positions[1, 0], positions[4] = np.nan, np.inf
    frames[3] = 0
    scan = prepare_scan(replace(raw, frames=frames, positions=positions), trigger_index=np.arange(10, 16))
    assert (scan.left_out, scan.trigger_index.tolist()) == (3, [10, 12, 15])
    np.testing.assert_array_equal(scan.patterns, frames[[0, 2, 5]])
    assert scan.notes == (
        "2 frames have no position and are left out: 11, 14",
        "1 frames have no beam and are left out: 13",
    )


def test_a_probe_keeps_its_far_field_when_patterns_are_cut():
    probe = zone_plate_probe(Geometry())
    raw = RawScan(np.ones((2, 128, 128), np.uint16), np.zeros((2, 2)), "px", probe=probe)
    scan = prepare_scan(raw, crop_px=64)
    np.testing.assert_allclose(far_field(scan.probe), far_field(probe)[32:96, 32:96], atol=1e-6)
    padded = prepare_scan(replace(raw, frames=raw.frames[:, :64, :64], probe=scan.probe), crop_px=128)
    np.testing.assert_allclose(padded.probe, probe, atol=1e-4)
    assert prepare_scan(replace(raw, probe=np.stack([probe, probe]))).probe.shape == (2, 128, 128)


REFUSED = [
    ({"positions": None}, "the scan has no positions; give positions_um or positions_px"),
    ({"positions": np.zeros((5, 2))}, r"6 frames and positions of shape \(5, 2\), float64; give one \(y, x\)"),
    ({"positions": np.zeros((2, 6))}, r"6 frames and positions of shape \(2, 6\)"),
    ({"positions": np.full((6, 2), np.nan)}, "none of the 6 positions is finite"),
    ({"frames": np.zeros((6, 16, 16))}, "all 6 frames are dark: 0 counts .*, 0 % of the pixels are masked; open the"),
    (
        {"bad_pixels": np.ones((16, 16), bool)},
        "all 6 frames are dark: .* 100 % of the pixels are masked; .*invert the mask",
    ),
    ({"frames": np.zeros((6, 16))}, r"frames have shape \(6, 16\); give \(N, H, W\)"),
    ({"frames": np.zeros((6, 4, 4))}, "of at least 8 x 8 px"),
    (
        {"energy_kev": 10_000.0},
        "energy_kev = 10000 keV is outside 0.1 to 200 keV; give the photon energy in keV, not eV",
    ),
    ({"distance_m": 900.0}, "distance_m = 900 m is outside 0.001 to 200 m"),
    ({"detector_pixel_um": 75e-6}, "detector_pixel_um = 7.5e-05 um is outside 0.1 to 2000 um"),
    ({"energy_kev": np.nan}, "energy_kev = nan keV is outside"),
    ({"pixel_size_um": 0.01}, "the pixel size is 10 nm, but energy_kev = 10, .* make it 92.99 nm; at most 2 %"),
    ({"probe": np.ones((16, 16))}, r"the probe is float64 of shape \(16, 16\); give complex"),
    ({"probe": np.ones((16, 15), complex)}, r"the probe is complex128 of shape \(16, 15\)"),
    ({"probe": np.full((16, 16), np.nan + 0j)}, "the probe holds values that are not finite, or only zeros"),
]


@pytest.mark.parametrize(("wrong", "message"), REFUSED)
def test_what_cannot_be_is_refused(raw, wrong, message):
    with pytest.raises(ValueError, match=message):
        prepare_scan(replace(raw, **wrong))


def test_a_beam_far_from_the_middle_is_told(raw, rng):
    frames = np.zeros((6, 32, 32), np.uint16)
    frames[:, 4:8, 20:24] = rng.poisson(20, (6, 4, 4))
    (note,) = prepare_scan(replace(raw, frames=frames)).notes
    assert re.match(
        r"the light's centre of mass is at \(5\.[456], 21\.[456]\) in patterns of 32 px; correct beam_", note
    )

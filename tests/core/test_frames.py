import numpy as np
import pytest

from bluesky_ptychonn.core.frames import ORIENTATIONS, FrameGeometry, no_data


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
@pytest.mark.parametrize("centre", [(10, 12), (1, 22), (19, 3)])
def test_the_beam_comes_to_the_middle_in_every_orientation(rng, orientation, dtype, centre):
    """Also where the pattern sticks out of the frame; every pixel outside says so."""
    frames = rng.integers(0, 1000, size=(3, 20, 24)).astype(dtype)
    frames[:, centre[0], centre[1]] = 5000
    bad = np.zeros((20, 24), bool)
    bad[5, 5] = True
    geometry = FrameGeometry((20, 24), 16, centre, bad, orientation)

    patterns = geometry.patterns(frames)

    assert patterns.dtype == dtype
    assert (patterns[:, 8, 8] == 5000).all()
    valid = patterns[0] != no_data(dtype)
    assert geometry.masked_fraction == pytest.approx(1 - valid.mean())
    padded = np.full((52, 56), no_data(dtype))
    padded[16:36, 16:40] = np.where(bad, no_data(dtype), frames[0])
    around = padded[centre[0] : centre[0] + 33, centre[1] : centre[1] + 33]  # beam at [16, 16]
    np.testing.assert_array_equal(patterns[0], ORIENTATIONS[orientation](around)[8:24, 8:24])


def test_the_output_can_be_given(rng):
    frames = rng.integers(0, 9, size=(2, 8, 8)).astype(np.uint16)
    out = np.zeros((2, 8, 8), np.uint16)
    assert FrameGeometry((8, 8), 8, (4, 4)).patterns(frames, out=out) is out
    np.testing.assert_array_equal(out, frames)


def test_pixels_without_data_stay_without_data():
    frames = np.full((1, 8, 8), no_data(np.uint16), np.uint16)
    assert (FrameGeometry((8, 8), 8, (4, 4)).patterns(frames) == no_data(np.uint16)).all()


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("binning", [2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
@pytest.mark.parametrize("centre", [(20, 22), (5, 41), (38, 3)])
def test_binning_and_orientation_commute(rng, orientation, binning, dtype, centre):
    """Patterns of turned frames are turned patterns, gaps, bad pixels and what lies outside the frame included."""
    frames, bad = rng.poisson(9, (3, 40, 44)).astype(dtype), rng.random((40, 44)) < 0.2
    frames[rng.random(frames.shape) < 0.1] = no_data(dtype)
    centre = tuple(place + (binning - 1) / 2 % 1 for place in centre)  # the middle of a superpixel: nothing is rounded
    turn = ORIENTATIONS[orientation]
    place = np.stack(np.mgrid[:40, :44]) - np.reshape(centre, (2, 1, 1))
    at_beam = np.argwhere(turn(np.hypot(*place) < 0.8)).mean(axis=0)

    geometry = FrameGeometry((40, 44), 8, centre, bad, orientation, binning)
    turned = FrameGeometry(turn(bad).shape, 8, at_beam, turn(bad), "identity", binning)

    patterns = geometry.patterns(frames)
    np.testing.assert_array_equal(patterns, turned.patterns(turn(frames)))
    assert patterns.dtype == dtype
    assert geometry.masked_fraction == turned.masked_fraction <= (patterns[0] == no_data(dtype)).mean()
    np.testing.assert_array_equal(turn(geometry.inside), turned.inside)


def test_the_beam_comes_to_the_middle_of_a_superpixel():
    """A Medipix frame: 516 px, of which 512 make a pattern of 128."""
    for centre, first in (((259.5, 259.5), 2), ((258.0, 258.4), 1), ((257.6, 257.5), 0)):
        inside = FrameGeometry((516, 516), 128, centre, binning=4).inside
        assert np.argwhere(inside)[[0, -1]].tolist() == [[first, first], [first + 511, first + 511]]


@pytest.mark.parametrize("orientation", ["identity", "flip_x", "rot90"])
def test_binned_output_can_be_given(rng, orientation):
    frames, out = rng.poisson(9, (2, 32, 32)).astype(np.uint16), np.zeros((4, 8, 8), np.uint16)
    geometry = FrameGeometry((32, 32), 8, (16, 16), orientation=orientation, binning=4)
    geometry.patterns(frames, out=out[::2])
    np.testing.assert_array_equal(out[::2], geometry.patterns(frames))
    assert not out[1::2].any()


def test_only_superpixels_without_any_pixel_are_masked():
    bad = np.zeros((16, 16), bool)
    bad[:4, :4], bad[8:12, 8:11] = True, True
    geometry = FrameGeometry((16, 16), 4, (9.5, 9.5), bad, binning=4)
    assert geometry.masked_fraction == 1 / 16
    patterns = geometry.patterns(np.full((1, 16, 16), 3, np.uint16))
    assert patterns[0, 0, 0] == no_data(np.uint16)
    assert (patterns[0].ravel()[1:] == 48).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beam_center_px": (8, 2)}, "outside the frame"),
        ({"orientation": "sideways"}, "orientation = 'sideways'"),
        ({"beam_center_px": (np.nan, 2)}, "outside the frame"),
        ({"crop_px": 7}, "even"),
        ({"binning": 0}, "binning = 0 px"),
        ({"binning": 9}, "1 to 8 px"),
        ({"bad_pixels": np.zeros((3, 3), bool)}, "mask of bad pixels"),
    ],
)
def test_impossible_geometries_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        FrameGeometry(**{"frame_shape": (8, 8), "crop_px": 8, "beam_center_px": (4, 4), **change})

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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beam_center_px": (8, 2)}, "outside the frame"),
        ({"orientation": "sideways"}, "orientation = 'sideways'"),
        ({"crop_px": 7}, "even"),
        ({"bad_pixels": np.zeros((3, 3), bool)}, "mask of bad pixels"),
    ],
)
def test_impossible_geometries_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        FrameGeometry(**{"frame_shape": (8, 8), "crop_px": 8, "beam_center_px": (4, 4), **change})

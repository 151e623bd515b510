import numpy as np
import pytest

from bluesky_ptychonn.core.counts import leave_out_saturated, unsigned_counts
from bluesky_ptychonn.core.frames import FrameGeometry, no_data

NONE = no_data(np.uint16)


def frames(rng, dtype, shape=(70, 8, 8)):
    """More frames than one batch."""
    return rng.integers(0, 100, size=shape).astype(dtype)


@pytest.mark.parametrize(
    "dtype", [np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.float32, np.float64]
)
def test_counts_of_every_type_stay_what_they_are(rng, dtype):
    counts, notes = unsigned_counts(frames(rng, dtype))
    assert (counts.dtype, notes) == (np.uint16, [])
    np.testing.assert_array_equal(counts, frames(np.random.default_rng(20231123), np.uint16))


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int64, np.uint64, np.float64])
def test_large_counts_are_kept_whole(dtype):
    values = np.array([[[0, NONE, 2**31 - 2, 7]]], dtype)
    counts, _ = unsigned_counts(values)
    assert counts.dtype == np.uint32
    assert counts.ravel().tolist() == [0, NONE, 2**31 - 2, 7]


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int32, np.uint32, np.uint64])
def test_the_largest_value_of_a_type_is_no_data(dtype):
    counts, _ = unsigned_counts(np.array([[[5, np.iinfo(dtype).max]], [[6, 7]]], dtype))
    assert counts.tolist() == [[[5, NONE]], [[6, 7]]]


@pytest.mark.parametrize("bad", [-1, np.nan, np.inf, -np.inf])
def test_what_is_wrong_in_every_frame_is_a_bad_pixel(rng, bad):
    values = frames(rng, np.float32)
    values[:, 3, 5] = bad
    counts, notes = unsigned_counts(values)
    assert np.all(counts[:, 3, 5] == NONE)
    assert np.count_nonzero(counts == NONE) == len(values)
    assert notes == ["1 pixels are negative or not finite in every frame: taken as bad pixels"]


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_what_is_wrong_in_some_frames_is_refused(rng, bad):
    values = frames(rng, np.float32)
    values[66, 3, 5] = bad
    with pytest.raises(
        ValueError, match=rf"frame 66 has {bad} counts at pixel \(3, 5\), .*give raw counts .* or a mask"
    ):
        unsigned_counts(values)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (2.5, r"2.5 counts at pixel \(3, 5\), not a whole number; give raw"),
        (1e12, r"too large; allowed are 0 to 4294967294"),
    ],
)
def test_counts_that_cannot_be_are_refused(rng, bad, message):
    values = frames(rng, np.float64)
    values[66, 3, 5] = bad
    with pytest.raises(ValueError, match=f"frame 66 has .*{message}"):
        unsigned_counts(values)


def test_rounding_errors_are_none(rng):
    whole = frames(rng, np.float64)
    counts, _ = unsigned_counts(whole + rng.uniform(-1e-4, 1e-4, whole.shape).clip(-whole))
    np.testing.assert_array_equal(counts, whole)


@pytest.mark.parametrize("place", ["masked", "cut away"])
def test_pixels_that_do_not_count_may_hold_anything(rng, place):
    values = frames(rng, np.float64, (3, 12, 12))
    values[1, 0, 0] = np.nan
    bad = np.zeros((12, 12), bool)
    bad[0, 0] = place == "masked"
    cut = FrameGeometry((12, 12), 8, (6, 6)) if place == "cut away" else None
    counts, notes = unsigned_counts(values, bad, cut)
    assert (counts.shape[-1], notes) == (8 if cut else 12, [])


@pytest.mark.parametrize("values", [np.zeros((2, 3)), np.zeros((0, 4, 4)), np.zeros((1, 4, 4), complex)])
def test_what_is_no_frame_is_refused(values):
    with pytest.raises(ValueError, match=r"frames (have shape|are complex128)"):
        unsigned_counts(values)


def test_a_mask_of_another_shape_is_refused(rng):
    with pytest.raises(ValueError, match=r"mask of bad pixels is \(4, 4\) px for frames of \(8, 8\) px"):
        unsigned_counts(frames(rng, np.uint16), np.zeros((4, 4), bool))


def test_a_plateau_is_saturation(rng):
    patterns = rng.poisson(5000, size=(20, 16, 16)).astype(np.uint16)
    clipped = patterns >= 5110
    patterns[clipped] = 5110
    (note,) = leave_out_saturated(patterns)
    assert 20 < np.count_nonzero(clipped) < 0.1 * clipped.size
    assert np.all((patterns == NONE) == clipped)
    assert "stand at the largest value, 5110 counts: taken as saturated or hot" in note


def test_a_plateau_that_is_most_of_the_light_is_told_only():
    patterns = np.full((20, 16, 16), 5000, np.uint16)
    (note,) = leave_out_saturated(patterns)
    assert np.all(patterns == 5000)
    assert "too many to leave them out of the fit; if they are saturated, expose for a shorter time" in note


@pytest.mark.parametrize("mean", [0.1, 3, 300, 30_000])
def test_photon_noise_is_no_saturation(rng, mean):
    patterns = rng.poisson(mean * rng.random((50, 16, 16)) ** 4).astype(np.uint16)
    before = patterns.copy()
    assert leave_out_saturated(patterns) == []
    np.testing.assert_array_equal(patterns, before)


def test_pixels_missing_in_some_frames_are_told(rng):
    patterns = rng.poisson(5, size=(4, 8, 8)).astype(np.uint16)
    patterns[:, 0, 0] = NONE
    patterns[2, 3, 3:5] = NONE
    assert leave_out_saturated(patterns) == [
        "1 frames lack 2 pixels which others have (saturated, or no data): left out of the fit"
    ]

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluesky_ptychonn.core.stitch import Canvas, add_patches, stitched_image


@pytest.mark.parametrize("batches", [1, 3, 8])
def test_order_and_batching_do_not_matter(rng, batches):
    """A late or short last batch gives the same stitched image."""
    patches = rng.integers(-3, 4, size=(8, 4, 4)).astype(float)  # integers: exact sums
    weights = rng.integers(1, 4, size=(4, 4)).astype(float)
    corners_px = rng.integers(0, 13, size=(8, 2))
    whole, parts = (np.zeros((2, 16, 16)) for _ in range(2))

    add_patches(*whole, patches, weights, corners_px)
    for batch in np.array_split(rng.permutation(8), batches):
        add_patches(*parts, patches[batch], weights, corners_px[batch])

    np.testing.assert_array_equal(parts, whole)


def test_a_patch_outside_changes_nothing():
    total, coverage = np.zeros((8, 8)), np.zeros((8, 8))
    with pytest.raises(ValueError, match=r"corners_px\[1\] = \[5, 0\] px leaves the \(8, 8\) px canvas"):
        add_patches(total, coverage, np.ones((2, 4, 4)), np.ones((4, 4)), np.array([[0, 0], [5, 0]]))
    assert not total.any()


def test_no_data_is_not_zero_phase():
    total, coverage = np.zeros((4, 4)), np.zeros((4, 4))
    add_patches(total, coverage, np.zeros((1, 2, 2)), np.ones((2, 2)), np.array([[0, 0]]))
    image = stitched_image(total, coverage)
    assert image[0, 0] == 0
    assert np.isnan(image[3, 3])


@given(
    st.lists(st.tuples(st.floats(-50, 50), st.floats(-50, 50)), min_size=1, max_size=20),
    st.floats(0.005, 0.5),
    st.sampled_from([2, 8, 96]),
)
def test_a_canvas_holds_every_patch_it_was_made_for(positions_um, pixel_size_um, patch_px):
    positions_um = np.array(positions_um)
    if np.ptp(positions_um, axis=0).prod() / pixel_size_um**2 > 1e7:
        return
    canvas = Canvas.covering(positions_um, pixel_size_um, patch_px)
    corners_px = canvas.corners_px(positions_um, patch_px)
    assert canvas.holds(corners_px, patch_px).all()
    centres_um = canvas.origin_um + (corners_px + patch_px // 2) * pixel_size_um
    assert np.abs(centres_um - positions_um).max() <= 0.51 * pixel_size_um


def test_an_endless_canvas_is_refused():
    with pytest.raises(ValueError, match="scan a smaller field"):
        Canvas.covering(np.array([[0.0, 0.0], [1e6, 1e6]]), 0.01, 8)

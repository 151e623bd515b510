import numpy as np
import pytest
from scipy import ndimage

from bluesky_ptychonn.core.metrics import compare_phase, covered_region


@pytest.fixture
def image():
    return ndimage.gaussian_filter(np.random.default_rng(3).normal(size=(64, 80)), 3)


def test_equal_images_score_one_whatever_their_constant(image):
    same = compare_phase(image + 0.7, image)
    assert same.ssim == pytest.approx(1)
    assert same.mae_rad == pytest.approx(0, abs=1e-12)
    assert same.correlation == pytest.approx(1)


def test_a_constant_is_kept_when_nothing_is_removed(image):
    assert compare_phase(image + 0.7, image, remove=()).mae_rad == pytest.approx(0.7)


def test_a_ramp_is_removed_only_when_asked(image):
    tilted = image + np.add.outer(np.arange(64) * 0.01, np.arange(80) * -0.02)
    assert compare_phase(tilted, image).ssim < 0.9
    assert compare_phase(tilted, image, remove=("ramp",)).ssim == pytest.approx(1)


def test_a_shift_is_removed_only_when_asked(image):
    moved = ndimage.shift(image, (1.5, -0.75), order=3, mode="nearest")
    inside = (slice(8, 56), slice(8, 72))
    assert compare_phase(moved, image, region=inside).ssim < 0.95
    assert compare_phase(moved, image, remove=("constant", "shift"), region=inside).ssim > 0.97


def test_pixels_that_do_not_count_change_nothing(image):
    valid = np.ones(image.shape, bool)
    valid[:10] = False
    spoiled = np.where(valid, image, np.nan)
    assert compare_phase(spoiled, image, valid=valid).mae_rad == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="not finite"):
        compare_phase(spoiled, image)


def test_more_noise_scores_lower(image):
    noise = np.random.default_rng(0).normal(size=image.shape)
    scores = [compare_phase(image + level * noise, image).ssim for level in (0, 0.02, 0.1)]
    assert scores == sorted(scores, reverse=True)


def test_shapes_must_agree(image):
    with pytest.raises(ValueError, match="shape"):
        compare_phase(image, image.T)


def test_covered_region_is_the_box_with_enough_coverage():
    coverage = np.zeros((40, 50))
    coverage[5:30, 10:45] = 1
    assert covered_region(coverage) == (slice(5, 30), slice(10, 45))
    with pytest.raises(ValueError, match="nothing was stitched"):
        covered_region(np.zeros((8, 8)))

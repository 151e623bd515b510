import numpy as np
import pytest

from bluesky_ptychonn.core.stitch import Canvas
from bluesky_ptychonn.edge.image import LiveImage

PX = 8


@pytest.fixture
def scan(rng):
    """Planned positions, and patches of whole numbers so that sums are exact."""
    planned_um = rng.uniform(0, 3, size=(20, 2))
    return planned_um, rng.integers(-5, 6, size=(20, PX, PX)).astype(np.float32)


def image_of(planned_um, patches, order, batch=4, kept=1000):
    image = LiveImage(Canvas.covering(planned_um, 0.1, PX, 0.3), np.ones((PX, PX)), planned_um, kept)
    for start in range(0, len(order), batch):
        indices = np.array(order[start : start + batch])
        image.add(np.arange(start, start + len(indices)), indices, patches[indices])
    return image


@pytest.mark.parametrize("kept", [1000, 7])
def test_the_final_image_at_planned_positions_is_the_live_one(scan, rng, kept):
    image = image_of(*scan, rng.permutation(20), kept=kept)
    assert (image.patches, image.loose_patches) == (20, max(0, 20 - kept))
    phase, coverage, canvas = image.final(scan[0])
    assert canvas == image.canvas
    np.testing.assert_array_equal(phase, image.snapshot()[0])
    np.testing.assert_array_equal(coverage, image.snapshot()[1])


def test_what_is_withdrawn_leaves_no_trace(scan):
    image = image_of(*scan, range(20))
    assert image.withdraw(12) == 8
    np.testing.assert_array_equal(image.snapshot(), image_of(*scan, range(12)).snapshot())
    assert image.withdraw(12) == 0
    assert image.withdraw(0) == 12
    assert np.isnan(image.snapshot()[0]).all()


def test_patches_which_were_not_kept_go_all_together(scan):
    image = image_of(*scan, range(20), kept=6)
    assert image.withdraw(10) == 14
    np.testing.assert_array_equal(image.snapshot(), image_of(*scan, range(6)).snapshot())


def test_captured_positions_move_the_patches_and_may_enlarge_the_canvas(scan):
    planned_um, patches = scan
    captured_um = planned_um + [0.2, -0.1]
    captured_um[3] += 5
    phase, _, canvas = image_of(*scan, range(20)).final(captured_um)
    expected = LiveImage(canvas, np.ones((PX, PX)), captured_um, 1000)
    expected.add(np.arange(20), np.arange(20), patches)
    np.testing.assert_array_equal(phase, expected.snapshot()[0])


def test_an_empty_run_has_an_empty_image(scan):
    phase, coverage, _ = image_of(*scan, []).final(scan[0])
    assert np.isnan(phase).all()
    assert not coverage.any()


def test_a_patch_that_is_replaced_leaves_no_trace(scan, rng):
    planned_um, patches = scan
    first = patches.copy()
    first[:6] = rng.integers(-5, 6, size=(6, PX, PX))
    image = image_of(planned_um, first, range(4, 20))
    image.replace(np.arange(6), patches[:6])  # of which 0 to 3 never came
    np.testing.assert_array_equal(image.snapshot(), image_of(planned_um, patches, range(4, 20)).snapshot())


def test_a_row_given_to_another_trigger_is_not_replaced(scan, rng):
    planned_um, patches = scan
    image = image_of(planned_um, patches, range(12))
    image.withdraw(8)
    image.add(np.arange(8, 12), np.arange(16, 20), patches[16:20])
    image.replace(np.arange(6, 12), patches[6:12] + 1)
    expected = image_of(planned_um, patches, [*range(8), *range(16, 20)])
    expected.replace(np.arange(6, 8), patches[6:8] + 1)
    np.testing.assert_array_equal(image.snapshot(), expected.snapshot())


def test_memory_is_used_again_and_touching_it_changes_nothing(scan):
    planned_um, patches = scan
    memory = np.full(10 * PX * PX + 7, np.nan, np.float32)
    for _ in range(2):
        image = LiveImage(Canvas.covering(planned_um, 0.1, PX, 0.3), np.ones((PX, PX)), planned_um, memory)
        assert image.touch(4)
        image.add(np.arange(8), np.arange(8), patches[:8])
        assert image.touch(4)
        assert not image.touch(4)
        image.add(np.arange(8, 20), np.arange(8, 20), patches[8:])
        assert image.loose_patches == 10
        np.testing.assert_array_equal(
            image.final(planned_um)[0], image_of(planned_um, patches, range(20)).snapshot()[0]
        )

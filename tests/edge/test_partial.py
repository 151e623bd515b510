import numpy as np
import pytest

from bluesky_ptychonn.core.pairing import UNPAIRED
from bluesky_ptychonn.core.stitch import Canvas
from bluesky_ptychonn.edge.partial import PartialImage
from bluesky_ptychonn.edge.sums import grown

N, SIZE, PIXEL_UM = 24, 6, 0.5


@pytest.fixture
def scan(rng):
    """Integer patches and weights: sums are exact."""
    positions_um = rng.integers(0, 30, (N, 2)) * PIXEL_UM
    return positions_um, rng.integers(-3, 4, (N, SIZE, SIZE)).astype(float), rng.integers(1, 4, (SIZE, SIZE))


def image_of(scan, rows=slice(None), at_um=None, kept=N, indices=None):
    positions_um, patches, weights = scan
    canvas = Canvas.covering(positions_um, PIXEL_UM, SIZE)
    image = PartialImage(canvas, weights, positions_um if at_um is None else at_um, kept)
    triggers = np.arange(N)[rows]
    image.add(100 + triggers, 1.0 * triggers, triggers if indices is None else indices[rows], patches[rows])
    return image


@pytest.mark.parametrize("consumers", [1, 2, 5])
def test_sums_of_shares_are_the_sums_of_all(scan, rng, consumers):
    whole, shares = image_of(scan), np.array_split(rng.permutation(N), consumers)
    parts = [image_of(scan, share) for share in shares]
    np.testing.assert_array_equal(sum(part.total for part in parts), whole.total)
    np.testing.assert_array_equal(sum(part.coverage for part in parts), whole.coverage)


def test_moved_and_taken_out_patches_lie_as_if_they_had_been_put_there(scan, rng):
    image, indices = image_of(scan), rng.permutation(N)
    indices[[3, 7]] = UNPAIRED
    image.place(indices)
    wanted = image_of(scan, indices=indices)
    np.testing.assert_array_equal(image.total, wanted.total)
    np.testing.assert_array_equal(image.coverage, wanted.coverage)
    assert image.indices.tolist() == indices.tolist()
    image.place(np.arange(N))
    np.testing.assert_array_equal(image.total, image_of(scan).total)


def test_final_positions_may_leave_the_first_canvas(scan):
    positions_um, image = scan[0], image_of(scan)
    moved_um = positions_um - 4 * PIXEL_UM
    corners_px = image.canvas.corners_px(moved_um, SIZE)
    canvas = grown(image.canvas, corners_px, SIZE)
    before, covered = image.total.copy(), image.canvas
    image.place(np.arange(N), moved_um, canvas)
    rows, columns = np.subtract(covered.origin_um, np.add(canvas.origin_um, 4 * PIXEL_UM)) / PIXEL_UM
    assert canvas.shape > covered.shape
    inside = image.total[int(rows) :, int(columns) :][: covered.shape[0], : covered.shape[1]]
    np.testing.assert_array_equal(inside, before[: inside.shape[0], : inside.shape[1]])
    assert image.total.sum() == before.sum()


def test_what_cannot_be_kept_stays_where_it_was_put_or_goes_as_a_whole(scan):
    image, indices = image_of(scan, kept=10), np.arange(N)
    assert image.loose_patches == N - 10
    indices[4] = UNPAIRED
    image.place(indices)
    np.testing.assert_array_equal(image.total, image_of(scan, np.delete(np.arange(N), 4)).total)
    indices[N - 1] = UNPAIRED
    image.place(indices)
    np.testing.assert_array_equal(image.total, image_of(scan, [0, 1, 2, 3, 5, 6, 7, 8, 9]).total)
    assert np.all(image.indices[10:] == UNPAIRED)


def test_better_patches_take_the_place_of_old_ones(scan):
    positions_um, patches, weights = scan
    image, rows = image_of(scan, kept=20), np.array([2, 5, 22])
    image.replace(rows, patches[rows] + 1)
    better = patches.copy()
    better[[2, 5]] += 1  # the last was not kept
    np.testing.assert_array_equal(image.total, image_of((positions_um, better, weights)).total)

"""One consumer's part of a stitched image: sums that add up with those of others."""

from array import array

import numpy as np

from bluesky_ptychonn.core.pairing import UNPAIRED
from bluesky_ptychonn.core.stitch import Canvas, add_patches, change_patches


class PartialImage:
    """Stitch patches as they come; keep them, so that each can be moved or taken out.

    The image of several is the sum of their ``total`` over the sum of their ``coverage``.

    Parameters
    ----------
    canvas : Canvas
    weights : (h, h) array
        Probe intensity under a patch.
    positions_um : (N, 2) float64
        Position (y, x) of each trigger, um.
    kept_patches : int
        How many patches may be kept; further ones stay where they were put first, or go all together.

    Examples
    --------
    >>> at_um = np.array([[0.0, 0.0], [0.0, 1.0]])
    >>> both, even, odd = (PartialImage(Canvas((4, 6), (-2, -2), 1.0), np.ones((2, 2)), at_um, 9) for _ in range(3))
    >>> patches = np.arange(8.0).reshape(2, 2, 2)
    >>> both.add(np.array([5, 6]), np.zeros(2), np.array([0, 1]), patches)
    >>> for k, image in enumerate((even, odd)):
    ...     image.add(np.array([5 + k]), np.zeros(1), np.array([k]), patches[k : k + 1])
    >>> np.array_equal(both.total, even.total + odd.total)
    True
    """

    def __init__(self, canvas: Canvas, weights: np.ndarray, positions_um: np.ndarray, kept_patches: int) -> None:
        self.canvas = canvas
        self.total, self.coverage = np.zeros(canvas.shape), np.zeros(canvas.shape)
        self._weights = np.asarray(weights, np.float64)
        self._positions_um = positions_um
        self._first = canvas, positions_um
        room = min(len(positions_um), kept_patches)
        self._patches = np.empty((room, *weights.shape), np.float32)  # the system gives memory as it is written
        self._ids, self._times, self._indices = array("q"), array("d"), array("q")
        self._loose: tuple[np.ndarray, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def ids(self) -> np.ndarray:
        """Ids (n,) int64 of all patches, in the order in which they came."""
        return np.array(self._ids, np.int64)

    @property
    def times_s(self) -> np.ndarray:
        """Times (n,) of their frames, s."""
        return np.array(self._times, np.float64)

    @property
    def indices(self) -> np.ndarray:
        """Triggers (n,) int64 at which they lie; `UNPAIRED` where they are not in the sums."""
        return np.array(self._indices, np.int64)

    @property
    def loose_patches(self) -> int:
        """Patches which could not be kept."""
        return max(0, len(self) - len(self._patches))

    def add(self, ids: np.ndarray, times_s: np.ndarray, indices: np.ndarray, patches: np.ndarray) -> None:
        """Put patches (B, h, h) at their triggers; those that are `UNPAIRED` are only kept."""
        first, kept = len(self), max(0, min(len(patches), len(self._patches) - len(self)))
        self._patches[first : first + kept] = patches[:kept]
        self._ids.extend(ids.tolist())
        self._times.extend(times_s.tolist())
        self._indices.extend(indices.tolist())
        self._stitch(self.total, self.coverage, indices, patches)
        if kept < len(patches):
            if self._loose is None:
                self._loose = np.zeros(self._first[0].shape), np.zeros(self._first[0].shape)
            self._stitch(*self._loose, indices[kept:], patches[kept:])

    def replace(self, rows: np.ndarray, patches: np.ndarray) -> None:
        """Put better patches (B, h, h) in the place of those of these rows, if they were kept."""
        kept = rows < len(self._patches)
        rows, patches = rows[kept], patches[kept]
        indices, changes = self.indices[rows], patches - self._patches[rows]
        self._patches[rows] = patches
        placed = indices >= 0
        if placed.any():
            corners_px = self.canvas.corners_px(self._positions_um[indices[placed]], len(self._weights))
            change_patches(self.total, changes[placed], self._weights, corners_px)

    def place(self, indices: np.ndarray, positions_um: np.ndarray | None = None, canvas: Canvas | None = None) -> None:
        """Stitch anew in trigger order, if something has changed.

        Parameters
        ----------
        indices : (n,) int64
            Trigger of each patch, or `UNPAIRED`.
        positions_um, canvas : optional
            Of the final image; without them they stay.
        """
        canvas = self.canvas if canvas is None else canvas
        positions_um = self._positions_um if positions_um is None else positions_um
        kept, before, indices = len(self._patches), self.indices, indices.copy()
        same = canvas == self.canvas and np.array_equal(positions_um, self._positions_um)
        if same and np.array_equal(indices, before):
            return
        if not np.array_equal(indices[kept:], before[kept:]):
            self._loose = None
            indices[kept:] = UNPAIRED
        self._indices = array("q", indices.tolist())
        self.canvas, self._positions_um = canvas, positions_um
        self.total, self.coverage = np.zeros(canvas.shape), np.zeros(canvas.shape)
        order = np.argsort(indices[:kept], kind="stable")
        for start in range(0, len(order), 64):  # in parts: the kept patches may fill the memory
            part = order[start : start + 64]
            self._stitch(self.total, self.coverage, indices[part], self._patches[part])
        if self._loose is not None:
            paste(self.total, self._loose[0], self._first[0], canvas)
            paste(self.coverage, self._loose[1], self._first[0], canvas)

    def _stitch(self, total: np.ndarray, coverage: np.ndarray, indices: np.ndarray, patches: np.ndarray) -> None:
        placed = indices >= 0
        if placed.any():
            corners_px = self.canvas.corners_px(self._positions_um[indices[placed]], len(self._weights))
            add_patches(total, coverage, patches[placed], self._weights, corners_px)


def paste(onto: np.ndarray, image: np.ndarray, its_canvas: Canvas, canvas: Canvas) -> None:
    """Add an image of one canvas to one of another that holds it, in place."""
    y, x = np.rint(np.subtract(its_canvas.origin_um, canvas.origin_um) / canvas.pixel_size_um).astype(int)
    onto[y : y + its_canvas.shape[0], x : x + its_canvas.shape[1]] += image

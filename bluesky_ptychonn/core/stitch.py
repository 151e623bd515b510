"""Stitching: add overlapping patches into one stitched image."""

from dataclasses import dataclass

import numba
import numpy as np

MAX_CANVAS_PX = 64_000_000
LARGEST_MARGIN_PX = 16
"""So far may a captured position lie from the planned field before the final image needs another canvas."""


@dataclass(frozen=True)
class Canvas:
    """Pixels of the stitched image and where they lie on the sample.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns, px.
    origin_um : (float, float)
        Position (y, x) of the centre of pixel (0, 0), um.
    pixel_size_um : float
    """

    shape: tuple[int, int]
    origin_um: tuple[float, float]
    pixel_size_um: float

    @classmethod
    def covering(
        cls, positions_um: np.ndarray, pixel_size_um: float, patch_px: int, margin_um: float = 0.0
    ) -> "Canvas":
        """Make the smallest canvas that holds a patch at each position, with a margin.

        Raises
        ------
        ValueError
            If there are no positions, or the canvas would have more than ``MAX_CANVAS_PX`` pixels.

        Examples
        --------
        >>> Canvas.covering(np.array([[0.0, 0.0], [0.1, 0.2]]), 0.01, 8).shape
        (20, 30)
        """
        positions_um = np.asarray(positions_um, dtype=np.float64)
        if positions_um.ndim != 2 or not len(positions_um):
            raise ValueError("a canvas needs at least one position (y, x) in um")
        margin_px = patch_px // 2 + 1 + int(np.ceil(margin_um / pixel_size_um))
        low, high = positions_um.min(axis=0), positions_um.max(axis=0)
        sides = np.ceil(np.round((high - low) / pixel_size_um, 6)) + 2 * margin_px
        if not np.isfinite(sides).all() or sides.prod() > MAX_CANVAS_PX:
            raise ValueError(
                f"a field of {high[0] - low[0]:g} x {high[1] - low[1]:g} um needs {sides.prod():.3g} px of "
                f"{pixel_size_um:g} um; at most {MAX_CANVAS_PX} are allowed; scan a smaller field"
            )
        y_um, x_um = low - margin_px * pixel_size_um
        return cls((int(sides[0]), int(sides[1])), (float(y_um), float(x_um)), float(pixel_size_um))

    @property
    def extent_um(self) -> tuple[float, float, float, float]:
        """Left, right, bottom and top edge, um, as matplotlib's ``imshow`` takes them."""
        (rows, columns), pixel_um = self.shape, self.pixel_size_um
        top, left = (origin - pixel_um / 2 for origin in self.origin_um)
        return left, left + columns * pixel_um, top + rows * pixel_um, top

    def corners_px(self, positions_um: np.ndarray, patch_px: int) -> np.ndarray:
        """Return the top-left pixels (B, 2) of patches whose centre pixel N/2 lies at these positions."""
        centres = np.round((np.asarray(positions_um) - self.origin_um) / self.pixel_size_um)
        return centres.astype(np.int64) - patch_px // 2

    def holds(self, corners_px: np.ndarray, patch_px: int) -> np.ndarray:
        """Return which patches (B,) lie inside the canvas."""
        return np.all((corners_px >= 0) & (corners_px <= np.subtract(self.shape, patch_px)), axis=1)


def run_canvas(planned_um: np.ndarray, pixel_size_um: float, patch_px: int) -> Canvas:
    """Where the image of a run begins: the planned field with a margin."""
    return Canvas.covering(planned_um, pixel_size_um, patch_px, LARGEST_MARGIN_PX * pixel_size_um)


def final_canvas(canvas: Canvas, planned_um: np.ndarray, used_um: np.ndarray, patch_px: int) -> Canvas:
    """Where it ends: the same canvas, or one that also holds the patches at the positions that were used."""
    if canvas.holds(canvas.corners_px(used_um, patch_px), patch_px).all():
        return canvas
    return Canvas.covering(np.concatenate([planned_um, used_um]), canvas.pixel_size_um, patch_px)


def patch_weights(probe: np.ndarray, patch_px: int) -> np.ndarray:
    """Weights (h, h) of the pixels of a patch: intensity of the probe's middle part, 1 where it is brightest."""
    edge = (len(probe) - patch_px) // 2
    weights = np.abs(probe[edge : edge + patch_px, edge : edge + patch_px]) ** 2
    return weights / weights.max()


def add_patches(
    total: np.ndarray,
    coverage: np.ndarray,
    patches: np.ndarray,
    weights: np.ndarray,
    corners_px: np.ndarray,
) -> None:
    """Add weighted phase patches to a running sum, in place; ``total / coverage`` is the stitched image.

    Neither order nor batching of the patches matters (to rounding), so live and offline agree.

    Parameters
    ----------
    total : (H, W) float64
        Running sum of weight times phase, rad.
    coverage : (H, W) float64
        Running sum of weights; 0 where nothing was seen.
    patches : (B, h, w) float32
        Phase, rad.
    weights : (h, w) float32
        Probe intensity: how much the probe saw of each pixel of a patch.
    corners_px : (B, 2) int
        Top-left pixel (y, x) of each patch in ``total``.

    Raises
    ------
    ValueError
        If a patch leaves the canvas; nothing has changed then.

    Examples
    --------
    >>> total, coverage = np.zeros((3, 3)), np.zeros((3, 3))
    >>> add_patches(total, coverage, np.ones((1, 2, 2)), np.ones((2, 2)), np.array([[1, 1]]))
    >>> float(coverage.sum())
    4.0
    """
    _refuse_corners(total, patches, corners_px)
    _add(total, coverage, patches, weights, corners_px)


def change_patches(total: np.ndarray, changes: np.ndarray, weights: np.ndarray, corners_px: np.ndarray) -> None:
    """Add changes (B, h, w) of patches that are in a running sum already, in place; their coverage stays.

    Parameters as for `add_patches`.
    """
    _refuse_corners(total, changes, corners_px)
    _change(total, changes, weights, corners_px)


def _refuse_corners(total: np.ndarray, patches: np.ndarray, corners_px: np.ndarray) -> None:
    _, h, w = patches.shape
    last = np.subtract(total.shape, (h, w))
    outside = np.flatnonzero(np.any((corners_px < 0) | (corners_px > last), axis=1))
    if outside.size:
        raise ValueError(
            f"corners_px[{outside[0]}] = {corners_px[outside[0]].tolist()} px leaves the "
            f"{total.shape} px canvas; allowed is 0 to {last.tolist()}; enlarge the canvas"
        )
    if len(corners_px) != len(patches):
        raise ValueError(f"{len(patches)} patches and {len(corners_px)} corners_px; give one corner for each patch")


@numba.njit(cache=True, nogil=True)
def _change(total, changes, weights, corners_px):
    _, height, width = changes.shape
    for b in range(len(changes)):
        top, left = corners_px[b]
        for y in range(height):
            for x in range(width):
                total[top + y, left + x] += weights[y, x] * changes[b, y, x]


@numba.njit(cache=True, nogil=True)
def _add(total, coverage, patches, weights, corners_px):
    _, height, width = patches.shape
    for b in range(len(patches)):
        top, left = corners_px[b]
        for y in range(height):
            for x in range(width):
                weight = weights[y, x]
                total[top + y, left + x] += weight * patches[b, y, x]
                coverage[top + y, left + x] += weight


def stitched_image(total: np.ndarray, coverage: np.ndarray) -> np.ndarray:
    """Return the stitched phase, float32 rad; NaN where nothing was seen."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(coverage > 0, total / coverage, np.nan).astype(np.float32)

"""Where the probe goes: the Fermat spiral and the short route that visits it."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit

SPIRAL_ORDER = "short-route-1"
GOLDEN_ANGLE_RAD = np.pi * (3 - np.sqrt(5))
NEIGHBOURS = 12
MOST_POINTS = 1_000_000


@lru_cache(maxsize=16)
def _spiral_in_steps(width: float, height: float) -> np.ndarray:
    """Visit the spiral of unit step over ``width`` x ``height`` steps."""
    radius = np.hypot(width, height) / 2
    n = np.arange(int(np.ceil(np.pi * radius**2)) + 1)
    r, angle = np.sqrt(n / np.pi), n * GOLDEN_ANGLE_RAD
    points = np.stack([r * np.sin(angle), r * np.cos(angle)], axis=1)
    points = points[(np.abs(points[:, 0]) <= height / 2) & (np.abs(points[:, 1]) <= width / 2)]
    visited = points[short_route(points)]
    visited.flags.writeable = False
    return visited


def fermat_spiral(width_um: float, height_um: float, step_um: float) -> np.ndarray:
    """Points of a Fermat spiral over a rectangle, in the order in which they are visited.

    The n-th point lies at r = step sqrt(n / pi) and n golden angles, so that the area per point is the step
    squared. The golden-angle order jumps across the field at each point; the points are visited along
    `short_route` instead.

    Parameters
    ----------
    width_um, height_um : float
        Extent along x and y, um.
    step_um : float
        Square root of the area per point, um.

    Returns
    -------
    (N, 2) float64
        Positions (y, x) relative to the centre, um.

    Raises
    ------
    ValueError
        If a length is not positive and finite, or the spiral would have more than a million points.

    References
    ----------
    X. Huang et al., "Optimization of overlap uniformness for ptychography", Opt. Express 22, 12634 (2014), eq. 1.

    Examples
    --------
    >>> fermat_spiral(1.0, 1.0, 0.1).shape
    (101, 2)
    """
    check_spiral(width_um, height_um, step_um)
    return _spiral_in_steps(width_um / step_um, height_um / step_um) * step_um


def check_spiral(width_um: float, height_um: float, step_um: float) -> None:
    """Raise `ValueError` if `fermat_spiral` cannot make this spiral; quick."""
    for name, value in (("width_um", width_um), ("height_um", height_um), ("step_um", step_um)):
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"{name} = {value} um must be a positive finite length")
    if width_um * height_um / step_um**2 > MOST_POINTS:
        raise ValueError(
            f"step_um = {step_um} um over {width_um} x {height_um} um makes more than {MOST_POINTS:,} points; "
            "enlarge step_um or scan a smaller field"
        )


def short_route(points: np.ndarray) -> np.ndarray:
    """Order in which to visit scattered points so that no step is long.

    Serpentine rows first; then segments are reversed and points moved as long as the sum of the cubed steps falls,
    which punishes the longest ones. Deterministic: the same points give the same route.

    Parameters
    ----------
    points : (N, 2) float64
        Positions (y, x), any unit.

    Returns
    -------
    (N,) int64
        A permutation of ``range(N)``.
    """
    n = len(points)
    if n < 3:
        return np.arange(n)
    extent = np.ptp(points, axis=0)
    spacing = np.sqrt(max(extent[0] * extent[1], 1e-300) / n) if extent.min() > 0 else extent.max() / n
    rows = np.floor((points[:, 0] - points[:, 0].min()) / (1.5 * spacing)).astype(np.int64)
    along = np.where(rows % 2 == 0, points[:, 1], -points[:, 1])
    order = np.lexsort((along, rows))
    return _improve(np.ascontiguousarray(points), order, _neighbours(points))


def _neighbours(points: np.ndarray) -> np.ndarray:
    from scipy.spatial import KDTree

    k = min(NEIGHBOURS + 1, len(points))
    return KDTree(points).query(points, k=k)[1][:, 1:].astype(np.int64)


@njit(cache=True)
def _cost(points: np.ndarray, i: int, j: int) -> float:
    if i < 0 or j < 0:
        return 0.0
    d2 = (points[i, 0] - points[j, 0]) ** 2 + (points[i, 1] - points[j, 1]) ** 2
    return d2 * np.sqrt(d2)


@njit(cache=True)
def _at(order: np.ndarray, k: int) -> int:
    return order[k] if 0 <= k < len(order) else -1


@njit(cache=True)
def _try_reversal(points: np.ndarray, order: np.ndarray, place: np.ndarray, a: int, b: int) -> bool:
    """Reverse order[a..b] if that shortens the route."""
    before, after = _at(order, a - 1), _at(order, b + 1)
    gain = _cost(points, before, order[a]) + _cost(points, order[b], after)
    gain -= _cost(points, before, order[b]) + _cost(points, order[a], after)
    if gain <= 1e-12:
        return False
    while a < b:
        order[a], order[b] = order[b], order[a]
        place[order[a]], place[order[b]] = a, b
        a, b = a + 1, b - 1
    return True


@njit(cache=True)
def _try_move(points: np.ndarray, order: np.ndarray, place: np.ndarray, k: int, m: int) -> bool:
    """Move the point at place k to between places m and m + 1 if that shortens the route."""
    if m in (k, k - 1):
        return False
    point, before, after = order[k], _at(order, k - 1), _at(order, k + 1)
    left, right = _at(order, m), _at(order, m + 1)
    gain = _cost(points, before, point) + _cost(points, point, after) - _cost(points, before, after)
    gain -= _cost(points, left, point) + _cost(points, point, right) - _cost(points, left, right)
    if gain <= 1e-12:
        return False
    if m > k:
        for q in range(k, m):
            order[q] = order[q + 1]
            place[order[q]] = q
        order[m] = point
        place[point] = m
    else:
        for q in range(k, m + 1, -1):
            order[q] = order[q - 1]
            place[order[q]] = q
        order[m + 1] = point
        place[point] = m + 1
    return True


@njit(cache=True)
def _improve(points: np.ndarray, order: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
    n = len(order)
    place = np.empty(n, np.int64)
    for k in range(n):
        place[order[k]] = k
    for _ in range(100):
        changed = False
        for point in range(n):
            for other in neighbours[point]:
                k, m = int(place[point]), int(place[other])
                low, high = min(k, m), max(k, m)
                if (
                    _try_reversal(points, order, place, low + 1, high)
                    or _try_reversal(points, order, place, low, high - 1)
                    or _try_move(points, order, place, k, m)
                    or _try_move(points, order, place, k, m - 1)
                ):
                    changed = True
        if not changed:
            break
    return order


def positions_from_recipe(start: Mapping[str, Any]) -> np.ndarray:
    """Planned positions of a run, from the recipe in its start document.

    Parameters
    ----------
    start : mapping
        Start document with ``plan_pattern_args`` (width_um, height_um, step_um, order) and ``ptycho`` (center_um).

    Returns
    -------
    (N, 2) float64
        Probe centres (y, x) on the sample, um, in the order of the triggers.

    Raises
    ------
    ValueError
        If the run was visited in an order which this version does not know.
    """
    recipe = start["plan_pattern_args"]
    if recipe["order"] != SPIRAL_ORDER:
        raise ValueError(f"plan_pattern_args['order'] = {recipe['order']!r} is not {SPIRAL_ORDER!r}; use its version")
    relative = fermat_spiral(recipe["width_um"], recipe["height_um"], recipe["step_um"])
    return relative + np.asarray(start["ptycho"]["center_um"])

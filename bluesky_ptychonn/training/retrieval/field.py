"""How well a scan covers its field."""

import numpy as np
from scipy.spatial import Delaunay, QhullError

from bluesky_ptychonn.core.moments import LONGEST_EDGE
from bluesky_ptychonn.core.optics import probe_diameter_um
from bluesky_ptychonn.training.retrieval.problem import Sweep

WELL_COVERED = 0.3
"""Light, in units of what most of the field has, from which on a pixel is well covered."""
FAINT = 0.01
"""Intensity of the probe, in units of its brightest pixel, below which it is noise."""


def light_on(sweep: Sweep) -> np.ndarray:
    """Photons that each object pixel received, (H, W) float32."""
    light = np.sum(np.abs(sweep.probe) ** 2, axis=0)
    coverage = np.zeros(sweep.object_.shape, np.float32)
    for y, x in np.rint(sweep.positions_px).astype(int) - len(light) // 2:
        coverage[y : y + len(light), x : x + len(light)] += light
    return coverage


def covered_fraction(coverage: np.ndarray, positions_px: np.ndarray) -> float:
    """Share of the field between neighbouring positions which has at least `WELL_COVERED` of the usual light."""
    triangles = _triangles(positions_px)
    if triangles is None:
        return 0.0
    mesh, near = triangles
    grid = np.stack(np.meshgrid(*(np.arange(side) for side in coverage.shape), indexing="ij"), axis=-1)
    found = mesh.find_simplex(grid)
    light = coverage[(found >= 0) & near[found]]
    return float(np.mean(light >= WELL_COVERED * np.percentile(light, 90))) if light.size else 0.0


def overlap_ratio(positions_px: np.ndarray, probe: np.ndarray) -> float | None:
    """1 - step / probe diameter, the step being the square root of the area for each position; None if they span none.

    The area is twice that of the middling triangle between neighbours, so that neither the outline of the field nor an
    astray position matters.
    """
    triangles = _triangles(positions_px)
    if triangles is None:
        return None
    mesh, near = triangles
    corners = mesh.points[mesh.simplices[near]]
    one, other = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = float(np.median(np.abs(one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0])))
    light = np.sqrt(np.sum(np.abs(probe.reshape(-1, *probe.shape[-2:])) ** 2, axis=0))
    light = np.where(light**2 > FAINT * light.max() ** 2, light, 0)
    return float(1 - np.sqrt(area) / probe_diameter_um(light, 1.0))


def _triangles(positions_px: np.ndarray) -> tuple[Delaunay, np.ndarray] | None:
    """Triangles between positions, and which of them (T,) join neighbours; None if the positions span no area."""
    try:
        mesh = Delaunay(positions_px)
    except (QhullError, ValueError):
        return None
    corners = mesh.points[mesh.simplices]
    longest = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=-1).max(axis=1)
    return mesh, longest < LONGEST_EDGE * np.median(longest)

"""A whole scan at once: the image that the edge would have shown."""

import numpy as np

from bluesky_ptychonn.core.optics import PROBE_FRAMES, measured_probe
from bluesky_ptychonn.core.protocols import Engine
from bluesky_ptychonn.core.stitch import Canvas, add_patches, stitched_image


def stitch_scan(
    engine: Engine,
    patterns: np.ndarray,
    positions_um: np.ndarray,
    probe: np.ndarray,
    pixel_size_um: float,
    canvas: Canvas | None = None,
) -> tuple[np.ndarray, np.ndarray, Canvas]:
    """Stitch the phase of a whole scan; the engine keeps the probe it is given.

    Parameters
    ----------
    engine : Engine
        Any engine.
    patterns : (N, n, n) uint
        Diffraction patterns, masked pixels as no data.
    positions_um : (N, 2) float
        Probe centres (y, x), um.
    probe : (n, n) complex64
        Illumination of any power; counts and brightness of its cone are taken from the first frames.
    pixel_size_um : float
        Of the object.
    canvas : Canvas, optional
        Where to put the patches; one that just holds them without it.

    Returns
    -------
    phase : (H, W) float32
        rad; NaN where nothing was seen.
    coverage : (H, W) float64
        Sum of stitching weights.
    canvas : Canvas
    """
    scaled = measured_probe(probe, patterns[:PROBE_FRAMES])
    engine.set_probe(scaled)
    size = engine.patch_px
    edge = (len(scaled) - size) // 2
    weights = np.abs(scaled[edge : edge + size, edge : edge + size]) ** 2
    weights = weights / weights.max()
    canvas = canvas or Canvas.covering(positions_um, pixel_size_um, size)
    total, coverage = np.zeros(canvas.shape), np.zeros(canvas.shape)
    corners_px = canvas.corners_px(positions_um, size)
    for first in range(0, len(patterns), engine.max_batch):
        batch = slice(first, first + engine.max_batch)
        add_patches(total, coverage, engine.infer(patterns[batch]), weights, corners_px[batch])
    return stitched_image(total, coverage), coverage, canvas

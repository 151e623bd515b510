"""A whole scan at once: the image that the edge would have shown."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from bluesky_ptychonn.core.beam import Beam
from bluesky_ptychonn.core.optics import PROBE_FRAMES, measured_probe
from bluesky_ptychonn.core.protocols import Engine
from bluesky_ptychonn.core.stitch import Canvas, add_patches, patch_weights, stitched_image
from bluesky_ptychonn.core.totals import counts_of_frames
from bluesky_ptychonn.engines.light import DarkError, Light


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
    weights = patch_weights(scaled, size)
    canvas = canvas or Canvas.covering(positions_um, pixel_size_um, size)
    total, coverage = np.zeros(canvas.shape), np.zeros(canvas.shape)
    corners_px = canvas.corners_px(positions_um, size)
    for first in range(0, len(patterns), engine.max_batch):
        batch = slice(first, first + engine.max_batch)
        add_patches(total, coverage, engine.infer(patterns[batch]), weights, corners_px[batch])
    return stitched_image(total, coverage), coverage, canvas


@dataclass(frozen=True)
class StitchedRun:
    """The final image of a run.

    Parameters
    ----------
    phase : (H, W) float32
        rad; NaN where nothing was seen.
    coverage : (H, W) float32
        Sum of stitching weights.
    canvas : Canvas
    stitched, rejected : int
        Frames in the image, and those left out because no frame of the run had shown light before.
    intensity_scale : float
        Counts per frame of the beam; 0 if there was no light.
    no_beam : (n,) int64
        Triggers of the frames which are not in the image because they have no beam, ascending.
    """

    phase: np.ndarray
    coverage: np.ndarray
    canvas: Canvas
    stitched: int
    rejected: int
    intensity_scale: float
    no_beam: np.ndarray


def stitch_run(
    engine: Engine,
    unit_probe: np.ndarray,
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    positions_um: np.ndarray,
    canvas: Canvas,
    *,
    min_counts: float = 0.0,
    no_flux: np.ndarray | None = None,
) -> StitchedRun:
    """Make the final image of a run as the edge makes it: the same probe, measured by the first frames with light.

    Its sum runs in the order of the triggers, so with the same engine it is the edge's bit by bit.

    Parameters
    ----------
    engine : Engine
        Keeps the probe of the run.
    unit_probe : (n, n) complex64
        Illumination of any power.
    batches : iterable of ((B,) int, (B, n, n) uint)
        Triggers, ascending, and diffraction patterns; of any length.
    positions_um : (N, 2) float64
        Probe centre (y, x) of each trigger, um.
    canvas : Canvas
        Holds a patch at each of them.
    min_counts : float
        What a frame with beam has, as for `core.beam.threshold_of`; 0 takes every frame.
    no_flux : (m,) int, optional
        Triggers without beam by what a monitor says.
    """
    light, beam, waiting = Light(engine, unit_probe), Beam(min_counts), []
    no_beam = [np.empty(0, np.int64)]
    weights = patch_weights(unit_probe, engine.patch_px).astype(np.float64)
    total, coverage = np.zeros(canvas.shape), np.zeros(canvas.shape)
    stitched = rejected = 0

    def add(seen: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> None:
        nonlocal stitched
        for indices, patterns, counts in seen:
            shown = beam.has(counts) & ~np.isin(indices, [] if no_flux is None else no_flux)
            no_beam.append(indices[~shown])
            if shown.any():
                corners_px = canvas.corners_px(positions_um[indices[shown]], engine.patch_px)
                add_patches(total, coverage, engine.infer(patterns)[shown], weights, corners_px)
                stitched += len(corners_px)

    for indices, patterns in _of_length(batches, engine.max_batch):
        counts = counts_of_frames(patterns) if beam.judges else np.zeros(len(patterns))
        beam.see(counts)
        if not light.settled:
            try:
                light.see(indices, patterns)
            except DarkError:
                if beam.judges:
                    no_beam.append(indices)
                else:
                    rejected += len(indices)
                continue
        waiting.append((indices, patterns, counts))
        if light.settled:
            add(waiting)
            waiting = []
    if waiting:
        light.settle()
        add(waiting)
    phase = stitched_image(total, coverage)
    dark = np.sort(np.concatenate(no_beam))
    return StitchedRun(phase, coverage.astype(np.float32), canvas, stitched, rejected, light.intensity_scale, dark)


def _of_length(
    batches: Iterable[tuple[np.ndarray, np.ndarray]], length: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The same frames in batches of one length; only the last may be shorter."""
    rest: tuple[np.ndarray, np.ndarray] | None = None
    for indices, patterns in batches:
        if rest is not None:
            indices, patterns = (np.concatenate(pair) for pair in zip(rest, (indices, patterns)))
        whole = len(indices) - len(indices) % length
        for first in range(0, whole, length):
            yield indices[first : first + length], patterns[first : first + length]
        rest = (indices[whole:], patterns[whole:]) if whole < len(indices) else None
    if rest is not None:
        yield rest

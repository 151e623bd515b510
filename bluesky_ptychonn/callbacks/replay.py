"""Replay: the final image of a recorded run, as the edge made it or would have made it with another model."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bluesky_ptychonn.core.beam import left_out_text
from bluesky_ptychonn.core.frames import FrameGeometry
from bluesky_ptychonn.core.positions import best_positions
from bluesky_ptychonn.core.protocols import Engine
from bluesky_ptychonn.core.recorded_run import Recording
from bluesky_ptychonn.core.scan_data import ScanData
from bluesky_ptychonn.core.stitch import Canvas, final_canvas, run_canvas
from bluesky_ptychonn.engines.checks import check_run, refuse_mismatch
from bluesky_ptychonn.engines.offline import StitchedRun, stitch_run
from bluesky_ptychonn.io.ahead import ahead
from bluesky_ptychonn.io.run_documents import documents_of_file, open_documents
from bluesky_ptychonn.io.run_message import run_message
from bluesky_ptychonn.io.runs import open_run

LINES = ".jsonl"
"""What files of documents are called."""
BLOCK = 256


@dataclass(frozen=True)
class Replayed:
    """The image of a recorded run or scan, and what it is made of.

    Parameters
    ----------
    phase : (H, W) float32
        rad; NaN where nothing was seen.
    coverage : (H, W) float32
        Sum of stitching weights.
    canvas : Canvas
        Where the pixels lie on the sample.
    positions_um : (n, 2) float64
        Probe centre (y, x) of each frame in the image, um.
    trigger_index : (n,) int64
        Trigger of each frame.
    positions_source : str
        ``"captured"``, ``"planned"`` or ``"captured, else planned"``; ``"file"`` for a scan file.
    counts : mapping of str to int
        Frames ``recorded``, ``stitched``, ``no_beam``, ``unpaired`` (their trigger cannot be known) and ``rejected``
        (before any light, where no frame is refused for having no beam).
    engine, model_version : str
        What made it; no version for an engine without a model.
    intensity_scale : float
        Counts per frame of the beam.
    notes : tuple of str
        What the user should know.
    start : mapping
        Start document; empty for a scan file.
    provenance : mapping of str to str
        ``run_uid``, or ``file`` and ``sha256``.
    """

    phase: np.ndarray
    coverage: np.ndarray
    canvas: Canvas
    positions_um: np.ndarray
    trigger_index: np.ndarray
    positions_source: str
    counts: Mapping[str, int]
    engine: str
    model_version: str
    intensity_scale: float
    notes: tuple[str, ...] = ()
    start: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)

    def about(self) -> dict[str, Any]:
        """Where it comes from, as plain values to keep beside an image."""
        return {
            **self.provenance,
            "engine": self.engine,
            "model_version": self.model_version,
            "positions_source": self.positions_source,
            **{f"frames_{name}": int(count) for name, count in self.counts.items()},
            "intensity_scale": float(self.intensity_scale),
            "pixel_size_um": float(self.canvas.pixel_size_um),
            "origin_y_um": float(self.canvas.origin_um[0]),
            "origin_x_um": float(self.canvas.origin_um[1]),
        }


def replay(
    source: Any,
    engine: Engine,
    probe: np.ndarray,
    bad_pixels: np.ndarray | None = None,
    on_frames: Callable[[int, int], object] = lambda done, of: None,
) -> Replayed:
    """Make the final image of a recorded run.

    Parameters
    ----------
    source : tiled client, path, iterable of (name, document), Recording, or ScanData
        A run of Tiled or of databroker 2 (``cat[uid]``); the documents of one run, of databroker 1 for instance
        (``db[uid].documents()``), or a file of them (``.jsonl``); a `Recording` that is open already; or a
        scan that was read from a file.
    engine : Engine
        Keeps the probe of the run.
    probe : (N, N) complex64
        Illumination of any power: the model's own if it has one, else that of the settings.
    bad_pixels : (H, W) bool, optional
        Of the detector's frame; a scan knows its own.
    on_frames : callable
        Told now and then how many frames of how many have been read.

    Raises
    ------
    ValueError
        If the run cannot be read, or the engine cannot do it; the message says what to do.

    Examples
    --------
    >>> from bluesky_ptychonn.core.optics import Geometry, zone_plate_probe
    >>> from bluesky_ptychonn.engines.registry import open_engine
    >>> scan = ScanData(np.ones((9, 128, 128), np.uint16), 9.0 * np.argwhere(np.ones((3, 3))), 0.0116)
    >>> replay(scan, open_engine("lift"), zone_plate_probe(Geometry())).counts["stitched"]
    9
    """
    if isinstance(source, ScanData):
        return _replay_scan(source, engine, probe, on_frames)
    if isinstance(source, Recording):
        return _replay_run(source, engine, probe, bad_pixels, on_frames)
    with open_recording(source) as recording:
        return _replay_run(recording, engine, probe, bad_pixels, on_frames)


@contextlib.contextmanager
def open_recording(source: Any) -> Iterator[Recording]:
    """Open a run of a catalog, its documents, or a file of them."""
    if isinstance(source, (str, Path)):
        source = documents_of_file(Path(source))
    opened = open_run(source) if hasattr(source, "metadata") else open_documents(source)
    with opened as recording:
        yield recording


def _replay_run(
    recording: Recording,
    engine: Engine,
    probe: np.ndarray,
    bad_pixels: np.ndarray | None,
    on_frames: Callable[[int, int], object],
) -> Replayed:
    message = run_message(recording.start)
    pixel_size_um = check_run(message, engine, probe).pixel_size_um
    _refuse_frame_shape(recording, message.frame_shape)
    planned_um = message.positions_um
    captured = np.flatnonzero(np.isfinite(recording.captured_um).all(axis=1))
    best = best_positions(planned_um, captured, recording.captured_um[captured])
    triggers = recording.trigger_index[recording.trigger_index >= 0]
    _refuse_none(len(triggers), f"run {message.run_uid}: {recording.doubt or 'no frame was recorded'}")
    canvas = run_canvas(planned_um, pixel_size_um, engine.patch_px)
    canvas = final_canvas(canvas, planned_um, best.positions_um[triggers], engine.patch_px)
    patterns = _patterns(recording, message.frame_geometry(bad_pixels), on_frames)
    image = stitch_run(
        engine,
        probe,
        ahead(patterns),
        best.positions_um,
        canvas,
        min_counts=recording.min_counts,
        no_flux=recording.no_flux,
    )
    triggers = triggers[~np.isin(triggers, image.no_beam)]
    unpaired = f"{recording.unpaired} frames whose trigger cannot be known are left out: {recording.doubt}"
    return _told(
        image,
        engine,
        positions_um=best.positions_um[triggers],
        trigger_index=triggers,
        positions_source=best.source,
        unpaired=recording.unpaired,
        notes=tuple(
            note
            for note in (best.warning, left_out_text(image.no_beam), unpaired if recording.unpaired else "")
            if note
        ),
        start=recording.start,
        provenance={"run_uid": message.run_uid},
    )


def _patterns(
    recording: Recording, frames: FrameGeometry, on_frames: Callable[[int, int], object]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    done, of = 0, len(recording.trigger_index) - recording.unpaired
    for indices, block in recording.blocks():
        yield indices, frames.patterns(block)
        done += len(indices)
        on_frames(done, of)


def _replay_scan(
    scan: ScanData, engine: Engine, probe: np.ndarray, on_frames: Callable[[int, int], object]
) -> Replayed:
    if scan.pixel_size_um is None:
        raise ValueError("the size of the scan's object pixels is not known; give pixel_size_nm, or the geometry")
    n = scan.patterns.shape[-1]
    if engine.frame_px != n or probe.shape != (n, n):
        raise ValueError(
            f"the scan has patterns of {n} px, but the engine takes {engine.frame_px} px and the probe has "
            f"{probe.shape} px; cut the scan to that side (crop_px), or use another model and probe"
        )
    refuse_mismatch(engine.card, scan.pixel_size_um, scan.geometry and scan.geometry.energy_kev)
    positions_um = scan.positions_px * scan.pixel_size_um
    canvas = run_canvas(positions_um, scan.pixel_size_um, engine.patch_px)

    def blocks() -> Iterable[tuple[np.ndarray, np.ndarray]]:
        for first in range(0, len(scan.patterns), BLOCK):
            rows = slice(first, first + BLOCK)
            yield np.arange(len(scan.patterns))[rows], scan.patterns[rows]
            on_frames(min(first + BLOCK, len(scan.patterns)), len(scan.patterns))

    return _told(
        stitch_run(engine, probe, blocks(), positions_um, canvas),
        engine,
        positions_um=positions_um,
        trigger_index=scan.trigger_index,
        positions_source="file",
        unpaired=0,
        notes=scan.notes,
        start={},
        provenance=scan.provenance,
    )


def _told(image: StitchedRun, engine: Engine, *, unpaired: int, **about: Any) -> Replayed:
    dark = len(image.no_beam)
    counts = {
        "recorded": len(about["trigger_index"]) + dark + unpaired,
        "stitched": image.stitched,
        "no_beam": dark,
        "unpaired": unpaired,
        "rejected": image.rejected,
    }
    return Replayed(
        image.phase,
        image.coverage,
        image.canvas,
        counts=counts,
        engine=engine.name,
        model_version=engine.card.version if engine.card else "",
        intensity_scale=image.intensity_scale,
        **about,
    )


def _refuse_frame_shape(recording: Recording, announced: tuple[int, int]) -> None:
    if tuple(recording.frames.shape[1:]) != announced:
        raise ValueError(
            f"run {recording.start['uid']} announced frames of {announced} px and recorded "
            f"{tuple(recording.frames.shape[1:])} px; its file is another's"
        )


def _refuse_none(frames: int, why: str) -> None:
    if not frames:
        raise ValueError(f"no frame has a position: {why}")

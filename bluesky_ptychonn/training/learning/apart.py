"""Part of a scan is learned from, part of it judges: a strip of the field, so far off that no frame of it is like one.

Neighbouring frames overlap, so single frames that are held out say little. Where an experiment has few scans, none can
be spared; then a strip at the end of the newest ones is held out, and what has light in common with it is not learned
from either.
"""

from dataclasses import replace

import numpy as np

from bluesky_ptychonn.core.metrics import covered_region
from bluesky_ptychonn.core.optics import probe_diameter_um
from bluesky_ptychonn.core.reconstruction import Reconstruction
from bluesky_ptychonn.core.scan_data import ScanData
from bluesky_ptychonn.training.learning.corpus import LabelledScan, Shard
from bluesky_ptychonn.training.retrieval.field import WELL_COVERED, light_on
from bluesky_ptychonn.training.retrieval.problem import Sweep

FEWEST = 8
"""Frames that either part has at least."""
SMALLEST_PX = 12
"""Side of the field of a part that judges, at least."""
SEEN = 0.1
"""Span of the phase there, at least, as a share of that of the whole field: the likeness of empty ground is noise."""
SPAN = (1, 99)
"""Percentiles between which a span lies."""


class NothingSeenError(ValueError):
    """There is next to nothing of the sample where a part of a scan would judge."""


def apart(scan: ScanData, probe: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a scan to learn from, and rows to judge by.

    Parameters
    ----------
    scan : ScanData
    probe : (n, n) complex
        Its diameter keeps the two apart.
    share : float
        Of the frames, to judge by; 0 to 1. They are those furthest along the longer side of the field.

    Returns
    -------
    learned, judged : (K,) int64
        The rows between them are in neither.

    Raises
    ------
    ValueError
        If the share is out of range, or the field is so small that nothing would be left of one of them.
    """
    if not 0 < share < 1:
        raise ValueError(f"share = {share:g} of a scan to judge by; allowed is more than 0 and less than 1")
    places_px = scan.positions_px
    along = places_px[:, int(np.argmax(np.ptp(places_px, axis=0)))]
    edge_px = np.quantile(along, 1 - share)
    guard_px = probe_diameter_um(probe, 1.0)
    learned, judged = np.flatnonzero(along < edge_px - guard_px), np.flatnonzero(along >= edge_px)
    if min(len(learned), len(judged)) < FEWEST:
        raise ValueError(
            f"{len(learned)} frames to learn from and {len(judged)} to judge by, a probe of {guard_px:.0f} px between "
            f"them; each needs {FEWEST}; scan a larger field, or hold out another scan"
        )
    return learned, judged


def rows_of(scan: ScanData, rows: np.ndarray) -> ScanData:
    """A scan of some of the frames."""
    return replace(
        scan, patterns=scan.patterns[rows], positions_px=scan.positions_px[rows], trigger_index=scan.trigger_index[rows]
    )


def judging_part(
    scan: ScanData, reconstruction: Reconstruction, rows: np.ndarray, name: str
) -> tuple[ScanData, Reconstruction]:
    """Some rows of a scan as evidence, under a name of their own; the field is what these frames have lit.

    Raises
    ------
    NothingSeenError
        If next to nothing of the sample lies in that field.
    ValueError
        If it is too small to compare images.
    """
    part = rows_of(scan, rows)
    mine = np.isin(reconstruction.trigger_index, part.trigger_index)
    mine &= np.isfinite(reconstruction.positions_px).all(axis=1)
    sweep = Sweep(reconstruction.object_, reconstruction.probe, reconstruction.positions_px[mine])
    coverage = light_on(sweep)
    field = covered_region(coverage, WELL_COVERED)
    sides_px = [side.stop - side.start for side in field]
    if min(sides_px) < SMALLEST_PX:
        raise ValueError(
            f"the field to judge by has {sides_px[0]} x {sides_px[1]} px; at least {SMALLEST_PX} px are needed; hold "
            "out more, or another scan"
        )
    here, everywhere = (
        _span(reconstruction.object_[box]) for box in (field, covered_region(reconstruction.coverage, WELL_COVERED))
    )
    if here < SEEN * everywhere:
        raise NothingSeenError(
            f"the phase spans {here:.3g} rad in the field to judge by, {everywhere:.3g} rad in all; at least "
            f"{SEEN:.0%} of it is needed"
        )
    named = {"run_uid": name, "file": name}
    return replace(part, provenance=named), replace(
        reconstruction,
        positions_px=reconstruction.positions_px[mine],
        trigger_index=reconstruction.trigger_index[mine],
        held_out=reconstruction.held_out[mine],
        coverage=coverage,
        provenance=named,
    )


def _span(object_: np.ndarray) -> float:
    """Span of the phase, rad, of a field whose phase does not wrap around its mean."""
    low, high = np.percentile(np.angle(object_ * np.conj(np.mean(object_))), SPAN)
    return float(high - low)


def part_of_shard(shard: Shard, scan: ScanData, rows: np.ndarray) -> LabelledScan:
    """The pairs of a shard whose frames are among some rows of the scan that it was made of.

    Raises
    ------
    ValueError
        If none is.
    """
    wanted = {scan.patterns[row].tobytes() for row in rows}
    kept = np.array([k for k, pattern in enumerate(shard.patterns) if pattern.tobytes() in wanted], np.int64)
    if not len(kept):
        raise ValueError(f"shard {shard.name} holds none of these frames; it was made of another scan")
    return LabelledScan(
        patterns=np.asarray(shard.patterns[kept]),
        labels=np.asarray(shard.labels[kept]),
        probe=np.asarray(shard.probe),
        seen=None if shard.seen is None else np.asarray(shard.seen[kept]),
        about={**shard.manifest["about"], "part_of": shard.name},
    )

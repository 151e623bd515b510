"""Several consumers' sums and lists of frames, added up."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bluesky_ptychonn.core.beam import NO_BEAM
from bluesky_ptychonn.core.pairing import UNPAIRED
from bluesky_ptychonn.core.stitch import Canvas, stitched_image
from bluesky_ptychonn.edge.partial import paste
from bluesky_ptychonn.edge.roll import UNKNOWN, FrameRoll
from bluesky_ptychonn.edge.shares import Report


def grown(canvas: Canvas, corners_px: np.ndarray, patch_px: int) -> Canvas:
    """Return a canvas that also holds these patches; its pixels are those of the old one, and some more.

    Examples
    --------
    >>> grown(Canvas((9, 9), (0.0, 0.0), 0.5), np.array([[-2, 3], [4, 7]]), 4)
    Canvas(shape=(11, 11), origin_um=(-1.0, 0.0), pixel_size_um=0.5)
    """
    low = np.minimum(corners_px.min(axis=0), 0)
    high = np.maximum(corners_px.max(axis=0) + patch_px, canvas.shape)
    rows, columns = (high - low).tolist()
    y_um, x_um = (np.array(canvas.origin_um) + low * canvas.pixel_size_um).tolist()
    return Canvas((rows, columns), (y_um, x_um), canvas.pixel_size_um)


def add_up(
    reports: Sequence[Report], live: Canvas, final: Canvas | None = None
) -> tuple[np.ndarray, np.ndarray, Canvas]:
    """Return phase (H, W) float32, coverage (H, W) float32 and their canvas: exactly what one process would have.

    Parameters
    ----------
    reports : sequence of Report
    live : Canvas
        Of the reports that are not final.
    final : Canvas, optional
        Of the image and of the reports that are final; without it all are live.
    """
    canvas = final or live
    total, coverage = np.zeros(canvas.shape), np.zeros(canvas.shape)
    for report in reports:
        its = canvas if report.said["state"] == "final" else live
        if report.total.shape == its.shape and (final is not None or its is live):
            paste(total, report.total, its, canvas)
            paste(coverage, report.coverage, its, canvas)
    return stitched_image(total, coverage), coverage.astype(np.float32), canvas


@dataclass(frozen=True)
class FrameCounts:
    """What became of the frames that consumers report.

    Parameters
    ----------
    ids : (n,) int64
        Of all of them, each once; of this run only.
    no_beam_triggers : (m,) int64
        Of the frames without beam, ascending.
    stitched, unpaired, shed, rejected, foreign, waiting : int
        A frame that lies in two sums counts as stitched twice: then the account does not close.
    """

    ids: np.ndarray
    no_beam_triggers: np.ndarray
    stitched: int
    unpaired: int
    shed: int
    rejected: int
    foreign: int
    waiting: int


def count_frames(reports: Sequence[Report], roll: FrameRoll) -> FrameCounts:
    """Count the frames of some reports."""
    none = np.empty(0, np.int64)
    stitched, without, triggers, unpaired, spoiled, left_out = [none], [none], [none], [none], [none], 0
    for report in reports:
        found, inside = roll.judge(report.ids, report.times_s), report.indices >= 0
        dark = (report.indices == NO_BEAM) & (found >= 0)
        loose = ~inside & ((found == UNPAIRED) | (found == UNKNOWN))
        stitched.append(report.ids[inside])
        without.append(report.ids[dark])
        triggers.append(found[dark])
        unpaired.append(report.ids[loose])
        spoiled.append(report.spoiled)
        left_out += np.count_nonzero(~inside & ~loose & ~dark)
    placed = np.concatenate(stitched)
    dark_ids, first = np.unique(np.concatenate(without), return_index=True)
    dark_only = ~np.isin(dark_ids, placed)
    dark_ids = dark_ids[dark_only]
    loose_ids = np.setdiff1d(np.concatenate(unpaired), np.concatenate([placed, dark_ids]))
    spoiled_ids = np.setdiff1d(np.concatenate(spoiled), np.concatenate([placed, dark_ids, loose_ids]))
    rejected = min(sum(report.said["rejected"] for report in reports), len(spoiled_ids))
    return FrameCounts(
        ids=np.unique(np.concatenate([placed, dark_ids, loose_ids, spoiled_ids])),
        no_beam_triggers=np.sort(np.concatenate(triggers)[first][dark_only]),
        stitched=len(placed),
        unpaired=len(loose_ids),
        shed=len(spoiled_ids) - rejected,
        rejected=rejected,
        foreign=int(left_out) + sum(report.said["foreign"] for report in reports),
        waiting=sum(report.said["waiting"] for report in reports),
    )

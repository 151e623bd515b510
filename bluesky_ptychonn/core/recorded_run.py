"""A recorded run: frames with the triggers and positions they belong to."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bluesky_ptychonn.core.beam import MIN_COUNTS, with_flux
from bluesky_ptychonn.core.pairing import Pairing

BLOCK_BYTES = 8 << 20
"""Frames that are read at once."""


@dataclass(frozen=True)
class RecordedRun:
    """Frames of one run, each with its trigger and its position.

    Parameters
    ----------
    frames : (N, H, W) uint
        Detector counts as recorded, in the order of the triggers.
    positions_um : (N, 2) float64
        Probe centres (y, x) on the sample, um, at mid exposure; NaN where a captured position is missing.
    trigger_index : (N,) int64
        Trigger of each frame, from 0.
    unique_id : (N,) int64
        The driver's number of each frame.
    unpaired : int
        Recorded frames left out because their trigger cannot be known.
    doubt : str
        Why; empty if no frame was left out.
    start : mapping
        Start document: geometry, energy, provenance.
    has_flux : (N,) bool, optional
        Which frames had beam by what the beamline's monitor says; None where there is none.
    """

    frames: np.ndarray
    positions_um: np.ndarray
    trigger_index: np.ndarray
    unique_id: np.ndarray
    unpaired: int
    doubt: str
    start: Mapping[str, Any]
    has_flux: np.ndarray | None = None


@dataclass(frozen=True)
class Recording:
    """One run as it was recorded; its frames are read when they are used.

    Parameters
    ----------
    frames : (M, H, W) uint
        Detector counts by row: an array, or what can be sliced like one.
    trigger_index : (M,) int64
        Trigger of each row, from 0; -1 where it cannot be known. Ascending where it is known.
    unique_id : (M,) int64
        The driver's number of each row.
    captured_um : (P, 2) float64
        Captured probe centre (y, x) of each trigger, um; NaN where none was captured.
    doubt : str
        Why some triggers are not known; empty if all are.
    start : mapping
        Start document.
    flux : (P,) float64
        Incident flux of each trigger; NaN where it is not known. Empty where nothing monitors it.
    """

    frames: Any
    trigger_index: np.ndarray
    unique_id: np.ndarray
    captured_um: np.ndarray
    doubt: str
    start: Mapping[str, Any]
    flux: np.ndarray = field(default_factory=lambda: np.empty(0))

    @property
    def min_counts(self) -> float:
        """What a frame with beam has, as for `core.beam.threshold_of`."""
        return float(self.start["ptycho"].get("min_counts", MIN_COUNTS))

    @property
    def no_flux(self) -> np.ndarray:
        """Triggers (n,) int64 without beam by what the monitor says."""
        return np.flatnonzero(~with_flux(self.flux, float(self.start["ptycho"].get("min_flux", 0.0))))

    @property
    def unpaired(self) -> int:
        """Rows whose trigger cannot be known."""
        return int(np.count_nonzero(self.trigger_index < 0))

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Triggers (B,) and frames (B, H, W) in the order of the triggers; rows without a trigger are left out."""
        height, width = self.frames.shape[1:]
        size = max(1, BLOCK_BYTES // (height * width * np.dtype(self.frames.dtype).itemsize))
        for first in range(0, len(self.trigger_index), size):
            known = self.trigger_index[first : first + size] >= 0
            if known.any():
                frames = np.asarray(self.frames[first : first + size])
                yield (
                    self.trigger_index[first : first + size][known],
                    frames if known.all() else frames[known],
                )

    def read(self) -> RecordedRun:
        """All of it at once."""
        known = np.flatnonzero(self.trigger_index >= 0)
        frames = np.empty((len(known), *self.frames.shape[1:]), self.frames.dtype)
        done = 0
        for indices, block in self.blocks():
            frames[done : done + len(indices)] = block
            done += len(indices)
        return RecordedRun(
            frames=frames,
            positions_um=self.captured_um[self.trigger_index[known]],
            trigger_index=self.trigger_index[known],
            unique_id=self.unique_id[known],
            unpaired=self.unpaired,
            doubt=self.doubt,
            start=self.start,
            has_flux=~np.isin(self.trigger_index[known], self.no_flux) if len(self.flux) else None,
        )


def pair_recorded(
    unique_id: np.ndarray,
    time_s: np.ndarray,
    start: Mapping[str, Any],
    *,
    slots: int | None,
    lost_in_detector: int | None,
    lost_before_file: int | None,
) -> tuple[np.ndarray, str]:
    """Find the trigger of each recorded frame: by its number and its time, never by its row.

    Parameters
    ----------
    unique_id : (M,) int
        The driver's number of each row of the file.
    time_s : (M,) float
        Time stamp of each row, s, on the clock named in ``start["ptycho"]["clock"]``.
    start : mapping
        Start document with ``num_points`` and the ``ptycho`` block.
    slots : int, optional
        Trigger slots which the stage went through, whether or not a pulse was sent; None if unknown.
    lost_in_detector, lost_before_file : int, optional
        Totals of the run; None if unknown.

    Returns
    -------
    (M,) int64
        Trigger index of each row; -1 where it cannot be known.
    str
        Why some are unknown; empty if none is.
    """
    block = start["ptycho"]
    pairing = Pairing(
        start["num_points"],
        first_unique_id=block["first_unique_id"],
        clock=block["clock"],
        dwell_s=block["dwell_s"] if block["fly"] else 0.0,
    )
    found = np.array([pairing.add(int(i), float(t), 0.0) for i, t in zip(unique_id, time_s, strict=True)], np.int64)
    pairing.finish(slots, lost_in_detector, lost_before_file)
    kept = np.flatnonzero(found >= 0)[: len(pairing.kept_indices)]
    trigger_index = np.full(len(found), -1, np.int64)
    trigger_index[kept] = pairing.kept_indices
    return trigger_index, pairing.doubt

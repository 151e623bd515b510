"""What every phase retrieval engine is given, and what it gives after each sweep."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from bluesky_ptychonn.core.optics import counts_of, with_counts
from bluesky_ptychonn.core.scan_data import ScanData

MARGIN_PX = 8
"""Room around the field, px, into which corrected positions and moved probes may go."""
MODE_SHARE = 0.05
"""Power of each further mode that a single starting probe is given, in units of the first."""


@dataclass
class Problem:
    """One scan, ready to iterate on: arrays on the host, positions within the object.

    Attributes
    ----------
    patterns : (N, n, n) unsigned integer
        Counts; the largest value of the type says "no data".
    positions_px : (N, 2) float64
        Probe centres (y, x) in pixels of the object: the pixel n/2 of the probe lies there.
    origin_px : (float, float)
        Taken off the scan's positions.
    object_ : (H, W) complex64
        To start from.
    probe : (M, n, n) complex64
        Modes to start from; their power is the counts per frame.
    used : (K,) int64
        Rows that may be used for updates; the others are held out.
    """

    patterns: np.ndarray
    positions_px: np.ndarray
    origin_px: tuple[float, float]
    object_: np.ndarray
    probe: np.ndarray
    used: np.ndarray


@dataclass
class Sweep:
    """State after one sweep.

    Attributes
    ----------
    object_ : (H, W) complex64
    probe : (M, n, n) complex64
    positions_px : (N, 2) float64
    """

    object_: np.ndarray
    probe: np.ndarray
    positions_px: np.ndarray


Sweeps = Callable[[Problem], Iterator[Sweep]]
"""An engine: yields the state after each sweep for as long as it is asked."""


def make_problem(scan: ScanData, probe: np.ndarray, *, modes: int = 1, holdout_every: int = 20) -> Problem:
    """Prepare a scan: a flat object that holds every position, the probe scaled to the counts, frames held out.

    Parameters
    ----------
    scan : ScanData
    probe : (n, n) or (M, n, n) complex
        Of any power.
    modes : int
        Incoherent probe modes; those that ``probe`` lacks start as weak, tilted copies of the first.
    holdout_every : int
        One frame of this many, evenly along the scan, is never used for an update; 0 for none.
    """
    n = scan.patterns.shape[-1]
    low = np.floor(scan.positions_px.min(axis=0)) - n // 2 - MARGIN_PX
    positions_px = scan.positions_px - low
    shape = np.ceil(positions_px.max(axis=0)).astype(int) + n // 2 + MARGIN_PX
    rows = np.arange(len(positions_px))
    held = (rows % holdout_every == holdout_every // 2) if holdout_every else np.zeros(len(rows), bool)
    return Problem(
        patterns=scan.patterns,
        positions_px=positions_px,
        origin_px=(float(low[0]), float(low[1])),
        object_=np.ones(tuple(shape), np.complex64),
        probe=_modes(probe, scan.patterns, modes),
        used=rows[~held],
    )


def _modes(probe: np.ndarray, patterns: np.ndarray, modes: int) -> np.ndarray:
    given = probe[None] if probe.ndim == 2 else probe
    first = with_counts(given[0], counts_of(patterns[:: max(1, len(patterns) // 256)], given[0]))
    counts = np.sum(np.abs(first) ** 2, dtype=np.float64)
    ratio = np.sqrt(np.sum(np.abs(given) ** 2, axis=(1, 2)) / np.sum(np.abs(given[0]) ** 2))
    filled = [first] + [
        mode * (np.sqrt(counts) * share / np.linalg.norm(mode))
        for mode, share in zip(given[1:modes], ratio[1:modes], strict=True)
    ]
    y, x = (np.mgrid[: probe.shape[-1], : probe.shape[-1]] - probe.shape[-1] / 2) / probe.shape[-1]
    tilts = (y, x, y * x, y**2 - x**2, y**2 + x**2)
    while len(filled) < modes:
        mode = first * tilts[(len(filled) - 1) % len(tilts)]
        filled.append(mode * (np.sqrt(MODE_SHARE * counts) / np.linalg.norm(mode)))
    stack = np.stack(filled)
    return (stack * np.sqrt(counts / np.sum(np.abs(stack) ** 2, dtype=np.float64))).astype(np.complex64)

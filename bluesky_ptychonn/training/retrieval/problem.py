"""What every phase retrieval engine is given, and what it gives after each sweep."""

from dataclasses import dataclass

import numpy as np

from bluesky_ptychonn.core.frames import no_data
from bluesky_ptychonn.core.optics import counts_of, far_field, with_counts
from bluesky_ptychonn.core.scan_data import ScanData

MARGIN_PX = 8
"""Room around the field, px."""
BEAM_OFF_PX = 0.2
"""Distance of the measured cone from that of the starting probe, detector px, from which on the probe follows it.

Below, the slope of the sample's own phase explains it, and the probe is right.
"""
MEANT = 256
"""Patterns whose mean shows the cone."""
STEPS = 3
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


def make_problem(
    scan: ScanData, probe: np.ndarray, *, modes: int = 1, holdout_every: int = 20, room_px: float = 0.0
) -> Problem:
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
    room_px : float
        How far positions may move.
    """
    n = scan.patterns.shape[-1]
    margin_px = MARGIN_PX + int(np.ceil(room_px))
    low = np.floor(scan.positions_px.min(axis=0)) - n // 2 - margin_px
    positions_px = scan.positions_px - low
    shape = np.ceil(positions_px.max(axis=0)).astype(int) + n // 2 + margin_px
    rows = np.arange(len(positions_px))
    held = (rows % holdout_every == holdout_every // 2) if holdout_every else np.zeros(len(rows), bool)
    return Problem(
        patterns=scan.patterns,
        positions_px=positions_px,
        origin_px=(float(low[0]), float(low[1])),
        object_=np.ones(tuple(shape), np.complex64),
        probe=_modes(probe, scan.patterns[~held], modes),
        used=rows[~held],
    )


def _modes(probe: np.ndarray, patterns: np.ndarray, modes: int) -> np.ndarray:
    given = probe[None] if probe.ndim == 2 else probe
    some = patterns[:: max(1, len(patterns) // MEANT)]
    counts = counts_of(some, given[0])
    filled = list(given[:modes])
    n = probe.shape[-1]
    y, x = (np.mgrid[:n, :n] - n / 2) / n
    tilts = (y, x, y * x, y**2 - x**2, y**2 + x**2)
    while len(filled) < modes:
        mode = given[0] * tilts[(len(filled) - 1) % len(tilts)]
        filled.append(mode * (np.sqrt(MODE_SHARE) * np.linalg.norm(given[0]) / np.linalg.norm(mode)))
    stack = np.stack(filled)
    shift_px = beam_offset_px(stack, some)
    if np.hypot(*shift_px) > BEAM_OFF_PX:
        stack = stack * np.exp(2j * np.pi * (y * shift_px[0] + x * shift_px[1]))
    return with_counts(stack, counts)


def beam_offset_px(probe: np.ndarray, patterns: np.ndarray) -> np.ndarray:
    """How far (y, x) the cone on the detector lies from where the modes (M, n, n) of a probe have it, detector px."""
    valid = patterns != no_data(patterns.dtype)
    frames = valid.sum(axis=0)
    mean = np.sqrt(patterns.sum(axis=0, dtype=np.float64, where=valid) / np.maximum(frames, 1))
    cone = cone_of(probe)
    cone = cone * (np.linalg.norm(mean[frames > 0]) / np.linalg.norm(cone[frames > 0]))
    return shift_of(np.where(frames > 0, mean, cone), cone)


def cone_of(probe: np.ndarray) -> np.ndarray:
    """Amplitude (n, n) of a probe's modes (M, n, n) on the detector, the zero frequency in the middle."""
    return np.sqrt(np.sum(np.abs(far_field(probe)) ** 2, axis=0, dtype=np.float64))


def shift_of(image: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Shift (y, x) of an image against a reference, px, to a small part of a pixel: correlation, then least squares."""
    spectrum, frequency = np.fft.fft2(reference), np.fft.fftfreq(len(reference))
    match = np.real(np.fft.ifft2(np.fft.fft2(image) * np.conj(spectrum)))
    whole = np.array(np.unravel_index(match.argmax(), match.shape), float)
    shift = (whole + len(image) / 2) % len(image) - len(image) / 2
    for _ in range(STEPS):
        turned = spectrum * np.exp(-2j * np.pi * (frequency[:, None] * shift[0] + frequency[None, :] * shift[1]))
        slopes = [np.real(np.fft.ifft2(turned * 2j * np.pi * part)) for part in (frequency[:, None], frequency[None])]
        moved = np.real(np.fft.ifft2(turned))
        basis = np.stack([-slopes[0].ravel(), -slopes[1].ravel(), moved.ravel()], axis=1)
        shift = shift + np.linalg.lstsq(basis, (image - moved).ravel(), rcond=None)[0][:2]
    return shift

"""Whether a scan can be what far-field phase retrieval takes it for."""

from typing import Any

import numpy as np
import scipy.fft
from scipy.spatial import KDTree

from bluesky_ptychonn.core.frames import no_data
from bluesky_ptychonn.core.scan_data import ScanData
from bluesky_ptychonn.core.stitch import MAX_CANVAS_PX

SHORTEST_STEP_PX = 0.05
WRONG_UNITS = {
    1e3: "1000 times too large, as nm given as um or mm given as m",
    1e6: "1,000,000 times too large, as um given as m",
    1e-3: "1000 times too small, as mm given as um",
    1e-6: "1,000,000 times too small, as m given as um",
}

SHADOW = 0.2
"""Correlation of patterns from places that share no field, from which on they show the same piece of sample.

A near-field scan of PETRA III gives 0.49; the real far-field star 0.01, simulated far-field scans at most 0.05.
"""
SHADOW_PAIRS = 64
SHADOW_PX = 128
"""Patterns are binned to at most this side to look for a shadow."""
FEW = 8
"""Frames that a message names."""
LIT = 0.05
"""Mean counts, in units of the brightest pixel's, from which on a detector pixel belongs to the beam."""


def refuse_unfit(scan: ScanData) -> None:
    """Raise if phase retrieval from far-field patterns cannot make sense of a scan.

    Raises
    ------
    ValueError
        If there is one pattern only, or one place only, if the positions must be in another unit, if some lie apart
        from all others, or if the patterns are near-field images; with value, allowed range and remedy.
    """
    if len(scan.patterns) < 2:
        raise ValueError(f"the scan has {len(scan.patterns)} pattern; at least 2 at different places are needed")
    _refuse_wrong_steps(scan)
    _refuse_astray(scan)
    _refuse_large_canvas(scan)
    refuse_near_field(scan)


def median_step_px(positions_px: np.ndarray) -> float:
    """Median distance of a place from its nearest neighbour, px; several frames at one place count once.

    Examples
    --------
    >>> median_step_px(np.array([[0.0, 0.0], [0.0, 0.0], [0.0, 3.0], [0.0, 7.0]]))
    3.0
    """
    places = np.unique(positions_px, axis=0)
    return float(np.median(KDTree(places).query(places, k=2)[0][:, 1]))


def _refuse_wrong_steps(scan: ScanData) -> None:
    n = scan.patterns.shape[-1]
    low, high = scan.positions_px.min(axis=0), scan.positions_px.max(axis=0)
    if not np.any(high > low):
        raise ValueError(
            f"all {len(scan.patterns)} positions are the same, ({low[0]:g}, {low[1]:g}) px; ptychography moves the "
            "probe; give the captured positions of the scan"
        )
    step_px = median_step_px(scan.positions_px)
    if step_px < SHORTEST_STEP_PX:  # or a place is measured several times
        step_px = max(step_px, float(np.sqrt(np.prod(high - low) / len(scan.patterns))))
    if not SHORTEST_STEP_PX <= step_px <= n:
        likely = [text for factor, text in WRONG_UNITS.items() if 0.5 <= step_px / factor <= n / 2]
        guess = f"they look {likely[0]}; " if likely else ""
        raise ValueError(
            f"neighbouring positions are {_length(step_px, scan)} apart; allowed are {SHORTEST_STEP_PX} to {n} px, the "
            f"field of a pattern; {guess}correct their unit, or energy, distance and pixel sizes"
        )


def _refuse_astray(scan: ScanData) -> None:
    """Raise if some frames share no field with any other: they only make the canvas larger."""
    n = scan.patterns.shape[-1]
    places, place = np.unique(scan.positions_px, axis=0, return_inverse=True)
    distance_px = KDTree(places).query(places, k=2)[0][:, 1][place.ravel()]
    astray = np.flatnonzero(distance_px > n)
    if not astray.size:
        return
    named = ", ".join(str(trigger) for trigger in scan.trigger_index[astray[:FEW]])
    more = " ..." if astray.size > FEW else ""
    frames, lie, them = ("frame", "lies", "it") if astray.size == 1 else ("frames", "lie", "them")
    raise ValueError(
        f"{frames} {named}{more} {lie} {_length(float(distance_px[astray].min()), scan)} or more from every other "
        f"position; at most {n} px is allowed, the field of a pattern; leave {them} out or correct {them}"
    )


def _refuse_large_canvas(scan: ScanData) -> None:
    n = scan.patterns.shape[-1]
    low, high = scan.positions_px.min(axis=0), scan.positions_px.max(axis=0)
    sides_px = high - low + n
    if sides_px.prod() > MAX_CANVAS_PX:
        middle = np.median(scan.positions_px, axis=0)
        farthest = int(np.argmax(np.abs(scan.positions_px - middle).max(axis=1)))
        raise ValueError(
            f"the positions span {_length(sides_px[0], scan)} x {_length(sides_px[1], scan)}; at most {MAX_CANVAS_PX} "
            f"object pixels are allowed; leave out astray positions (frame {scan.trigger_index[farthest]} is farthest "
            "off) or scan a smaller field"
        )


def refuse_near_field(scan: ScanData) -> None:
    """Raise if patterns move with the sample like a shadow that is larger than a far-field pattern can hold.

    A far-field pattern of N pixels of side p holds a field of lambda z / p on the sample: N object pixels. Patterns
    from places farther apart than that have no sample in common. In the near field one frame sees more than that
    field, so that such patterns still show the same sample, moved across the detector in proportion to the step.

    Raises
    ------
    ValueError
        If so. A scan which is not wider than one field cannot tell, and is not refused.
    """
    n = scan.patterns.shape[-1]
    pairs = _distant_pairs(scan.positions_px, n)
    if not len(pairs):
        return
    correlation, pixels_per_px, lit_px = _shadow(scan, pairs)
    if correlation < SHADOW:
        return
    raise ValueError(
        f"these are near-field data: patterns move with the sample like a shadow, {abs(pixels_per_px):.3g} detector "
        f"pixels per object pixel (correlation {correlation:.2f}, at most {SHADOW} is allowed), so each shows "
        f"{_length(lit_px, scan)} of it; a far-field pattern holds {_length(n, scan)}, lambda z / (detector pixel); "
        "use a near-field code, or correct positions, energy, distance and detector pixel"
    )


def _length(length_px: float, scan: ScanData) -> str:
    um = "" if scan.pixel_size_um is None else f" ({length_px * scan.pixel_size_um:.3g} um)"
    return f"{length_px:.4g} px{um}"


def _distant_pairs(positions_px: np.ndarray, n: int) -> np.ndarray:
    """Pairs of rows (P, 2) which are hardly farther apart than ``n`` px, evenly along the scan."""
    rows = np.unique(np.linspace(0, len(positions_px) - 1, 4 * SHADOW_PAIRS).astype(int))
    distance = np.linalg.norm(positions_px[rows, None] - positions_px[None], axis=-1)
    distance[distance < n] = np.inf
    nearest = distance.argmin(axis=1)
    apart = np.flatnonzero(np.isfinite(distance.min(axis=1)))
    chosen = apart[np.unique(np.linspace(0, len(apart) - 1, SHADOW_PAIRS).astype(int))] if len(apart) else apart
    return np.stack([rows[chosen], nearest[chosen]], axis=1)


def _shadow(scan: ScanData, pairs: np.ndarray) -> tuple[float, float, float]:
    """Best common motion of pairs of patterns.

    Returns
    -------
    correlation : float
        Mean over the pairs when one pattern is moved onto the other.
    pixels_per_px : float
        Motion on the detector, in detector pixels per object pixel.
    lit_px : float
        Extent of the sample that the lit part of the detector then shows, object pixels.
    """
    bins = -(-scan.patterns.shape[-1] // SHADOW_PX)
    images = _binned(scan.patterns[np.unique(pairs)], bins)
    row = {int(pattern): index for index, pattern in enumerate(np.unique(pairs))}
    mean = images.mean(axis=0)
    lit = mean > LIT * mean.max()
    diameter = 2 * np.sqrt(np.count_nonzero(lit) / np.pi)
    scale = np.where(lit, 1 / np.sqrt(np.maximum(mean, 1e-9)), 0)
    images = (images * (mean.sum() / images.sum(axis=(1, 2), keepdims=True)) - mean) * scale
    steps_px = scan.positions_px[pairs[:, 1]] - scan.positions_px[pairs[:, 0]]
    moves = np.geomspace(2, max(diameter, 4), 80) / np.median(np.linalg.norm(steps_px, axis=1))
    moves = np.concatenate([-moves, moves])
    double = (2 * len(mean), 2 * len(mean))
    total = np.zeros(len(moves))
    for (first, second), step_px in zip(pairs, steps_px, strict=True):
        one, other = images[row[int(first)]], images[row[int(second)]]
        spectra: Any = scipy.fft.rfft2(np.stack([one, other]), s=double)
        moved: Any = scipy.fft.irfft2(np.conj(spectra[0]) * spectra[1], s=double)
        alike = moved / max(np.linalg.norm(one) * np.linalg.norm(other), 1e-12)
        shift = np.rint(np.outer(moves, step_px)).astype(int)
        inside = np.abs(shift).max(axis=1) < len(mean)
        total[inside] += alike[shift[inside, 0], shift[inside, 1]]
    best = int(total.argmax())
    return float(total[best] / len(pairs)), float(moves[best] * bins), float(diameter / abs(moves[best]))


def _binned(patterns: np.ndarray, bins: int) -> np.ndarray:
    """Measured counts summed over ``bins`` x ``bins`` pixels, (B, m, m) float32."""
    m = patterns.shape[-1] // bins
    counts = np.where(patterns == no_data(patterns.dtype), 0, patterns)[:, : m * bins, : m * bins]
    return counts.reshape(-1, m, bins, m, bins).sum(axis=(2, 4), dtype=np.float32)

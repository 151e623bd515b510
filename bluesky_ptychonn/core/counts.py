"""Counts of any number type as unsigned integers, with "no data" where nothing was measured."""

from typing import Any

import numpy as np

from bluesky_ptychonn.core.frames import FrameGeometry, no_data

BATCH = 64
ROUNDING = 1e-3
"""How far a floating-point count may be from an integer."""
WIDE = no_data(np.uint32)

PLATEAU_COUNTS = 100
"""Counts from which on many equal largest values mean saturation, not little light."""
PLATEAU_PIXELS = 10
PLATEAU_RATIO = 20
"""Pixels at the largest value, in units of the mean number per count of the tenth of the range below it."""
PLATEAU_SHARE = 0.1
"""Share of the pixels with light up to which those at the largest value are left out."""


def unsigned_counts(
    frames: Any, bad_pixels: np.ndarray | None = None, cut: FrameGeometry | None = None
) -> tuple[np.ndarray, list[str]]:
    """Read frames batch by batch into unsigned integers.

    No data are: the largest value of an integer type, as an Eiger writes it, and pixels which are negative or not
    finite in every frame, as other detectors and corrections mark their gaps.

    Parameters
    ----------
    frames : (N, H, W) numbers
        An array, or an HDF5 dataset.
    bad_pixels : (H, W) bool, optional
        True where a pixel is bad: not looked at.
    cut : FrameGeometry, optional
        What to cut out of each frame; the whole frame without it.

    Returns
    -------
    (N, n, n) or (N, H, W) uint16, or uint32 where the counts ask for it
    list of str
        What was noticed.

    Raises
    ------
    ValueError
        If a count is negative or not finite in some frames only, not an integer, or too large.

    Examples
    --------
    >>> unsigned_counts(np.array([[[-1, 3]], [[-1, 4]]]))[0].tolist()
    [[[65535, 3]], [[65535, 4]]]
    """
    if len(frames.shape) != 3 or not frames.shape[0]:
        raise ValueError(f"frames have shape {tuple(frames.shape)}; give at least one frame, as (N, H, W)")
    if np.dtype(frames.dtype).kind not in "iuf":
        raise ValueError(f"frames are {frames.dtype}; give counts as integers, or as floating-point whole numbers")
    looked_at = _looked_at(frames.shape[1:], bad_pixels, cut)
    shape = frames.shape[1:] if cut is None else (cut.crop_px, cut.crop_px)
    out = np.empty((frames.shape[0], *shape), np.uint32)
    ever, always = np.zeros_like(looked_at), looked_at.copy()
    for first in range(0, len(out), BATCH):
        batch = slice(first, first + BATCH)
        values = np.asarray(frames[batch])
        wrong = _wrong(values) & looked_at
        counts = _whole(values, looked_at & ~wrong, first)
        ever |= wrong.any(axis=0)
        always &= wrong.all(axis=0)
        if cut is None:
            out[batch] = counts
        else:
            cut.patterns(counts, out=out[batch])
    _refuse_sometimes_wrong(frames, ever & ~always)
    notes = []
    if always.any():
        count = np.count_nonzero(always)
        notes.append(f"{count} pixels are negative or not finite in every frame: taken as bad pixels")
    largest = np.max(out, initial=0, where=out != WIDE)
    return (out if largest >= no_data(np.uint16) else out.astype(np.uint16)), notes


def leave_out_saturated(patterns: np.ndarray) -> list[str]:
    """Mark saturated or hot pixels as no data, in place; each kind found is told in a sentence.

    Where a detector stops to count, many pixels share one largest value; photon noise alone hardly repeats it.

    Parameters
    ----------
    patterns : (N, n, n) unsigned integer
    """
    notes = []
    missing = patterns == no_data(patterns.dtype)
    sometimes = missing & ~missing.all(axis=0)
    if sometimes.any():
        notes.append(
            f"{np.count_nonzero(sometimes.any(axis=(1, 2)))} frames lack {np.count_nonzero(sometimes)} pixels which "
            "others have (saturated, or no data): left out of the fit"
        )
    largest = int(np.max(patterns, initial=0, where=~missing))
    if largest < PLATEAU_COUNTS:
        return notes
    below = int(0.9 * largest)
    at_largest = patterns == largest
    count = np.count_nonzero(at_largest)
    near = (np.count_nonzero((patterns >= below) & ~missing) - count) / (largest - below)
    if count < PLATEAU_PIXELS or count <= PLATEAU_RATIO * near:
        return notes
    frames = np.count_nonzero(at_largest.any(axis=(1, 2)))
    told = f"{count} pixels in {frames} of {len(patterns)} frames stand at the largest value, {largest} counts: "
    if count <= PLATEAU_SHARE * np.count_nonzero((patterns > 0) & ~missing):
        patterns[at_largest] = no_data(patterns.dtype)
        notes.append(told + "taken as saturated or hot, and left out of the fit")
    else:
        notes.append(told + "too many to leave them out of the fit; if they are saturated, expose for a shorter time")
    return notes


def _looked_at(shape: tuple[int, int], bad_pixels: np.ndarray | None, cut: FrameGeometry | None) -> np.ndarray:
    if bad_pixels is not None and bad_pixels.shape != tuple(shape):
        raise ValueError(f"the mask of bad pixels is {bad_pixels.shape} px for frames of {tuple(shape)} px")
    looked_at = np.ones(shape, bool) if bad_pixels is None else ~bad_pixels
    if cut is None:
        return looked_at
    return looked_at & cut.inside


def _wrong(values: np.ndarray) -> np.ndarray:
    """Where a value cannot be a count."""
    if values.dtype.kind == "u":
        return np.zeros(values.shape, bool)
    return ~(values >= 0) | (values == np.inf) if values.dtype.kind == "f" else values < 0


def _whole(values: np.ndarray, counted: np.ndarray, first: int) -> np.ndarray:
    """Counts as uint32, no data where they are not counted (B, H, W); ``first`` is the number of the first frame."""
    if values.dtype.kind == "f":
        whole = np.rint(np.where(counted, values, 0))
        _refuse(counted & (np.abs(values - whole) > ROUNDING), values, first, "not a whole number", "give raw counts")
    else:
        counted = counted & (values != np.iinfo(values.dtype).max)
        whole = values
    if values.dtype.itemsize >= 4:
        _refuse(counted & (whole >= WIDE), values, first, "too large", f"allowed are 0 to {WIDE - 1} counts")
    counts = np.full(values.shape, WIDE, np.uint32)
    np.copyto(counts, whole, where=counted, casting="unsafe")
    return counts


def _refuse(where: np.ndarray, values: np.ndarray, first: int, what: str, remedy: str) -> None:
    if where.any():
        frame, row, column = np.argwhere(where)[0]
        raise ValueError(
            f"frame {first + frame} has {values[frame, row, column]} counts at pixel ({row}, {column}), {what}; "
            f"{remedy}"
        )


def _refuse_sometimes_wrong(frames: Any, pixels: np.ndarray) -> None:
    if not pixels.any():
        return
    row, column = (int(place) for place in np.argwhere(pixels)[0])
    values = np.asarray(frames[:, row, column])
    frame = int(np.argmax(_wrong(values)))
    raise ValueError(
        f"frame {frame} has {values[frame]} counts at pixel ({row}, {column}), and {np.count_nonzero(pixels)} pixels "
        "are negative or not finite in some frames; counts are 0 or more; give raw counts without background "
        "correction, or a mask of bad pixels"
    )

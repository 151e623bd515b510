"""Binning: the counts of neighbouring pixels become those of one superpixel."""

from typing import Any

import numba
import numpy as np
from numba import types

WORDS = {np.dtype(np.uint16): np.uint32, np.dtype(np.uint32): np.uint64}
"""In what counts of a type are added up: those of `frames.MAX_BINNING` squared pixels, and their number, fit in."""


def bin_frames(
    frames: np.ndarray, corner: tuple[int, int], binning: int, out: np.ndarray, bad_pixels: np.ndarray | None = None
) -> None:
    """Add up the counts of frames in superpixels.

    A superpixel is given the sum over its pixels with data, times the number of its pixels over that of those with
    data, rounded: the photons of its whole area. Where all pixels count this is their plain sum, so that photon
    statistics stay what they are, as they would not in a mean. It has no data if none of its pixels has, or if its
    counts do not fit the type: the largest number that does would be taken for a measurement.

    Parameters
    ----------
    frames : (B, H, W) uint16 or uint32
        Counts; pixels without data carry the largest value of the type.
    corner : (int, int)
        Row and column in the frame of the first superpixel's top-left pixel. What lies outside the frame has no data.
    binning : int
        Side of a superpixel, px, 1 to `frames.MAX_BINNING`.
    out : (B, N, N) of the same type, C-contiguous
        Filled here.
    bad_pixels : (H, W) bool, optional
        Pixels which do not count in any frame.

    Raises
    ------
    ValueError
        If the counts are of another type.

    Examples
    --------
    >>> frames, out = np.full((1, 4, 4), 10, np.uint16), np.empty((1, 2, 2), np.uint16)
    >>> frames[0, :2, :2] = [[20, 65535], [20, 20]]
    >>> bin_frames(frames, (0, 0), 2, out)
    >>> out[0].tolist()
    [[80, 40], [40, 40]]
    """
    if frames.dtype not in WORDS:
        raise ValueError(f"frames of {frames.dtype}; counts to be binned must be uint16 or uint32")
    bad = np.zeros(frames.shape[1:], bool) if bad_pixels is None else np.ascontiguousarray(bad_pixels, bool)
    (top, left), (sums, spare) = corner, np.empty((2, binning * out.shape[-1]), WORDS[frames.dtype])
    _bin(np.ascontiguousarray(frames), bad, top, left, binning, sums, spare, out)


def _signature(kind: Any, word: Any) -> Any:
    frames, bad = (types.Array(t, d, "C", readonly=True) for t, d in ((kind, 3), (types.bool_, 2)))
    return types.void(frames, bad, types.int64, types.int64, types.int64, word[::1], word[::1], kind[:, :, ::1])


@numba.njit(nogil=True)
def _add_neighbours(sums, spare, count, n):
    """Sums of ``count`` words each; by halves, which the compiler can do many at once."""
    while count % 2 == 0:
        count //= 2
        for j in range(n * count):
            spare[j] = sums[2 * j] + sums[2 * j + 1]
        sums, spare = spare, sums
    if count > 1:
        for j in range(n):
            total = sums[count * j]
            for k in range(count * j + 1, count * (j + 1)):
                total += sums[k]
            sums[j] = total
    return sums


@numba.njit([_signature(types.uint16, types.uint32), _signature(types.uint32, types.uint64)], cache=True, nogil=True)
def _bin(frames, bad, top, left, binning, sums, spare, out):
    """A word holds counts, and above them how many pixels they come from."""
    height, width = bad.shape
    place = 8 * frames.itemsize + 6
    word, area, missing = sums.dtype.type, binning * binning, frames.dtype.type((1 << (8 * frames.itemsize)) - 1)
    one, low, whole = word(1 << place), word((1 << place) - 1), word(area)
    first = max(0, left)
    last = max(first, min(width, left + sums.size))  # nothing, where all superpixels lie beside the frame
    for b in range(len(frames)):
        for i in range(out.shape[1]):
            sums[:] = 0
            here = sums[first - left : last - left]
            for row in range(max(0, top + i * binning), min(height, top + (i + 1) * binning)):
                counts, skip = frames[b, row, first:last], bad[row, first:last]
                for j in range(counts.size):
                    here[j] += word(counts[j]) + one if (counts[j] != missing) & ~skip[j] else word(0)
            filled = _add_neighbours(sums, spare, binning, out.shape[2])
            values, partial = out[b, i], 0
            for j in range(values.size):
                valid, value = filled[j] >> place, filled[j] & low
                values[j] = value if (valid == whole) & (value < missing) else missing
                partial += (valid != whole) & (valid != 0)
            if partial:
                for j in range(values.size):
                    valid = np.int64(filled[j] >> place)
                    if 0 < valid < area:
                        value = (np.int64(filled[j] & low) * area + valid // 2) // valid
                        values[j] = value if value < missing else missing

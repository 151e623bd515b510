"""Bitshuffle: the bits of each block of counts, sorted by their place in the number.

Counts use few of their bits. Sorted by place, the unused ones are long runs of zeros, of which LZ4 makes next to
nothing. Byte j of bit plane k holds bit k of the counts 8 j to 8 j + 7, the first count in the lowest bit.

References
----------
Masui et al., Astronomy and Computing 12, 181 (2015), section 3.
"""

import numba
import numpy as np
from numba import types

PLANES = types.Array(types.uint8, 1, "C", readonly=True)
TURNS = (
    (np.uint64(7), np.uint64(0x00AA00AA00AA00AA)),
    (np.uint64(14), np.uint64(0x0000CCCC0000CCCC)),
    (np.uint64(28), np.uint64(0x00000000F0F0F0F0)),
)
"""Shifts and masks which transpose the 8 x 8 bits of a 64-bit word."""


@numba.njit(inline="always")
def _transposed(word):
    (first, low), (second, middle), (third, high) = TURNS
    turn = (word ^ (word >> first)) & low
    word = word ^ turn ^ (turn << first)
    turn = (word ^ (word >> second)) & middle
    word = word ^ turn ^ (turn << second)
    turn = (word ^ (word >> third)) & high
    return word ^ turn ^ (turn << third)


@numba.njit(
    [types.void(PLANES, kind[::1], types.int64) for kind in (types.uint16, types.uint32)], cache=True, nogil=True
)
def join_bits(planes: np.ndarray, counts: np.ndarray, block: int) -> None:
    """Put the bits of counts together again: the inverse of `split_bits`.

    Parameters
    ----------
    planes : (n itemsize,) uint8
    counts : (n,) uint16 or uint32
        Filled here; n is a multiple of 8.
    block : int
        Counts per block, a multiple of 8; the last block may be shorter.
    """
    size = counts.itemsize
    words = np.empty((size, block // 8), np.uint64)
    octets = words.view(np.uint8)
    for start in range(0, counts.size, block):
        here = counts[start : start + block]
        width = here.size // 8
        rows = planes[size * start : size * (start + here.size)].reshape(8 * size, width)
        for place in range(size):
            row = rows[8 * place : 8 * place + 8]
            b0, b1, b2, b3, b4, b5, b6, b7 = row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7]
            for j in range(width):  # eight rows by name: only then does the compiler take many columns at once
                low = np.uint64(b0[j]) | np.uint64(b1[j]) << np.uint64(8) | np.uint64(b2[j]) << np.uint64(16)
                mid = np.uint64(b3[j]) << np.uint64(24) | np.uint64(b4[j]) << np.uint64(32)
                high = np.uint64(b5[j]) << np.uint64(40) | np.uint64(b6[j]) << np.uint64(48)
                words[place, j] = _transposed(low | mid | high | np.uint64(b7[j]) << np.uint64(56))
        if size == 2:
            for i in range(here.size):
                here[i] = np.uint16(octets[0, i]) | np.uint16(octets[1, i]) << 8
        else:
            for i in range(here.size):
                pair = np.uint32(octets[0, i]) | np.uint32(octets[1, i]) << 8
                here[i] = pair | np.uint32(octets[2, i]) << 16 | np.uint32(octets[3, i]) << 24


@numba.njit(cache=True, nogil=True)
def split_bits(counts: np.ndarray, planes: np.ndarray, block: int) -> None:
    """Sort the bits of each block of counts by their place in the number.

    Parameters
    ----------
    counts : (n,) uint16 or uint32
        n is a multiple of 8.
    planes : (n itemsize,) uint8
        Filled here.
    block : int
        Counts per block, a multiple of 8; the last block may be shorter.
    """
    size = counts.itemsize
    octets = counts.view(np.uint8)
    for start in range(0, counts.size, block):
        width = (min(start + block, counts.size) - start) // 8
        rows = planes[size * start : size * (start + 8 * width)].reshape(8 * size, width)
        for place in range(size):
            for j in range(width):
                word = np.uint64(0)
                for i in range(8):
                    word |= np.uint64(octets[size * (start + 8 * j + i) + place]) << np.uint64(8 * i)
                word = _transposed(word)
                for i in range(8):
                    rows[8 * place + i, j] = word >> np.uint64(8 * i) & np.uint64(255)

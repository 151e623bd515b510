"""Total counts of patterns; compiled, because every frame of a run passes here."""

from typing import Any

import numba
import numpy as np
from numba import types

from bluesky_ptychonn.core.frames import no_data


def counts_of_frames(patterns: np.ndarray) -> np.ndarray:
    """Total counts of each pattern on its measured pixels.

    Parameters
    ----------
    patterns : (B, N, N) unsigned integer
        Counts; pixels without data carry the largest value of the type.

    Returns
    -------
    (B,) float64

    Examples
    --------
    >>> counts_of_frames(np.array([[[1, 65535], [3, 0]]], np.uint16)).tolist()
    [4.0]
    """
    if patterns.dtype in (np.uint16, np.uint32):
        flat = np.ascontiguousarray(patterns).reshape(len(patterns), -1)
        return _totals(flat, patterns.dtype.type(no_data(patterns.dtype)))
    valid = patterns != no_data(patterns.dtype)
    return np.asarray(np.sum(patterns, axis=(1, 2), dtype=np.float64, where=valid))


def _signature(kind: Any) -> Any:
    return types.float64[::1](types.Array(kind, 2, "C", readonly=True), kind)


@numba.njit([_signature(types.uint16), _signature(types.uint32)], cache=True, nogil=True)
def _totals(patterns, missing):
    totals = np.empty(len(patterns), np.float64)
    for b in range(len(patterns)):
        pattern, total = patterns[b], 0
        for i in range(pattern.size):
            total += pattern[i] if pattern[i] != missing else 0
        totals[b] = total
    return totals

"""The transmission of an object, from its log amplitude and its phase, as fast as a processor can."""

import math

import numba
import numpy as np

LARGEST_LOG = np.float32(80.0)
"""Log amplitudes beyond it, either way, count as it: their square is still finite in single precision."""

_LOG2_E, _LN2_HIGH, _LN2_LOW = np.float32(1 / np.log(2)), np.float32(0.693359375), np.float32(-2.12194440e-4)
_1_PI, _PI_HIGH, _PI_LOW = np.float32(1 / np.pi), np.float32(3.140625), np.float32(np.pi - 3.140625)
_HALF, _1, _2 = np.float32(0.5), np.float32(1), np.float32(2)
_E3, _E4, _E5, _E6 = (np.float32(1 / math.factorial(k)) for k in range(3, 7))
_E7, _E8, _E9, _E10, _E11 = (np.float32(1 / math.factorial(k)) for k in range(7, 12))


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def transmission(estimate):
    """Turn log amplitude and phase (2, h, w), in place, into real and imaginary part of exp(log amplitude + i phase).

    Taylor series around the nearest of ln 2 and of pi: the library's exp, sin and cos do not vectorise; these do, at a
    relative error of 1e-6 up to some turns.
    """
    _, height, width = estimate.shape
    for y in range(height):
        for x in range(width):
            log = min(max(estimate[0, y, x], -LARGEST_LOG), LARGEST_LOG)
            whole = np.floor(log * _LOG2_E + _HALF)
            rest = (log - whole * _LN2_HIGH) - whole * _LN2_LOW
            amplitude = _E5 + rest * _E6
            amplitude = _HALF + rest * (_E3 + rest * (_E4 + rest * amplitude))
            amplitude = _1 + rest * (_1 + rest * amplitude)
            amplitude *= np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)).view(np.float32)
            phase = estimate[1, y, x]
            whole = np.floor(phase * _1_PI + _HALF)
            rest = (phase - whole * _PI_HIGH) - whole * _PI_LOW
            amplitude *= _1 - _2 * np.float32(np.int32(whole) & np.int32(1))
            square = rest * rest
            cosine = -_E6 + square * (_E8 - square * _E10)
            cosine = _1 + square * (-_HALF + square * (_E4 + square * cosine))
            sine = -_E7 + square * (_E9 - square * _E11)
            sine = rest * (_1 + square * (-_E3 + square * (_E5 + square * sine)))
            estimate[0, y, x] = amplitude * cosine
            estimate[1, y, x] = amplitude * sine

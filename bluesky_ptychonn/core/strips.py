"""Fourier transforms of strips, `LANES` columns at once in the registers of a processor, for numba kernels.

A strip is two float32 arrays (n, LANES), real and imaginary parts: of 128 rows it stays in the first-level cache with
its working copy. Numba cannot know that the four arrays do not overlap and leaves the loops over them scalar; so the
butterflies are written as vector instructions, which LLVM fits to the registers that are there (AVX-512, AVX2, NEON).

References
----------
Stockham's autosort form of the FFT: Van Loan, Computational Frameworks for the Fast Fourier Transform (1992), 1.7.
"""

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

LANES = 16
_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_INT32 = ir.IntType(32)
instruction: Any = intrinsic


def fits(frame_px: int, patch_px: int) -> bool:
    """Whether frames and patches of these sides can be transformed in strips."""
    return frame_px >= LANES and frame_px & (frame_px - 1) == 0 and patch_px % LANES == 0


def twiddles(n: int) -> np.ndarray:
    """Factors (2, k) float32 of the transform of ``n`` rows, a power of two: real and imaginary parts."""
    stages, left = [np.empty(0)], n
    while left % 4 == 0:
        stages.append(np.exp(-2j * np.pi * np.outer(np.arange(left // 4), [1, 2, 3]) / left).ravel())
        left //= 4
    factors = np.concatenate(stages)
    return np.stack([factors.real, factors.imag]).astype(np.float32)


def _data(context: Any, builder: Any, kinds: Any, arrays: Any) -> list[Any]:
    return [context.make_array(kind)(context, builder, array).data for kind, array in zip(kinds, arrays)]


def _at(builder: Any, data: Any, offset: Any) -> Any:
    return builder.bitcast(builder.gep(data, [offset]), _VECTOR.as_pointer())


def _load(builder: Any, data: Any, offset: Any) -> Any:
    loaded = builder.load(_at(builder, data, offset))
    loaded.align = 4
    return loaded


def _store(builder: Any, value: Any, data: Any, offset: Any) -> None:
    builder.store(value, _at(builder, data, offset)).align = 4


def _everywhere(builder: Any, value: Any) -> Any:
    one = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), value, ir.Constant(_INT32, 0))
    zeros = ir.Constant(ir.VectorType(_INT32, LANES), [0] * LANES)
    return builder.shuffle_vector(one, ir.Constant(_VECTOR, ir.Undefined), zeros)


def _rows(builder: Any, first: Any, step: Any, count: int) -> list[Any]:
    """Offsets of rows of a strip."""
    lanes = ir.Constant(first.type, LANES)
    first, step = builder.mul(first, lanes), builder.mul(step, lanes)
    rows = [first]
    for _ in range(count - 1):
        rows.append(builder.add(rows[-1], step))
    return rows


@instruction
def _butterfly4(_, re, im, to_re, to_im, factor_re, factor_im, factor, row, step, to, to_step):
    """Four rows of a strip to four rows of another, the last three turned by the factors from ``factor`` on."""

    def generate(context, builder, signature, arguments):
        re, im, *to_planes, factor_re, factor_im = _data(context, builder, signature.args, arguments[:6])
        factor, row, step, to, to_step = arguments[6:]
        plus = lambda u, v: builder.fadd(u, v, ("contract",))  # noqa: E731
        minus = lambda u, v: builder.fsub(u, v, ("contract",))  # noqa: E731
        times = lambda u, v: builder.fmul(u, v, ("contract",))  # noqa: E731
        (a, ai), (b, bi), (c, ci), (d, di) = (
            (_load(builder, re, at), _load(builder, im, at)) for at in _rows(builder, row, step, 4)
        )
        even, even_i, odd, odd_i = plus(a, c), plus(ai, ci), plus(b, d), plus(bi, di)
        rest, rest_i, turned, turned_i = minus(a, c), minus(ai, ci), minus(bi, di), minus(d, b)
        given = [
            (plus(even, odd), plus(even_i, odd_i)),
            (plus(rest, turned), plus(rest_i, turned_i)),
            (minus(even, odd), minus(even_i, odd_i)),
            (minus(rest, turned), minus(rest_i, turned_i)),
        ]
        for k, (at, (u, v)) in enumerate(zip(_rows(builder, to, to_step, 4), given)):
            if k:
                here = builder.add(factor, ir.Constant(factor.type, k - 1))
                w, wi = (_everywhere(builder, builder.load(builder.gep(p, [here]))) for p in (factor_re, factor_im))
                u, v = minus(times(u, w), times(v, wi)), plus(times(u, wi), times(v, w))
            for value, plane in zip((u, v), to_planes):
                _store(builder, value, plane, at)
        return context.get_dummy_value()

    return types.void(re, im, to_re, to_im, factor_re, factor_im, *[types.intp] * 5), generate


@instruction
def _butterfly2(_, plane, to_plane, row, step):
    """Two rows of one part of a strip to the same rows of another: their sum and their difference."""

    def generate(context, builder, signature, arguments):
        plane, to_plane = _data(context, builder, signature.args, arguments[:2])
        first, second = _rows(builder, arguments[2], arguments[3], 2)
        a, b = _load(builder, plane, first), _load(builder, plane, second)
        _store(builder, builder.fadd(a, b), to_plane, first)
        _store(builder, builder.fsub(a, b), to_plane, second)
        return context.get_dummy_value()

    return types.void(plane, to_plane, types.intp, types.intp), generate


@instruction
def move(_, plane, start, to_plane, to):
    """Copy `LANES` numbers, of contiguous arrays, from one flat place to another."""

    def generate(context, builder, signature, arguments):
        plane, to_plane = _data(context, builder, signature.args[::2], arguments[::2])
        _store(builder, _load(builder, plane, arguments[1]), to_plane, arguments[3])
        return context.get_dummy_value()

    return types.void(plane, types.intp, to_plane, types.intp), generate


@instruction
def turn(_, plane, start, row, to_plane, to, to_row):
    """Transpose `LANES` rows of so many numbers, ``row`` apart, from one flat place to rows ``to_row`` apart."""

    def generate(context, builder, signature, arguments):
        plane, to_plane = _data(context, builder, signature.args[::3], arguments[::3])
        start, row, to, to_row = (arguments[k] for k in (1, 2, 4, 5))
        vectors = []
        for _ in range(LANES):
            vectors.append(_load(builder, plane, start))
            start = builder.add(start, row)
        half = LANES // 2
        order = [[part + LANES * k for part in range(half) for k in (0, 1)], []]
        order[1] = [place + half for place in order[0]]
        interleave = [ir.Constant(ir.VectorType(_INT32, LANES), places) for places in order]
        for _ in range(LANES.bit_length() - 1):  # interleaving the halves so often exchanges rows and columns
            vectors = [
                builder.shuffle_vector(vectors[k], vectors[k + half], part) for k in range(half) for part in interleave
            ]
        for vector in vectors:
            _store(builder, vector, to_plane, to)
            to = builder.add(to, to_row)
        return context.get_dummy_value()

    return types.void(plane, types.intp, types.intp, to_plane, types.intp, types.intp), generate


@numba.njit(cache=True, nogil=True)
def transform(re, im, work_re, work_im, factors_re, factors_im):
    """Transform the columns of a strip, without a factor; True if the result stands in ``work``.

    With real and imaginary parts exchanged, of strip and work, it is the inverse transform.
    """
    left, step, at, elsewhere = re.shape[0], 1, 0, False
    a, b, c, d = re, im, work_re, work_im
    while left > 1:
        if left % 4 == 0:
            quarter = left // 4
            for p in range(quarter):
                for q in range(step):
                    row = q + step * p
                    _butterfly4(
                        a, b, c, d, factors_re, factors_im, at + 3 * p, row, step * quarter, row + 3 * step * p, step
                    )
            at += 3 * quarter
            left, step = quarter, 4 * step
        else:
            for q in range(step):
                _butterfly2(a, c, q, step)
                _butterfly2(b, d, q, step)
            left = 1
        a, b, c, d = c, d, a, b
        elsewhere = not elsewhere
    return elsewhere

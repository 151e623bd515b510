"""Transforms of strips against numpy's, tiles against transposition."""

import numba
import numpy as np
import pytest

from bluesky_ptychonn.core.strips import LANES, fits, move, transform, turn, twiddles


def strip(n, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, LANES)) + 1j * rng.standard_normal((n, LANES))).astype(np.complex64)


def transformed(columns, inverse=False):
    parts = np.stack([columns.real, columns.imag])
    work, factors = np.full_like(parts, np.nan), twiddles(len(columns))
    order = (1, 0) if inverse else (0, 1)
    there = transform(parts[order[0]], parts[order[1]], work[order[0]], work[order[1]], factors[0], factors[1])
    found = work if there else parts
    return found[0] + 1j * found[1]


@pytest.mark.parametrize("n", [16, 32, 64, 128, 256, 512, 1024])
def test_transform_is_that_of_numpy_both_ways(n):
    columns = strip(n)
    scale = np.sqrt(n)
    np.testing.assert_allclose(transformed(columns) / scale, np.fft.fft(columns, axis=0) / scale, atol=2e-6)
    np.testing.assert_allclose(
        transformed(columns, inverse=True) / scale, np.fft.ifft(columns, axis=0) * scale, atol=2e-6
    )


def test_columns_do_not_mix():
    columns = strip(128)
    alone = np.zeros_like(columns)
    alone[:, 5] = columns[:, 5]
    found = transformed(alone)
    np.testing.assert_array_equal(found[:, 5], transformed(columns)[:, 5])
    assert not found[:, :5].any()
    assert not found[:, 6:].any()


@numba.njit
def tile(image, start, to, at):
    turn(image, start, image.shape[1], to, at, to.shape[1])


@numba.njit
def piece(image, start, to, at):
    move(image, start, to, at)


def test_a_tile_is_transposed_wherever_it_lies():
    image = np.arange(40 * 50, dtype=np.float32).reshape(40, 50)
    to = np.full((30, 60), -1, np.float32)
    tile(image, 7 * 50 + 3, to, 11 * 60 + 9)
    inside = to[11 : 11 + LANES, 9 : 9 + LANES]
    np.testing.assert_array_equal(inside, image[7 : 7 + LANES, 3 : 3 + LANES].T)
    inside[:] = -1
    assert (to == -1).all()


def test_a_piece_is_moved_and_nothing_else():
    image, to = np.arange(64, dtype=np.float32), np.full(64, -1, np.float32)
    piece(image, 5, to, 30)
    np.testing.assert_array_equal(to[30 : 30 + LANES], image[5 : 5 + LANES])
    assert (np.delete(to, np.arange(30, 30 + LANES)) == -1).all()


def test_what_fits():
    assert [fits(*sides) for sides in ((128, 64), (16, 16), (96, 64), (128, 72), (8, 8))] == [True, True] + 3 * [False]

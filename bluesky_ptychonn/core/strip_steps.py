"""Lift and projection frame by frame, in strips: all that a frame needs stays in the second-level cache.

What leaves a transform has its columns as lanes of a strip; turned into rows, tile by tile, they are the lanes of the
transform along the other axis. Only the rows and columns of the patch are turned and transformed where nobody asks for
the others.
"""

import numba
import numpy as np

from bluesky_ptychonn.core.strips import LANES, move, transform, turn
from bluesky_ptychonn.core.transmission import transmission


def planes(image: np.ndarray) -> np.ndarray:
    """Real and imaginary part (2, H, W) float32 of a complex image."""
    return np.ascontiguousarray([np.real(image), np.imag(image)], np.float32)


def images_are_whole(images: np.ndarray) -> bool:
    """Whether each image of (..., H, W) float32 lies in one piece, row after row, wherever the next one is."""
    return images.dtype == np.float32 and images.strides[-2:] == (4 * images.shape[-1], 4)


def refuse_out(out: np.ndarray, shape: tuple[int, ...]) -> None:
    """`ValueError` unless one may write images of this shape: the kernels do not look, and would write elsewhere."""
    if out.shape != shape or not out.flags.writeable:
        raise ValueError(f"out has shape {out.shape}, writeable = {out.flags.writeable}; give {shape}, writeable")


class StripMemory:
    """What the kernels write in between, made once; one frame at a time can use it.

    Parameters
    ----------
    frame_px, patch_px : int
        Sides n and h, which `strips.fits`.
    """

    def __init__(self, frame_px: int, patch_px: int) -> None:
        self.strips = np.empty((4, frame_px, LANES), np.float32)
        self.frame = np.empty((2, frame_px, frame_px), np.float32)
        self.half = np.empty((2, frame_px, patch_px), np.float32)
        self.patch = np.empty((2, patch_px, patch_px), np.float32)
        self.inside = np.empty((2, patch_px, patch_px), np.float32)


@numba.njit(cache=True, nogil=True)
def inverse_to_patch(frame, edge, factors, strips, half, patch):
    """Fill ``patch`` (2, h, h), columns first, with the centre of the inverse transform of ``frame`` (2, n, n)."""
    n = frame.shape[1]
    re, im, work_re, work_im = strips[0], strips[1], strips[2], strips[3]
    for x in range(0, n, LANES):
        for y in range(n):
            move(frame[0], y * n + x, re, y * LANES)
            move(frame[1], y * n + x, im, y * LANES)
        there = transform(im, re, work_im, work_re, factors[0], factors[1])
        _rows_to_half(work_re if there else re, work_im if there else im, edge, x, half)
    half_to_patch(edge, factors, strips, half, patch)


@numba.njit(cache=True, nogil=True)
def _rows_to_half(re, im, edge, x, half):
    """Turn the patch's rows of a strip at column ``x`` into rows of ``half`` (2, n, h)."""
    h = half.shape[2]
    for y in range(0, h, LANES):
        turn(re, (edge + y) * LANES, LANES, half[0], x * h + y, h)
        turn(im, (edge + y) * LANES, LANES, half[1], x * h + y, h)


@numba.njit(cache=True, nogil=True)
def half_to_patch(edge, factors, strips, half, patch):
    """Transform ``half`` (2, n, h) inversely along its first axis; its centre is ``patch`` (2, h, h)."""
    n, h = half.shape[1], half.shape[2]
    re, im, work_re, work_im = strips[0], strips[1], strips[2], strips[3]
    for y in range(0, h, LANES):
        for x in range(n):
            move(half[0], x * h + y, re, x * LANES)
            move(half[1], x * h + y, im, x * LANES)
        there = transform(im, re, work_im, work_re, factors[0], factors[1])
        from_re, from_im = work_re if there else re, work_im if there else im
        for x in range(h):
            move(from_re, (edge + x) * LANES, patch[0], x * h + y)
            move(from_im, (edge + x) * LANES, patch[1], x * h + y)


@numba.njit(cache=True, nogil=True)
def _turned(image, to):
    """Exchange rows and columns of an (h, h) image."""
    h = len(image)
    for y in range(0, h, LANES):
        for x in range(0, h, LANES):
            turn(image, y * h + x, h, to, x * h + y, h)


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def lift_in_strips(patterns, missing, amplitude, phase, inverse, factors, strips, frame, half, patch, out):
    """Fill ``out`` (B, 2, h, h) with the lift; ``inverse`` (2, h, h) has its columns first."""
    h, n = patch.shape[1], frame.shape[1]
    for b in range(len(patterns)):
        counts = patterns[b]
        for y in range(n):
            for x in range(n):
                count = counts[y, x]
                difference = np.sqrt(np.float32(count)) - amplitude[y, x]
                if count == missing:
                    difference = np.float32(0)
                frame[0, y, x] = difference * phase[0, y, x]
                frame[1, y, x] = difference * phase[1, y, x]
        inverse_to_patch(frame, (n - h) // 2, factors, strips, half, patch)
        for x in range(h):
            for y in range(h):
                re, im = patch[0, x, y], patch[1, x, y]
                patch[0, x, y] = re * inverse[0, x, y] - im * inverse[1, x, y]
                patch[1, x, y] = re * inverse[1, x, y] + im * inverse[0, x, y]
        _turned(patch[0], out[b, 0])
        _turned(patch[1], out[b, 1])


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def _start_rows(start, inside, edge, factors, strips, frame):
    """Fill the patch's rows of ``frame`` with the transform along x of ``start`` (2, n, h) behind ``inside`` (2, h, h).

    Both have their columns first; ``inside`` is the transmission of the patch.
    """
    n, h = start.shape[1], start.shape[2]
    re, im, work_re, work_im = strips[0], strips[1], strips[2], strips[3]
    for y in range(0, h, LANES):
        for x in range(n):
            move(start[0], x * h + y, re, x * LANES)
            move(start[1], x * h + y, im, x * LANES)
        for x in range(h):
            for lane in range(LANES):
                u, v = re[edge + x, lane], im[edge + x, lane]
                s, t = inside[0, x, y + lane], inside[1, x, y + lane]
                re[edge + x, lane] = u * s - v * t
                im[edge + x, lane] = u * t + v * s
        there = transform(re, im, work_re, work_im, factors[0], factors[1])
        from_re, from_im = work_re if there else re, work_im if there else im
        for x in range(0, n, LANES):
            turn(from_re, x * LANES, LANES, frame[0], (edge + y) * n + x, n)
            turn(from_im, x * LANES, LANES, frame[1], (edge + y) * n + x, n)


@numba.njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def ask_in_strips(counts, missing, one, edge, factors, strips, frame, half):
    """Transform ``frame`` (2, n, n) along y, ask it for the counts, and bring it back, turned, to ``half`` (2, n, h).

    To ask is to multiply by sqrt((I + 1) / (|Psi|^2 + 1)) - 1, or by 0 where there is no data.
    """
    n = frame.shape[1]
    re, im, work_re, work_im = strips[0], strips[1], strips[2], strips[3]
    for x in range(0, n, LANES):
        for y in range(n):
            move(frame[0], y * n + x, re, y * LANES)
            move(frame[1], y * n + x, im, y * LANES)
        there = transform(re, im, work_re, work_im, factors[0], factors[1])
        far_re, far_im = work_re if there else re, work_im if there else im
        other_re, other_im = re if there else work_re, im if there else work_im
        for y in range(n):
            for lane in range(LANES):
                count, u, v = counts[y, x + lane], far_re[y, lane], far_im[y, lane]
                factor = np.sqrt((np.float32(count) + one) / (u * u + v * v + one)) - one
                if count == missing:
                    factor = np.float32(0)
                far_re[y, lane] = factor * u
                far_im[y, lane] = factor * v
        there = transform(far_im, far_re, other_im, other_re, factors[0], factors[1])
        _rows_to_half(other_re if there else far_re, other_im if there else far_im, edge, x, half)


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def project_in_strips(
    patterns, missing, one, start, inverse, estimate, factors, strips, frame, half, patch, inside, out
):
    """Fill ``out`` (B, 2, h, h) with the projection of estimates (B, 2, h, h) of log amplitude and phase.

    ``start`` (2, n, h) and ``inverse`` (2, h, h) have their columns first; the rows of ``frame`` outside the patch are
    transformed along x already, and stay.
    """
    h, n = patch.shape[1], frame.shape[1]
    edge = (n - h) // 2
    for b in range(len(patterns)):
        _turned(estimate[b, 0], inside[0])
        _turned(estimate[b, 1], inside[1])
        transmission(inside)
        _start_rows(start, inside, edge, factors, strips, frame)
        ask_in_strips(patterns[b], missing, one, edge, factors, strips, frame, half)
        half_to_patch(edge, factors, strips, half, patch)
        for x in range(h):
            for y in range(h):
                u, v, p, q = patch[0, x, y], patch[1, x, y], inverse[0, x, y], inverse[1, x, y]
                re, im, s, t = u * p - v * q, u * q + v * p, inside[0, x, y], inside[1, x, y]
                patch[0, x, y] = re * s + im * t
                patch[1, x, y] = im * s - re * t
        _turned(patch[0], out[b, 0])
        _turned(patch[1], out[b, 1])

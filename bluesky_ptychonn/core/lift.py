"""The lift: one modulus projection from a flat object, turning a diffraction pattern into a local image.

For a pattern I, a probe P and its far field Psi0 = F[P], the lift is::

    o = conj(P) F^-1[ (sqrt(I) - |Psi0|) Psi0 / |Psi0| ] / (|P|^2 + eps)

the update of a single ePIE step from an object of 1. Pixels without data and pixels the beam does not reach carry no
measurement: their difference is 0.

References
----------
Maiden and Rodenburg, Ultramicroscopy 109, 1256 (2009), equation 6.
"""

import numba
import numpy as np
import scipy.fft

from bluesky_ptychonn.core.optics import far_field, near_field
from bluesky_ptychonn.core.strip_steps import StripMemory, images_are_whole, lift_in_strips, planes, refuse_out
from bluesky_ptychonn.core.strips import fits, twiddles

REGULARISATION = 0.1
"""eps of the lift, in units of the mean ``|P|^2`` that the probe's own power sees."""

DARK = 1e-2
"""Modelled amplitude, in units of its root mean square over the beam, below which a pixel has no modelled phase."""


def unit_phase(far: np.ndarray) -> np.ndarray:
    """Phase factor of a far field (N, N); 0 where it is dark. `ValueError` if all of it is, or it is not finite."""
    amplitude = np.abs(far)
    power = np.sum(amplitude.astype(np.float64) ** 2)
    if not (np.isfinite(power) and power > 0):
        raise ValueError(f"the probe holds {power} counts; it must be finite and have power")
    floor = DARK * np.sqrt(np.sum(amplitude.astype(np.float64) ** 4) / power)
    return np.where(amplitude > floor, far / np.maximum(amplitude, floor), 0).astype(np.complex64)


def inverse_probe(probe: np.ndarray) -> np.ndarray:
    """``conj(P) / (|P|^2 + eps)``, the division by the probe that noise survives."""
    intensity = np.abs(probe).astype(np.float64) ** 2
    eps = REGULARISATION * np.sum(intensity**2) / np.sum(intensity)
    return (np.conj(probe) / (intensity + eps)).astype(np.complex64)


def lift(patterns: np.ndarray, probe: np.ndarray) -> np.ndarray:
    """Lift diffraction patterns with a known probe: the reference form.

    Parameters
    ----------
    patterns : (B, N, N) unsigned integer
        Counts; the largest value of the type says "no data".
    probe : (N, N) complex64
        Scaled to the counts per frame (`optics.with_counts`).

    Returns
    -------
    (B, 2, N, N) float32
        Real and imaginary part of o, the estimated change of the object from 1.

    Examples
    --------
    >>> from bluesky_ptychonn.core.optics import Geometry, zone_plate_probe, with_counts
    >>> probe = with_counts(zone_plate_probe(Geometry()), 1e6)
    >>> empty = np.rint(np.abs(far_field(probe)) ** 2).astype(np.uint16)
    >>> bool(np.abs(lift(empty[None], probe)).max() < 0.01)
    True
    """
    patterns = np.asarray(patterns)
    far = far_field(probe)
    valid = patterns != np.iinfo(patterns.dtype).max
    change = np.where(valid, np.sqrt(patterns.astype(np.float32)) - np.abs(far), 0)
    lifted = inverse_probe(probe) * near_field(change * unit_phase(far))
    return np.stack([np.real(lifted), np.imag(lifted)], axis=1).astype(np.float32)


class FastLift:
    """The lift with everything that only depends on the probe computed once, and the centre of the field cut out.

    Equal to `lift` to rounding. The shifts of the centred FFT are folded into the factors as signs. Frames whose side
    is a power of two, with patches of a multiple of 16, are transformed in strips, others by SciPy at twice the cost.
    Not for two threads at once.

    Parameters
    ----------
    probe : (N, N) complex64
        Scaled to the counts per frame; N even.
    patch_px : int, optional
        Side of the central part that is returned; all of the field by default.
    """

    def __init__(self, probe: np.ndarray, patch_px: int | None = None) -> None:
        probe = np.asarray(probe, np.complex64)
        if probe.ndim != 2 or probe.shape[0] != probe.shape[1] or probe.shape[0] % 2:
            raise ValueError(f"the probe has shape {probe.shape} px; it must be square with an even side")
        self.frame_px = probe.shape[0]
        self.patch_px = self.frame_px if patch_px is None else patch_px
        if not (0 < self.patch_px <= self.frame_px and self.patch_px % 2 == 0):
            raise ValueError(f"patch_px = {patch_px} px; it must be even and at most {self.frame_px} px")
        parity = np.indices(probe.shape).sum(axis=0) % 2
        sign = (1 - 2 * parity).astype(np.float32)
        far = far_field(probe)
        corner = (self.frame_px - self.patch_px) // 2
        centre = slice(corner, corner + self.patch_px)
        self._corner = corner
        self._phase = unit_phase(far) * sign
        self._amplitude = np.abs(far)
        self._inverse = np.ascontiguousarray((inverse_probe(probe) * sign)[centre, centre])
        self._memory = StripMemory(self.frame_px, self.patch_px) if fits(self.frame_px, self.patch_px) else None
        self._factors = twiddles(self.frame_px)
        self._phase_planes, self._inverse_planes = planes(self._phase), planes(self._inverse.T / self.frame_px)

    def __call__(self, patterns: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Lift ``patterns`` (B, N, N) into ``out`` (B, 2, h, h) float32, made if not given."""
        patterns = np.asarray(patterns)
        if patterns.ndim != 3 or patterns.shape[1:] != (self.frame_px, self.frame_px):
            raise ValueError(
                f"patterns have shape {patterns.shape}; the probe asks for (B, {self.frame_px}, {self.frame_px})"
            )
        if patterns.dtype.kind != "u":
            raise ValueError(f"patterns are {patterns.dtype}; they must be unsigned integer counts")
        if out is None:
            out = np.empty((len(patterns), 2, self.patch_px, self.patch_px), np.float32)
        refuse_out(out, (len(patterns), 2, self.patch_px, self.patch_px))
        missing = patterns.dtype.type(np.iinfo(patterns.dtype).max)
        if (memory := self._memory) is not None and images_are_whole(out):
            ways = self._amplitude, self._phase_planes, self._inverse_planes, self._factors
            between = memory.strips, memory.frame, memory.half, memory.patch
            lift_in_strips(patterns, missing, *ways, *between, out)
            return out
        change = np.empty(patterns.shape, np.complex64)
        _change(patterns, missing, self._amplitude, self._phase, change)
        field = scipy.fft.ifft2(change, norm="ortho", overwrite_x=True)
        _finish(field, self._corner, self._inverse, out)
        return out


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def _change(patterns, missing, amplitude, phase, change):
    """Fill ``change`` with ``(sqrt(I) - |Psi0|) Psi0 / |Psi0|``, 0 where there is no data."""
    frames, height, width = patterns.shape
    for b in range(frames):
        for y in range(height):
            for x in range(width):
                count = patterns[b, y, x]
                difference = np.sqrt(np.float32(count)) - amplitude[y, x]
                if count == missing:
                    difference = np.float32(0)
                change[b, y, x] = difference * phase[y, x]


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def _finish(field, corner, inverse, out):
    """Multiply the central part of ``field`` by the inverse probe and split real and imaginary parts."""
    frames = field.shape[0]
    height, width = inverse.shape
    for b in range(frames):
        for y in range(height):
            for x in range(width):
                value = field[b, corner + y, corner + x] * inverse[y, x]
                out[b, 0, y, x] = value.real
                out[b, 1, y, x] = value.imag

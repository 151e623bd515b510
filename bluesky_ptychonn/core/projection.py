"""The projection: what a diffraction pattern asks of an estimate of the object under the probe.

For a pattern I, a probe P and an estimate t of the transmission, 1 around the patch, with Psi = F[P t]::

    d = conj(t) conj(P) F^-1[ Psi (sqrt((I + 1) / (|Psi|^2 + 1)) - 1) ] / (|P|^2 + eps)

the update of one ePIE step from t, turned into the estimate's own phase: to first order its real part is the missing
log amplitude, its imaginary part the missing phase. One count is added to both intensities, so that dark pixels, where
single photons decide and the phase of Psi means nothing, neither pull hard nor on the average in one direction. Unlike
the lift, which looks from a flat object, it also reads the pixels that only the object's own scattering reaches.

References
----------
Maiden and Rodenburg, Ultramicroscopy 109, 1256 (2009), equations 3 to 6.
"""

import numba
import numpy as np
import scipy.fft

from bluesky_ptychonn.core.lift import inverse_probe
from bluesky_ptychonn.core.optics import far_field, near_field
from bluesky_ptychonn.core.strip_steps import StripMemory, images_are_whole, planes, project_in_strips, refuse_out
from bluesky_ptychonn.core.strips import fits, twiddles
from bluesky_ptychonn.core.transmission import transmission

ONE_COUNT = 1.0
"""Added to measured and modelled counts."""

LIGHT_DECADES = 3.0
"""Decades of photons per pixel that `light` maps on 0 to 1."""


def light(probe: np.ndarray, patch_px: int) -> np.ndarray:
    """How much light falls on each object pixel: ``log10(1 + |P|^2) / 3``, of the centre of the field.

    Parameters
    ----------
    probe : (N, N) complex64
        Scaled to the counts per frame.
    patch_px : int

    Returns
    -------
    (h, h) float32
        0 in the dark, 1 at a thousand photons per pixel.
    """
    edge = (probe.shape[-1] - patch_px) // 2
    inside = np.abs(probe[edge : edge + patch_px, edge : edge + patch_px]).astype(np.float32) ** 2
    return np.log10(1 + inside) / np.float32(LIGHT_DECADES)


def project(patterns: np.ndarray, probe: np.ndarray, estimate: np.ndarray) -> np.ndarray:
    """Project an estimate on what was measured: the reference form.

    Parameters
    ----------
    patterns : (B, N, N) unsigned integer
        Counts; the largest value of the type says "no data".
    probe : (N, N) complex64
        Scaled to the counts per frame.
    estimate : (B, 2, h, h) float32
        Log amplitude and phase (rad) of the object in the centre of the field.

    Returns
    -------
    (B, 2, h, h) float32
        Change of log amplitude and phase that the patterns ask for; 0 for a perfect estimate.

    Examples
    --------
    >>> from bluesky_ptychonn.core.optics import Geometry, zone_plate_probe, with_counts
    >>> probe = with_counts(zone_plate_probe(Geometry()), 1e6)
    >>> empty = np.rint(np.abs(far_field(probe)) ** 2).astype(np.uint16)
    >>> bool(np.abs(project(empty[None], probe, np.zeros((1, 2, 96, 96)))).max() < 0.01)
    True
    """
    patterns, estimate = np.asarray(patterns), np.asarray(estimate, np.float32)
    edge = (probe.shape[-1] - estimate.shape[-1]) // 2
    centre = (..., slice(edge, edge + estimate.shape[-1]), slice(edge, edge + estimate.shape[-1]))
    inside = np.exp(estimate[:, 0] + 1j * estimate[:, 1])
    wave = np.repeat(np.asarray(probe, np.complex64)[None], len(patterns), axis=0)
    wave[centre] *= inside
    far = far_field(wave)
    ratio = np.sqrt((patterns + np.float32(ONE_COUNT)) / (np.abs(far) ** 2 + ONE_COUNT))
    valid = patterns != np.iinfo(patterns.dtype).max
    change = inverse_probe(probe)[centre] * near_field(far * np.where(valid, ratio - 1, 0))[centre] * np.conj(inside)
    return np.stack([np.real(change), np.imag(change)], axis=1).astype(np.float32)


class FastProjection:
    """The projection with everything that only depends on the probe computed once.

    Equal to `project` to the rounding of single precision. The shifts of the centred FFTs are folded into the factors
    as signs, and cancel on the detector; rows outside the patch are never transformed along x: before the detector the
    estimate does not change them, and after it nobody asks for them. Frames whose side is a power of two, with patches
    of a multiple of 16, are transformed in strips, others by SciPy at twice the cost. Not for two threads at once.

    Parameters
    ----------
    probe : (N, N) complex64
        Scaled to the counts per frame; N even.
    patch_px : int
        Side of the estimates, the centre of the field; even.

    Raises
    ------
    ValueError
        If the probe is not square, dark or not finite, or smaller than the patch.
    """

    def __init__(self, probe: np.ndarray, patch_px: int) -> None:
        probe = np.asarray(probe, np.complex64)
        if probe.ndim != 2 or probe.shape[0] != probe.shape[1] or probe.shape[0] % 2:
            raise ValueError(f"the probe has shape {probe.shape} px; it must be square with an even side")
        self.frame_px, self.patch_px = probe.shape[0], patch_px
        if not (0 < patch_px <= self.frame_px and patch_px % 2 == 0):
            raise ValueError(f"patch_px = {patch_px} px; it must be even and at most {self.frame_px} px")
        power = np.sum(np.abs(probe).astype(np.float64) ** 2)
        if not (np.isfinite(power) and power > 0):
            raise ValueError(f"the probe holds {power} counts; it must be finite and have power")
        self._edge = (self.frame_px - patch_px) // 2
        self._rows = slice(self._edge, self._edge + patch_px)
        sign = 1 - 2 * (np.indices(probe.shape).sum(axis=0) % 2)
        factor = (sign / self.frame_px).astype(np.float32)
        self._start = probe * factor
        start = self._start[self._rows].T
        spectra = scipy.fft.fft(self._start, axis=1)
        self._start[: self._edge] = spectra[: self._edge]
        self._start[self._rows.stop :] = spectra[self._rows.stop :]
        self._inverse = np.ascontiguousarray((inverse_probe(probe) * factor)[self._rows, self._rows])
        self._memory = None
        if fits(self.frame_px, patch_px):
            self._memory = StripMemory(self.frame_px, patch_px)
            self._memory.frame[:] = planes(self._start)
            self._start_planes, self._inverse_planes = planes(start), planes(self._inverse.T)
            self._factors = twiddles(self.frame_px)

    def __call__(self, patterns: np.ndarray, estimate: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Project estimates on what was measured.

        Parameters
        ----------
        patterns : (B, N, N) unsigned integer
            Counts; the largest value of the type says "no data".
        estimate : (B, 2, h, h) float32
            Log amplitude and phase, rad.
        out : (B, 2, h, h) float32, optional
            Made if not given; may be a part of a larger array.

        Returns
        -------
        (B, 2, h, h) float32
            Change of log amplitude and phase: ``out``.
        """
        patterns, estimate = np.asarray(patterns), np.asarray(estimate)
        frames, n, h = len(patterns), self.frame_px, self.patch_px
        if patterns.shape[1:] != (n, n) or estimate.shape != (frames, 2, h, h):
            raise ValueError(
                f"patterns have shape {patterns.shape} and estimates {estimate.shape}; the probe asks for "
                f"(B, {n}, {n}) and (B, 2, {h}, {h})"
            )
        if patterns.dtype.kind != "u" or estimate.dtype != np.float32:
            raise ValueError(
                f"patterns are {patterns.dtype}, estimates {estimate.dtype}; give unsigned counts, float32"
            )
        if out is None:
            out = np.empty((frames, 2, h, h), np.float32)
        refuse_out(out, (frames, 2, h, h))
        missing = patterns.dtype.type(np.iinfo(patterns.dtype).max)
        if (memory := self._memory) is not None and images_are_whole(estimate) and images_are_whole(out):
            ways = self._start_planes, self._inverse_planes, estimate, self._factors
            between = memory.strips, memory.frame, memory.half, memory.patch, memory.inside
            project_in_strips(patterns, missing, np.float32(ONE_COUNT), *ways, *between, out)
            return out
        through, wave = estimate.copy(), np.empty((frames, n, n), np.complex64)
        for part in through:
            transmission(part)
        inside = through[:, 0] + 1j * through[:, 1]
        _behind(self._start, inside, self._edge, wave)
        _fft(scipy.fft.fft, wave[:, self._rows], 2)
        _fft(scipy.fft.fft, wave, 1)
        _ask(patterns, missing, np.float32(ONE_COUNT), wave)
        _fft(scipy.fft.ifft, wave, 1)
        _fft(scipy.fft.ifft, wave[:, self._rows], 2)
        _finish(wave, self._edge, self._inverse, inside, out)
        return out


def _fft(transform, wave: np.ndarray, axis: int) -> None:
    """Transform in place along one axis, without a factor."""
    norm = "backward" if transform is scipy.fft.fft else "forward"
    done = transform(wave, axis=axis, norm=norm, overwrite_x=True, workers=1)
    if not np.may_share_memory(done, wave):
        wave[:] = done


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def _behind(start, inside, edge, wave):
    """Fill ``wave`` with ``start``, its centre multiplied by ``inside``."""
    frames, height, width = inside.shape
    for b in range(frames):
        wave[b] = start
        for y in range(height):
            for x in range(width):
                wave[b, edge + y, edge + x] *= inside[b, y, x]


@numba.njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def _ask(patterns, missing, one, far):
    """Multiply ``far`` by ``sqrt((I + 1) / (|Psi|^2 + 1)) - 1``, or by 0 where there is no data."""
    frames, height, width = patterns.shape
    for b in range(frames):
        for y in range(height):
            for x in range(width):
                count, value = patterns[b, y, x], far[b, y, x]
                modelled = value.real * value.real + value.imag * value.imag
                factor = np.sqrt((np.float32(count) + one) / (modelled + one)) - one
                if count == missing:
                    factor = np.float32(0)
                far[b, y, x] = factor * value


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def _finish(field, edge, inverse, inside, out):
    """Fill two channels of ``out`` with the centre of ``field``, divided by the probe and turned back by ``inside``."""
    frames, height, width = inside.shape
    for b in range(frames):
        for y in range(height):
            for x in range(width):
                other = inside[b, y, x]
                value = field[b, edge + y, edge + x] * inverse[y, x] * complex(other.real, -other.imag)
                out[b, 0, y, x] = value.real
                out[b, 1, y, x] = value.imag

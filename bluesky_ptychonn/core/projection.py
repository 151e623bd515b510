"""The projection: what a diffraction pattern asks of an estimate of the object under the probe.

For a pattern I, a probe P and an estimate t of the transmission, 1 around the patch, with Psi = F[P t]::

    d = conj(t) conj(P) F^-1[ Psi (sqrt((I + 1) / (|Psi|^2 + 1)) - 1) ] / (|P|^2 + eps)

the update of one ePIE step from t, turned into the estimate's own phase: to first order its real part is the missing log
amplitude, its imaginary part the missing phase. One count is added to both intensities, so that dark pixels, where
single photons decide and the phase of Psi means nothing, neither pull hard nor on the average in one direction. Unlike
the lift, which looks from a flat object, it also reads the pixels that only the object's own scattering reaches.

References
----------
Maiden and Rodenburg, Ultramicroscopy 109, 1256 (2009), equations 3 to 6.
"""

import numpy as np

from bluesky_ptychonn.core.lift import inverse_probe
from bluesky_ptychonn.core.optics import far_field, near_field

ONE_COUNT = 1.0
"""Added to measured and modelled counts."""


LIGHT_DECADES = 3.0
"""Decades of photons per pixel that `light` maps on 0 to 1."""


def light(probe: np.ndarray, patch_px: int) -> np.ndarray:
    """How much light falls on each object pixel: log10(1 + |P|^2) / 3, of the centre of the field.

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

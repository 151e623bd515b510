"""How like a stitched image is to the reconstruction of the same scan."""

from typing import Any

import numpy as np
from scipy import ndimage
from skimage.registration import phase_cross_correlation
from skimage.restoration import unwrap_phase

from bluesky_ptychonn.core.frc import SMALLEST_PX, fourier_ring_correlation, resolution
from bluesky_ptychonn.core.metrics import Removal, compare_phase, covered_region
from bluesky_ptychonn.core.reconstruction import Reconstruction
from bluesky_ptychonn.training.retrieval.field import WELL_COVERED

REMOVED: tuple[Removal, ...] = ("constant", "ramp", "shift")
"""What a stitched image and a reconstruction cannot know of each other's phase."""
SPAN = (0.1, 99.9)
"""Percentiles of the reconstruction's phase between which the range of the SSIM lies: no astray pixel stretches it."""
SHIFT_PARTS = 20
"""Parts of a pixel in which a shift is found before rings are compared."""
STEP_PX = 4
"""Over which the slope of the reconstruction is measured: far enough for noise, near enough to cross few edges."""
BROAD = 0.04
"""Cycles per pixel from which on rings are compared: what is as broad as the probe is known to neither well."""


def likeness(phase: np.ndarray, coverage: np.ndarray, reconstruction: Reconstruction) -> dict[str, Any]:
    """Compare a stitched phase with a reconstruction on the well covered field.

    The field is told by the light that the reconstruction knows of, so that it is the same for every model whose
    patches hold the probe.

    Parameters
    ----------
    phase : (H, W) float
        Stitched phase on the pixels of the reconstruction, rad.
    coverage : (H, W) float
        Sum of its stitching weights; 0 where nothing was seen.
    reconstruction : Reconstruction

    Returns
    -------
    dict
        Figures of `core.metrics.PhaseComparison`, ``frc_cycles_per_px``, and both images of the field as they were
        compared, ``image`` and ``reference``.

    Raises
    ------
    ValueError
        If that field is too small to compare.
    """
    seen = (coverage > 0) & np.isfinite(reconstruction.object_)
    box = covered_region(np.where(seen, reconstruction.coverage, 0), WELL_COVERED)
    reference = np.zeros(phase.shape)
    reference[box] = _levelled(reconstruction.object_[box])
    low, high = np.percentile(reference[box], SPAN)
    stitched = np.zeros(phase.shape)
    stitched[box] = phase[box] - _plane(phase[box] - reference[box])  # a shift can only be found between like ramps
    compared = compare_phase(stitched, reference, remove=REMOVED, data_range=float(high - low) or 1.0, region=box)
    image = _laid_onto(stitched[box], reference[box])
    frc = None
    if min(image.shape) >= SMALLEST_PX:
        frequencies, correlation = fourier_ring_correlation(image, reference[box])
        frc = resolution(frequencies[frequencies > BROAD], correlation[frequencies > BROAD])
    return {**compared.as_figures(), "frc_cycles_per_px": frc, "image": image, "reference": reference[box]}


def _levelled(object_: np.ndarray) -> np.ndarray:
    """Phase of a reconstruction (H, W), rad, without its mean and its ramp, which would widen the range of the SSIM.

    The ramp is the median slope, so that flat parts become level: first from pixel to pixel, because a ramp of several
    turns looks like jumps, then over `STEP_PX`, where noise hides less of it.
    """
    y, x = np.indices(object_.shape)
    down = np.median(np.angle(object_[1:] * np.conj(object_[:-1])))
    right = np.median(np.angle(object_[:, 1:] * np.conj(object_[:, :-1])))
    level = object_ * np.exp(-1j * (down * y + right * x))
    phase = np.angle(level * np.conj(np.sum(level)))
    if any(np.abs(np.diff(phase, axis=axis)).max() > np.pi for axis in (0, 1)):
        phase = np.asarray(unwrap_phase(phase))
    down = np.median(phase[STEP_PX:] - phase[:-STEP_PX]) / STEP_PX
    right = np.median(phase[:, STEP_PX:] - phase[:, :-STEP_PX]) / STEP_PX
    phase = phase - (down * y + right * x)
    return phase - phase.mean()


def _laid_onto(image: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """An image (H, W) without the constant, ramp and shift by which it differs from a reference."""
    window = np.outer(*(np.hanning(side) for side in image.shape))
    shift_px = phase_cross_correlation(
        window * (reference - reference.mean()),
        window * (image - image.mean()),
        upsample_factor=SHIFT_PARTS,
        normalization=None,  # type: ignore[arg-type]
    )[0]
    moved = ndimage.shift(image, shift_px, order=3, mode="nearest")
    return moved - _plane(moved - reference)


def _plane(image: np.ndarray) -> np.ndarray:
    """Plane that fits an image (H, W) best."""
    y, x = np.indices(image.shape)
    basis = np.stack([np.ones(image.size), y.ravel(), x.ravel()], axis=1)
    return (basis @ np.linalg.lstsq(basis, image.ravel(), rcond=None)[0]).reshape(image.shape)

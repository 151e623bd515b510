"""The one comparison of phase images."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy import ndimage
from skimage.metrics import structural_similarity
from skimage.registration import phase_cross_correlation

Removal = Literal["constant", "ramp", "shift"]
SMALLEST_REGION_PX = 7
SHIFT_STEPS = 5


@dataclass(frozen=True)
class PhaseComparison:
    """How like two phase images are, and under which conventions.

    Attributes
    ----------
    ssim : float
        Structural similarity, 1 for equal images.
    mae_rad : float
        Mean absolute difference, rad.
    correlation : float
        Pearson correlation.
    removed, data_range, region
        What was removed from ``a``, the range of the SSIM in rad, and the rows and columns compared.
    """

    ssim: float
    mae_rad: float
    correlation: float
    removed: tuple[str, ...]
    data_range: float
    region: str

    def as_figures(self) -> dict[str, Any]:
        """Flat keys for a figures file."""
        return {**asdict(self), "removed": "+".join(self.removed)}


def compare_phase(
    a: np.ndarray,
    b: np.ndarray,
    *,
    remove: Sequence[Removal] = ("constant",),
    data_range: float | None = None,
    region: tuple[slice, slice] | None = None,
    valid: np.ndarray | None = None,
) -> PhaseComparison:
    """Compare a phase image with a reference after removing what phase retrieval cannot know.

    Against simulated truth only a constant is removed; a ramp and a sub-pixel shift only against a reconstruction or on
    real data.

    Parameters
    ----------
    a : (H, W) float
        Image under test, rad.
    b : (H, W) float
        Reference, rad.
    remove : sequence of {"constant", "ramp", "shift"}
        What is removed from ``a`` before comparing.
    data_range : float, optional
        Range for the SSIM, rad; without it, the reference's own range within the region.
    region : pair of slices, optional
        Rows and columns to compare; the whole image without it.
    valid : (H, W) bool, optional
        Pixels which count; others are excluded from the mean (the SSIM map is averaged over the rest).

    Returns
    -------
    PhaseComparison

    Raises
    ------
    ValueError
        If shapes differ, a value in the region is not finite, or the region is smaller than the SSIM's window.

    References
    ----------
    Z. Wang et al., "Image quality assessment", IEEE Trans. Image Process. 13, 600 (2004), eq. 13.

    Examples
    --------
    >>> image = np.add.outer(np.arange(16.0), np.arange(16.0))
    >>> round(compare_phase(image + 3, image).ssim, 6)
    1.0
    """
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"a has shape {a.shape} and b {b.shape}; both must be the same (H, W)")
    rows, columns = region or (slice(0, a.shape[0]), slice(0, a.shape[1]))
    test, reference = (np.asarray(image, float)[rows, columns].copy() for image in (a, b))
    counted = np.ones(test.shape, bool) if valid is None else np.asarray(valid, bool)[rows, columns]
    if min(test.shape) < SMALLEST_REGION_PX or not counted.any():
        raise ValueError(
            f"region of {test.shape} px with {counted.sum()} valid px; at least "
            f"{SMALLEST_REGION_PX} px a side and one valid px are needed"
        )
    for name, image in (("a", test), ("b", reference)):
        if not np.isfinite(image[counted]).all():
            raise ValueError(f"{name} holds values that are not finite in the region; leave them out through valid")
        image[~counted] = 0.0
    if "shift" in remove:
        test = _shifted_onto(test, reference)
    if "ramp" in remove:
        test -= _plane(test - reference, counted)
    if "constant" in remove or "ramp" in remove:
        test -= np.mean((test - reference)[counted])
    test[~counted], reference[~counted] = 0.0, 0.0
    span = float(np.ptp(reference[counted])) if data_range is None else data_range
    ssim_map = structural_similarity(test, reference, data_range=span or 1.0, full=True)[1]
    spread = test[counted].std() * reference[counted].std()
    covariance = np.mean((test[counted] - test[counted].mean()) * (reference[counted] - reference[counted].mean()))
    return PhaseComparison(
        ssim=float(np.mean(ssim_map[counted])),
        mae_rad=float(np.mean(np.abs(test - reference)[counted])),
        correlation=float(covariance / spread) if spread > 0 else 0.0,
        removed=tuple(remove),
        data_range=span,
        region=f"{rows.start or 0}:{rows.stop or a.shape[0]},{columns.start or 0}:{columns.stop or a.shape[1]}",
    )


def _shifted_onto(test: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Move an image onto its reference: whole pixels by correlation, the rest by Gauss-Newton steps."""
    window = np.outer(np.hanning(test.shape[0]), np.hanning(test.shape[1]))
    offset = np.asarray(
        phase_cross_correlation(
            window * (reference - reference.mean()),
            window * (test - test.mean()),
            normalization=None,  # type: ignore[arg-type]
        )[0],
        float,
    )
    for _ in range(SHIFT_STEPS):
        moved = ndimage.shift(test, offset, order=3, mode="nearest")
        gradient = np.stack([(window * g).ravel() for g in (*np.gradient(moved), np.ones_like(moved))], axis=1)
        step = np.linalg.lstsq(gradient, (window * (moved - reference)).ravel(), rcond=None)[0][:2]
        offset += np.clip(step, -1, 1)
    return ndimage.shift(test, offset, order=3, mode="nearest")


def _plane(difference: np.ndarray, counted: np.ndarray) -> np.ndarray:
    y, x = np.indices(difference.shape)
    basis = np.stack([np.ones(counted.sum()), y[counted], x[counted]], axis=1)
    constant, slope_y, slope_x = np.linalg.lstsq(basis, difference[counted], rcond=None)[0]
    return constant + slope_y * y + slope_x * x


def covered_region(coverage: np.ndarray, fraction: float = 0.1) -> tuple[slice, slice]:
    """Largest centred-on-coverage box whose pixels all have at least ``fraction`` of the highest coverage.

    Parameters
    ----------
    coverage : (H, W) float
        Sum of stitching weights.
    fraction : float
        Of the 95th percentile of the covered pixels.

    Returns
    -------
    pair of slices
        Rows and columns.

    Raises
    ------
    ValueError
        If nothing is covered.
    """
    seen = coverage[coverage > 0]
    if not seen.size:
        raise ValueError("coverage is zero everywhere; nothing was stitched")
    good = coverage >= fraction * np.percentile(seen, 95)
    y, x = np.rint(np.argwhere(good).mean(axis=0)).astype(int) if good.any() else (0, 0)
    top, bottom, left, right = y, y + 1, x, x + 1
    if not good[y, x]:
        raise ValueError("the middle of the field is not covered; the scan is too sparse to compare")
    grown = True
    while grown:
        grown = False
        if top > 0 and good[top - 1, left:right].all():
            top, grown = top - 1, True
        if bottom < good.shape[0] and good[bottom, left:right].all():
            bottom, grown = bottom + 1, True
        if left > 0 and good[top:bottom, left - 1].all():
            left, grown = left - 1, True
        if right < good.shape[1] and good[top:bottom, right].all():
            right, grown = right + 1, True
    return slice(top, bottom), slice(left, right)

"""Beam centre and bad pixels from a few frames alone: no probe, no positions."""

from dataclasses import dataclass

import numpy as np
import scipy.fft
from scipy import ndimage

from bluesky_ptychonn.core.frames import no_data

FEWEST_FRAMES = 8
NEAR = 5
"""Side of the neighbourhood a pixel is compared with, px."""
HOT, WEAK = 4.0, 0.1
"""A pixel is bad with so many times, or so little, of what its neighbours count; speckles are wider than a pixel."""
LIT_COUNTS = 40.0
"""Counts in all frames from which on a pixel's silence, or its excess, means something."""
SIGMAS = 8.0
NOISE_ONLY = 1.15
"""Variance over mean of the counts of one pixel, up to which frames are taken for repetitions of one pattern."""
OVERLAP = 0.5
"""Part of the light that must lie on both sides of a centre to try it."""
CONE = 0.1
"""Brightness, in units of the bright pixels', from which on a pixel belongs to the cone of the probe."""
PARTS = 4


@dataclass(frozen=True)
class BadPixels:
    """Pixels that do not measure.

    Parameters
    ----------
    mask : (H, W) bool
        True is bad.
    missing, dead, hot, stuck : int
        How many have no data, count far too little, far too much, or always the same.
    judged : float
        Part of the others that saw enough light to be judged at all.
    moved : bool
        Whether the frames differ by more than photon noise. Those of one place are dark between speckles, where
        no pixel is called dead then.
    """

    mask: np.ndarray
    missing: int
    dead: int
    hot: int
    stuck: int
    judged: float
    moved: bool


@dataclass(frozen=True)
class BeamCenter:
    """Where the beam meets the detector.

    Parameters
    ----------
    center_px : (float, float)
        Row and column; whole numbers are pixel centres.
    margin_px : float
        Uncertainty: scatter among parts of the frames, and half of what two ways to find it differ by.
    disagreement_px : float
        Distance of the centre of symmetry from the centre of mass of the cone.
    radius_px : float
        Of the cone.
    """

    center_px: tuple[float, float]
    margin_px: float
    disagreement_px: float
    radius_px: float


def find_bad_pixels(frames: np.ndarray) -> BadPixels:
    """Compare each pixel with its neighbours, in the sum over frames from different places of the sample.

    The brightest frame of each pixel does not count, so that a cosmic ray makes none hot. Pixels that no light reached
    cannot be judged, except hot ones.

    Parameters
    ----------
    frames : (B, H, W) unsigned integer
        Counts; the type's largest value says "no data".

    Raises
    ------
    ValueError
        If there are too few frames.

    Examples
    --------
    >>> light = np.linspace(40, 80, 9)[:, None, None]
    >>> frames = np.random.default_rng(0).poisson(light, (9, 16, 16)).astype(np.uint16)
    >>> frames[:, 3, 4], frames[:, 8, 8] = 0, 20_000
    >>> found = find_bad_pixels(frames)
    >>> (found.dead, found.hot + found.stuck, found.judged)
    (1, 1, 1.0)
    """
    refuse_few(frames)
    without = frames == no_data(frames.dtype)
    missing = without.mean(axis=0) > 0.5
    counts = np.where(without, 0, frames)
    total = counts.sum(axis=0, dtype=np.float64) - counts.max(axis=0)
    low, high = _neighbours(total, missing)
    hot = (total > HOT * high + SIGMAS * np.sqrt(high + 1)) & (total > LIT_COUNTS) & ~missing
    moved = _dispersion(counts, (total > LIT_COUNTS) & ~missing & ~hot) > NOISE_ONLY
    dead = moved & (total < WEAK * low) & (low > LIT_COUNTS) & ~missing
    always = (frames == frames[0]).all(axis=0) & ~missing & ~hot & ~dead
    stuck = always & (total > LIT_COUNTS + 10 * len(frames))
    judged = (low > LIT_COUNTS) & ~missing
    counted = max(1, int(np.count_nonzero(~missing)))
    return BadPixels(
        missing | hot | dead | stuck,
        *(int(np.count_nonzero(kind)) for kind in (missing, dead, hot, stuck)),
        judged=float(np.count_nonzero(judged) / counted),
        moved=moved,
    )


def _dispersion(counts: np.ndarray, lit: np.ndarray) -> float:
    """Variance over mean of the counts of lit pixels, the median of them: 1 is photon noise."""
    values = counts[:, lit]
    return float(np.median(values.var(axis=0, ddof=1) / values.mean(axis=0))) if values.size else 0.0


def refuse_few(frames: np.ndarray) -> None:
    """Raise if there are too few frames, or no frames at all."""
    if frames.ndim != 3 or len(frames) < FEWEST_FRAMES or frames.dtype.kind != "u":
        raise ValueError(
            f"frames are {frames.dtype} of shape {frames.shape}; give at least {FEWEST_FRAMES} frames of unsigned "
            "counts (B, H, W), from different places of the sample"
        )


def _neighbours(image: np.ndarray, missing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the dim fifth and the bright tenth of the pixels around each one reach, (H, W) each; 0 if there is none."""
    reach, (height, width) = NEAR // 2, image.shape
    padded = np.pad(np.where(missing, np.nan, image), reach, constant_values=np.nan)
    moves = [(y, x) for y in range(NEAR) for x in range(NEAR) if (y, x) != (reach, reach)]
    near = np.sort([padded[y : y + height, x : x + width] for y, x in moves], axis=0)  # NaN comes last
    last = np.maximum(np.count_nonzero(~np.isnan(near), axis=0) - 1, 0)
    low, high = (np.take_along_axis(near, place[None], 0)[0] for place in (last // 5, last - last // 10))
    return np.nan_to_num(low), np.nan_to_num(high)


def find_beam_center(frames: np.ndarray, bad_pixels: np.ndarray) -> BeamCenter:
    """Find the point about which the mean of the frames looks the same when turned by half.

    The cone of a zone plate is symmetric, and so is, on average over many places, what a sample scatters. Bad pixels
    and gaps take no part: the correlation of the mean amplitude with itself turned is normalized over the pairs of
    pixels that both measure.

    Parameters
    ----------
    frames : (B, H, W) unsigned integer
        Counts, from different places of the sample.
    bad_pixels : (H, W) bool

    Raises
    ------
    ValueError
        If there are too few frames, or there is no light.

    References
    ----------
    Padfield, IEEE Trans. Image Process. 21, 2706 (2012): masked normalized correlation by FFT.

    Examples
    --------
    >>> y, x = np.mgrid[:32, :40] - np.array([14, 22])[:, None, None]
    >>> disc = 30.0 * (np.hypot(y, x) < 8) + 0.1
    >>> frames = np.random.default_rng(0).poisson(disc, (16, 32, 40)).astype(np.uint16)
    >>> [round(place) for place in find_beam_center(frames, np.zeros((32, 40), bool)).center_px]
    [14, 22]
    """
    refuse_few(frames)
    mean = _mean(frames, bad_pixels)
    if not mean.max() > 0:
        raise ValueError("the frames hold no light; open the shutter, or expose for longer")
    center = _symmetry(mean, bad_pixels)
    parts = [_symmetry(_mean(frames[part::PARTS], bad_pixels), bad_pixels) for part in range(PARTS)]
    scatter_px = float(np.linalg.norm(np.std(parts, axis=0, ddof=1)) / np.sqrt(PARTS))
    cone = _cone(mean, bad_pixels, center)
    places = np.argwhere(cone)
    mass = mean[cone] @ places / mean[cone].sum()
    disagreement_px = float(np.linalg.norm(mass - center))
    return BeamCenter(
        (float(center[0]), float(center[1])),
        float(np.hypot(scatter_px, disagreement_px / 2)),
        disagreement_px,
        float(np.percentile(np.linalg.norm(places - center, axis=1), 99)),
    )


def _mean(frames: np.ndarray, bad_pixels: np.ndarray) -> np.ndarray:
    measured = frames != no_data(frames.dtype)
    counts = frames.sum(axis=0, where=measured, dtype=np.float64)
    return np.where(bad_pixels, 0.0, counts / np.maximum(measured.sum(axis=0), 1))


def _symmetry(mean: np.ndarray, bad_pixels: np.ndarray) -> np.ndarray:
    """Centre (y, x) of the best half turn of the mean amplitude, to a fraction of a pixel."""
    good = (~bad_pixels).astype(np.float64)
    amplitude = np.sqrt(mean) * good
    shape = [int(scipy.fft.next_fast_len(2 * side, real=True)) for side in mean.shape]  # type: ignore[arg-type]
    of_good, of_amplitude, of_square = (np.fft.rfft2(image, shape) for image in (good, amplitude, amplitude**2))

    def convolved(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.fft.irfft2(a * b, shape)[: 2 * mean.shape[0] - 1, : 2 * mean.shape[1] - 1]

    pairs = np.maximum(convolved(of_good, of_good), 1.0)
    once, squared = convolved(of_amplitude, of_good), convolved(of_square, of_good)
    spread = np.maximum(squared - once**2 / pairs, 1e-9 * squared.max())
    likeness = (convolved(of_amplitude, of_amplitude) - once**2 / pairs) / spread
    likeness[once < OVERLAP * amplitude.sum()] = -1
    best = np.unravel_index(int(np.argmax(likeness)), likeness.shape)
    return (np.array(best) + [_summit(likeness, best, axis) for axis in (0, 1)]) / 2


def _summit(image: np.ndarray, at: tuple, axis: int) -> float:
    """Where the parabola through a maximum and its neighbours has its summit, px from the maximum."""
    step = np.eye(2, dtype=int)[axis]
    if not all(0 < place < size - 1 for place, size in zip(at, image.shape)):
        return 0.0
    before, here, after = (float(image[tuple(np.add(at, move * step))]) for move in (-1, 0, 1))
    curvature = before - 2 * here + after
    return 0.0 if curvature >= 0 else float(np.clip((before - after) / (2 * curvature), -0.5, 0.5))


def _cone(mean: np.ndarray, bad_pixels: np.ndarray, center: np.ndarray) -> np.ndarray:
    """Bright pixels around the centre which measure, and whose mirror images do, too."""
    smooth = ndimage.uniform_filter(mean, 3)
    bright = smooth > CONE * np.percentile(smooth[smooth > 0.1 * smooth.max()], 75)
    labels = np.empty(mean.shape, np.int32)
    ndimage.label(ndimage.binary_closing(bright, iterations=2), output=labels)  # type: ignore[arg-type]
    sizes = np.bincount(labels.ravel(), weights=mean.ravel() * (labels.ravel() > 0))
    part = labels == int(np.argmax(sizes))
    y, x = np.indices(mean.shape)
    mirror = np.rint(2 * center[0] - y).astype(int), np.rint(2 * center[1] - x).astype(int)
    inside = np.all([(place >= 0) & (place < size) for place, size in zip(mirror, mean.shape)], axis=0)
    mirrored = tuple(np.where(inside, place, 0) for place in mirror)
    return part & bright & ~bad_pixels & inside & ~bad_pixels[mirrored]

"""The background of a reconstructed object, which labels are measured from.

A reconstruction knows its phase up to a constant and a slope, and its amplitude up to a factor: the probe can take the
slope and the factor without any change of the patterns. Simulated objects have a background of phase 0 and amplitude 1,
and what lies off the axis there is the probe; so it shall be in labels. One constant, slope and factor are found for a
whole scan, never for single patches, so that neighbours agree.

The slope is first none or the median slope, which flat parts have and edges do not tilt. The background is then looked
for in the histogram of the phase, weighted by how well each pixel is known. Where the histogram has a clear peak, the
peak is the background; of several that are about as high, the one furthest ahead in phase, because matter retards it.
Its middle goes to phase 0, what is left of its slope to 0, and the median amplitude of its pixels to 1. An object
without one, such as slow hills, loses the slope of the start, its circular mean and its median amplitude.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

EVENED_PX = 1.0
"""Standard deviation by which the object is smoothed, against its noise, before its background is looked for."""
BINS = 256
BLUR_RAD = 0.04
"""Standard deviation by which the histogram of the phase is smoothed."""
CLEAR = 2.0
"""Height of a peak, in units of the same weight spread evenly over the phases that there are, from which on it is
clear; a normal distribution has 1.7."""
COMPARABLE = 0.5
"""Height of another peak, in units of the highest, from which on it may be the background."""
REFINEMENTS = 5


@dataclass(frozen=True)
class Background:
    """What is removed from the object of a scan.

    Parameters
    ----------
    phase_rad, amplitude : float
        Phase at pixel (H/2, W/2) of the object.
    slope_y_rad_per_px, slope_x_rad_per_px : float
        Of the phase; the probe takes it.
    found : {"peak", "mean"}
        Whether the background was found, or a mean had to do.
    """

    phase_rad: float
    amplitude: float
    slope_y_rad_per_px: float
    slope_x_rad_per_px: float
    found: str

    def removed_from(self, object_: np.ndarray) -> np.ndarray:
        """The object (H, W) with a background of 1."""
        phase = self.phase_rad + self._slope(object_.shape)
        return object_ * (np.exp(-1j * phase) / self.amplitude)

    def given_to(self, probe: np.ndarray) -> np.ndarray:
        """The probe (n, n) with the slope, so that patterns stay as they were."""
        return (probe * np.exp(1j * self._slope(probe.shape))).astype(np.complex64)

    def _slope(self, shape: tuple[int, ...]) -> np.ndarray:
        y, x = (np.arange(side) - side // 2 for side in shape)
        return self.slope_y_rad_per_px * y[:, None] + self.slope_x_rad_per_px * x


def background_of(object_: np.ndarray, known: np.ndarray) -> Background:
    """Find the background of an object, or else its mean.

    Parameters
    ----------
    object_ : (H, W) complex
    known : (H, W) float
        Weight of each pixel, from 0 to 1; only pixels of at least 0.5 are asked.

    Examples
    --------
    >>> object_ = np.full((64, 64), 2j)
    >>> object_[10:40, 10:40] *= 0.9 * np.exp(-0.6j)
    >>> found = background_of(object_, np.ones((64, 64)))
    >>> round(found.phase_rad, 2), round(found.amplitude, 2), found.found
    (1.57, 2.0, 'peak')
    """
    asked = known >= 0.5
    lit = np.where(known > 0, object_, 0) * known
    even = ndimage.gaussian_filter(lit, EVENED_PX) / np.maximum(ndimage.gaussian_filter(known, EVENED_PX), 1e-6)
    values, weights = even[asked], known[asked].astype(np.float64)
    places = np.argwhere(asked) - np.array(asked.shape) // 2
    starts = np.zeros(2), np.array([_median_slope(even, asked), _median_slope(even.T, asked.T)])
    slope = max(starts, key=lambda start: _level(values * np.exp(-1j * (places @ start)), weights)[2])
    for _ in range(REFINEMENTS):
        level = values * np.exp(-1j * (places @ slope))
        phase_rad, _, clear = _level(level, weights)
        if clear < CLEAR:
            break
        ahead = np.angle(level * np.exp(-1j * phase_rad))
        near = np.abs(ahead) < 2 * BLUR_RAD
        plane = np.column_stack([np.ones(np.count_nonzero(near)), places[near]]) * weights[near, None]
        slope = slope + np.linalg.lstsq(plane, ahead[near] * weights[near], rcond=None)[0][1:]
    phase_rad, amplitude, clear = _level(values * np.exp(-1j * (places @ slope)), weights)
    return Background(phase_rad, amplitude, float(slope[0]), float(slope[1]), "peak" if clear >= CLEAR else "mean")


def _median_slope(values: np.ndarray, asked: np.ndarray) -> float:
    """Median slope of the phase along the first axis, rad/px; 0 where nothing is asked."""
    steps = np.angle(values[1:] * np.conj(values[:-1]))[asked[1:] & asked[:-1]]
    return float(np.median(steps)) if steps.size else 0.0


def _level(values: np.ndarray, weights: np.ndarray) -> tuple[float, float, float]:
    """Phase, amplitude and clearness, in the units of `CLEAR`, of the background of pixels (K,) without a slope."""
    mean = float(np.angle(np.sum(weights * np.exp(1j * np.angle(values)))))
    ahead = np.angle(values * np.exp(-1j * mean))
    density, edges = np.histogram(ahead, BINS, (-np.pi, np.pi), weights=weights / weights.sum())
    width = edges[1] - edges[0]
    density = ndimage.gaussian_filter1d(density / width, BLUR_RAD / width, mode="wrap")
    order = np.argsort(ahead)
    share = np.cumsum(weights[order]) / weights.sum()
    low, high = (ahead[order][np.searchsorted(share, part)] for part in (0.025, 0.975))
    clear = float(density.max() * max(high - low, width) / 0.95)
    if clear < CLEAR:
        return mean, float(np.median(np.abs(values))), clear
    tops = (density > np.roll(density, 1)) & (density >= np.roll(density, -1))
    peak = edges[np.flatnonzero(tops & (density >= COMPARABLE * density.max())).max()] + width / 2
    near = np.abs(ahead - peak) < 2 * BLUR_RAD
    peak += np.angle(np.sum(weights[near] * np.exp(1j * (ahead[near] - peak))))
    return float(np.angle(np.exp(1j * (mean + peak)))), float(np.median(np.abs(values[near]))), clear

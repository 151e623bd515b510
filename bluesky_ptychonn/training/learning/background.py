"""The background of a reconstructed object, which labels are measured from.

A reconstruction knows its phase up to a constant and a slope, and its amplitude up to a factor: the probe can take the
slope and the factor without any change of the patterns. Simulated objects have a background of phase 0 and amplitude 1,
and what lies off the axis there is the probe; so it shall be in labels. One constant, slope and factor are found for a
whole scan, never for single patches, so that neighbours agree.

The background is looked for in the histogram of the phase, weighted by how well each pixel is known, once as the object
is and once without its median slope, which flat parts have and edges do not tilt. Where the histogram has a clear peak,
the peak is the background; of several that are about as high, the one furthest ahead in phase, because matter retards
it. A plane through its pixels tells what is left of the slope. The middle of the peak goes to phase 0, its slope to 0,
and the median amplitude of its pixels to 1. An object without one, such as slow hills, loses its median slope, circular
mean and median amplitude.

On a reconstruction of a real Siemens star, with a beam 0.36 detector pixels off that of the probe, this turns phases
all around the circle into spokes of -0.8 rad on a background of 0.
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
NEAR_RAD = 2 * BLUR_RAD
"""Distance from a peak up to which pixels belong to it."""
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

    Raises
    ------
    ValueError
        If there are none.

    Examples
    --------
    >>> object_ = np.full((64, 64), 2j)
    >>> object_[10:40, 10:40] *= 0.9 * np.exp(-0.6j)
    >>> found = background_of(object_, np.ones((64, 64)))
    >>> round(found.phase_rad, 2), round(found.amplitude, 2), found.found
    (1.57, 2.0, 'peak')
    """
    asked = known >= 0.5
    if not asked.any():
        raise ValueError("no pixel of the object is well known by its coverage; reconstruct anew, or correct it")
    lit, light = np.where(known > 0, object_, 0) * known, ndimage.gaussian_filter(known, EVENED_PX)
    y, x = (np.arange(side) - side // 2 for side in known.shape)
    places, weights = np.argwhere(asked) - np.array(known.shape) // 2, known[asked].astype(np.float64)

    def level(slope: np.ndarray) -> np.ndarray:
        tilt = np.exp(-1j * (slope[0] * y[:, None] + slope[1] * x))
        return ndimage.gaussian_filter(lit * tilt, EVENED_PX) / np.maximum(light, 1e-6)

    def settled(slope: np.ndarray) -> np.ndarray:
        for _ in range(REFINEMENTS):
            values = level(slope)[asked]
            ahead = np.angle(values * np.exp(-1j * _peak(values, weights)[0]))
            near = np.abs(ahead) < NEAR_RAD
            plane = np.column_stack([np.ones(np.count_nonzero(near)), places[near]]) * weights[near, None]
            slope = slope + np.linalg.lstsq(plane, ahead[near] * weights[near], rcond=None)[0][1:]
        return slope

    flat = np.zeros(2)
    median = np.array([_median_slope(level(flat), asked), _median_slope(level(flat).T, asked.T)])
    slopes = settled(flat), settled(median), median
    clear = [_peak(level(slope)[asked], weights)[1] for slope in slopes]
    best = int(np.argmax(clear[:2])) if max(clear[:2]) >= CLEAR else 2
    values = level(slopes[best])[asked]
    if best < 2:
        phase_rad, found = _peak(values, weights)[0], "peak"
        values = values[np.abs(np.angle(values * np.exp(-1j * phase_rad))) < NEAR_RAD]
    else:
        phase_rad, found = _mean(values, weights), "mean"
    amplitude = float(np.median(np.abs(values)))
    return Background(phase_rad, amplitude, float(slopes[best][0]), float(slopes[best][1]), found)


def _median_slope(values: np.ndarray, asked: np.ndarray) -> float:
    """Median slope of the phase along the first axis, rad/px; 0 where nothing is asked."""
    steps = np.angle(values[1:] * np.conj(values[:-1]))[asked[1:] & asked[:-1]]
    return float(np.median(steps)) if steps.size else 0.0


def _mean(values: np.ndarray, weights: np.ndarray) -> float:
    """Circular mean of the phase of pixels (K,), rad."""
    return float(np.angle(np.sum(weights * np.exp(1j * np.angle(values)))))


def _peak(values: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Phase of the background of pixels (K,) without a slope, rad, and how clear it is, in the units of `CLEAR`."""
    mean = _mean(values, weights)
    ahead = np.angle(values * np.exp(-1j * mean))
    density, edges = np.histogram(ahead, BINS, (-np.pi, np.pi), weights=weights / weights.sum())
    width = edges[1] - edges[0]
    density = ndimage.gaussian_filter1d(density / width, BLUR_RAD / width, mode="wrap")
    tops = (density > np.roll(density, 1)) & (density >= np.roll(density, -1))
    peak = edges[np.flatnonzero(tops & (density >= COMPARABLE * density.max())).max()] + width / 2
    near = np.abs(ahead - peak) < NEAR_RAD
    peak += _mean(np.exp(1j * (ahead[near] - peak)), weights[near])
    order = np.argsort(ahead)
    share = np.cumsum(weights[order]) / weights.sum()
    low, high = (ahead[order][np.searchsorted(share, part)] for part in (0.025, 0.975))
    clear = float(density.max() * max(high - low, width) / 0.95)
    return float(np.angle(np.exp(1j * (mean + peak)))), clear

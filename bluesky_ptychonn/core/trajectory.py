"""A spiral as a trajectory: points with times for the controller, and positions at mid exposure from latched ones.

Trigger i comes ``i * dwell_s`` after the first; the middle of its exposure is ``exposure_s / 2`` later.
The planned positions are reached at mid exposure; the encoders are latched at the trigger.
"""

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicHermiteSpline


@dataclass(frozen=True)
class ProfilePoints:
    """Points of a trajectory and the time from each to the next.

    Parameters
    ----------
    points_um : (N + 2, 2) float64
        Positions (y, x), um. The first is where the first trigger comes, the last where the last dwell ends.
    times_s : (N + 1,) float64
        Time from each point to the next.
    """

    points_um: np.ndarray
    times_s: np.ndarray

    @property
    def path(self) -> CubicHermiteSpline:
        """Smooth path through the points, s to um; velocities at points are averages of both sides."""
        steps, times = np.diff(self.points_um, axis=0), self.times_s[:, None]
        velocity = np.empty_like(self.points_um)
        velocity[0], velocity[-1] = steps[0] / times[0], steps[-1] / times[-1]
        velocity[1:-1] = (steps[:-1] + steps[1:]) / (times[:-1] + times[1:])
        return CubicHermiteSpline(np.concatenate([[0.0], np.cumsum(self.times_s)]), self.points_um, velocity)

    def peak_motion(self) -> tuple[np.ndarray, np.ndarray]:
        """Largest speed and acceleration along (y, x), um/s and um/s^2."""
        path = self.path
        fine_s = (path.x[:-1, None] + np.diff(path.x)[:, None] * np.linspace(0, 1, 5)).ravel()
        return np.abs(path(fine_s, 1)).max(axis=0), np.abs(path(fine_s, 2)).max(axis=0)


def profile_points(positions_um: np.ndarray, exposure_s: float, dwell_s: float) -> ProfilePoints:
    """Lay out a trajectory which is at the planned positions at mid exposure.

    Parameters
    ----------
    positions_um : (N, 2) float64
        Planned positions (y, x), um, at least one.
    exposure_s, dwell_s : float
        Exposure, and time from trigger to trigger.

    Examples
    --------
    >>> profile_points(np.array([[0.0, 0.0], [0.0, 1.0]]), 0.5, 1.0).points_um[:, 1].tolist()
    [-0.25, 0.0, 1.0, 1.75]
    """
    steps = np.diff(positions_um, axis=0) if len(positions_um) > 1 else np.zeros((1, 2))
    before_s, after_s = exposure_s / 2, dwell_s - exposure_s / 2
    first = positions_um[:1] - steps[:1] * (before_s / dwell_s)
    last = positions_um[-1:] + steps[-1:] * (after_s / dwell_s)
    times = np.concatenate([[before_s], np.full(len(positions_um) - 1, dwell_s), [after_s]])
    return ProfilePoints(np.concatenate([first, positions_um, last]), times)


def to_mid_exposure(latched_um: np.ndarray, positions_um: np.ndarray, exposure_s: float, dwell_s: float) -> np.ndarray:
    """Carry positions latched at the triggers to mid exposure.

    The planned path, delayed by the lag that fits the latched positions best, is corrected by its distance from them,
    which is interpolated in time.

    Parameters
    ----------
    latched_um : (K, 2) float64
        Positions (y, x) at the first K triggers, um.
    positions_um : (N, 2) float64
        Planned positions at mid exposure, um; N >= K.
    exposure_s, dwell_s : float
        Exposure, and time from trigger to trigger.

    Returns
    -------
    (K, 2) float64
        Positions at mid exposure, um.
    """
    triggers = len(latched_um)
    if triggers == 0:
        return np.empty((0, 2))
    path = profile_points(positions_um, exposure_s, dwell_s).path
    trigger_s = np.arange(triggers) * dwell_s
    error, velocity = latched_um - path(trigger_s), path(trigger_s, 1)
    power = float(np.sum(velocity**2))
    lag_s = -float(np.sum(velocity * (error - error.mean(axis=0)))) / power if power > 0 else 0.0
    lag_s = float(np.clip(lag_s, 0, dwell_s))
    rest = latched_um - path(trigger_s - lag_s)
    following = np.concatenate([rest[1:], rest[-1:]])
    return path(trigger_s + exposure_s / 2 - lag_s) + rest + (exposure_s / 2 / dwell_s) * (following - rest)

"""What a trajectory controller makes of a profile: the path, the true motion, the pulses.

Elements and pulses are those of the XPS driver of EPICS' motor module: element i (from 1) goes from point i to point
i + 1; pulses begin with element ``StartPulses`` and share out evenly the time up to the end of element ``EndPulses``.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MAX_POINTS = 20480
MAX_PULSE_RATE_HZ = 2500
SERVO_LAG_S = 5e-4
JITTER_UM = 2e-3
JITTER_TIME_S = 2e-3
ENCODER_NOISE_UM = 5e-4
MAX_SAMPLES = 2_000_000


class ProfileError(ValueError):
    """The controller cannot do this profile; the message becomes ``BuildMessage``."""


@dataclass(frozen=True)
class Axis:
    """What one axis may do: um, um/s, um/s^2."""

    name: str
    low_um: float
    high_um: float
    max_velocity_um_s: float
    max_acceleration_um_s2: float


@dataclass(frozen=True)
class Profile:
    """What the ``Prof1:`` records ask for.

    Parameters
    ----------
    points_um : (P, 2) float64
        Absolute positions (y, x).
    times_s : (P,) float64
        Time of the element which begins at each point; the last is not used.
    acceleration_s : float
        Time of the lead-in before the first point, and of the run-out after the last.
    start_pulses, end_pulses : int
        Elements, from 1.
    pulses : int
    """

    points_um: np.ndarray
    times_s: np.ndarray
    acceleration_s: float
    start_pulses: int
    end_pulses: int
    pulses: int

    def pulse_times_s(self) -> np.ndarray:
        """Pulse times after the first point."""
        points = len(self.times_s)
        if self.pulses == 0:
            return np.empty(0)
        if not 1 <= self.start_pulses <= self.end_pulses <= points or self.start_pulses == points:
            raise ProfileError(
                f"StartPulses = {self.start_pulses}, EndPulses = {self.end_pulses} outside 1 to {points - 1}"
            )
        last = min(self.end_pulses, points - 1)
        begins_s = np.concatenate([[0.0], np.cumsum(self.times_s[:-1])])
        duration_s = begins_s[last] - begins_s[self.start_pulses - 1]
        if self.pulses > MAX_PULSE_RATE_HZ * duration_s:
            raise ProfileError(
                f"{self.pulses} pulses in {duration_s:.4g} s are faster than the controller's {MAX_PULSE_RATE_HZ} Hz"
            )
        return begins_s[self.start_pulses - 1] + np.arange(self.pulses) * (duration_s / self.pulses)


@dataclass(frozen=True)
class MotionRecord:
    """The true motion through a trajectory; time starts with the lead-in.

    Parameters
    ----------
    pulse_s : (N,) float64
        When the pulses come.
    path_s, path_um : (M,), (M, 2) float64
        Where the stage really is.
    """

    pulse_s: np.ndarray
    path_s: np.ndarray
    path_um: np.ndarray

    def at(self, time_s: np.ndarray) -> np.ndarray:
        """True position (..., 2) um at ``time_s`` (...)."""
        return np.stack([np.interp(time_s, self.path_s, self.path_um[:, axis]) for axis in (0, 1)], axis=-1)

    def save(self, path: Path) -> None:
        """Write an NPZ file; complete or not there."""
        partial = path.with_suffix(".part.npz")
        np.savez(partial, pulse_s=self.pulse_s, path_s=self.path_s, path_um=self.path_um)
        partial.rename(path)

    @classmethod
    def load(cls, path: Path) -> "MotionRecord":
        """Read what `save` wrote."""
        with np.load(path) as file:
            return cls(file["pulse_s"], file["path_s"], file["path_um"])


@dataclass(frozen=True)
class Trajectory:
    """A built profile: the motion and what the encoders will latch (N, 2)."""

    motion: MotionRecord
    readbacks_um: np.ndarray
    following_errors_um: np.ndarray
    point_s: np.ndarray

    @property
    def duration_s(self) -> float:
        """From the start of the lead-in to rest."""
        return float(self.motion.path_s[-1])

    @property
    def start_um(self) -> np.ndarray:
        """Where the lead-in begins."""
        return self.motion.path_um[0]


def build(profile: Profile, axes: tuple[Axis, Axis], rng: np.random.Generator) -> Trajectory:
    """Plan the motion of a profile, check it, and let a servo follow it.

    Raises
    ------
    ProfileError
        If the profile is malformed or leaves what an axis can do.
    """
    _check_arrays(profile)
    pulse_s = profile.pulse_times_s() + profile.acceleration_s
    time_s, commanded_um = _commanded(profile, axes)
    true_um = _follow(time_s, commanded_um, rng)
    motion = MotionRecord(pulse_s, time_s, true_um)
    readbacks_um = motion.at(pulse_s) + rng.normal(0, ENCODER_NOISE_UM, (len(pulse_s), 2))
    errors_um = MotionRecord(pulse_s, time_s, commanded_um).at(pulse_s) - readbacks_um
    point_s = profile.acceleration_s + np.concatenate([[0.0], np.cumsum(profile.times_s[:-1])])
    return Trajectory(motion, readbacks_um, errors_um, point_s)


def _check_arrays(profile: Profile) -> None:
    points = len(profile.points_um)
    if not 2 <= points <= MAX_POINTS:
        raise ProfileError(f"NumPoints = {points}; 2 to {MAX_POINTS} are possible")
    if not np.all(np.isfinite(profile.points_um)):
        raise ProfileError("Positions are not all finite")
    if not np.all(profile.times_s > 0) or not np.all(np.isfinite(profile.times_s)):
        raise ProfileError("Negative or null delta time")
    if not 1e-3 <= profile.acceleration_s <= 60:
        raise ProfileError(f"Acceleration = {profile.acceleration_s} s; 0.001 to 60 are possible")
    if not 0 <= profile.pulses <= MAX_POINTS:
        raise ProfileError(f"NumPulses = {profile.pulses}; 0 to {MAX_POINTS} are possible")


def _commanded(profile: Profile, axes: tuple[Axis, Axis]) -> tuple[np.ndarray, np.ndarray]:
    """Sample the planned path: (M,) s and (M, 2) um; velocities at points are averages of both sides."""
    from scipy.interpolate import CubicHermiteSpline

    points, times = profile.points_um, profile.times_s[:-1]
    steps = np.diff(points, axis=0)
    velocity = np.empty_like(points)
    velocity[0], velocity[-1] = steps[0] / times[0], steps[-1] / times[-1]
    velocity[1:-1] = (steps[:-1] + steps[1:]) / (times[:-1] + times[1:])[:, None]
    lead_s = profile.acceleration_s
    point_s = lead_s + np.concatenate([[0.0], np.cumsum(times)])
    knots_s = np.concatenate([[0.0], point_s, [point_s[-1] + lead_s]])
    knots_um = np.concatenate(
        [[points[0] - velocity[0] * lead_s / 2], points, [points[-1] + velocity[-1] * lead_s / 2]]
    )
    knots_v = np.concatenate([[np.zeros(2)], velocity, [np.zeros(2)]])
    path = CubicHermiteSpline(knots_s, knots_um, knots_v)
    settle_s = 10 * SERVO_LAG_S
    grain_s = max(min(times.min(), lead_s) / 8, knots_s[-1] / MAX_SAMPLES)
    moving_s = np.linspace(0, knots_s[-1], int(np.ceil(knots_s[-1] / grain_s)) + 1)
    _check_motion(path, moving_s, axes)
    tail_s = np.arange(1, int(np.ceil(settle_s / grain_s)) + 1) * grain_s + moving_s[-1]
    commanded = np.concatenate([path(moving_s), np.repeat(path(moving_s[-1:]), len(tail_s), axis=0)])
    return np.concatenate([moving_s, tail_s]), commanded


def _check_motion(path: Any, time_s: np.ndarray, axes: tuple[Axis, Axis]) -> None:
    where, speed, acceleration = path(time_s), np.abs(path(time_s, 1)), np.abs(path(time_s, 2))
    for index, axis in enumerate(axes):
        low, high = where[:, index].min(), where[:, index].max()
        if low < axis.low_um:
            raise ProfileError(f"Low soft limit violation for axis {axis.name}, {low:.3f} um, limit {axis.low_um} um")
        if high > axis.high_um:
            raise ProfileError(
                f"High soft limit violation for axis {axis.name}, {high:.3f} um, limit {axis.high_um} um"
            )
        if speed[:, index].max() > axis.max_velocity_um_s:
            raise ProfileError(
                f"Velocity too high for axis {axis.name}, {speed[:, index].max():.4g} um/s, "
                f"limit {axis.max_velocity_um_s:.4g} um/s"
            )
        if acceleration[:, index].max() > axis.max_acceleration_um_s2:
            raise ProfileError(
                f"Acceleration too high for axis {axis.name}, {acceleration[:, index].max():.4g} um/s^2, "
                f"limit {axis.max_acceleration_um_s2:.4g} um/s^2"
            )


def _follow(time_s: np.ndarray, commanded_um: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Where a stage with lag and jitter really goes."""
    from scipy.signal import lfilter

    grain_s = time_s[1] - time_s[0]
    keep = np.exp(-grain_s / SERVO_LAG_S)
    start = commanded_um[:1]
    lagging = lfilter([1 - keep], [1, -keep], commanded_um - start, axis=0) + start
    keep = np.exp(-grain_s / JITTER_TIME_S)
    noise = rng.normal(0, JITTER_UM * np.sqrt(1 - keep**2), commanded_um.shape)
    return lagging + lfilter([1.0], [1, -keep], noise, axis=0)

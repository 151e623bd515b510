"""How the simulated stage moves: two axes with finite acceleration, and trajectories. No EPICS here."""

import threading
import time
from dataclasses import dataclass

import numpy as np

from bluesky_ptychonn.simulation.cable import CableOut
from bluesky_ptychonn.simulation.trajectory import ENCODER_NOISE_UM, JITTER_UM, Axis, Trajectory

HIGH_UM, LOW_UM = 100.0, -100.0
VELOCITY_UM_S, MAX_VELOCITY_UM_S = 500.0, 5000.0
ACCELERATION_S = 0.002
NAMES = ("Y", "X")


@dataclass(frozen=True)
class Move:
    """A move of one axis: accelerate, cruise, decelerate.

    Parameters
    ----------
    start_um, target_um : float
    velocity_um_s, acceleration_s : float
        Cruising speed, and the time to reach it.
    begin_s : float
    """

    start_um: float
    target_um: float
    velocity_um_s: float
    acceleration_s: float
    begin_s: float

    @property
    def duration_s(self) -> float:
        """From rest to rest."""
        distance_um = abs(self.target_um - self.start_um)
        ramp_um = self.velocity_um_s * self.acceleration_s
        if distance_um >= ramp_um:
            return distance_um / self.velocity_um_s + self.acceleration_s
        return 2 * self.acceleration_s * np.sqrt(distance_um / ramp_um)

    def at(self, now_s: float) -> float:
        """Where the axis is."""
        duration_s, elapsed_s = self.duration_s, now_s - self.begin_s
        if elapsed_s >= duration_s:
            return self.target_um
        ramp_s = min(self.acceleration_s, duration_s / 2)
        rate = self.velocity_um_s / self.acceleration_s

        def travelled_um(t_s: float) -> float:
            return rate * (t_s**2 / 2 if t_s < ramp_s else ramp_s * (t_s - ramp_s / 2))

        distance_um = abs(self.target_um - self.start_um)
        left_s = duration_s - max(elapsed_s, 0.0)
        done_um = travelled_um(max(elapsed_s, 0.0)) if left_s > ramp_s else distance_um - rate * left_s**2 / 2
        return self.start_um + np.sign(self.target_um - self.start_um) * done_um


class Stage:
    """The stage and its cable to the detector.

    Parameters
    ----------
    cable : CableOut
    seed : int, optional
        Of jitter and encoder noise.
    """

    def __init__(self, cable: CableOut, seed: int | None = None) -> None:
        self.cable = cable
        self.rng = np.random.default_rng(seed)
        self._moves = [Move(0.0, 0.0, VELOCITY_UM_S, ACCELERATION_S, 0.0) for _ in NAMES]
        self._player: Player | None = None
        self._captured: Player | None = None
        self._rest_um = np.zeros(2)

    def start_move(self, axis: int, target_um: float, velocity_um_s: float, acceleration_s: float) -> float:
        """Begin to move one axis; returns how long it takes, s."""
        now = time.time()
        start_um = float(self.position_um(now)[axis])
        self._moves[axis] = Move(start_um, target_um, max(velocity_um_s, 1e-3), max(acceleration_s, 1e-4), now)
        return self._moves[axis].duration_s

    def settle(self, axis: int) -> None:
        """Come to rest with one axis: a servo never quite ends on its target. Tell the detector."""
        self._rest_um[axis] = self.rng.normal(0, JITTER_UM / 2)
        self.cable.send(at=[float(v) for v in self.position_um() + self._rest_um])

    def stop(self, axis: int) -> None:
        """Stop one axis at once."""
        where = float(self.position_um()[axis])
        self._moves[axis] = Move(where, where, VELOCITY_UM_S, ACCELERATION_S, 0.0)

    def play(self, trajectory: Trajectory, suppressed: frozenset[int]) -> "Player":
        """Start a trajectory at whose start the stage stands."""
        self._player = self._captured = Player(trajectory, self.cable, suppressed)
        return self._player

    def end_play(self) -> None:
        """Hand the axes back to the motors where the trajectory left them."""
        where = self.position_um()
        self._player = None
        self._moves = [Move(float(w), float(w), VELOCITY_UM_S, ACCELERATION_S, 0.0) for w in where]

    def clear_captured(self) -> None:
        """Forget the positions captured so far."""
        self._captured = None

    def captured_um(self) -> np.ndarray:
        """Positions (K, 2) that the encoders latched at the triggers since `clear_captured`, um."""
        if self._captured is None:
            return np.empty((0, 2))
        return self._captured.trajectory.readbacks_um[: self._captured.latched]

    def position_um(self, now_s: float | None = None) -> np.ndarray:
        """True position (y, x), um."""
        now_s = time.time() if now_s is None else now_s
        if self._player is not None:
            return self._player.position_um(now_s)
        return np.array([move.at(now_s) for move in self._moves])

    def readback_um(self) -> np.ndarray:
        """What the encoders say (y, x), um."""
        return self.position_um() + self._rest_um + self.rng.normal(0, ENCODER_NOISE_UM, 2)


class Player:
    """Plays one trajectory: pulses by an absolute schedule, from a thread of its own."""

    def __init__(self, trajectory: Trajectory, cable: CableOut, suppressed: frozenset[int]) -> None:
        self.trajectory = trajectory
        self.latched = self.sent = 0
        self._cable, self._suppressed = cable, suppressed
        self._begin_s = time.time() + 0.01
        self._stopped_s: float | None = None
        self._thread = threading.Thread(target=self._pulse, name="pulses", daemon=True)
        self._thread.start()

    def _pulse(self) -> None:
        for index, pulse_s in enumerate(self._begin_s + self.trajectory.motion.pulse_s):
            while (left_s := pulse_s - time.time()) > 0 and self._stopped_s is None:
                time.sleep(min(left_s, 0.02))
            if self._stopped_s is not None:
                return
            if index not in self._suppressed and self._cable.send(pulse=index, t=pulse_s):
                self.sent += 1
            self.latched += 1

    def abort(self) -> None:
        """Stop moving and pulsing at once."""
        if self._stopped_s is None:
            self._stopped_s = time.time()
        self._thread.join(timeout=1)

    @property
    def aborted(self) -> bool:
        """Whether somebody stopped it."""
        return self._stopped_s is not None

    @property
    def left_s(self) -> float:
        """Time until the stage is at rest."""
        return self._begin_s + self.trajectory.duration_s - time.time()

    @property
    def point(self) -> int:
        """Last profile point passed, from 1; 0 during the lead-in."""
        elapsed_s = time.time() - self._begin_s
        return int(np.searchsorted(self.trajectory.point_s, elapsed_s, side="right"))

    def position_um(self, now_s: float) -> np.ndarray:
        """True position (y, x), um."""
        now_s = now_s if self._stopped_s is None else min(now_s, self._stopped_s)
        return self.trajectory.motion.at(np.array(now_s - self._begin_s))


def limits(low_um: float, high_um: float, max_velocity_um_s: float, acceleration_s: float, name: str) -> Axis:
    """What an axis may do, from the fields of its motor record."""
    return Axis(name, low_um, high_um, max_velocity_um_s, max_velocity_um_s / max(acceleration_s, 1e-4))

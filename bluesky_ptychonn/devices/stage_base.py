"""Sample stage of two motors: what it can do, and moving to a position (y, x)."""

from typing import Any

import numpy as np
from ophyd import Component as Cpt
from ophyd import Device, Signal

from bluesky_ptychonn.core.request import ScanRequest
from bluesky_ptychonn.core.trajectory import ProfilePoints, profile_points
from bluesky_ptychonn.devices.signals import Setting
from bluesky_ptychonn.devices.stage_pvs import ProfileMove, StageCounters, StageMotor
from bluesky_ptychonn.devices.waiting import WorkStatus, answers, in_background, wait_until

LEAD_S = 0.05


class PositionedStage(Device):
    """Two motors and the checks of a scan; `SpiralStage` adds the trajectory."""

    y = Cpt(StageMotor, "Y", doc="vertical, um, up is positive")
    x = Cpt(StageMotor, "X", doc="horizontal, um, outboard is positive")
    profile = Cpt(ProfileMove, "Prof1:", kind="omitted")
    counters = Cpt(StageCounters, "", kind="omitted")
    tolerance_um = Cpt(Setting, value=0.05, kind="config", doc="how far from its target the stage may come to rest")

    def __init__(self, prefix: str = "", *, name: str, **kwargs: Any) -> None:
        super().__init__(prefix, name=name, **kwargs)
        self._works: list[WorkStatus] = []

    @property
    def _motors(self) -> tuple[StageMotor, StageMotor]:
        return self.y, self.x

    # what a plan asks before it starts

    def check(self, request: ScanRequest) -> list[str]:
        """What stands against this request; empty if nothing does. Changes nothing."""
        try:
            moving = [motor.name for motor in self._motors if not motor.motor_done_move.get(use_monitor=False)]
            problems = [f"{name} is moving; wait for it or stop it" for name in moving]
            return problems + (self._check_flight(request) if request.fly else self._check_travel(request.positions_um))
        except (TimeoutError, ConnectionError) as error:
            return [f"{error}; is the stage's IOC running, and does EPICS_CA_ADDR_LIST reach it?"]

    def _check_travel(self, points_um: np.ndarray) -> list[str]:
        problems = []
        for axis, motor in enumerate(self._motors):
            low, high = float(motor.low_limit_travel.get()), float(motor.high_limit_travel.get())
            first, last = points_um[:, axis].min(), points_um[:, axis].max()
            if low < high and not (low <= first and last <= high):
                problems.append(
                    f"{motor.name} would travel from {first:.3f} to {last:.3f} um; allowed is {low:g} to {high:g} um; "
                    "move the stage or scan a smaller field"
                )
        return problems

    def _check_flight(self, request: ScanRequest) -> list[str]:
        points = profile_points(request.positions_um, request.exposure_s, request.dwell_s)
        problems = self._check_travel(_with_leads(points))
        most = min(room(self.profile.positions_y), self._capture_room())
        if len(points.points_um) > most:
            problems.append(
                f"{request.points} points do not fit the trajectory controller, whose records hold {most}; "
                "enlarge step_um, scan a smaller field, or use fly=False"
            )
        for motor, speed, push in zip(self._motors, *points.peak_motion(), strict=True):
            limit = float(motor.max_velocity.get()) or np.inf
            if speed > limit:
                problems.append(
                    f"{motor.name} would reach {speed:.4g} um/s; allowed is {limit:g} um/s ({motor.prefix}.VMAX); "
                    "enlarge dwell_s or shorten step_um"
                )
            ramp_s = float(motor.acceleration.get())
            strongest = limit / ramp_s if ramp_s > 0 else np.inf
            if push > strongest:
                problems.append(
                    f"{motor.name} would need {push:.4g} um/s^2; allowed is {strongest:.4g} um/s^2 "
                    f"({motor.prefix}.VMAX / .ACCL); enlarge dwell_s or shorten step_um"
                )
        return problems

    def _capture_room(self) -> int:
        """How many positions can be captured."""
        return room(self.profile.readbacks_y)

    def ptycho_block(self) -> dict[str, Any]:
        """Nothing: the recipe of the positions is the request's."""
        return {}

    # a movable (y, x)

    def locate(self) -> dict[str, Any]:
        """Where the stage was sent to and where it is, (y, x) um; both are the readback after a trajectory."""
        readback = tuple(float(motor.user_readback.get(use_monitor=False)) for motor in self._motors)
        sent = tuple(float(motor.user_setpoint.get(use_monitor=False)) for motor in self._motors)
        near = all(abs(a - b) <= self.tolerance_um.get() for a, b in zip(sent, readback, strict=True))
        return {"setpoint": sent if near else readback, "readback": readback}

    def set(self, position_um: tuple[float, float]) -> WorkStatus:
        """Move to (y, x); done when both motors rest there."""
        if not answers(lambda: self.y.motor_done_move):
            raise TimeoutError(f"{self.name} does not answer; is its IOC running?")
        for motor, target in zip(self._motors, position_um, strict=True):
            motor.check_value(target)
        return self._begin("move", lambda status: self._move(position_um, status))

    def _move(self, position_um: tuple[float, float], status: WorkStatus) -> None:
        longest_s = 5.0
        for motor, target in zip(self._motors, position_um, strict=True):
            away = abs(float(motor.user_readback.get(use_monitor=False)) - target)
            longest_s = max(longest_s, 5.0 + 3 * away / max(float(motor.velocity.get()), 1e-9))
            motor.user_setpoint.put(target)
        off: list[float] = []

        def arrived() -> bool:
            off[:] = [
                float(m.user_readback.get(use_monitor=False)) - t
                for m, t in zip(self._motors, position_um, strict=True)
            ]
            resting = all(motor.motor_done_move.get(use_monitor=False) for motor in self._motors)
            return status.stopped.is_set() or (resting and max(map(abs, off)) <= self.tolerance_um.get())

        wait_until(
            arrived,
            longest_s,
            lambda: (
                f"{self.name} does not reach (y, x) = {tuple(round(v, 3) for v in position_um)} um: "
                f"off by {off[0]:.3f}, {off[1]:.3f} um"
            ),
            poll_s=0.005,
        )

    def _begin(self, label: str, work: Any) -> WorkStatus:
        status = in_background(self, label, work)
        self._works = [running for running in self._works if not running.done] + [status]
        return status


def _with_leads(points: ProfilePoints) -> np.ndarray:
    """Points of a trajectory with the ends of its lead-in and run-out."""
    first, last = np.diff(points.points_um[:2], axis=0), np.diff(points.points_um[-2:], axis=0)
    before = points.points_um[:1] - first / points.times_s[0] * LEAD_S / 2
    after = points.points_um[-1:] + last / points.times_s[-1] * LEAD_S / 2
    return np.concatenate([before, points.points_um, after])


def room(signal: Signal) -> int:
    """Number of elements of a waveform record."""
    signal.wait_for_connection()
    return int(signal._read_pv.nelm)  # type: ignore[attr-defined]

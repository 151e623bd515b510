"""Spiral sample stage: two motors, and a trajectory controller which sends a trigger per frame."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from bluesky_ptychonn.core.request import ScanRequest
from bluesky_ptychonn.core.trajectory import profile_points, to_mid_exposure
from bluesky_ptychonn.devices.position_source import CapturedPositions, PositionSource, ProfileReadbacks
from bluesky_ptychonn.devices.stage_base import LEAD_S, PositionedStage, room
from bluesky_ptychonn.devices.stage_pvs import PositionTable
from bluesky_ptychonn.devices.waiting import WorkStatus, address, answers, put_checked, run_busy, wait_until

BUILD_S = 300.0
TRIGGER_INDEX = "trigger_index"


class SpiralStage(PositionedStage):
    """Piezo stage that carries the sample through the spiral.

    As a movable it goes to a position (y, x) in um. As a flyer it is ``prepare(request)`` (build), ``kickoff``
    (execute), ``complete`` (trajectory done and read back) and ``collect_pages``.

    Parameters
    ----------
    prefix : str
        PV prefix with its trailing colon, such as ``"BL:STAGE:"``.
    name : str
        Ophyd name; data keys begin with it.
    table : PositionTable, optional
        Captures the positions while the stage flies; without it, they are the controller's, read back at the end.
    """

    def __init__(self, prefix: str = "", *, name: str, table: PositionTable | None = None, **kwargs: Any) -> None:
        super().__init__(prefix, name=name, **kwargs)
        self._request: ScanRequest | None = None
        self._started_at = 0.0
        self.table = table
        self._source: PositionSource = ProfileReadbacks(self.profile) if table is None else CapturedPositions(table)
        self._told = 0
        self._executed = self._ended = self._flown = False

    @property
    def streams(self) -> bool:
        """Whether positions can be collected during a flight."""
        return self._source.streams

    def _capture_room(self) -> int:
        return super()._capture_room() if self.table is None else room(self.table.y)

    def wait_for_connection(self, *args: Any, **kwargs: Any) -> None:
        super().wait_for_connection(*args, **kwargs)
        if self.table is not None:
            self.table.wait_for_connection(*args, **kwargs)

    def stage(self) -> list[object]:
        """Wait until motors and trajectory controller rest."""
        self._executed = False
        self._forget_counts()
        wait_until(
            lambda: (
                all(motor.motor_done_move.get(use_monitor=False) for motor in self._motors)
                and self.profile.execute_state.get() == "Done"
            ),
            5.0,
            lambda: (
                f"{self.name} is moving (ExecuteState {self.profile.execute_state.get()}); "
                f"stop it with {self.name}.stop()"
            ),
        )
        return [self]

    def unstage(self) -> list[object]:
        """End a trajectory that is still running."""
        self.stop(success=True)
        self._request = None
        return [self]

    def prepare(self, request: ScanRequest) -> WorkStatus:
        """Build the trajectory of a fly scan; nothing moves."""
        self._request = request
        self._executed = self._ended = self._flown = False
        self._told = 0
        self._forget_counts()
        return self._begin("build", lambda status: self._build(request, status) if request.fly else None)

    def _build(self, request: ScanRequest, status: WorkStatus) -> None:
        profile = self.profile
        self._source.begin(request.points)
        points = profile_points(request.positions_um, request.exposure_s, request.dwell_s)
        count = len(points.points_um)
        for signal, value in (
            (profile.time_mode, "Array"),
            (profile.move_mode, "Absolute"),
            (profile.use_y, "Yes"),
            (profile.use_x, "Yes"),
            (profile.num_points, count),
            (profile.start_pulses, 1),
            (profile.end_pulses, count - 1),
            (profile.num_pulses, request.points),
            (profile.acceleration, LEAD_S),
        ):
            put_checked(signal, value)
        profile.times.put(np.append(points.times_s, request.dwell_s))
        profile.positions_y.put(points.points_um[:, 0])
        profile.positions_x.put(points.points_um[:, 1])
        run_busy(status, profile.build, profile.build_state, BUILD_S)
        if profile.build_status.get() != "Success":
            raise RuntimeError(
                f"{self.name}: the controller refuses the trajectory ({profile.build_status.get()}): "
                f"{profile.build_message.get()}; enlarge dwell_s, shorten step_um or scan a smaller field"
            )

    def kickoff(self) -> WorkStatus:
        """Start the trajectory; done when it runs."""
        if self._request is None or not self._request.fly:
            raise RuntimeError(f"{self.name} has no trajectory; prepare a request with fly=True first")
        return self._begin("execute", self._execute)

    def _execute(self, status: WorkStatus) -> None:
        profile = self.profile
        self._executed = True
        profile.execute.put(1)
        wait_until(
            lambda: (
                status.stopped.is_set() or profile.execute_state.get() != "Done" or int(profile.actual_pulses.get()) > 0
            ),
            5.0,
            lambda: f"{address(profile.execute)} starts nothing: {profile.execute_message.get()}",
        )
        self._started_at = time.time()

    def complete(self) -> WorkStatus:
        """Done when the trajectory has ended and its positions are read back; after `stop` too."""
        return self._begin("trajectory", self._complete)

    def _complete(self, status: WorkStatus) -> None:
        profile, request = self.profile, self._request
        if request is None or not self._executed:
            return
        if not self._alive():
            raise TimeoutError(f"{self.name} does not answer; is its IOC running?")
        points = request.points + 2
        deadline = time.monotonic() + 1.5 * request.points * request.dwell_s + 30.0
        while not status.stopped.is_set() and profile.execute_state.get() != "Done":
            status.report(min(int(profile.current_point.get()), points), points, "points")
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{address(profile.execute_state)} stays {profile.execute_state.get()}; stop the stage"
                )
            time.sleep(0.05)
        if status.stopped.is_set():
            return
        status.report(points, points, "points")
        if profile.execute_status.get() != "Success" and not self._ended:
            raise RuntimeError(
                f"{self.name}: the trajectory ended with {profile.execute_status.get()}: "
                f"{profile.execute_message.get()}"
            )
        problem = self._fetch(status)
        if problem and not self._ended:
            raise RuntimeError(f"{self.name}: {problem}")

    def _fetch(self, status: WorkStatus) -> str:
        """Get the positions; what is wrong with them, or empty."""
        pulses = int(self.profile.actual_pulses.get(use_monitor=False))  # a monitor may be late
        problem = self._source.finish(status, pulses)
        self.counters.pulses.put(pulses)
        self.counters.trigger_slots.put(len(self._source.so_far()) or pulses)
        self._flown = True
        return problem

    def stop(self, *, success: bool = False) -> None:
        """End motion at once, do not wait. Harmless on a resting stage; told, not raised, on a dead one."""
        self._ended = True
        for work in self._works:
            work.stopped.set()
        try:
            if self._alive():
                if self.profile.execute_state.get() != "Done":
                    self.profile.abort.put(1)
                for motor in self._motors:
                    if not motor.motor_done_move.get(use_monitor=False):
                        motor.motor_stop.put(1)
        except Exception as error:
            self.log.error("%s cannot be stopped: %s", self.name, error)

    def _alive(self) -> bool:
        """Whether the IOC answers, asked now."""
        return answers(lambda: self.profile.execute_state)

    # documents

    def describe_collect(self) -> dict[str, Any]:
        """Data keys of the stream of positions."""
        keys: dict[str, Any] = {
            motor.name: {
                "source": f"PV:{address(column)}",
                "dtype": "number",
                "shape": [],
                "dtype_numpy": "<f8",
                "units": "um",
            }
            for motor, column in zip(self._motors, self._source.columns, strict=True)
        }
        pulses = f"PV:{address(self.profile.actual_pulses)}"
        index = {"source": pulses, "dtype": "integer", "shape": [], "dtype_numpy": "<i8"}
        return {**keys, TRIGGER_INDEX: index}

    def collect_pages(self) -> Iterator[dict[str, Any]]:
        """Positions at mid exposure of the triggers since the last call, one page.

        None before `complete`, unless the source `streams`; the last one waits for its successor, until `complete`.
        """
        request = self._request
        if request is None or not (self._flown or self.streams):
            return
        latched_um, told = self._source.so_far(), self._told
        captured_um = to_mid_exposure(latched_um, request.positions_um, request.exposure_s, request.dwell_s)
        ready = len(captured_um) if self._flown else len(captured_um) - 1
        if ready <= told:
            return
        times = (self._started_at + LEAD_S + np.arange(told, ready) * request.dwell_s).tolist()
        data = {
            self.y.name: captured_um[told:ready, 0].tolist(),
            self.x.name: captured_um[told:ready, 1].tolist(),
            TRIGGER_INDEX: list(range(told, ready)),
        }
        self._told = ready
        yield {"time": times, "data": data, "timestamps": {key: times for key in data}}

    def _forget_counts(self) -> None:
        self.counters.pulses.put(-1)
        self.counters.trigger_slots.put(-1)

    def refresh_counters(self) -> WorkStatus:
        """Bring `counters` up to date; they are unknown (-1) until the trajectory is read back."""
        return self._begin("counters", lambda status: self._refresh_counters())

    def _refresh_counters(self) -> None:
        if self._request is not None and self._request.fly and not self._executed:
            self.counters.pulses.put(0)
            self.counters.trigger_slots.put(0)

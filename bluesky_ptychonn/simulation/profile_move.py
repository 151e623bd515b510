"""The trajectory controller: records of the motor module's profileMove, as the XPS driver behaves."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
from caproto import ChannelType, SkipWrite
from caproto.server import PVGroup, pvproperty

from bluesky_ptychonn.simulation.motor_record import TICK_S, Motor
from bluesky_ptychonn.simulation.stage import Player, Stage
from bluesky_ptychonn.simulation.trajectory import MAX_POINTS, Profile, ProfileError, Trajectory, build

DETECTOR_PATIENCE_S = 300


ENUM: Any = ChannelType.ENUM  # caproto's annotations know only its classes
CHAR: Any = ChannelType.CHAR
DOUBLE: Any = ChannelType.DOUBLE


def _choice(*choices: str, name: str = "", put: Any = None) -> Any:
    return pvproperty(value=choices[0], enum_strings=list(choices), dtype=ENUM, name=name, put=put)


def _text(name: str) -> Any:
    return pvproperty(value="", dtype=CHAR, max_length=256, name=name)


def _whole(name: str, value: int = 0) -> Any:
    return pvproperty(value=value, name=name)


def _real(name: str, value: float) -> Any:
    return pvproperty(value=value, name=name, precision=6)


def _array(name: str) -> Any:
    return pvproperty(value=[0.0], dtype=DOUBLE, max_length=MAX_POINTS, name=name)


class ProfileMove(PVGroup):
    """``Prof1:``, with M1 = y and M2 = x.

    Parameters
    ----------
    stage : Stage
    motors : (Motor, Motor)
        The records of y and x.
    directory : Path
        State directory; trajectories are left here for the detector.
    """

    # Commands. A put completes with the command, as of a busy record.

    async def _put_build(self, instance: Any, value: str) -> None:
        await self._busy(instance, value, "Build", self._build)

    async def _put_execute(self, instance: Any, value: str) -> None:
        await self._busy(instance, value, "Execute", self._execute)

    async def _put_readback(self, instance: Any, value: str) -> None:
        await self._busy(instance, value, "Readback", self._readback)

    async def _put_abort(self, instance: Any, value: str) -> None:
        if value == "Abort":
            self._abort_requested = True
            if self._player is not None:
                self._player.abort()
        raise SkipWrite

    num_points = _whole("NumPoints", 2)
    num_axes = _whole("NumAxes", 2)
    num_pulses = _whole("NumPulses", 0)
    start_pulses = _whole("StartPulses", 1)
    end_pulses = _whole("EndPulses", 1)
    actual_pulses = _whole("NumActualPulses", 0)
    current_point = _whole("CurrentPoint", 0)
    time_mode = _choice("Fixed", "Array", name="TimeMode")
    fixed_time = _real("FixedTime", 1.0)
    times = _array("Times")
    move_mode = _choice("Absolute", "Relative", name="MoveMode")
    acceleration = _real("Acceleration", 0.5)
    use_1 = _choice("No", "Yes", name="M1UseAxis")
    use_2 = _choice("No", "Yes", name="M2UseAxis")
    positions_1 = _array("M1Positions")
    positions_2 = _array("M2Positions")
    readbacks_1 = _array("M1Readbacks")
    readbacks_2 = _array("M2Readbacks")
    errors_1 = _array("M1FollowingErrors")
    errors_2 = _array("M2FollowingErrors")
    build_command = _choice("Done", "Build", name="Build", put=_put_build)
    build_state = _choice("Done", "Busy", name="BuildState")
    build_status = _choice("Undefined", "Success", "Failure", name="BuildStatus")
    build_message = _text("BuildMessage")
    execute_command = _choice("Done", "Execute", name="Execute", put=_put_execute)
    execute_state = _choice("Done", "Move start", "Executing", "Flyback", name="ExecuteState")
    execute_status = _choice("Undefined", "Success", "Failure", "Abort", "Timeout", name="ExecuteStatus")
    execute_message = _text("ExecuteMessage")
    readback_command = _choice("Done", "Readback", name="Readback", put=_put_readback)
    readback_state = _choice("Done", "Busy", name="ReadbackState")
    readback_status = _choice("Undefined", "Success", "Failure", name="ReadbackStatus")
    readback_message = _text("ReadbackMessage")
    abort_command = _choice("Done", "Abort", name="Abort", put=_put_abort)

    def __init__(
        self, *args: Any, stage: Stage, motors: tuple[Motor, Motor], directory: Path, suppress: Any, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._stage, self._motors, self._directory, self._suppress = stage, motors, directory, suppress
        self._profile: Profile | None = None
        self._trajectory: Trajectory | None = None
        self._player: Player | None = None
        self._abort_requested = False
        self._builds = 0

    async def _busy(self, instance: Any, value: str, start: str, action: Any) -> None:
        if value == start and self._idle():
            await instance.write(start, verify_value=False)
            try:
                await action()
            finally:
                await instance.write("Done", verify_value=False)
        raise SkipWrite

    def _idle(self) -> bool:
        return all(c.value == "Done" for c in (self.build_command, self.execute_command, self.readback_command))

    # Build

    async def _build(self) -> None:
        await self.build_state.write("Busy")
        await self.build_status.write("Undefined")
        await self.build_message.write("")
        self._trajectory = None
        try:
            profile, axes = self._read_profile(), (self._motors[0].limits(), self._motors[1].limits())
            trajectory = await asyncio.to_thread(build, profile, axes, self._stage.rng)
            await self._tell_detector(trajectory)
            self._profile, self._trajectory = profile, trajectory
            status, message = "Success", ""
        except ProfileError as error:
            status, message = "Failure", str(error)
        await self.build_message.write(message[:255])
        await self.build_status.write(status)
        await self.build_state.write("Done")

    def _read_profile(self) -> Profile:
        count = self.num_points.value
        if not 2 <= count <= MAX_POINTS:
            raise ProfileError(f"NumPoints = {count}; 2 to {MAX_POINTS} are possible")
        here = self._stage.position_um()
        points = np.tile(here, (count, 1))
        used = [self.use_1.value == "Yes", self.use_2.value == "Yes"]
        if not any(used):
            raise ProfileError("no axis is used; set M1UseAxis or M2UseAxis")
        for axis, (use, record) in enumerate(zip(used, (self.positions_1, self.positions_2))):
            if use:
                points[:, axis] = _first(record, count, f"M{axis + 1}Positions")
                if self.move_mode.value == "Relative":
                    points[:, axis] += here[axis]
        fixed = self.time_mode.value == "Fixed"
        times = np.full(count, self.fixed_time.value) if fixed else _first(self.times, count, "Times")
        return Profile(
            points,
            times,
            self.acceleration.value,
            self.start_pulses.value,
            self.end_pulses.value,
            self.num_pulses.value,
        )

    async def _tell_detector(self, trajectory: Trajectory) -> None:
        """Give the detector the motion and wait until it has its frames, if one is there."""
        self._builds += 1
        for old in self._directory.glob("trajectory_*"):
            old.unlink(missing_ok=True)
        path = self._directory / f"trajectory_{self._builds}.npz"
        await asyncio.to_thread(trajectory.motion.save, path)
        ready = path.with_name(path.name + ".ready")
        if not self._stage.cable.send(trajectory=str(path)):
            return
        for _ in range(round(DETECTOR_PATIENCE_S / TICK_S)):
            if ready.exists() and (report := ready.read_text()):
                if report != "ok":
                    raise ProfileError(report)
                return
            if not self._stage.cable.send():  # the detector has gone
                return
            await asyncio.sleep(TICK_S)
        raise ProfileError(f"the detector has not computed its frames within {DETECTOR_PATIENCE_S} s")

    # Execute

    async def _execute(self) -> None:
        self._abort_requested, self._player = False, None
        await self.execute_status.write("Undefined")
        await self.execute_message.write("")
        await self.actual_pulses.write(0)
        status, message = "Failure", "no trajectory was built"
        if self._trajectory is not None and self._profile is not None:
            for motor in self._motors:
                motor.busy_with_profile = True
            try:
                status, message = await self._run(self._trajectory, self._profile.points_um[-1])
            finally:
                for motor in self._motors:
                    motor.busy_with_profile = False
        await self.execute_message.write(message)
        await self.execute_status.write(status)
        await self.execute_state.write("Done")

    async def _run(self, trajectory: Trajectory, last_um: np.ndarray) -> tuple[str, str]:
        await self.execute_state.write("Move start")
        await self._go(trajectory.start_um)
        suppressed = frozenset(int(v) for v in np.atleast_1d(self._suppress.value) if v >= 0)
        if not self._abort_requested:
            await self.execute_state.write("Executing")
            player = self._player = self._stage.play(trajectory, suppressed)
            while not player.aborted and player.left_s > 0:
                for motor in self._motors:
                    await motor.show_moving(True)
                    await motor.post()
                await self.actual_pulses.write(player.sent)
                await self.current_point.write(min(player.point, len(trajectory.point_s)))
                await asyncio.sleep(min(TICK_S, max(0.0, player.left_s)))
            self._stage.end_play()
            await self.actual_pulses.write(player.sent)
            await self._suppress.write([-1])
        aborted = self._abort_requested or (self._player is not None and self._player.aborted)
        await self.execute_state.write("Flyback")
        await self._go(self._stage.position_um() if aborted else last_um)
        return ("Abort", "trajectory aborted") if aborted else ("Success", "")

    async def _go(self, target_um: np.ndarray) -> None:
        await asyncio.gather(*(motor.move_to(float(t)) for motor, t in zip(self._motors, target_um)))
        for motor, target in zip(self._motors, target_um):
            await motor.show_target(float(target))

    # Readback

    async def _readback(self) -> None:
        await self.readback_state.write("Busy")
        player = self._player
        latched = player.latched if player is not None else 0
        if player is not None:
            trajectory = player.trajectory
            for axis, (readbacks, errors) in enumerate(
                ((self.readbacks_1, self.errors_1), (self.readbacks_2, self.errors_2))
            ):
                await readbacks.write(trajectory.readbacks_um[:latched, axis])
                await errors.write(trajectory.following_errors_um[:latched, axis])
        wanted = self.num_pulses.value
        complete = latched >= wanted
        await self.readback_message.write("" if complete else f"Error, numPulses={wanted}, currentSamples={latched}")
        await self.readback_status.write("Success" if complete else "Failure")
        await self.readback_state.write("Done")


def _first(record: Any, count: int, name: str) -> np.ndarray:
    values = np.atleast_1d(np.asarray(record.value, float))
    if len(values) < count:
        raise ProfileError(f"{name} holds {len(values)} values, NumPoints = {count}")
    return values[:count]

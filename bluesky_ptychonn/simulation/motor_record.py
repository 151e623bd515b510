"""A motor record over the simulated stage, with the fields that ophyd's EpicsMotor uses."""

import asyncio
from typing import Any

from caproto import SkipWrite
from caproto.server import PVGroup, pvproperty

from bluesky_ptychonn.simulation.stage import (
    ACCELERATION_S,
    HIGH_UM,
    LOW_UM,
    MAX_VELOCITY_UM_S,
    NAMES,
    VELOCITY_UM_S,
    Stage,
    limits,
)
from bluesky_ptychonn.simulation.trajectory import Axis

TICK_S = 0.05
IDLE_TICK_S = 1.0
SETTLE_S = 0.002


make_record: Any = pvproperty  # its annotations ask for callbacks of any PVGroup


class Motor(PVGroup):
    """One axis; puts to VAL complete when the motion ends.

    Parameters
    ----------
    stage : Stage
    axis : int
        0 is y, 1 is x.
    """

    def __init__(self, *args: Any, stage: Stage, axis: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stage, self.axis = stage, axis
        self.busy_with_profile = False
        self._move = 0
        self._stopped = asyncio.Event()

    @property
    def fields(self) -> Any:
        """The fields of the record by their long names."""
        return self.record.field_inst

    def limits(self) -> Axis:
        """What this axis may do now."""
        f = self.fields
        return limits(
            f.user_low_limit.value,
            f.user_high_limit.value,
            f.max_velocity.value,
            f.seconds_to_velocity.value,
            NAMES[self.axis],
        )

    async def _start(self, instance: Any, async_lib: Any) -> None:
        f = self.fields
        starts = {
            f.user_high_limit: HIGH_UM,
            f.user_low_limit: LOW_UM,
            f.dial_high_limit: HIGH_UM,
            f.dial_low_limit: LOW_UM,
            f.velocity: VELOCITY_UM_S,
            f.base_velocity: 0.0,
            f.max_velocity: MAX_VELOCITY_UM_S,
            f.seconds_to_velocity: ACCELERATION_S,
            f.motor_step_size: 1e-4,
            f.engineering_units: "um",
            f.display_precision: 4,
            f.description: f"sample {NAMES[self.axis].lower()}",
        }
        for field, value in starts.items():
            await field.write(value)
        for field in (f.user_readback_value, f.velocity, f.user_high_limit, f.user_low_limit):
            await field.write_metadata(precision=4, units="um")
        await f.done_moving_to_value.write(1)
        f.user_high_limit.putter = self._put_high_limit
        f.user_low_limit.putter = self._put_low_limit
        f.stop.putter = self._put_stop
        while True:
            await self.post()
            await async_lib.library.sleep(IDLE_TICK_S)

    async def _put(self, instance: Any, value: float) -> None:
        f = self.fields
        outside = not f.user_low_limit.value <= value <= f.user_high_limit.value
        await f.limit_violation.write(int(outside))
        if outside or self.busy_with_profile:
            raise SkipWrite
        await instance.write(value, verify_value=False)
        await self.move_to(value)
        raise SkipWrite

    record: Any = make_record(
        value=0.0,
        name="",
        startup=_start,
        put=_put,
        record="motor",
        precision=4,
        units="um",
        lower_ctrl_limit=LOW_UM,
        upper_ctrl_limit=HIGH_UM,
        lower_disp_limit=LOW_UM,
        upper_disp_limit=HIGH_UM,
    )

    async def move_to(self, target_um: float, velocity_um_s: float | None = None) -> None:
        """Move and wait for the end; a later move or a stop ends it early."""
        self._move += 1
        move = self._move
        f = self.fields
        self._stopped.clear()
        duration_s = self.stage.start_move(
            self.axis, target_um, velocity_um_s or f.velocity.value, f.seconds_to_velocity.value
        )
        await self.show_moving(True)
        loop = asyncio.get_running_loop()
        end_s = loop.time() + duration_s + SETTLE_S
        while move == self._move and not self._stopped.is_set() and (left_s := end_s - loop.time()) > 0:
            try:
                await asyncio.wait_for(self._stopped.wait(), min(left_s, TICK_S))
            except asyncio.TimeoutError:
                await self.post()
        if move == self._move:
            self.stage.settle(self.axis)  # before DMOV: a trigger that waits for it sees the new position
            await self.post()
            await self.show_moving(False)

    async def show_moving(self, moving: bool) -> None:
        """Show whether the axis moves."""
        f = self.fields
        await f.motor_is_moving.write(int(moving))
        await f.done_moving_to_value.write(int(not moving))

    async def post(self) -> None:
        """Show where the axis is."""
        f, where = self.fields, float(self.stage.readback_um()[self.axis])
        await f.user_readback_value.write(where)
        await f.dial_readback_value.write(where)
        await f.raw_readback_value.write(int(where / 1e-4))

    async def show_target(self, target_um: float) -> None:
        """Show where the axis was sent by others than VAL."""
        await self.record.write(float(target_um), verify_value=False)

    async def _put_stop(self, instance: Any, value: int) -> int:
        if value:
            self.stage.stop(self.axis)
            self._stopped.set()
            await self.show_target(float(self.stage.position_um()[self.axis]))
        return 0

    async def _put_high_limit(self, instance: Any, value: float) -> None:
        await self.record.write_metadata(upper_ctrl_limit=value)

    async def _put_low_limit(self, instance: Any, value: float) -> None:
        await self.record.write_metadata(lower_ctrl_limit=value)

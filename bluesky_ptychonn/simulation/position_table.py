"""A table of the positions captured at each trigger, which grows while the stage flies, as a PandA's does."""

from typing import Any

from caproto import ChannelType
from caproto.server import PVGroup, pvproperty

from bluesky_ptychonn.simulation.stage import Stage
from bluesky_ptychonn.simulation.trajectory import MAX_POINTS

TICK_S = 0.1
ENUM: Any = ChannelType.ENUM  # caproto's annotations know only its classes
DOUBLE: Any = ChannelType.DOUBLE
make_record: Any = pvproperty


class PositionTable(PVGroup):
    """``Pcap1:``; ``NumCaptured`` is shown after the columns, so that they hold at least so many rows.

    Parameters
    ----------
    stage : Stage
    """

    def __init__(self, *args: Any, stage: Stage, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._stage = stage
        self._armed = False

    async def _put_arm(self, instance: Any, value: str) -> None:
        self._armed = value == "Arm"
        if self._armed:
            self._stage.clear_captured()
            await self.captured.write(0)

    async def _follow(self, instance: Any, async_lib: Any) -> None:
        while True:
            if self._armed:
                rows = self._stage.captured_um()
                if len(rows) != self.captured.value:
                    await self.y.write(rows[:, 0])
                    await self.x.write(rows[:, 1])
                    await self.captured.write(len(rows))
            await async_lib.library.sleep(TICK_S)

    arm: Any = make_record(
        value="Disarm", enum_strings=["Disarm", "Arm"], dtype=ENUM, name="Arm", put=_put_arm, startup=_follow
    )
    captured = pvproperty(value=0, name="NumCaptured")
    y = pvproperty(value=[0.0], dtype=DOUBLE, max_length=MAX_POINTS, name="Y")
    x = pvproperty(value=[0.0], dtype=DOUBLE, max_length=MAX_POINTS, name="X")

"""Where the positions latched at the triggers come from: from the controller at the end, or from a table meanwhile."""

import time
from typing import Protocol

import numpy as np
from ophyd import EpicsSignalRO

from bluesky_ptychonn.devices.stage_pvs import PositionTable, ProfileMove
from bluesky_ptychonn.devices.waiting import WorkStatus, address, put_checked, run_busy

LAST_ROWS_S = 2.0


class PositionSource(Protocol):
    """Positions (y, x) latched at the triggers of a flight, in the order of the triggers."""

    streams: bool
    """Whether `so_far` grows during the flight."""
    columns: tuple[EpicsSignalRO, EpicsSignalRO]
    """Records of y and x."""

    def begin(self, most: int) -> None:
        """Forget everything; at most so many triggers will come."""
        ...

    def so_far(self) -> np.ndarray:
        """Positions (K, 2) of the first K triggers, um; K may be 0 until `finish`."""
        ...

    def finish(self, status: WorkStatus, pulses: int) -> str:
        """Get what is missing at the end of a flight of ``pulses`` triggers; what went wrong, or empty."""
        ...


class ProfileReadbacks:
    """The readbacks of a trajectory controller, which come when they are asked for after the flight."""

    streams = False

    def __init__(self, profile: ProfileMove) -> None:
        self._profile = profile
        self.columns = (profile.readbacks_y, profile.readbacks_x)
        self._most, self._rows = 0, np.empty((0, 2))

    def begin(self, most: int) -> None:
        self._most, self._rows = most, np.empty((0, 2))

    def so_far(self) -> np.ndarray:
        return self._rows

    def finish(self, status: WorkStatus, pulses: int) -> str:
        profile = self._profile
        run_busy(status, profile.readback, profile.readback_state, 10.0)
        if pulses:
            self._rows = _rows(self.columns, self._most)
        if profile.readback_status.get() == "Success":
            return ""
        return f"the controller has no positions: {profile.readback_message.get()}"


class CapturedPositions:
    """A table that grows while the stage flies."""

    streams = True

    def __init__(self, table: PositionTable) -> None:
        self._table = table
        self.columns = (table.y, table.x)
        self._most = 0

    def begin(self, most: int) -> None:
        self._most = most
        self._table.arm.put("Disarm", wait=True)
        put_checked(self._table.arm, "Arm")

    def so_far(self) -> np.ndarray:
        rows = min(int(self._table.captured.get(use_monitor=False)), self._most)  # first: the columns hold so many
        return _rows(self.columns, rows) if rows else np.empty((0, 2))

    def finish(self, status: WorkStatus, pulses: int) -> str:
        deadline = time.monotonic() + LAST_ROWS_S
        while int(self._table.captured.get(use_monitor=False)) < pulses and time.monotonic() < deadline:
            time.sleep(0.02)
        rows = int(self._table.captured.get(use_monitor=False))
        self._table.arm.put("Disarm")
        return "" if rows >= pulses else f"{address(self._table.captured)} is {rows} after {pulses} triggers"


def _rows(columns: tuple[EpicsSignalRO, EpicsSignalRO], most: int) -> np.ndarray:
    return np.stack([np.atleast_1d(column.get(use_monitor=False))[:most] for column in columns], axis=1)

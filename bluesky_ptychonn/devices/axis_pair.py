"""Any two movables as the stage of a step scan."""

import inspect
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
from bluesky.protocols import Movable
from ophyd import Component as Cpt
from ophyd import Device
from ophyd.status import Status

from bluesky_ptychonn.core.request import ScanRequest
from bluesky_ptychonn.devices.stage_pvs import StageCounters

UM_PER = {"um": 1.0, "µm": 1.0, "micron": 1.0, "microns": 1.0, "mm": 1e3, "nm": 1e-3, "m": 1e6}
"""Micrometres in one unit of an axis."""


class AxisPair(Device):
    """Two movables, of whatever kind, which together carry the sample; they stop at each point and cannot fly.

    Parameters
    ----------
    y, x : Movable
        Vertical and horizontal axis, which can also be read, such as an ``EpicsMotor``. Their ``egu`` says in what
        unit they move: um, mm, nm or m; without one it is um.
    name : str
        Ophyd name.
    limits_um : ((float, float), (float, float)), optional
        Lowest and highest position of y and of x; those of the axes if not given.

    Raises
    ------
    ValueError
        If both are the same axis; when it is used, if an axis has another unit.

    Examples
    --------
    >>> from ophyd.sim import SynAxis
    >>> stage = AxisPair(SynAxis(name="y"), SynAxis(name="x"), name="stage", limits_um=((-5, 5), (-5, 5)))
    >>> stage.set((1.0, 2.0)).wait(1)
    >>> stage.locate()["readback"]
    (1.0, 2.0)
    """

    counters = Cpt(StageCounters, "", kind="omitted")

    def __init__(
        self,
        y: Movable,
        x: Movable,
        *,
        name: str,
        limits_um: Sequence[tuple[float, float]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        if y is x:
            raise ValueError(f"{name}: y and x are the same axis, {_name(y)}")
        self.axes: tuple[Any, Any] = (y, x)
        self._limits_um = limits_um

    @property
    def _um_per(self) -> tuple[float, float]:
        """Micrometres per unit of y and of x."""
        units = [str(getattr(axis, "egu", "") or "um") for axis in self.axes]
        for axis, unit in zip(self.axes, units, strict=True):
            if unit not in UM_PER:
                raise ValueError(f"{axis.name} of {self.name} moves in {unit!r}; allowed are um, mm, nm and m")
        return UM_PER[units[0]], UM_PER[units[1]]

    @property
    def keys(self) -> tuple[str, str]:
        """Data keys of the positions of y and x."""
        y, x = (next(iter(getattr(axis, "hints", {}).get("fields", [])), axis.name) for axis in self.axes)
        return y, x

    @property
    def hints(self) -> dict[str, Any]:
        return {"fields": list(self.keys)}

    # what a plan asks before it starts

    def check(self, request: ScanRequest) -> list[str]:
        """What stands against this request; empty if nothing does. Changes nothing."""
        problems = [f"{self.name} sends no triggers and cannot fly; use fly=False"] if request.fly else []
        for index, axis in enumerate(self.axes):
            limits = self._axis_limits_um(index)
            first, last = request.positions_um[:, index].min(), request.positions_um[:, index].max()
            if limits is None:
                problems.append(
                    f"{axis.name} tells no limits; give AxisPair limits_um=((y_low, y_high), (x_low, x_high))"
                )
            elif not (limits[0] <= first and last <= limits[1]):
                problems.append(
                    f"{axis.name} would travel from {first:.3f} to {last:.3f} um; allowed is {limits[0]:g} to "
                    f"{limits[1]:g} um; move the stage or scan a smaller field"
                )
        return problems

    def _axis_limits_um(self, index: int) -> tuple[float, float] | None:
        if self._limits_um is not None:
            low, high = self._limits_um[index]
            return float(low), float(high)
        low, high = getattr(self.axes[index], "limits", None) or (0.0, 0.0)
        um = self._um_per[index]
        return (low * um, high * um) if low < high else None

    def ptycho_block(self) -> dict[str, Any]:
        """Nothing: the recipe of the positions is the request's."""
        return {}

    # a movable (y, x)

    def locate(self) -> Any:
        """Where the axes were sent to and where they are, (y, x) um."""
        ask = [axis.locate if hasattr(axis, "locate") else axis.read for axis in self.axes]

        def place(parts: list[Any]) -> dict[str, Any]:
            found = {}
            for what in ("setpoint", "readback"):
                values = [
                    part[what] if what in part else part[key]["value"]
                    for part, key in zip(parts, self.keys, strict=True)
                ]
                found[what] = tuple(float(value) * unit for value, unit in zip(values, self._um_per, strict=True))
            return found

        return _gathered([question() for question in ask], place)

    def set(self, position_um: Sequence[float]) -> Status:
        """Move to (y, x); done when both axes are, failed when one of them fails."""
        moves = list(zip(self.axes, np.divide(position_um, self._um_per).tolist(), strict=True))
        for axis, target in moves:  # before any of them moves
            if hasattr(axis, "check_value") and not inspect.iscoroutinefunction(axis.check_value):
                axis.check_value(target)
        return _joined(self, [axis.set(target) for axis, target in moves])

    def stop(self, *, success: bool = False) -> None:
        """Stop what can be stopped."""
        for axis in self.axes:
            if hasattr(axis, "stop"):
                axis.stop(success=success)

    # what a stage that flies does, and this one need not

    def stage(self) -> list[object]:
        """Nothing: the axes are as they are."""
        return [self]

    def unstage(self) -> list[object]:
        self.stop(success=True)
        return [self]

    def prepare(self, request: ScanRequest) -> Status:
        """Nothing; `check` has refused what cannot be done."""
        return _joined(self, [])

    def complete(self) -> Status:
        """Nothing: there is no flight to end."""
        return _joined(self, [])

    def refresh_counters(self) -> Status:
        """Nothing: triggers are the detector's."""
        return _joined(self, [])

    # documents

    def read(self) -> Any:
        """Positions of both axes, um."""

        def convert(parts: list[Any]) -> dict[str, Any]:
            return {
                key: {**part[key], "value": float(part[key]["value"]) * unit}
                for part, key, unit in zip(parts, self.keys, self._um_per, strict=True)
            }

        return _gathered([axis.read() for axis in self.axes], convert)

    def describe(self) -> Any:
        def convert(parts: list[Any]) -> dict[str, Any]:
            return {key: {**part[key], "units": "um"} for part, key in zip(parts, self.keys, strict=True)}

        return _gathered([axis.describe() for axis in self.axes], convert)


def _name(axis: Any) -> str:
    return getattr(axis, "name", repr(axis))


def _gathered(parts: list[Any], combine: Callable[[list[Any]], dict[str, Any]]) -> Any:
    """What both axes say as one; something to await if one of them has to be awaited."""
    if not any(inspect.isawaitable(part) for part in parts):
        return combine(parts)

    async def later() -> dict[str, Any]:
        return combine([await part if isinstance(part, Awaitable) else part for part in parts])

    return later()


def _joined(device: Device, parts: list[Any]) -> Status:
    """A status that ends when all have ended, with the failure of one if there is one."""
    whole, lock, waiting = Status(obj=device), threading.Lock(), [len(parts)]

    def ended(part: Any) -> None:
        with lock:
            waiting[0] -= 1
            last = waiting[0] == 0
        if whole.done:
            return
        if not part.success:
            whole.set_exception(part.exception(0) or RuntimeError(f"{device.name} did not move"))
        elif last:
            whole.set_finished()

    for part in parts:
        part.add_callback(ended)
    if not parts:
        whole.set_finished()
    return whole

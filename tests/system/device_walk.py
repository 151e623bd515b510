"""Asking every component of a device, and staging it again and again."""

from typing import Any

from ophyd.areadetector.base import EpicsSignalWithRBV
from ophyd.signal import EpicsSignalBase

from bluesky_ptychonn.devices.waiting import same

COUNTS = ("array_counter", "write_data")


def every_signal(device: Any) -> list[Any]:
    """All signals of a device and of its parts, the lazy ones too."""
    found = []
    for name in device.component_names:
        part = getattr(device, name)
        found += every_signal(part) if hasattr(part, "component_names") else [part]
    return found


def silent(device: Any) -> list[str]:
    """PVs that do not answer."""
    names = []
    for signal in every_signal(device):
        if isinstance(signal, EpicsSignalBase):
            try:
                signal.wait_for_connection(timeout=5)
                signal.get(timeout=5, use_monitor=False)
            except Exception as error:
                names.append(f"{signal.pvname}: {error}")
    return names


def settings_of(device: Any) -> dict[str, Any]:
    """What the IOC shows of everything that can be set, counters apart."""
    return {
        signal.name: signal.get(use_monitor=False)
        for signal in every_signal(device)
        if isinstance(signal, EpicsSignalWithRBV) and not signal.attr_name.endswith(COUNTS)
    }


def alike(one: Any, other: Any) -> bool:
    """Whether two readings agree, rounding of the IOC apart."""
    return same(one, other) if isinstance(other, (int, float, str)) else str(one) == str(other)


def changed_by_staging(device: Any, request: Any) -> dict[str, Any]:
    """Settings that are not as before after two stagings, the second with a prepared request."""
    before = settings_of(device)
    device.stage()
    device.unstage()
    device.stage()
    device.prepare(request).wait(30)
    device.unstage()
    after = settings_of(device)
    return {name: (value, after[name]) for name, value in before.items() if not alike(after[name], value)}

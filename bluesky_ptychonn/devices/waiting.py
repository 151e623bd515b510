"""Patience with an end: checked writes, bounded waits, and work in the background that reports its progress."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from ophyd import Device, Signal, get_cl
from ophyd.signal import ConnectionTimeoutError, ReadTimeoutError
from ophyd.status import DeviceStatus
from ophyd.utils import DisconnectedError

logger = logging.getLogger(__name__)


def wait_until(
    condition: Callable[[], bool], timeout_s: float, complaint: Callable[[], str], poll_s: float = 0.02
) -> None:
    """Poll a condition; raise `TimeoutError` with the complaint when it does not come true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{complaint()} (waited {timeout_s:g} s)")
        time.sleep(poll_s)


def same(read: Any, wanted: Any) -> bool:
    """Whether a readback shows what was written; floats may differ by 1 part in 10,000 or by 1e-9."""
    if isinstance(wanted, str):
        return str(read).rstrip("/") == wanted.rstrip("/")
    if isinstance(wanted, (int, bool)):
        return float(read) == int(wanted)
    return bool(np.isclose(float(read), float(wanted), rtol=1e-4, atol=1e-9))


def address(signal: Signal) -> str:
    """The PV of a signal, or its name."""
    return getattr(signal, "setpoint_pvname", None) or getattr(signal, "pvname", None) or signal.name


def put_checked(signal: Signal, value: Any, timeout_s: float = 3.0) -> None:
    """Write a value and wait until the readback shows it.

    Raises
    ------
    TimeoutError
        If the PV does not answer, or keeps another value; the message names both.
    """
    signal.put(value)
    seen: list[Any] = [None]

    def shown() -> bool:
        seen[0] = signal.get()
        return same(seen[0], value)

    wait_until(
        shown,
        timeout_s,
        lambda: (
            f"{address(signal)} was set to {value!r} but reads {seen[0]!r}; the IOC refuses it, "
            "or another client writes it too"
        ),
    )


def run_busy(status: "WorkStatus", command: Signal, state: Signal, timeout_s: float) -> None:
    """Set a busy record, such as Build, and wait until it is done and its state says so, or the work is stopped.

    Raises
    ------
    TimeoutError
        If it does not end in time, or its IOC is lost.
    """
    taken = threading.Event()
    command.put(1, use_complete=True, callback=lambda **_: taken.set())
    wait_until(
        lambda: status.stopped.is_set() or (taken.is_set() and state.get() == "Done") or not state.connected,
        timeout_s,
        lambda: f"{address(command)} does not end: {address(state)} is {state.get()}",
    )
    if not state.connected:
        raise TimeoutError(f"{address(state)} was lost; is the stage's IOC running?")


def answers(signal: Callable[[], Signal], timeout_s: float = 0.5) -> bool:
    """Whether a PV answers now; the signal is given as a function because a lazy one connects when it is named.

    A lost connection is known at once; a busy IOC gets more time.
    """
    try:
        signal().get(timeout=4 * timeout_s, connection_timeout=timeout_s, use_monitor=False)
    except Exception as error:  # Channel Access, ophyd and its monitors have a class each for silence
        logger.info("no answer: %s", error)
        return False
    return True


class WorkStatus(DeviceStatus):
    """Status of work in the background, which can be asked to stop and which shows its progress.

    Parameters
    ----------
    device : Device
        Whose work it is.
    label : str
        What a progress bar calls it.
    """

    def __init__(self, device: Device, label: str) -> None:
        self.stopped = threading.Event()
        self._label = label
        self._began = time.monotonic()
        self._latest: dict[str, Any] = {}
        super().__init__(device, call_stop_on_failure=False)

    def report(self, current: float, target: float, unit: str) -> None:
        """Tell the watchers how far the work is."""
        self._latest = {
            "name": self._label,
            "current": current,
            "initial": 0,
            "target": target,
            "unit": unit,
            "precision": 0,
            "fraction": 1 - current / target if target else 0.0,
            "time_elapsed": time.monotonic() - self._began,
        }
        for watcher in list(self._watchers):
            watcher(**self._latest)

    def watch(self, func: Callable[..., Any]) -> None:
        self._watchers.append(func)
        func(**(self._latest or {"name": self._label}))

    def _settled(self) -> None:
        for watcher in list(self._watchers):
            watcher(**(self._latest or {"name": self._label}))


def _understandable(error: Exception, what: str) -> Exception:
    """A lost connection in words, whichever of the Channel Access layers noticed it."""
    from epics.ca import ChannelAccessException, ChannelAccessGetFailure

    lost_kinds = (
        ChannelAccessException,
        ChannelAccessGetFailure,
        ConnectionTimeoutError,
        ReadTimeoutError,
        DisconnectedError,
    )
    if not isinstance(error, lost_kinds):
        return error
    lost = TimeoutError(f"{what}: the connection to its IOC was lost, or it does not answer ({error})")
    lost.__cause__ = error
    return lost


def in_background(device: Device, label: str, work: Callable[[WorkStatus], None]) -> WorkStatus:
    """Run blocking work in a thread; its end is the status's end, its exception the status's failure.

    Work which was asked to stop ends without failure, whatever it stumbles over on its way.
    """
    status = WorkStatus(device, label)

    def run() -> None:
        try:
            work(status)
        except Exception as error:
            if status.stopped.is_set():
                logger.info("%s of %s ended early: %s", label, device.name, error)
                status.set_finished()
            else:
                status.set_exception(_understandable(error, f"{device.name} ({label})"))
        else:
            status.set_finished()

    thread_class = get_cl().thread_class
    thread = thread_class(target=run, name=f"{device.name} {label}")
    thread.daemon = True
    thread.start()
    return status

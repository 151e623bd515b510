"""What keeps a scan safe when it is interrupted: pauses, retries, values that belong to no device."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from bluesky import plan_stubs as bps
from bluesky.protocols import Stoppable
from bluesky.utils import FailedStatus, Msg, MsgGenerator, NoReplayAllowed, RunEngineControlException

logger = logging.getLogger(__name__)


class PausedInFlight(Exception):  # noqa: N818
    """A fly scan was paused; what it measured is kept, and it begins anew when it is resumed."""


class PauseGuard:
    """Makes ``RE.pause`` safe: nothing is replayed, and what must not wait is stopped at once.

    The RunEngine calls `pause` because the guard is the object of a message of the plan.

    Parameters
    ----------
    on_pause : callable, optional
        Stops what must not go on while the RunEngine is paused; must not block.
    """

    name = "pause_guard"
    parent = None

    def __init__(self, on_pause: Callable[[], None] | None = None) -> None:
        self._on_pause = on_pause
        self.paused = False

    def watch(self) -> MsgGenerator[None]:
        """Make the guard known to the RunEngine."""
        yield Msg("null", self)

    def pause(self) -> None:
        """Called by the RunEngine when it pauses or suspends."""
        self.paused = True
        if self._on_pause is not None:
            self._on_pause()
        raise NoReplayAllowed("a scan with a running detector cannot be wound back")

    def resume(self) -> None:
        """Called by the RunEngine; the plan sees `paused` and decides."""

    def wait(self, group: str, timeout: float | None = None) -> MsgGenerator[None]:
        """Wait for a group; an interruption by a pause raises `PausedInFlight` after the resume."""
        yield from bps.wait(group, timeout=timeout)
        if self.paused:
            raise PausedInFlight("paused or suspended during a fly scan")

    def wait_some(self, group: str, period_s: float) -> MsgGenerator[bool]:
        """Wait for a group, for a while at most; whether it is done. Raises as `wait` does."""
        done = yield from bps.wait(group, timeout=period_s, error_on_timeout=False)
        if self.paused:
            raise PausedInFlight("paused or suspended during a fly scan")
        return bool(done)

    def insist(self, step: Callable[[], MsgGenerator[Any]]) -> MsgGenerator[Any]:
        """Do a step again if a pause has cut it short."""
        while True:
            self.paused = False
            result = yield from step()
            if not self.paused:
                return result


def attempt(what: str, step: Callable[[], MsgGenerator[Any]]) -> MsgGenerator[Any]:
    """Do one step of a clean-up; its failure is told and does not keep the next steps from happening.

    A failure that arrives late from something else is thrown into whatever the plan does at that moment; the step is
    then done again, once.
    """
    for last in (False, True):
        try:
            return (yield from step())
        except RunEngineControlException:
            raise
        except FailedStatus as failure:
            if last:
                logger.error("%s failed: %s", what, reason_of(failure))
        except Exception as error:
            logger.error("%s failed: %s", what, error)
            return None
    return None


def stop_all(devices: list[Any]) -> MsgGenerator[None]:
    """Stop what can be stopped."""
    for device in devices:
        if isinstance(device, Stoppable):
            yield from attempt(f"stopping {device.name}", lambda device=device: bps.stop(device))  # type: ignore[attr-defined]


def reason_of(error: BaseException) -> str:
    """What a person should read: the device's message, not that of the status which carried it."""
    if isinstance(error, RunEngineControlException):
        exit_status = getattr(error, "exit_status", "")
        return {"abort": "aborted by the user", "success": "stopped by the user"}.get(exit_status, str(error))
    cause = error.__cause__ if isinstance(error, FailedStatus) and error.__cause__ else error
    text = str(cause) or type(cause).__name__
    return f"{text}; is its IOC running?" if isinstance(cause, TimeoutError) and "connect" in text else text


class Note:
    """Values of the plan itself, readable like a device.

    Parameters
    ----------
    name : str
        Name of the object; the data keys are those of ``values``.
    values : mapping
        Numbers and strings, one per data key; may be changed between readings.
    """

    parent = None

    def __init__(self, name: str, values: Mapping[str, int | float | str]) -> None:
        self.name = name
        self.values = dict(values)

    def read(self) -> dict[str, Any]:
        now = time.time()
        return {key: {"value": value, "timestamp": now} for key, value in self.values.items()}

    def describe(self) -> dict[str, Any]:
        kinds = {str: "string", int: "integer", float: "number"}
        return {
            key: {"source": f"plan:{self.name}", "dtype": kinds[type(value)], "shape": []}
            for key, value in self.values.items()
        }

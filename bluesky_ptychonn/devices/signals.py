"""Ophyd signals that ophyd does not have: values kept here, and fields of PVA channels."""

import time
from collections.abc import Callable
from typing import Any

from ophyd import Signal
from ophyd.utils import ReadOnlyError

from bluesky_ptychonn.io.pva import PvaChannel


class Setting(Signal):
    """A value kept here, not in an IOC, which the profile or a plan sets."""

    def get(self, **kwargs: Any) -> Any:
        return super().get(**kwargs)


class PvaSignal(Signal):
    """One field of a PVA channel as an Ophyd signal.

    ``get`` and ``put`` raise `TimeoutError` when the server does not answer, as those of an ``EpicsSignal`` do.

    Parameters
    ----------
    channel : str
        Channel name; a device's component gives it behind the device's prefix.
    field : str
        Field of the structure; empty for the whole structure as a dictionary.
    timeout_s : float
        Longest time of a get or put, connection included.
    read_only : bool
        Whether ``put`` is refused.
    """

    def __init__(
        self, channel: str, *, field: str = "", timeout_s: float = 2.0, read_only: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.channel = channel
        self.field = field
        self._read_only = read_only
        self._timeout_s = timeout_s
        self._pva: PvaChannel | None = None
        self._monitored = False

    def _open(self) -> PvaChannel:
        if self._pva is None:
            self._pva = PvaChannel(self.channel, self._timeout_s)
        return self._pva

    @property
    def connected(self) -> bool:
        return self._pva is not None and self._pva.connected

    @property
    def source_name(self) -> str:
        return f"PVA:{self.channel}"

    def describe(self) -> dict[str, Any]:
        return {self.name: {**super().describe()[self.name], "source": self.source_name}}

    def wait_for_connection(self, timeout: float = 0.0) -> None:
        """Ask the channel once."""
        self.get()

    def get(self, **kwargs: Any) -> Any:
        """Ask the server for the present value."""
        answer = self._open().get(self.field)
        self._readback = answer[self.field] if self.field else answer
        self._metadata["timestamp"] = time.time()
        return self._readback

    def put(self, value: Any, **kwargs: Any) -> None:
        """Write the field, or several fields of the structure from a dictionary."""
        if self._read_only:
            raise ReadOnlyError(f"{self.channel} is read only")
        self._open().put({self.field: value} if self.field else value)
        super().put(value, force=True)

    def subscribe(self, callback: Callable[..., Any], event_type: str | None = None, run: bool = True) -> int:
        """Subscribe as to any signal; the first subscription opens a monitor."""
        if event_type in (None, self.SUB_VALUE) and not self._monitored:
            self._monitored = True
            self._open().monitor(self._updated, queue_size=100, field=self.field)
        return super().subscribe(callback, event_type=event_type, run=run)

    def _updated(self, pv_object: Any) -> None:
        answer = pv_object.toDict()
        value = answer[self.field] if self.field else answer
        old, self._readback = self._readback, value
        self._run_subs(sub_type=self.SUB_VALUE, old_value=old, value=value, timestamp=time.time())

    def destroy(self) -> None:
        if self._pva is not None:
            self._pva.close()
        super().destroy()

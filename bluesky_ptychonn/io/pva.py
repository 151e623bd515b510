"""pvAccess with a deadline: the one bridge of this package to PVA channels.

pvapy's own ``Channel.get`` waits for ever on a server that hangs; its timeout covers the connection only. Here every
request has one deadline, and a lost server is a `TimeoutError`.
"""

import ctypes
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

_NUMPY_TYPES = {
    "BOOLEAN": "?",
    "BYTE": "i1",
    "UBYTE": "u1",
    "SHORT": "i2",
    "USHORT": "u2",
    "INT": "i4",
    "UINT": "u4",
    "LONG": "i8",
    "ULONG": "u8",
    "FLOAT": "f4",
    "DOUBLE": "f8",
}

_idle: dict[str, list[Any]] = {}
"""Channels nobody uses. pvapy takes a second to destroy one that has asked anything, and stops every thread for it."""
_idle_lock = threading.Lock()


def _retire(name: str, channel: Any) -> None:
    with _idle_lock:
        _idle.setdefault(name, []).append(channel)


def as_pva(kind: Any, value: Any) -> Any:
    """Convert one value to what pvapy takes for a field of this kind.

    pvapy refuses numpy scalars and arrays of a neighbouring type, and reads a strided array as if it were contiguous.

    Parameters
    ----------
    kind : pvaccess.ScalarType, or list of one
        Type of the field, as in a pvapy structure; other kinds pass unchanged.
    value : object
        Python or numpy value.

    Raises
    ------
    ValueError
        If the value does not fit the type, such as 1.5 for an integer field.
    """
    if isinstance(kind, list) and hasattr(kind[0], "name"):
        if kind[0].name == "STRING":
            return [str(item) for item in value]
        given = np.asarray(value)
        array = np.ascontiguousarray(given, dtype=_NUMPY_TYPES[kind[0].name]).ravel()
        if array.dtype.kind in "iu" and given.size and not np.array_equal(array, given.ravel()):
            raise ValueError(f"{value!r} does not fit {kind[0].name} elements")
        return array
    name = getattr(kind, "name", None)
    if name is None:
        return value
    if name == "STRING":
        return str(value)
    number = _NUMPY_TYPES[name]
    if number == "?":
        return bool(value)
    if number[0] == "f":
        return float(value)
    if int(value) != value or not np.iinfo(number).min <= int(value) <= np.iinfo(number).max:
        raise ValueError(f"{value!r} does not fit {name}")
    return int(value)


def fill(pv_object: Any, structure: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
    """Set top-level fields of a PvObject from Python or numpy values; returns the object.

    Raises
    ------
    ValueError
        If a field is unknown or a value does not fit; the message names the field.
    """
    for field, value in values.items():
        if field not in structure:
            raise ValueError(f"there is no field {field!r}; the fields are {sorted(structure)}")
        try:
            pv_object[field] = as_pva(structure[field], value)
        except Exception as error:
            raise ValueError(f"field {field!r}: {error}") from error
    return pv_object


class PvaChannel:
    """A PVA channel whose requests end in time.

    Parameters
    ----------
    name : str
        Channel name, such as ``"ptychonn:stats"``.
    timeout_s : float
        Longest time a `get` or `put` takes, connection included.
    """

    def __init__(self, name: str, timeout_s: float = 2.0) -> None:
        self.name = name
        self.timeout_s = timeout_s
        self._channel: Any = None
        self._was_connected = False
        self._monitor: Any = None

    def _open(self) -> Any:
        import pvaccess

        with _idle_lock:
            idle = _idle.get(self.name, [])
            channel = next((channel for channel in idle if channel.isConnected()), None)
            if channel is not None:
                idle.remove(channel)
        if channel is None:
            channel = pvaccess.Channel(self.name)
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(channel))  # never destroyed, not even at the exit
        channel.setTimeout(self.timeout_s)
        self._was_connected = False
        weakref.finalize(self, _retire, self.name, channel).atexit = False
        return channel

    def get(self, field: str = "") -> dict[str, Any]:
        """Read the channel, or some of its fields (``"value,timeStamp"``), as a dictionary.

        Raises
        ------
        TimeoutError
            If there is no answer within ``timeout_s``.
        """
        return self._ask("get", f"field({field})").toDict()

    def put(self, values: Mapping[str, Any]) -> None:
        """Write these fields; the others keep their values.

        Raises
        ------
        TimeoutError
            If there is no answer within ``timeout_s``.
        ValueError
            If the channel has no such field or a value does not fit it.
        """
        import pvaccess

        structure = self._ask("get", "field()").getStructureDict()
        unknown = sorted(set(values) - set(structure))
        if unknown or not values:
            raise ValueError(
                f"{unknown} are not fields of PVA channel {self.name!r}; its fields are {sorted(structure)}"
            )
        structure = {field: structure[field] for field in values}
        self._ask("put", "field()", fill(pvaccess.PvObject(structure), structure, values))

    def monitor(
        self,
        callback: Callable[[Any], None],
        queue_size: int = 1000,
        field: str = "",
        on_connection: Callable[[bool], None] | None = None,
    ) -> None:
        """Call back with a PvObject at every update, from a PVA thread; survives restarts of the server.

        The server need not be there yet. The first update, and the first after each reconnection, is the present value:
        an empty one, or the last of an earlier run. Do not keep the PvObject; its arrays may be kept.
        """
        import pvaccess

        self.close()
        self._monitor = pvaccess.Channel(self.name)  # of its own: nothing queued for an earlier one can come
        if on_connection is not None:
            self._monitor.setConnectionCallback(on_connection)
        self._monitor.monitor(callback, f"record[queueSize={queue_size}]field({field})")

    @property
    def connected(self) -> bool:
        """Whether the server answers, as far as is known without asking."""
        channel = self._monitor or self._channel
        return channel is not None and bool(channel.isConnected())

    @property
    def overruns(self) -> int:
        """Events in which the monitor's queue was too short; one event may hide several updates."""
        return int(self._monitor.getMonitorCounters().get("nOverruns", 0)) if self._monitor is not None else 0

    def close(self) -> None:
        """End the monitor; the channel may be used again."""
        monitor, self._monitor = self._monitor, None
        if monitor is not None:
            monitor.stopMonitor()

    def _ask(self, what: str, descriptor: str, *message: Any) -> Any:
        if self._channel is None or (self._was_connected and not self._channel.isConnected()):
            self._channel = self._open()  # one that lost its server comes back late, a fresh one at once
        self._was_connected |= self._channel.isConnected()
        request = self._channel.asyncPut if message else self._channel.asyncGet
        answered = threading.Event()
        answers: list[Any] = []
        errors: list[str] = []

        def answer(pv_object: Any) -> None:
            answers.append(pv_object)
            answered.set()

        def error(message: str) -> None:
            errors.append(message)
            answered.set()

        try:
            request(*message, answer, error, descriptor)
        except Exception as failure:  # pvapy raises its own classes
            raise TimeoutError(f"{what} of PVA channel {self.name!r} failed: {failure}") from failure
        if not answered.wait(
            self.timeout_s + 0.2
        ):  # pvapy's own timeout covers the connection; a hung server says nothing
            raise TimeoutError(
                f"PVA channel {self.name!r} is connected but did not answer {what} in {self.timeout_s:g} s"
            )
        if errors:
            raise TimeoutError(
                f"{what} of PVA channel {self.name!r} got no answer in {self.timeout_s:g} s ({errors[0]}); "
                "is its server running, and does EPICS_PVA_ADDR_LIST reach it?"
            )
        return answers[0]

"""pvAccess with a deadline: the one bridge of this package to PVA channels.

pvapy's own ``Channel.get`` waits for ever on a server that hangs; its timeout covers the connection only. Here every
request has one deadline, and a lost server is a `TimeoutError`.
"""

import weakref
from collections.abc import Callable, Mapping
from typing import Any

from bluesky_ptychonn.io.pva_links import Link, Monitor
from bluesky_ptychonn.io.pva_values import fill


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
        self._link: Link | None = None
        self._monitor: Monitor | None = None

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
        self.close()
        self._monitor = Monitor(self.name, callback, f"record[queueSize={queue_size}]field({field})", on_connection)

    @property
    def connected(self) -> bool:
        """Whether the server answers, as far as is known without asking."""
        used = self._monitor or self._link
        return used is not None and bool(used.channel.isConnected())

    @property
    def overruns(self) -> int:
        """Events in which the monitor's queue was too short; one event may hide several updates."""
        monitor = self._monitor
        return int(monitor.channel.getMonitorCounters().get("nOverruns", 0)) if monitor is not None else 0

    def close(self) -> None:
        """End the monitor; the channel may be used again."""
        monitor, self._monitor = self._monitor, None
        if monitor is not None:
            monitor.close()

    def _ask(self, what: str, descriptor: str, *message: Any) -> Any:
        link = self._link
        if link is None or link.lost:
            link = self._link = Link.take(self.name)
            weakref.finalize(self, link.give_back).atexit = False
        try:
            answer = link.ask(descriptor, self.timeout_s, *message)
        except Exception as failure:  # pvapy raises its own classes
            raise TimeoutError(f"{what} of PVA channel {self.name!r} failed: {failure}") from failure
        if answer is None:
            raise TimeoutError(
                f"PVA channel {self.name!r} is connected but did not answer {what} in {self.timeout_s:g} s"
            )
        if isinstance(answer, str):
            raise TimeoutError(
                f"{what} of PVA channel {self.name!r} got no answer in {self.timeout_s:g} s ({answer}); "
                "is its server running, and does EPICS_PVA_ADDR_LIST reach it?"
            )
        return answer

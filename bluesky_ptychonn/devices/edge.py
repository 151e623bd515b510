"""The edge computer as an Ophyd device: armed before the first trigger, asked for its account at the end."""

import time
from collections.abc import Callable
from typing import Any

from ophyd import Component as Cpt
from ophyd import Device, Kind

from bluesky_ptychonn.devices.signals import PvaSignal, Setting
from bluesky_ptychonn.devices.waiting import WorkStatus, in_background
from bluesky_ptychonn.io.edge_channels import STATS, blank

UNKNOWN = -1
ABSENT: dict[str, Any] = {
    name: UNKNOWN if name.startswith("frames_") else value
    for name, value in blank(STATS).items()
    if not isinstance(value, list)
} | {"state": "absent", "account": "open"}
"""What is recorded of an edge that does not answer."""


class Edge(Device):
    """The streaming service, seen from the RunEngine.

    A flyer: ``prepare(run_uid)`` names the run, ``kickoff`` is done when the edge is armed for it, ``complete`` when
    its final image is published. An edge that is down or late fails nothing: a warning, and ``arming`` says so.

    Parameters
    ----------
    prefix : str
        Prefix of the edge's channels, such as ``"ptychonn:"``.
    """

    stats = Cpt(PvaSignal, "stats", kind=Kind.omitted)
    arm_timeout_s = Cpt(Setting, value=2.0, kind="config", doc="how long a scan waits for the edge before it starts")
    final_timeout_s = Cpt(Setting, value=10.0, kind="config", doc="how long a scan waits for the final image")
    arming = Cpt(Setting, value="absent", kind="normal", doc="armed or absent in the present run")
    finishing = Cpt(Setting, value="absent", kind="normal", doc="final or absent in the present run")

    def __init__(self, prefix: str = "", *, name: str, **kwargs: Any) -> None:
        super().__init__(prefix, name=name, **kwargs)
        self._run_uid = ""
        self._seen = dict(ABSENT)
        self._seen_at = time.time()
        self._work: WorkStatus | None = None

    def wait_for_connection(self, all_signals: bool = False, timeout: float = 2.0) -> None:
        """Ask the edge once; it connects when it is asked.

        Raises
        ------
        TimeoutError
            If it does not answer.
        """
        self.stats.wait_for_connection()

    def check(self, request: Any) -> list[str]:
        """Nothing: a scan without the edge is still a scan."""
        return []

    def ptycho_block(self) -> dict[str, Any]:
        """Model behind the live image, for the start document."""
        try:
            stats = self.stats.get()
        except TimeoutError:
            return {"model_version": "", "edge": "absent"}
        return {"model_version": str(stats.get("model_version", "")), "edge": self.prefix}

    def prepare(self, run_uid: str) -> WorkStatus:
        """Name the run that `kickoff` and `complete` wait for."""
        self._run_uid = run_uid
        self.arming.put("absent")
        self.finishing.put("absent")
        return self._begin("prepare", lambda status: None)

    def kickoff(self) -> WorkStatus:
        """Done when the edge is armed for the run, or has not answered in time."""
        return self._begin(
            "edge armed", lambda status: self._await(status, "armed_uid", self.arming, "armed", self.arm_timeout_s)
        )

    def complete(self) -> WorkStatus:
        """Done when the edge has published the final image of the run, or has not in time."""
        if self.arming.get() != "armed":
            return self._begin("final image", lambda status: None)
        return self._begin(
            "final image",
            lambda status: self._await(status, "final_uid", self.finishing, "final", self.final_timeout_s),
        )

    def _await(self, status: WorkStatus, field: str, signal: Setting, word: str, patience: Setting) -> None:
        began, message = time.monotonic(), "it does not answer"
        while not status.stopped.is_set():
            try:
                stats = self.stats.get()
            except TimeoutError:
                stats = {}
            if stats.get(field) == self._run_uid:
                signal.put(word)
                return
            if stats:
                message = f"state {stats.get('state')!r}, {stats.get('message') or 'no message'}"
            if time.monotonic() - began > patience.get():
                self.log.warning(
                    "edge %s is not %s for this run after %g s: %s; the scan goes on and is recorded",
                    self.prefix,
                    word,
                    patience.get(),
                    message,
                )
                return
            time.sleep(0.02)

    def stop(self, *, success: bool = False) -> None:
        """Wait no longer."""
        if self._work is not None:
            self._work.stopped.set()

    def trigger(self) -> WorkStatus:
        """Ask for the stats, which `read` then returns; an edge that does not answer reads as absent."""
        return self._begin("edge", lambda status: self._ask())

    def _ask(self) -> None:
        try:
            stats = {key: value for key, value in self.stats.get().items() if key in ABSENT}
        except TimeoutError as error:
            stats = {"message": str(error)}
        if stats.get("run_uid", self._run_uid) != self._run_uid:  # its figures are of another run
            stats = {key: stats[key] for key in ("state", "message") if key in stats}
        self._seen = ABSENT | stats
        self._seen_at = time.time()

    def read(self) -> Any:
        """Stats as of the last ``trigger``."""
        own = {f"{self.name}_{key}": {"value": value, "timestamp": self._seen_at} for key, value in self._seen.items()}
        return {**super().read(), **own}

    def describe(self) -> Any:
        kinds = {str: "string", int: "integer", float: "number"}
        own = {
            f"{self.name}_{key}": {"source": f"PVA:{self.prefix}stats", "dtype": kinds[type(value)], "shape": []}
            for key, value in ABSENT.items()
        }
        return {**super().describe(), **own}

    def _begin(self, label: str, work: Callable[[WorkStatus], None]) -> WorkStatus:
        self._work = in_background(self, label, work)
        return self._work

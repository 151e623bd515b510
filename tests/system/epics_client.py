"""A client in a process of its own, so that each beamline of a test session has its own EPICS environment."""

import multiprocessing
import os
import time
from typing import Any


class EpicsClient:
    """Channel Access and PVA client of one beamline.

    Parameters
    ----------
    env : dict
        EPICS environment.
    """

    def __init__(self, env: dict[str, str]) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        before = dict(os.environ)
        os.environ.update(env)
        try:
            self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
            self._process.start()
        finally:
            os.environ.clear()
            os.environ.update(before)

    def get(self, name: str, as_string: bool = False) -> Any:
        return self._call("get", name, as_string)

    def put(self, name: str, value: Any, wait: bool = True) -> None:
        self._call("put", name, value, wait)

    def watch(self) -> None:
        """Start to collect frames."""
        self._call("watch")

    def frames(self, count: int = 0, timeout_s: float = 20) -> list[dict[str, Any]]:
        """Frames collected since the last call, once there are ``count``."""
        return self._call("frames", count, timeout_s)

    def until(self, name: str, value: Any, timeout_s: float = 20) -> None:
        """Wait until a record has a value."""
        end_s = time.monotonic() + timeout_s
        while (now := self.get(name)) != value:
            if time.monotonic() > end_s:
                raise TimeoutError(f"{name} is {now!r}, not {value!r}, after {timeout_s} s")
            time.sleep(0.02)

    def close(self) -> None:
        self._connection.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()

    def _call(self, name: str, *arguments: Any) -> Any:
        self._connection.send((name, arguments))
        result = self._connection.recv()
        if isinstance(result, Exception):
            raise result
        return result


class _Server:
    def __init__(self) -> None:
        self._received: list[dict[str, Any]] = []
        self._channel = None

    def get(self, name: str, as_string: bool) -> Any:
        import epics

        record = epics.get_pv(name)
        record.wait_for_connection(timeout=30)  # libca searches for a lost one after 10 s
        value = record.get(as_string=as_string, use_monitor=False, timeout=10)
        if value is None:
            raise TimeoutError(f"{name} does not answer")
        return value

    def put(self, name: str, value: Any, wait: bool) -> None:
        import epics

        record = epics.get_pv(name)
        record.wait_for_connection(timeout=30)
        if record.put(value, wait=wait, timeout=60) != 1:
            raise TimeoutError(f"{name} does not take {value!r}")

    def watch(self) -> None:
        import pvaccess

        if self._channel is None:
            self._channel = pvaccess.Channel("SIM:EIG:Pva1:Image")
            self._channel.monitor(self._on_frame, "record[queueSize=1000]field()")
        time.sleep(0.3)  # the first, stale update
        self._received.clear()

    def _on_frame(self, update: Any) -> None:
        union = update["value"][0]
        if not union:
            return
        stamp = update["timeStamp"]
        width, height = (dimension["size"] for dimension in update["dimension"])
        self._received.append(
            {
                "unique_id": update["uniqueId"],
                "time_s": stamp["secondsPastEpoch"] + 1e-9 * stamp["nanoseconds"],
                "data": union["ushortValue"].reshape(height, width),
            }
        )

    def frames(self, count: int, timeout_s: float) -> list[dict[str, Any]]:
        end_s = time.monotonic() + timeout_s
        while len(self._received) < count:
            if time.monotonic() > end_s:
                raise TimeoutError(f"{len(self._received)} of {count} frames after {timeout_s} s")
            time.sleep(0.02)
        taken = list(self._received)
        self._received.clear()
        return taken


def _serve(connection: Any) -> None:
    server = _Server()
    while True:
        try:
            name, arguments = connection.recv()
        except (EOFError, OSError):
            os._exit(0)
        try:
            result = getattr(server, name)(*arguments)
        except Exception as error:
            result = error
        connection.send(result)

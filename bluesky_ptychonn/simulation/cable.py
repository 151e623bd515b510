"""The cable from the stage to the detector: JSON lines through a named pipe.

``{"at": [y, x]}`` when the stage has moved, ``{"trajectory": FILE}`` when a trajectory was built and
``{"pulse": i, "t": s}`` per trigger pulse. As with a cable, nobody waits for whoever is not plugged in.
"""

import json
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FIFO_NAME = "beam.fifo"


def _pipe(directory: Path) -> Path:
    path = directory / FIFO_NAME
    try:
        os.mkfifo(path)
    except FileExistsError:
        if not stat.S_ISFIFO(path.stat().st_mode):
            raise ValueError(f"{path} is no named pipe; remove it") from None
    return path


class CableOut:
    """The stage's end; a message to nobody is lost.

    Parameters
    ----------
    directory : Path
        State directory of the beamline.
    """

    def __init__(self, directory: Path) -> None:
        self._path = _pipe(directory)
        self._fd: int | None = None
        self._lock = threading.Lock()

    def send(self, **message: Any) -> bool:
        """Send one message; False if nobody listens or the pipe is full."""
        line = json.dumps(message).encode() + b"\n"
        with self._lock:
            for _ in range(2):
                try:
                    if self._fd is None:
                        self._fd = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)
                    return os.write(self._fd, line) == len(line)
                except BlockingIOError:
                    return False
                except OSError:  # nobody has the other end, or not any more
                    self._unplug()
            return False

    def close(self) -> None:
        """Unplug."""
        with self._lock:
            self._unplug()

    def _unplug(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class CableIn:
    """The detector's end.

    Parameters
    ----------
    directory : Path
        State directory of the beamline.
    """

    def __init__(self, directory: Path) -> None:
        # Open for writing too: the pipe then never ends when the stage goes away.
        self._fd = os.open(_pipe(directory), os.O_RDWR | os.O_NONBLOCK)
        self._drain()
        os.set_blocking(self._fd, True)

    def _drain(self) -> None:
        try:
            while os.read(self._fd, 65536):
                pass
        except BlockingIOError:
            return

    def messages(self) -> Iterator[dict[str, Any]]:
        """Wait for messages, for ever; what is not JSON is skipped."""
        rest = b""
        while True:
            *lines, rest = (rest + os.read(self._fd, 65536)).split(b"\n")
            for line in lines:
                try:
                    message = json.loads(line)
                except ValueError:
                    continue
                if isinstance(message, dict):
                    yield message

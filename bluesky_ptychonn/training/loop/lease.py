"""One process at a time works in a folder, also where its disk is shared by several machines.

Two things hold a folder. A lock of the system (`flock`) is let go by a kill at once, but not every shared file system
carries it to other machines. So the holder also writes a lease, and rewrites it every few seconds. A lease of this
machine is as good as the lock. One of another machine is watched: a holder that lives is seen to write; of one that
does not, the lease is taken over. No clock is compared with another.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bluesky_ptychonn.io.durable import replace_file

LOCK, LEASE = "lock", "lease.json"
BEAT_S = 5.0
WATCHED_S = 30.0
"""How long the lease of another machine is watched: file systems may show a change that much later."""
NO_LOCKS = (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL)
"""What a file system says that has no locks."""


class Lease:
    """What the holder of a folder has."""

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name

    def is_mine(self) -> bool:
        """Whether no other machine has taken the folder over, as after a long silence of this one."""
        return _read(self._path).get("name") == self._name


@contextlib.contextmanager
def held(directory: Path, *, beat_s: float = BEAT_S, watched_s: float = WATCHED_S) -> Iterator[Lease | None]:
    """Hold a folder within the context.

    Parameters
    ----------
    directory : Path
    beat_s : float
        Between two signs of life, s.
    watched_s : float
        How long another machine's lease is watched for one, s.

    Yields
    ------
    Lease or None
        None if another process holds it.

    Raises
    ------
    OSError
        If the lease cannot be written.
    """
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(open(directory / LOCK, "wb"))
        if not _locked(lock) or _lives_elsewhere(directory / LEASE, watched_s):
            yield None
            return
        name, host, stop = uuid.uuid4().hex, socket.gethostname(), threading.Event()
        path = directory / LEASE

        def write(number: int) -> None:
            replace_file(path, json.dumps({"host": host, "pid": os.getpid(), "name": name, "beat": number}).encode())

        def beat() -> None:
            number = 0
            while not stop.wait(beat_s) and _read(path).get("name") == name:
                number += 1
                with contextlib.suppress(OSError):  # a full disk, perhaps; the lock still holds
                    write(number)

        write(0)
        thread = threading.Thread(target=beat, name="lease", daemon=True)
        thread.start()
        lease = Lease(path, name)
        try:
            yield lease
        finally:
            stop.set()
            thread.join()
            with contextlib.suppress(OSError):
                if lease.is_mine():
                    path.unlink()


def sign_of_life(directory: Path) -> str:
    """What the holder of a folder rewrites every few seconds; "" if nobody holds it.

    It stays as it is where the holder was killed.
    """
    values = _read(Path(directory) / LEASE)
    return f"{values.get('name')} {values.get('beat')}" if values else ""


def _locked(file: Any) -> bool:
    """Take the lock; whether nobody else has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return True


def _lives_elsewhere(path: Path, watched_s: float) -> bool:
    """Whether a process of another machine is seen to hold the folder."""
    first = _read(path)
    if first.get("host", socket.gethostname()) == socket.gethostname():
        return False
    end_s = time.monotonic() + watched_s
    while time.monotonic() < end_s:
        time.sleep(min(1.0, watched_s / 10))
        now = _read(path)
        if now != first:
            return bool(now)  # a holder that has just ended takes its lease away
    return False


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}

"""Documents which the journal did not take, in a file beside it until it does.

Each is one line of JSON between two newlines, so that a line torn by a full disk or a kill spoils no other. Writers and
takers lock the file; a taker moves it away first, so that nothing is added to what is about to be removed.
"""

import contextlib
import errno
import fcntl
import glob
import json
import logging
import os
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bluesky_ptychonn.io.durable import sync_directory

logger = logging.getLogger(__name__)

LOCK_S = 0.02

Document = tuple[str, dict[str, Any]]
"""Name, ``start`` or ``stop``, and the document."""


def spill_path(journal: Path) -> Path:
    """The file beside a journal."""
    return journal.with_suffix(".spill.jsonl")


def as_json(value: Any) -> str:
    """One line of ASCII; what JSON does not know becomes a list, a number or text, so that no document is refused.

    Examples
    --------
    >>> as_json({"where": Path("x"), 1.5: {2}})
    '{"where": "x", "1.5": "{2}"}'
    """
    try:
        return json.dumps(value, default=_plain)
    except TypeError:
        return json.dumps(_with_text_keys(value), default=_plain)


def as_line(name: str, doc: Any) -> str:
    """A document as a line of the file."""
    return as_json({"name": name, "doc": doc})


def _plain(value: Any) -> Any:
    """What JSON does not know: other mappings and sequences, arrays and numbers of numpy; anything else as text."""
    if isinstance(value, Mapping):
        return {str(key): item for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray, memoryview)):
        return list(value)
    numbers = getattr(value, "tolist", None)
    return str(value) if numbers is None else numbers()


def _with_text_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _with_text_keys(item) for key, item in value.items()}
    return [_with_text_keys(item) for item in value] if isinstance(value, (list, tuple)) else value


def from_line(line: str) -> Document | None:
    """Name and document of a line; None if it is torn, or no start or stop document."""
    try:
        entry = json.loads(line)
        name, doc = entry["name"], entry["doc"]
        doc[{"start": "uid", "stop": "run_start"}[name]].encode()  # a text, and one that can be kept
        return name, doc
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def append(path: Path, lines: Sequence[str]) -> None:
    """Add lines in one write, through to the disk.

    Raises
    ------
    OSError
        If they are not all written, or the file is locked for longer than `LOCK_S`; what was written of them may be
        read, and may be written again.
    """
    data = "".join(f"\n{line}\n" for line in lines).encode("ascii")
    new = not path.exists()
    descriptor = _locked(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    try:
        if os.write(descriptor, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if new:
        sync_directory(path.parent)


def take(path: Path) -> list[Path]:
    """Move the spill away from its writers; every file that was moved and not yet removed, oldest first."""
    try:
        descriptor = _locked(path, os.O_RDWR)
    except (FileNotFoundError, TimeoutError):
        pass  # nothing there, or a writer is at it: next time
    else:
        try:
            os.rename(path, path.with_name(f"{path.stem}.{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.jsonl"))
        finally:
            os.close(descriptor)
    return sorted(Path(name) for name in glob.glob(f"{glob.escape(str(path.with_suffix('')))}.*.jsonl"))


def read(files: Iterable[Path]) -> list[Document]:
    """Documents in the files; a torn line is told, and left out."""
    documents = []
    for path in files:
        with contextlib.suppress(FileNotFoundError):  # another has taken it over meanwhile
            lines = [line for line in path.read_text(encoding="ascii", errors="replace").split("\n") if line.strip()]
            found = [from_line(line) for line in lines]
            documents += [document for document in found if document is not None]
            if None in found:
                logger.warning(
                    "%s: %d of %d lines are torn and left out; runs that are missing are found in the catalog when the "
                    "loop starts",
                    path,
                    found.count(None),
                    len(found),
                )
    return documents


def _locked(path: Path, flags: int) -> int:
    """Open the file and lock it, the one that has this name when it is locked."""
    deadline = time.monotonic() + LOCK_S
    while True:
        descriptor = os.open(path, flags, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    return descriptor
        except BlockingIOError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} is locked by another process for more than {1e3 * LOCK_S:g} ms")
        time.sleep(0.001)

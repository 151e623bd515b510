"""Documents into Tiled, and into a file when Tiled does not take them or is not there."""

import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bluesky.callbacks.buffer import BufferingWrapper
from event_model import RunRouter, sanitize_doc

from bluesky_ptychonn.io.run_documents import documents_of_file

logger = logging.getLogger(__name__)


class _Recorder:
    """Hands documents to `_write` in a thread of its own, so that a slow disk or a dead server never delays a scan."""

    def __init__(self, backup_directory: Path) -> None:
        backup_directory.mkdir(parents=True, exist_ok=True)
        self._backup_directory = backup_directory
        self._open_runs: set[str] = set()
        self._changed = threading.Condition()
        self._buffer = BufferingWrapper(self._take)

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Queue a document; numpy values become plain ones, because the files are JSON."""
        if name == "start":
            with self._changed:
                self._open_runs.add(doc["uid"])
        self._buffer(name, sanitize_doc(doc))

    def wait(self, timeout_s: float) -> bool:
        """Wait until every run that began is written; False if that takes longer."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._open_runs, timeout_s)

    def close(self) -> None:
        """Write what is queued and end the thread."""
        self._buffer.shutdown()

    def backup_of(self, uid: str) -> Path:
        """File of a run; bluesky_tiled_plugins names it so."""
        return self._backup_directory / f"{uid.split('-')[0]}.jsonl"

    def _take(self, name: str, doc: dict[str, Any]) -> None:
        try:
            self._write(name, doc)
        finally:
            if name == "stop":
                with self._changed:
                    self._open_runs.discard(doc["run_start"])
                    self._changed.notify_all()

    def _write(self, name: str, doc: dict[str, Any]) -> None:
        raise NotImplementedError


class FileRecorder(_Recorder):
    """Write the documents of each run into a file of JSON lines; `ingest` sends it to a catalog later.

    Parameters
    ----------
    backup_directory : Path
        Created if missing.
    """

    def __init__(self, backup_directory: Path) -> None:
        super().__init__(backup_directory)
        self._router = RunRouter([self._open])

    def _write(self, name: str, doc: dict[str, Any]) -> None:
        self._router(name, doc)

    def _open(self, _: str, start: dict[str, Any]) -> tuple[list[Callable[..., None]], list[Any]]:
        path = self.backup_of(start["uid"])

        def append(name: str, doc: dict[str, Any]) -> None:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"name": name, "doc": doc}) + "\n")

        return [append], []


class TiledRecorder(_Recorder):
    """Write each document to Tiled.

    A run which the server does not take goes, complete, into a file of JSON lines in the backup directory, and the user
    is told; `ingest` sends it later.

    Parameters
    ----------
    catalog : tiled client
        Catalog of runs.
    backup_directory : Path
        Created if missing.
    """

    def __init__(self, catalog: Any, backup_directory: Path) -> None:
        from bluesky_tiled_plugins import TiledWriter

        super().__init__(backup_directory)
        self._writer = TiledWriter(catalog, backup_directory=str(backup_directory))

    def _write(self, name: str, doc: dict[str, Any]) -> None:
        try:
            self._writer(name, doc)
        finally:
            if name == "stop":
                self._tell_of_backup(doc["run_start"])

    def _tell_of_backup(self, uid: str) -> None:
        backup = self.backup_of(uid)
        if backup.exists():
            logger.warning(
                "Tiled did not take run %s. Nothing is lost: all documents are in %s. When the server is back: "
                "bluesky-ptychonn catalog ingest %s",
                uid,
                backup,
                backup,
            )


def ingest(path: Path, catalog: Any) -> str:
    """Send a backed-up run to Tiled; what the server took of it before it failed is replaced.

    Parameters
    ----------
    path : Path
        File of JSON lines written by `TiledRecorder` or `FileRecorder`.
    catalog : tiled client
        Catalog of runs.

    Returns
    -------
    str
        Uid of the run.

    Raises
    ------
    ValueError
        If the file is torn or holds no complete run, or the catalog has the complete run; nothing was sent then.
    """
    from bluesky_tiled_plugins import TiledWriter
    from tiled.queries import Key

    documents = documents_of_file(path)
    uid = documents[0][1]["uid"]
    if len(catalog.search(Key("start.uid") == uid)):
        if "stop" in catalog[uid].metadata:
            raise ValueError(f"run {uid} of {path} is in the catalog already, whole; the file is no longer needed")
        catalog.delete_contents([uid], recursive=True, external_only=False)  # the detector's files stay
    writer = TiledWriter(catalog)
    for name, doc in documents:
        writer(name, doc)
    return uid

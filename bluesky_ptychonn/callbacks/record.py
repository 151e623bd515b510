"""Documents into Tiled, and into a file when Tiled does not take them."""

import json
import logging
import threading
from pathlib import Path
from typing import Any

from bluesky.callbacks.buffer import BufferingWrapper
from event_model import sanitize_doc

logger = logging.getLogger(__name__)


class TiledRecorder:
    """Write each document to Tiled from a thread of its own, so that a slow or dead server never delays a scan.

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

        backup_directory.mkdir(parents=True, exist_ok=True)
        self._backup_directory = backup_directory
        self._writer = TiledWriter(catalog, backup_directory=str(backup_directory))
        self._uid = ""
        self._finished = threading.Event()
        self._finished.set()
        self._buffer = BufferingWrapper(self._write)

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Queue a document; numpy values become plain ones, because the backup is JSON."""
        if name == "start":
            self._finished.clear()
        self._buffer(name, sanitize_doc(doc))

    def wait(self, timeout_s: float) -> bool:
        """Wait until the last run is written or backed up; False if that takes longer."""
        return self._finished.wait(timeout_s)

    def close(self) -> None:
        """Write what is queued and end the thread."""
        self._buffer.shutdown()

    def _write(self, name: str, doc: dict[str, Any]) -> None:
        if name == "start":
            self._uid = doc["uid"]
        try:
            self._writer(name, doc)
        finally:
            if name == "stop":
                self._tell_of_backup()
                self._finished.set()

    def _tell_of_backup(self) -> None:
        backup = self._backup_directory / f"{self._uid.split('-')[0]}.jsonl"
        if backup.exists():
            logger.warning(
                "Tiled did not take run %s. Nothing is lost: all documents are in %s. When the server is back: "
                "bluesky-ptychonn catalog ingest %s",
                self._uid,
                backup,
                backup,
            )


def ingest(path: Path, catalog: Any) -> str:
    """Send a backed-up run to Tiled; what the server took of it before it failed is replaced.

    Parameters
    ----------
    path : Path
        File of JSON lines written by `TiledRecorder`.
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

    documents = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry = json.loads(line)
            documents.append((entry["name"], entry["doc"]))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number}: not a document ({error}); the file is torn or another's"
            ) from error
    names = [name for name, _ in documents]
    if names.count("start") != 1 or names[:1] != ["start"] or names[-1:] != ["stop"]:
        raise ValueError(f"{path} does not hold one whole run, from its start to its stop document")
    uid = documents[0][1]["uid"]
    if uid in catalog:
        if "stop" in catalog[uid].metadata:
            raise ValueError(f"run {uid} of {path} is in the catalog already, whole; the file is no longer needed")
        catalog.delete_contents([uid], recursive=True, external_only=False)  # the detector's files stay
    writer = TiledWriter(catalog)
    for name, doc in documents:
        writer(name, doc)
    return uid

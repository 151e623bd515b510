"""The embedded catalog: a Tiled server on loopback with an SQLite catalog, and how to reach any catalog."""

import json
import os
import secrets
import signal
import threading
import time
from pathlib import Path
from typing import Any

RAW = "raw"
RUNS = "CatalogOfBlueskyRuns"
ADDRESS_FILE = "catalog.json"


def serve_catalog(directory: Path, readable: list[Path]) -> None:
    """Run a Tiled server on loopback until SIGTERM or Ctrl-C; its address appears in ``catalog.json``.

    Parameters
    ----------
    directory : Path
        Where the catalog lives; an existing one is taken up again.
    readable : list of Path
        Folders from which the server may read detector files.
    """
    from bluesky_tiled_plugins.exporters import json_seq_exporter
    from tiled.media_type_registration import default_serialization_registry
    from tiled.server import SimpleTiledServer

    default_serialization_registry.register("BlueskyRun", "application/json-seq", json_seq_exporter)
    directory.mkdir(parents=True, exist_ok=True)
    address = directory / ADDRESS_FILE
    known = json.loads(address.read_text()) if address.exists() else {"api_key": secrets.token_hex(16), "port": 0}
    server = SimpleTiledServer(
        directory=directory,
        api_key=known["api_key"],
        port=known["port"],
        readable_storage=[str(folder) for folder in readable],
    )
    try:
        uri = server.uri.split("?")[0]
        known = {"uri": uri, "api_key": known["api_key"], "port": int(uri.split(":")[2].split("/")[0])}
        ended = threading.Event()
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, lambda *_: ended.set())
        _write_private(address, json.dumps({**known, "pid": os.getpid()}))
        ended.wait()
    finally:
        server.close()


def _write_private(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_text(text)
    new.replace(path)


def connect(uri: str, api_key: str | None = None, *, timeout_s: float = 60.0) -> Any:
    """Open a catalog of runs.

    Parameters
    ----------
    uri : str
        Address of a Tiled server.
    api_key : str, optional
        Its key.
    timeout_s : float
        How long to wait for a server that is starting.

    Returns
    -------
    tiled client
        The catalog of runs: ``cat[uid]``, ``cat[-1]``, ``cat.search(...)``.

    Raises
    ------
    ConnectionError
        If no server answers in time.
    """
    from tiled.client import from_uri

    deadline = time.monotonic() + timeout_s
    while True:
        try:
            root = from_uri(uri, api_key=api_key)
            break
        except Exception as error:
            if time.monotonic() > deadline:
                raise ConnectionError(
                    f"no Tiled server answers at {uri} within {timeout_s:g} s ({type(error).__name__}: {error}); "
                    "start it, or set catalog.uri in the settings"
                ) from error
            time.sleep(0.5)
    return root[RAW] if RAW in root else root.create_container(key=RAW, specs=[RUNS])


def embedded_address(directory: Path) -> tuple[str, str] | None:
    """Address and key of the embedded server that wrote its file in ``directory``, if there is one."""
    address = directory / ADDRESS_FILE
    if not address.exists():
        return None
    known = json.loads(address.read_text())
    return known["uri"], known["api_key"]

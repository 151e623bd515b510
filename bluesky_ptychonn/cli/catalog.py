"""The embedded Tiled catalog.

    bluesky-ptychonn catalog serve --directory DIR --readable DATA   run a server until Ctrl-C
    bluesky-ptychonn catalog ingest FILE...                          send runs that a dead server did not take

`make shell` and `make demo` start one by themselves; a facility names its own server in the settings instead.
"""

import argparse
from pathlib import Path

from bluesky_ptychonn.cli.settings import add_settings_option


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="serve|ingest")
    serve = actions.add_parser("serve", help="run a server on loopback until Ctrl-C")
    serve.add_argument(
        "--directory", type=Path, required=True, help="where the catalog lives; taken up again if it exists"
    )
    serve.add_argument(
        "--readable", type=Path, action="append", default=[], help="folder of detector files; repeatable"
    )
    ingest = actions.add_parser("ingest", help="send backed-up runs to the catalog of the settings")
    ingest.add_argument("files", type=Path, nargs="+", metavar="FILE", help="JSON lines from the backup directory")
    add_settings_option(ingest)


def run(options: argparse.Namespace) -> int:
    """Serve or ingest."""
    if options.action == "serve":
        from bluesky_ptychonn.io.catalog import serve_catalog

        serve_catalog(options.directory, options.readable)
        return 0
    from bluesky_ptychonn.callbacks.record import ingest
    from bluesky_ptychonn.config import load_settings

    catalog = open_catalog(load_settings(options.settings))
    for file in options.files:
        print(f"{file}: run {ingest(file, catalog)} is in the catalog")
    return 0


def open_catalog(settings, *, timeout_s: float = 60.0):
    """Catalog of the settings.

    Raises
    ------
    Problem
        If the settings name none.
    ConnectionError
        If its server does not answer.
    """
    from bluesky_ptychonn.cli.main import Problem
    from bluesky_ptychonn.io.catalog import connect

    if not settings.catalog.uri:
        raise Problem("the settings name no catalog; set catalog.uri, or use `bluesky-ptychonn shell`")
    key_file = settings.catalog.api_key_file
    return connect(settings.catalog.uri, key_file.read_text().strip() if key_file else None, timeout_s=timeout_s)

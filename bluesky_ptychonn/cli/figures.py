"""Figures of commands that measure, as JSON."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bluesky_ptychonn import __version__
from bluesky_ptychonn.cli.main import Problem
from bluesky_ptychonn.io.durable import replace_file, try_to_write


def conditions(**more: Any) -> dict[str, Any]:
    """What the machine was like when something was measured."""
    return {
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load_1min": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **more,
    }


def write_figures(
    path: Path, command: str, measured_under: Mapping[str, Any], results: Sequence[Mapping[str, Any]]
) -> None:
    """Write figures; the case asked for is ``results[0]``.

    Parameters
    ----------
    path : Path
        File to write.
    command : str
        Command that measured, such as ``"bench stream"``.
    measured_under : mapping
        See `conditions`.
    results : sequence of mappings
        Flat keys with units in their names.

    Raises
    ------
    Problem
        If the file cannot be written; one that was there is unchanged then.
    """
    report = {
        "command": command,
        "version": __version__,
        "conditions": dict(measured_under),
        "results": [dict(result) for result in results],
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, (json.dumps(report, indent=2) + "\n").encode())
    except OSError as error:
        raise Problem(f"--json {path} cannot be written: {error}") from error


def refuse_unwritable(option: str, path: Path) -> None:
    """Make the folder of a file which is to be written; raise `Problem` if it could not be written there."""
    try:
        if path.is_dir():
            raise Problem(f"{option} {path} is a folder; name a file in it")
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Problem(f"{option} {path}: its folder cannot be made ({error.strerror}); choose another") from error
    try:
        try_to_write(path)
    except OSError as error:
        raise Problem(f"{option} {path} cannot be written ({error.strerror}); choose another") from error

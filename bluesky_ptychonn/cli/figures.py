"""Figures of commands that measure, as JSON."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bluesky_ptychonn import __version__


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
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "command": command,
        "version": __version__,
        "conditions": dict(measured_under),
        "results": [dict(result) for result in results],
    }
    path.write_text(json.dumps(report, indent=2) + "\n")

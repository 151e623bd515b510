"""Devices and callbacks for a BITS instrument (apsbits): named in its ``devices.yml``, made from our settings."""

import contextlib
from pathlib import Path
from typing import Any

from bluesky_ptychonn.config import load_settings


def devices(settings_file: str = "") -> list[Any]:
    """Detector, stage, edge and shutter of the settings, for an entry of ``devices.yml``.

    Parameters
    ----------
    settings_file : str
        "" for the one in force: BLUESKY_PTYCHONN_SETTINGS, else ``bluesky_ptychonn.toml`` in the working directory.
    """
    from bluesky_ptychonn.cli.session import make_devices

    settings = load_settings(Path(settings_file) if settings_file else None)
    settings.apply_epics_environment()
    detector, stage, edge, shutter = make_devices(settings)
    with contextlib.suppress(TimeoutError):  # whoever loads it says which device is away
        edge.wait_for_connection()
    return [device for device in (detector, stage, edge, shutter) if device is not None]


def subscribe(RE: Any, settings_file: str = "") -> None:
    """Subscribe what arms the edge, and, where the loop is enabled, what notes each run for it.

    Parameters
    ----------
    RE : bluesky.RunEngine
    settings_file : str
        As for `devices`.
    """
    from bluesky_ptychonn.callbacks.live import LiveImage
    from bluesky_ptychonn.cli.session import open_trigger

    settings = load_settings(Path(settings_file) if settings_file else None)
    RE.subscribe(LiveImage(settings.edge.prefix, settings.scan.picture_directory))
    trigger = open_trigger(settings)
    for name in ("start", "stop") if trigger is not None else ():
        RE.subscribe(trigger, name)

"""The edge in several processes: gather what pvapy's consumers stitch into one image.

For detectors that send more frames than one process can take. To the beamline this is an edge: the same channels, the
same run messages. The frames go to consumers, which pvapy starts; their command is said at the start. Each is given its
share by the distributor of the image's PVA server.

Ctrl-C ends it; scans go on and are recorded without it.
"""

import argparse
import json
import shlex
from typing import Any

from bluesky_ptychonn.cli.settings import add_settings_option

MOST = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add_settings_option(parser)
    parser.add_argument("--consumers", type=int, required=True, metavar="N", help="how many share the frames")
    parser.add_argument("--interface", default="", metavar="ADDRESS", help="address to bind; default: loopback")


def run(options: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    import numpy as np

    from bluesky_ptychonn.cli.consumer import compile_binning
    from bluesky_ptychonn.cli.main import Problem
    from bluesky_ptychonn.config import load_settings
    from bluesky_ptychonn.edge.gather import gather

    if not 1 <= options.consumers <= MOST:
        raise ValueError(f"--consumers {options.consumers}; allowed is 1 to {MOST}")
    settings = load_settings(options.settings)
    settings.apply_epics_environment()
    compile_binning(settings)
    bad_pixels = settings.geometry.bad_pixels_file
    if settings.probe.file is None:
        raise Problem("the settings name no probe; set probe.file to a .npy of complex64 (frame_px, frame_px)")

    if settings.edge.newest_wins or settings.edge.engine_core is not None:
        raise Problem("edge.newest_wins and edge.engine_core are for the edge in one process; leave them out here")

    def ready() -> None:
        print(f"gatherer {settings.edge.prefix} serves; its consumers are started by", flush=True)
        print(shlex.join(consumer_command(settings, options.consumers, options.settings)), flush=True)

    gather(
        settings.edge.prefix,
        options.consumers,
        lambda version, sha256: probe_for(settings, version, sha256),
        np.load(bad_pixels).astype(bool) if bad_pixels else None,
        interface=options.interface,
        on_ready=ready,
    )
    return 0


def probe_for(settings: Any, version: str, sha256: str) -> Any:
    """Probe that goes with the consumers' model: its own where the store of the settings has it, or the settings'.

    Parameters
    ----------
    settings : Settings
    version, sha256 : str
        Of their model; both empty where it is not known, which finds the probe of the settings.
    """
    from bluesky_ptychonn.cli.edge import load_probe
    from bluesky_ptychonn.edge.follow import is_store
    from bluesky_ptychonn.io.model_probe import probe_of
    from bluesky_ptychonn.io.model_store import VERSIONS, open_model, read_card

    store = settings.edge.model
    folder = store / VERSIONS / version if version and is_store(store) else None
    own = None
    if folder is not None and folder.is_dir() and read_card(folder).sha256 == sha256:
        own = probe_of(open_model(folder))
    return own if own is not None else load_probe(settings.probe.file, settings.geometry.frame_px)


def consumer_command(settings: Any, consumers: int, settings_file: Any = None) -> list[str]:
    """Command line that starts the consumers of these settings."""
    arguments = {"settings": str(settings_file)} if settings_file else {}
    shared = ["--distributor-group", "ptychonn", "--distributor-trigger", "uniqueId", "--distributor-updates", "1"]
    return [
        *("pvapy-hpc-consumer", "--n-consumers", str(consumers)),
        *("--input-channel", f"{settings.beamline.detector_prefix}Pva1:Image"),
        *("--output-channel", f"{settings.edge.prefix}share:*"),
        *("--processor-class", "bluesky_ptychonn.cli.consumer.PtychoProcessor"),
        *("--processor-args", json.dumps(arguments)),
        *(shared if consumers > 1 else []),
        *("--server-queue-size", "1000", "--skip-initial-updates", "0", "--disable-curses"),
    ]

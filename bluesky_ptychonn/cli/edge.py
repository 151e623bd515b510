"""The streaming service: frames in over pvAccess, stitched phase out.

It waits for the `run` message that the live callback sends at the start of each scan, and serves

    PREFIXstitched PREFIXcoverage PREFIXfinal   images, for any EPICS viewer
    PREFIXstats                                 account, rates, latency, model

Where the model is a store, it is followed: what `models publish` or `rollback` makes current is opened and checked
beside the running model and takes its place between two batches, together with its probe; a harmed one is refused. A
version without a probe is used with that of the settings. Of these, a new probe and a new mask of bad pixels are taken
up, too.

Ctrl-C ends it; scans go on and are recorded without it.
"""

import argparse
from pathlib import Path
from typing import Any

from bluesky_ptychonn.cli.settings import add_settings_option
from bluesky_ptychonn.engines.registry import NAMES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add_settings_option(parser)
    parser.add_argument("--engine", choices=NAMES, help="instead of edge.engine of the settings")
    parser.add_argument(
        "--model", type=Path, metavar="DIR", help="model store or version, starter or large; default: starter"
    )
    parser.add_argument("--interface", default="", metavar="ADDRESS", help="address to bind; default: loopback")


def run(options: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    import importlib
    import signal
    import threading

    from bluesky_ptychonn.config import load_settings, settings_path
    from bluesky_ptychonn.edge.follow import is_store
    from bluesky_ptychonn.edge.service import EdgeService
    from bluesky_ptychonn.edge.serving import serve
    from bluesky_ptychonn.io.model_probe import probe_of

    settings, settings_file = load_settings(options.settings), settings_path(options.settings)
    settings.apply_epics_environment()
    probe = settings_probe(settings)
    if settings.geometry.binning > 1:
        importlib.import_module("bluesky_ptychonn.core.binning")  # compiles now, and not when the first run comes
    store, name = options.model or settings.edge.model, options.engine or settings.edge.engine
    model = stored_model(store) if name != "lift" else None
    engine = engine_of(settings, name, model.directory if model is not None else None)
    own_probe = probe_of(model) if model is not None else None
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    version = engine.card.version if engine.card else "no model"

    def prepare(service: EdgeService) -> None:
        service.watch(
            store if is_store(store) and model is not None else None,
            lambda folder: engine_of(settings, name, folder),
            [path for path in (settings_file, settings.probe.file) if path is not None],
            lambda: probe_and_mask(load_settings(settings_file)),
            own_probe,
        )

    serve(
        settings.edge.prefix,
        engine,
        probe if own_probe is None else own_probe,
        probe_and_mask(settings)[1],
        interface=options.interface,
        kept_bytes=settings.edge.kept_patches_mb << 20,
        newest_wins=settings.edge.newest_wins,
        engine_core=settings.edge.engine_core,
        prepare=prepare,
        stop=stop,
        on_ready=lambda: print(f"edge {settings.edge.prefix} serves ({engine.name}, {version})", flush=True),
    )
    return 0


def engine_of(settings: Any, name: str | None = None, model: Path | None = None) -> Any:
    """Engine of the settings, or another by its name."""
    from bluesky_ptychonn.engines.registry import open_engine

    return open_engine(
        name or settings.edge.engine,
        model or settings.edge.model,
        max_batch=settings.edge.batch,
        frame_px=settings.geometry.frame_px,
    )


def stored_model(model: Path | None) -> Any:
    """Open the files of a store's current version, of one version, or of a model that comes with the package."""
    from bluesky_ptychonn.engines.registry import PACKAGED, STARTER
    from bluesky_ptychonn.io.model_store import open_model

    return open_model(STARTER if model is None else PACKAGED.get(str(model), model))


def settings_probe(settings: Any) -> Any:
    """Probe of the settings (frame_px, frame_px) complex64: that of its file, else of its optics.

    Raises
    ------
    Problem, ValueError
        If they tell neither, or it cannot be.
    """
    from bluesky_ptychonn.cli.main import Problem
    from bluesky_ptychonn.core.optics import zone_plate_probe

    probe = settings.probe
    if probe.file is not None:
        return load_probe(probe.file, settings.geometry.frame_px)
    if probe.defocus_um is None:
        raise Problem(
            "the settings name no probe; set probe.file to a .npy of complex64 (frame_px, frame_px), or "
            "probe.defocus_um and the zone plate"
        )
    return zone_plate_probe(
        settings.geometry.optics,
        zone_plate_diameter_um=probe.zone_plate_diameter_um,
        outermost_zone_nm=probe.outermost_zone_nm,
        central_stop_um=probe.central_stop_um,
        defocus_um=probe.defocus_um,
        astigmatism_um=probe.astigmatism_um,
        astigmatism_angle_rad=probe.astigmatism_angle_rad,
    )


def probe_and_mask(settings: Any) -> tuple[Any, Any]:
    """Probe of the settings, and their mask of bad pixels or None."""
    import numpy as np

    mask = settings.geometry.bad_pixels_file
    return settings_probe(settings), None if mask is None else np.load(mask).astype(bool)


def load_probe(path: Path, frame_px: int) -> Any:
    """Probe from a ``.npy`` file.

    Raises
    ------
    ValueError
        If it is not a complex image of the frame's size, with finite values and some power.
    """
    import numpy as np

    try:
        probe = np.load(path, allow_pickle=False)
    except OSError as error:
        raise ValueError(f"probe.file = {path} cannot be read: {error}; give a .npy file") from error
    if probe.shape != (frame_px, frame_px) or not np.iscomplexobj(probe):
        raise ValueError(
            f"probe.file = {path} holds {probe.dtype} of shape {probe.shape}; "
            f"complex64 of ({frame_px}, {frame_px}) is needed (geometry.frame_px = {frame_px})"
        )
    if not np.isfinite(probe).all() or not np.abs(probe).any():
        raise ValueError(f"probe.file = {path} holds values that are not finite, or only zeros; save the probe anew")
    return probe.astype(np.complex64)

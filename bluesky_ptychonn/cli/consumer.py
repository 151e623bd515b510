"""What `pvapy-hpc-consumer` is given to run: a consumer by the settings, or another engine or model.

--processor-class bluesky_ptychonn.cli.consumer.PtychoProcessor --processor-args '{"settings": "beamline.toml"}'
"""

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ARGUMENTS = ("settings", "engine", "model", "interface")


def PtychoProcessor(config: Mapping[str, Any]) -> Any:
    """Make the processor of one consumer.

    Parameters
    ----------
    config : mapping
        ``settings`` (the TOML file), and ``engine``, ``model``, ``interface`` as the options of the command ``edge``;
        beside them what pvapy adds.

    Returns
    -------
    pvapy.hpc.adImageProcessor.AdImageProcessor

    Raises
    ------
    ValueError
        If settings, engine or model cannot be used.
    """
    import numpy as np

    from bluesky_ptychonn.cli.edge import engine_of
    from bluesky_ptychonn.config import load_settings
    from bluesky_ptychonn.edge.consumer import Consumer, make_processor
    from bluesky_ptychonn.edge.follow import Follower, Watch, is_store
    from bluesky_ptychonn.edge.swap import EngineSlot, warm_up
    from bluesky_ptychonn.io.model_store import CURRENT

    own = {name: config.get(name) or "" for name in ARGUMENTS}
    settings = load_settings(own["settings"] or None)
    settings.apply_epics_environment()
    compile_binning(settings)
    os.environ["EPICS_PVAS_INTF_ADDR_LIST"] = (
        own["interface"] or os.environ.get("EPICS_PVAS_INTF_ADDR_LIST") or "127.0.0.1"
    )
    model = Path(own["model"]) if own["model"] else None
    engine = EngineSlot(engine_of(settings, own["engine"], model))
    bad_pixels = settings.geometry.bad_pixels_file
    consumer = Consumer(
        settings.edge.prefix,
        engine,
        np.load(bad_pixels).astype(bool) if bad_pixels else None,
        int(config["processorId"]),
        kept_bytes=settings.edge.kept_patches_mb << 20,
    )
    store = model or settings.edge.model
    if store is not None and is_store(store) and engine.card is not None:

        def open_version(folder: Path) -> Any:
            opened = engine_of(settings, own["engine"], folder)
            warm_up(opened, np.ones((opened.frame_px, opened.frame_px), np.complex64))
            return opened

        follower = Follower(engine, open_version)
        Watch({store / CURRENT: lambda: follower.take_version(store)}, at_once={store / CURRENT})
    return make_processor(consumer)


def compile_binning(settings: Any) -> None:
    """Compile what bins frames, where they are binned: now, and not when the first run comes."""
    if settings.geometry.binning > 1:
        importlib.import_module("bluesky_ptychonn.core.binning")

# ruff: noqa: E402
"""RunEngine, catalog and devices of a BITS instrument."""

from pathlib import Path

from bluesky_ptychonn.config import load_settings

load_settings().apply_epics_environment()  # ours: before a library of EPICS is imported

from apsbits.core.best_effort_init import init_bec_peaks
from apsbits.core.catalog_init import init_catalog
from apsbits.core.instrument_init import init_instrument, make_devices
from apsbits.core.run_engine_init import init_RE
from apsbits.utils.config_loaders import load_config

from bluesky_ptychonn.cli.bits import subscribe
from bluesky_ptychonn.plans.spiral import spiral_ptycho_scan  # noqa: F401

CONFIGS = Path(__file__).parent / "configs"

iconfig = load_config(CONFIGS / "iconfig.yml")
instrument, oregistry = init_instrument("guarneri")
bec, peaks = init_bec_peaks(iconfig)
cat = init_catalog(iconfig)
RE, sd = init_RE(iconfig, subscribers=[bec, cat])
subscribe(RE)  # ours: arms the edge, notes runs for the loop
make_devices(clear=False, path=CONFIGS, file="devices.yml", device_manager=instrument)
detector, stage, edge = (oregistry[name] for name in ("detector", "stage", "edge"))

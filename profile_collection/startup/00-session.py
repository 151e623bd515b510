"""Settings, RunEngine, devices, callbacks and catalog. BLUESKY_PTYCHONN_SETTINGS names the settings file."""

from bluesky_ptychonn.cli.session import open_session
from bluesky_ptychonn.config import load_settings

settings = load_settings()
session = open_session(settings)

RE = session.RE
detector = eiger = session.detector
stage = session.stage
shutter = session.shutter
edge = session.edge
monitors = session.monitors
cat = session.cat

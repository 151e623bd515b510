"""Plans by their usual names."""

import bluesky.plan_stubs as bps  # noqa: F401
import bluesky.plans as bp  # noqa: F401

from bluesky_ptychonn.cli.probe_check_device import ProbeAnalysis
from bluesky_ptychonn.plans.probe_check import probe_check  # noqa: F401
from bluesky_ptychonn.plans.spiral import spiral_ptycho_scan  # noqa: F401

probe_analysis = ProbeAnalysis(session, name="probe_analysis")  # noqa: F821 (made in 00-session.py)

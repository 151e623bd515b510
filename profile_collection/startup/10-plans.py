"""Plans by their usual names."""

import bluesky.plan_stubs as bps  # noqa: F401
import bluesky.plans as bp  # noqa: F401

from bluesky_ptychonn.plans.spiral import spiral_ptycho_scan  # noqa: F401

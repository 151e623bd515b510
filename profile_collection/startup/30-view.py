"""A window on the live image, in its own process, where there is a display; it goes with the shell."""

import atexit
import os
import subprocess
import sys

if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or sys.platform == "darwin":
    view = subprocess.Popen(
        [sys.executable, "-m", "bluesky_ptychonn.cli.main", "view"],
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C in the terminal is for the RunEngine
    )
    atexit.register(view.terminate)

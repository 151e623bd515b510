"""`bluesky-ptychonn loop run` as it is, but for being less patient: ``python loop_service.py run --settings FILE``."""

import sys

from bluesky_ptychonn.cli import loop_parts
from bluesky_ptychonn.cli.main import main

if __name__ == "__main__":
    for waits in loop_parts.WAITS.values():
        waits |= {"marker_s": 7.0, "ask_s": 1.0, "at_once": 2}
    sys.exit(main(["loop", *sys.argv[1:]]))

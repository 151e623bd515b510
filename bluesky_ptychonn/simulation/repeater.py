"""Channel Access repeater of one beamline: clients hear through it that a restarted IOC is back.

``python -m bluesky_ptychonn.simulation.repeater DIRECTORY``; its port is ``EPICS_CA_REPEATER_PORT``.
"""

import argparse
import os
from pathlib import Path


def main(arguments: list[str] | None = None) -> None:
    """Command line of the repeater."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", type=Path, help="state directory of the beamline")
    options = parser.parse_args(arguments)

    from caproto.sync.repeater import run

    (options.directory / "repeater.ready").write_text(str(os.getpid()))
    run(host="127.0.0.1")


if __name__ == "__main__":
    main()

"""IPython on the simulated beamline: RE, detector, stage, edge, shutter, spiral_ptycho_scan, cat.

    bluesky-ptychonn shell
    In [1]: RE(spiral_ptycho_scan(detector, stage, width_um=2, overlap_ratio=0.85, exposure_s=5e-4, dwell_s=2e-3,
                                  edge=edge, shutter=shutter))
    In [2]: cat[-1]

Starts beamline, catalog and edge, then the files of `profile_collection/startup/`; leaving the shell ends them all.
Data and catalog stay in the state directory. With `--settings` nothing is started; the profile connects to that
beamline.
"""

import argparse
import os
from pathlib import Path
from typing import Any

from bluesky_ptychonn.cli.beamline import add_beamline_options, add_detector_option, beamline_options
from bluesky_ptychonn.cli.session import Session
from bluesky_ptychonn.cli.settings import add_settings_option


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add_settings_option(parser)
    parser.add_argument("--directory", type=Path, default=Path(".beamline"), help="state directory of the beamline")
    parser.add_argument(
        "--profile", type=Path, default=Path("profile_collection"), help="folder whose startup/*.py are run"
    )
    parser.add_argument("--command", dest="code", metavar="CODE", help="run this after the profile, and leave")
    add_detector_option(parser)
    add_beamline_options(parser)


def run(options: argparse.Namespace) -> int:
    """Open the shell; ends what it started."""
    from bluesky_ptychonn.cli.main import Problem
    from bluesky_ptychonn.cli.services import Services
    from bluesky_ptychonn.config import VARIABLE

    files = sorted((options.profile / "startup").glob("*.py"))
    if not files:
        raise Problem(f"no startup/*.py in {options.profile}; run it from the project's folder, or give --profile")
    if options.settings:
        os.environ[VARIABLE] = str(options.settings)
        return _ipython(files, options.code)
    seen = {"detector": options.detector, **beamline_options(options)}
    with Services(options.directory, say=lambda text: print(f"-- {text}"), **seen):
        return _ipython(files, options.code)


def _ipython(files: list[Path], code: str | None) -> int:
    from IPython import start_ipython
    from traitlets.config import Config

    config = Config()
    config.InteractiveShellApp.exec_files = [str(file.resolve()) for file in files]
    config.TerminalInteractiveShell.confirm_exit = False
    if code is not None:
        config.TerminalIPythonApp.display_banner = False
        config.InteractiveShellApp.code_to_run = code
    names: dict[str, Any] = {}
    try:
        start_ipython(argv=[], config=config, user_ns=names)
    finally:
        if isinstance(session := names.get("session"), Session):
            session.close()  # while the servers still run: the last run's documents and picture
    return 0

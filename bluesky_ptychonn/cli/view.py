"""A window on the live image: phase, coverage, frames done, rate, model, what was lost.

    bluesky-ptychonn view                    a window that follows the edge, run after run
    bluesky-ptychonn view --save now.png     one picture of what the edge shows now, no display needed

Any EPICS viewer can show the same channels: PREFIXstitched, PREFIXcoverage, PREFIXfinal.
"""

import argparse
from pathlib import Path

from bluesky_ptychonn.cli.settings import add_settings_option


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add_settings_option(parser)
    parser.add_argument("--save", type=Path, metavar="FILE.png", help="save one picture instead of opening a window")


def run(options: argparse.Namespace) -> int:
    """Show the window, or save a picture."""
    from bluesky_ptychonn.cli.main import Problem
    from bluesky_ptychonn.config import load_settings

    settings = load_settings(options.settings)
    settings.apply_epics_environment()
    from bluesky_ptychonn.view.window import NoDisplayError, save_picture, show

    try:
        if options.save:
            save_picture(settings.edge.prefix, options.save)
        else:
            show(settings.edge.prefix)
    except (NoDisplayError, TimeoutError) as error:
        raise Problem(str(error)) from error
    return 0

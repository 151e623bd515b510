"""Check a settings file and show what is in force.

Without a file the defaults are shown, as a start for a facility's own file:

    bluesky-ptychonn settings > bluesky_ptychonn.toml
"""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add_settings_option(parser)


def add_settings_option(parser: argparse.ArgumentParser) -> None:
    """The option by which every command finds its settings."""
    parser.add_argument(
        "--settings",
        type=Path,
        metavar="FILE",
        help="settings file (TOML); else $BLUESKY_PTYCHONN_SETTINGS, else bluesky_ptychonn.toml here, else defaults",
    )


def run(options: argparse.Namespace) -> int:
    """Show the settings as TOML."""
    from bluesky_ptychonn.config import load_settings, settings_as_toml

    print(settings_as_toml(load_settings(options.settings)), end="")
    return 0

"""The option by which every command finds its settings."""

import argparse
from pathlib import Path


def add_settings_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--settings``."""
    parser.add_argument(
        "--settings",
        type=Path,
        metavar="FILE",
        help="settings file (TOML); else $BLUESKY_PTYCHONN_SETTINGS, else bluesky_ptychonn.toml here, else defaults",
    )

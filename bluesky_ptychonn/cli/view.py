"""Window."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""


def run(options: argparse.Namespace) -> int:
    """Show."""
    return 0

"""The settings file: begin one, check one, show what is in force.

    bluesky-ptychonn config init                                bluesky_ptychonn.toml here, every key with its meaning
    bluesky-ptychonn config init --example aps-26id-eiger       that of a beamline which the package knows
    bluesky-ptychonn config check                               keys, values, and the files that they name
    bluesky-ptychonn config show                                all of it, and where each value comes from

`bluesky-ptychonn doctor` goes on from there, to PVs, frames, engine and services.
"""

import argparse
from pathlib import Path

from bluesky_ptychonn.cli.config_text import SIMULATED, example_names
from bluesky_ptychonn.cli.settings import add_settings_option


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="init|check|show")
    init = actions.add_parser("init", help="write a commented settings file")
    init.add_argument("file", type=Path, nargs="?", help="default: bluesky_ptychonn.toml")
    init.add_argument("--example", choices=example_names(), default=SIMULATED, help="beamline to start from")
    add_settings_option(actions.add_parser("check", help="look at keys, values and the files that they name"))
    add_settings_option(actions.add_parser("show", help="print all settings, and where each comes from"))


def run(options: argparse.Namespace) -> int:
    """Begin, check or show."""
    return {"init": _init, "check": _check, "show": _show}[options.action](options)


def _init(options: argparse.Namespace) -> int:
    from bluesky_ptychonn.cli.config_text import commented
    from bluesky_ptychonn.cli.main import Problem
    from bluesky_ptychonn.config import FILE_NAME

    path = options.file or Path(FILE_NAME)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(commented(options.example))
    except FileExistsError:
        raise Problem(f"{path} is there already; name another file, or remove it first") from None
    print(f"{path}: settings of {options.example}; edit it, then `bluesky-ptychonn config check`")
    return 0


def _check(options: argparse.Namespace) -> int:
    from bluesky_ptychonn.cli.doctor import told, verdict
    from bluesky_ptychonn.cli.doctor_checks import file_findings
    from bluesky_ptychonn.config import load_settings

    findings = file_findings(load_settings(options.settings), options.settings)
    print(told(findings))
    return verdict(findings)


def _show(options: argparse.Namespace) -> int:
    from bluesky_ptychonn.cli.config_text import in_force
    from bluesky_ptychonn.config import load_settings, settings_path

    print(in_force(load_settings(options.settings), settings_path(options.settings)))
    return 0

"""Set up a beamline: probe, defocus, beam centre, mask and orientation from one dense scan of a test pattern.

    RE(probe_check(detector, stage, analysis=probe_analysis))     in the profile: the scan, and then this command
    bluesky-ptychonn probe-check -1                               the latest run of the catalog
    bluesky-ptychonn probe-check scan.npz                         a file of frames and positions
    bluesky-ptychonn probe-check -1 --write                       and put what is found into settings and model store
    bluesky-ptychonn probe-check probe_checks/0a1b2c3d --write    the same later, of a result that was looked at

The settings need to say energy, distance, detector pixel, frame_px and what the probe should be: probe.file, or
probe.defocus_um of a zone plate, whose sign is believed. Centre, mask and orientation of the settings are not used.

Tolerances: centre 0.5 px, orientation among eight, defocus 1 % (at least 1 um) where the settings are wrong by up to
30 %, astigmatism 2 um, its direction 0.1 rad from 10 um on, and each dead, hot or missing pixel that light reached. In
eight simulated scans of 280 frames of 1e5 to 1e6 photons, each in another orientation, the centre was right to 0.02 px,
defocus to 0.07 um, astigmatism to 0.3 um and 0.003 rad; no pixel was missed in the light or called bad wrongly.

It shows a table and a picture, and asks on a terminal before it writes. What is not believed is never written. The
edge takes up a new mask and probe by itself; sessions that are open take centre and orientation when they start again
(`probe_analysis` of the profile does it at once). Exit status: 0 believed, 1 not.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bluesky_ptychonn.cli.settings import add_settings_option

if TYPE_CHECKING:
    from bluesky_ptychonn.cli.probe_check_result import Result

FOLDER = "probe_checks"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "source",
        metavar="RUN|FILE|FOLDER",
        help="a run of the catalog (uid, scan id, or -1 for the latest), a file (.npz, .cxi), or an earlier result",
    )
    add_settings_option(parser)
    parser.add_argument("--write", action="store_true", help="put it into settings and model store, if it is believed")
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help=f"of the result; default: {FOLDER}/NAME beside the settings file"
    )
    parser.add_argument("--sweeps", type=int, default=60, help="of the reconstruction; default: 60")


def run(options: argparse.Namespace) -> int:
    """Find, show, and write."""
    from bluesky_ptychonn.cli.main import Problem
    from bluesky_ptychonn.cli.probe_check_result import RESULT, read_result
    from bluesky_ptychonn.cli.probe_check_write import write_result
    from bluesky_ptychonn.config import load_settings, settings_path

    settings, path = load_settings(options.settings), settings_path(options.settings)
    if options.write and path is None:
        raise Problem("--write needs a settings file; begin one with `bluesky-ptychonn config init`")
    if options.sweeps < 1:
        raise Problem(f"--sweeps {options.sweeps}: it must be at least 1")
    folder = Path(options.source)
    if (folder / RESULT).is_file():
        result = read_result(folder)
        print(result.table())
    else:
        folder, result = _analysed(options, settings, path)
    if not result.believed:
        print("NOT BELIEVED, nothing is written:\n  " + "\n  ".join(result.problems))
        return 1
    if path is not None and (options.write or _confirmed(path)):
        print(write_result(folder, result, settings, path))
    return 0


def _confirmed(path: Path) -> bool:
    """Ask, where there is somebody to answer."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    return input(f"write this into {path} and the model store? [y/N] ").strip().lower() in ("y", "yes")


def _analysed(options: argparse.Namespace, settings, path: Path | None) -> "tuple[Path, Result]":
    from bluesky_ptychonn.cli.probe_check_analysis import analyse
    from bluesky_ptychonn.cli.probe_check_picture import save_picture
    from bluesky_ptychonn.cli.probe_check_result import PICTURE, save_result

    found, result = analyse(options.source, settings, sweeps=options.sweeps)
    beside = path.resolve().parent if path is not None else Path.cwd()
    folder = options.output or beside / FOLDER / result.name
    save_result(folder, result, found)
    print(result.table())
    save_picture(folder / PICTURE, found, result)
    print(f"{folder / PICTURE} shows it")
    return folder, result

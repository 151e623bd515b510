"""The simulated beamline: a detector IOC and a stage IOC on loopback, in processes of their own.

    bluesky-ptychonn beamline start            letters under a zone-plate probe, 1e6 photons a frame
    bluesky-ptychonn beamline start --detector medipix3  the same on 516 x 516 px, to be binned by 4
    bluesky-ptychonn beamline start --source scan.npz    a recorded scan, frames played in order
    bluesky-ptychonn beamline status
    bluesky-ptychonn beamline stop

`start` prints the EPICS environment that clients need. `make shell` starts a beamline, an edge and a catalog at once.
"""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="start|stop|status")
    start = actions.add_parser("start", help="start both IOCs and return")
    add_detector_option(start)
    add_beamline_options(start)
    for action in (start, actions.add_parser("stop", help="end them"), actions.add_parser("status", help="look")):
        action.add_argument("--directory", type=Path, default=Path(".beamline"), help="state directory")


def add_detector_option(parser: argparse.ArgumentParser) -> None:
    """Which detector."""
    parser.add_argument("--detector", choices=("eiger2", "medipix3"), default="eiger2", help="whose records are served")


def add_beamline_options(parser: argparse.ArgumentParser) -> None:
    """What the detector shall see."""
    parser.add_argument("--source", default="physics", help="'physics', or the NPZ file of a recorded scan")
    parser.add_argument(
        "--sample", choices=("letters", "etched", "islands"), default="letters", help="for --source physics"
    )
    parser.add_argument("--photons", type=_photons, default=1e6, help="photons per frame, 1 to 1e9")
    parser.add_argument("--defocus-um", type=float, default=170.0, help="sample behind the probe's focus, um")
    parser.add_argument("--astigmatism-um", type=float, default=0.0, help="distance of the probe's line foci, um")
    parser.add_argument("--seed", type=int, default=0, help="of sample, detector face and noise")


def beamline_options(options: argparse.Namespace) -> dict:
    """The same as keywords of `simulation.beamline.start`."""
    names = ("source", "sample", "photons", "defocus_um", "astigmatism_um", "seed")
    return {name: getattr(options, name) for name in names}


def _photons(text: str) -> float:
    value = float(text)
    if not 1 <= value <= 1e9:
        raise argparse.ArgumentTypeError(f"{text} is outside 1 to 1e9 photons per frame")
    return value


_photons.__name__ = "number"  # what argparse calls it: "invalid number value"


def run(options: argparse.Namespace) -> int:
    """Start, stop or look."""
    from bluesky_ptychonn.cli.main import Problem
    from bluesky_ptychonn.simulation import beamline

    try:
        if options.action == "start":
            (options.directory / "data").mkdir(parents=True, exist_ok=True)  # where the shipped settings put frames
            started = beamline.start(options.directory, detector=options.detector, **beamline_options(options))
            for name, value in started.env.items():
                print(f'export {name}="{value}"')
        elif options.action == "stop":
            beamline.stop(options.directory)
        else:
            alive = beamline.status(options.directory)
            print("\n".join(f"{name}: {'runs' if runs else 'down'}" for name, runs in alive.items()) or "not started")
            return 0 if alive and all(alive.values()) else 1
    except beamline.BeamlineError as error:
        raise Problem(str(error)) from error
    return 0

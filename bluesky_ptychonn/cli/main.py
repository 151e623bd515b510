"""The command `bluesky-ptychonn`: one entry point, one subcommand per job."""

import argparse
import contextlib
import importlib
import logging
import sys
from collections.abc import Sequence

COMMANDS = {
    "demo": "a scan with its live phase image on the simulated beamline; pictures and figures as files",
    "shell": "IPython on the simulated beamline: RE, devices, spiral_ptycho_scan, cat",
    "beamline": "start, stop or look at the simulated beamline (real EPICS servers on loopback)",
    "edge": "the streaming service: frames in, stitched phase out",
    "gather": "the same in several processes: one image of what pvapy's consumers stitch",
    "view": "a window on the stitched image",
    "catalog": "the embedded Tiled catalog; send backed-up runs to it",
    "replay": "the image of a recorded run or file again: as it was live, or with another model",
    "export": "image, reconstruction and scan for other programs: NXcxi_ptycho/CXI, 32-bit TIFF, PNG",
    "reconstruct": "phase retrieval of a run or file: object, probe, and whether to believe them",
    "bench": "measure: the whole chain at a frame rate, phase retrieval, models, training",
    "corpus": "labelled scans to learn from: simulate, add, list, verify",
    "train": "train a network on a corpus, and make a model of it",
    "job": "one job of the loop, complete in its folder: what schedulers run",
    "loop": "after every scan: reconstruct, label, judge, retrain, publish; the service, its state, its decisions",
    "models": "the model store: list, show, validate, publish through the gate, roll back, import",
    "config": "the settings file: begin one, check it, show what is in force",
    "center": "beam centre and bad pixels from a few frames",
    "probe-check": "set up a beamline: probe, defocus, centre, mask and orientation from a scan of a test pattern",
    "doctor": "is everything there that a scan needs? read-only, with remedies",
}


OWNERS = ("demo", "shell", "bench")
"""Commands that start servers and end them on the way out."""

EXTRAS = {
    **dict.fromkeys(("bluesky", "ophyd", "epics", "event_model", "IPython", "matplotlib", "tqdm"), "beamline"),
    **dict.fromkeys(("openvino", "onnxruntime", "pvaccess"), "edge"),
    **dict.fromkeys(("tensorrt", "cuda"), "tensorrt"),
    **dict.fromkeys(("softioc", "caproto"), "sim"),
    **dict.fromkeys(("tiled", "bluesky_tiled_plugins"), "tiled"),
    **dict.fromkeys(("torch", "onnx"), "training"),
    **dict.fromkeys(("psij", "psutil"), "loop"),
}
"""Which extra of this package brings a module."""


class Problem(Exception):  # noqa: N818
    """A mistake of the user's or a missing part; its message is all that is shown."""


TOLD = (Problem, OSError, ValueError, RuntimeError, ImportError, MemoryError, OverflowError)
"""What is told in a line; --verbose adds where it came from."""


def build_parser() -> argparse.ArgumentParser:
    """Parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="bluesky-ptychonn",
        description="The phase image of a ptychography scan while the beam is still on the sample.",
        epilog="Start with `bluesky-ptychonn demo`; `bluesky-ptychonn COMMAND --help` explains each command.",
    )
    parser.add_argument("--verbose", action="store_true", help="log what happens, not only warnings")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, purpose in COMMANDS.items():
        module = importlib.import_module(f"bluesky_ptychonn.cli.{name.replace('-', '_')}")
        subparser = commands.add_parser(
            name,
            help=purpose,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 on success, 1 on a problem that is told, 2 on wrong usage, 128 + number on a signal."""
    from bluesky_ptychonn.cli.interruption import ignore_signals, signals_raised

    try:
        options = build_parser().parse_args(arguments)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        with signals_raised() if options.command in OWNERS else contextlib.nullcontext():
            return options.run(options)
    except TOLD as problem:
        if options.verbose:
            logging.exception("what went wrong")
        print(f"bluesky-ptychonn {options.command}: {_told(problem)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        ignore_signals()
        print("\nstopped", file=sys.stderr)
        return 130
    except SystemExit:
        ignore_signals()
        raise


def _told(problem: Exception) -> str:
    module = problem.name.split(".")[0] if isinstance(problem, ImportError) and problem.name else ""
    if module in EXTRAS:
        return f"{module} cannot be imported ({problem}); pip install 'bluesky-ptychonn[{EXTRAS[module]}]'"
    return str(problem) or f"it ended with {type(problem).__name__}"


if __name__ == "__main__":
    sys.exit(importlib.import_module("bluesky_ptychonn.cli.main").main())  # whose Problem is the one commands raise

"""Phase retrieval of a run or a file: object and probe, and whether to believe them.

    bluesky-ptychonn reconstruct -1                               the latest run of the catalog
    bluesky-ptychonn reconstruct scan.npz --modes 2               a file; two incoherent probe modes
    bluesky-ptychonn reconstruct scan.cxi --probe optics --defocus-um 170
    bluesky-ptychonn reconstruct 214 --probe earlier_reconstruction.cxi      scan id 214, with the probe of another
    bluesky-ptychonn reconstruct scan.npz --orientation auto      is the detector flipped or turned?
    bluesky-ptychonn reconstruct raw.h5 --patterns-path entry/data/data --positions-path pos/y pos/x \\
        --positions-unit um --energy-kev 10 --distance-m 0.9 --detector-pixel-um 75 --probe probe.npy

Writes NAME_reconstruction.cxi (HDF5, opens in other ptychography programs) and a picture beside it, and tells a
verdict, `trusted` or `not trusted`, with its reason. It asks frames which took no part, two half data sets, the
coverage, the other orientations and other scales of the positions; an untrusted result is written too.

Ctrl-C ends it early and keeps the best so far. Exit status: 0 written, 1 refused or failed, 130 ended early.
Needs the extra `training` (torch).
"""

import argparse
import math
import sys
from dataclasses import replace
from pathlib import Path

from bluesky_ptychonn.cli.main import Problem
from bluesky_ptychonn.cli.retrieval_figures import figures_of, kept_sweep, moves_of, told_moves
from bluesky_ptychonn.cli.retrieval_output import output_of, refuse_figures, remove_picture, save_picture, write
from bluesky_ptychonn.cli.retrieval_source import AUTO, add_source_options, read_source, with_probe
from bluesky_ptychonn.cli.sweeps_bar import SweepsBar
from bluesky_ptychonn.core.reconstruction import Reconstruction, RetrievalReport
from bluesky_ptychonn.core.scan_data import ScanData


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add_source_options(parser)
    parser.add_argument("--untrusted-probe", action="store_true", help="the sign of its defocus is a guess")
    retrieval = parser.add_argument_group("phase retrieval")
    retrieval.add_argument(
        "--method",
        default="poisson",
        help="poisson (default), batched, epie, rpie; with pty-chi: ptychi-lsqml, ptychi-epie, ptychi-rpie",
    )
    retrieval.add_argument("--sweeps", type=int, default=60, help="passes over all frames; default: 60")
    retrieval.add_argument(
        "--modes", type=int, help="incoherent probe modes; default: as many as the starting probe has"
    )
    retrieval.add_argument(
        "--correct-positions", type=float, metavar="PX", help="move positions too, each by at most PX object pixels"
    )
    retrieval.add_argument(
        "--holdout", type=int, default=20, metavar="N", help="one frame of N is never used; 0 for none; default: 20"
    )
    retrieval.add_argument("--batch", type=int, help="frames that act at once; default: what suits the machine")
    retrieval.add_argument("--seed", type=int, default=0, help="of the order of the frames; default: 0")
    output = parser.add_argument_group("output")
    output.add_argument("--output", type=Path, metavar="FILE", help="default: NAME_reconstruction.cxi here")
    output.add_argument("--force", action="store_true", help="overwrite an earlier reconstruction")
    output.add_argument("--no-report", action="store_true", help="no verdict; saves some time")
    output.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")


def run(options: argparse.Namespace) -> int:
    """Reconstruct, judge and write."""
    from bluesky_ptychonn.core.scan_checks import refuse_unfit

    _check(options)
    scan, name, orientation = read_source(options)
    for note in scan.notes:
        print(f"note: {note}")
    refuse_unfit(scan)
    scan = with_probe(scan, options)
    if options.modes is None:
        options.modes = _modes(scan)
        print(f"probe modes: {options.modes}, as the starting probe has")
    output = output_of(options, name)
    if options.orientation == AUTO:
        _refuse_another_orientation(scan, orientation, options)
    with SweepsBar(options.sweeps) as progress:
        result = _reconstruct(scan, options, progress)
    told = {"orientation": orientation, "probe_start": options.probe or "of the source"}
    result = replace(result, settings={**result.settings, **told})
    remove_picture(output)
    written = write(output, result)
    print(f"reconstruction: {written}")
    early, unjudged = "interrupted_after" in result.settings, False
    if not (early or options.no_report):
        try:
            result = _judge(scan, result, options)
            written = write(written, result)
        except KeyboardInterrupt:
            early = True
        except (ValueError, RuntimeError) as error:  # numpy's LinAlgError is a ValueError
            unjudged = True
            print(f"no verdict: {error}; the reconstruction is written without one", file=sys.stderr)
    _tell(scan, result, progress, early, options)
    if options.json:
        from bluesky_ptychonn.cli.figures import conditions, write_figures

        measured_under = conditions(source=Path(options.source).name, device=result.settings["device"])
        write_figures(options.json, "reconstruct", measured_under, [figures_of(scan, result, progress)])
    print(f"picture: {save_picture(written, result, options.source)}")
    if early:
        return 130
    return 1 if unjudged or written != output else 0


def _check(options: argparse.Namespace) -> None:
    """Refuse at once what would be refused only after the scan was read."""
    from bluesky_ptychonn.training.retrieval import ptychi_engine
    from bluesky_ptychonn.training.retrieval.reconstruct import METHODS

    if options.method not in METHODS:
        raise Problem(f"--method {options.method}: allowed is one of {', '.join(METHODS)}")
    for name, least in (("sweeps", 1), ("modes", 1), ("batch", 1), ("seed", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise Problem(f"--{name} {value}: it must be at least {least}")
    if options.holdout < 0 or options.holdout == 1:
        raise Problem(f"--holdout {options.holdout}: allowed are 0 for none, or 2 and more: one frame of that many")
    if options.correct_positions is not None and not 0 < options.correct_positions < math.inf:
        raise Problem(f"--correct-positions {options.correct_positions:g} px: it must be positive; try 2")
    if options.method in ptychi_engine.METHODS and (reason := ptychi_engine.why_not()):
        raise Problem(f"--method {options.method}: {reason}")
    refuse_figures(options)


def _modes(scan: ScanData) -> int:
    return len(scan.probe) if scan.probe is not None and scan.probe.ndim == 3 else 1


def _refuse_another_orientation(scan: ScanData, given: str, options: argparse.Namespace) -> None:
    """Rank the orientations; raise `Problem` if another than the given one fits better."""
    from bluesky_ptychonn.training.retrieval.orientation import CLASSES, DECIDED, find_orientation

    found = find_orientation(scan, trusted_probe=not options.untrusted_probe, seed=options.seed, on_step=_step)
    pairs = {pair[0]: [combined(given, name) for name in pair] for pair in CLASSES}
    ranked = sorted(found.errors, key=found.errors.__getitem__)
    for name in ranked:
        print(f"  {' / '.join(pairs[name]):26} error {found.errors[name]:.4f}")
    fitting = pairs[ranked[0]] if found.twin == "not decidable" else [combined(given, found.best)]
    print(f"  fits best: {' or '.join(fitting)}; the next pair's error is {found.margin:.3g} times as large")
    if found.twin == "not decidable":
        print("  which of the pair is not decidable: that takes a defocused probe whose sign can be trusted")
    same_pair = ranked[0] == "identity"
    better = (found.twin_margin or 1.0) if same_pair else found.errors["identity"] / found.errors[ranked[0]]
    if given in fitting or better <= DECIDED:
        return
    raise Problem(
        f"another orientation than {given!r} fits these data better, by a factor of {better:.3g} in error; give "
        f"{' or '.join(f'--orientation {name}' for name in fitting)}, and correct it where it comes from; or leave out "
        f"--orientation auto to keep {given!r}"
    )


def combined(first: str, second: str) -> str:
    """Name of the orientation that does ``first`` and then ``second``.

    Examples
    --------
    >>> combined("flip_y", "rot180")
    'flip_x'
    """
    import numpy as np

    from bluesky_ptychonn.core.frames import ORIENTATIONS

    seen = np.arange(6).reshape(2, 3)
    both = ORIENTATIONS[second](ORIENTATIONS[first](seen))
    return next(name for name, turn in ORIENTATIONS.items() if np.array_equal(turn(seen), both))


def _reconstruct(scan: ScanData, options: argparse.Namespace, progress: SweepsBar) -> Reconstruction:
    from bluesky_ptychonn.training.retrieval.reconstruct import reconstruct

    return reconstruct(
        scan,
        method=options.method,
        sweeps=options.sweeps,
        modes=options.modes,
        position_bound_px=options.correct_positions,
        holdout_every=options.holdout,
        batch=options.batch,
        seed=options.seed,
        on_sweep=progress.show,
    )


def _judge(scan: ScanData, result: Reconstruction, options: argparse.Namespace) -> Reconstruction:
    from bluesky_ptychonn.training.retrieval.report import judge

    print("judging (Ctrl-C leaves it out)", flush=True)
    return judge(
        scan,
        result,
        trusted_probe=not options.untrusted_probe,
        on_step=_step,
    )


def _step(text: str) -> None:
    print(f"  {text}", flush=True)


def _tell(
    scan: ScanData, result: Reconstruction, progress: SweepsBar, early: bool, options: argparse.Namespace
) -> None:
    height, width = result.object_.shape
    size = "" if result.pixel_size_um is None else f" of {1e3 * result.pixel_size_um:.2f} nm"
    print(
        f"object: {height} x {width} px{size}; {len(result.errors)} sweeps of {options.method} in "
        f"{progress.seconds_total:.0f} s"
    )
    if "interrupted_after" in result.settings:
        print(
            f"ended early, after {len(result.errors)} of {options.sweeps} sweeps; this is sweep {kept_sweep(result)}, "
            "the best of them, unjudged"
        )
    elif early:
        print("the judgement was ended early; the reconstruction is whole, but has no verdict")
    if (moves := moves_of(scan, result)) is not None:
        print(told_moves(moves, result))
    report = result.report
    if report is None:
        return
    held_out = "" if math.isnan(report.error_heldout) else f", on held-out frames {report.error_heldout:.4f}"
    print(
        f"error {report.error:.4f}{held_out}; without an object {report.error_blank:.3f}, counting noise alone "
        f"{report.error_noise:.4f}"
    )
    if report.frc_cycles_per_px is not None:
        nm = "" if report.frc_nm is None else f", {report.frc_nm:.1f} nm half period"
        print(f"resolution: two half data sets agree up to {report.frc_cycles_per_px:.3f} cycles/px{nm}")
    print(f"verdict: {report.verdict.upper()}: {report.reason}")
    if not report.trusted:
        _tell_orientation(report, result.settings["orientation"])
        print("written all the same, to look at; do not take it for the truth")


def _tell_orientation(report: RetrievalReport, applied: str) -> None:
    """Name the option for what the report found, which is as seen from the orientation that was applied."""
    from bluesky_ptychonn.training.retrieval.verdict import LEAST_GAIN

    if report.orientation != "identity" and report.orientation_gain > LEAST_GAIN:
        print(f"try --orientation {combined(applied, report.orientation)}")

"""Phase retrieval measured: every method against simulated truth, or on a recorded scan, in one run."""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bluesky_ptychonn.core.scan_data import ScanData

SIDE_UM, STEP_UM, POINTS = 2.72, 0.0877, 960
"""Field and step of the simulated scan; fewer or more points change the field, not the step."""
PHOTONS = 1e6
SAMPLE = "etched"
DEFOCUS_UM = 170.0
STARTS_UM = {"defocus11": 1.11 * DEFOCUS_UM, "exact": DEFOCUS_UM}
"""Defocus of the starting probe, um."""
SEED = 1
SHARPNESS_PX = 0.5
"""Width of the sample's edges: the beamline's own, 0.8 px, leave nothing to resolve beyond 0.4 cycles/px."""
EDGE_PX = 96
"""Taken off each side of the object before it is compared: there the probe passed too rarely."""
DATA_RANGE_RAD = 0.6
GOAL = 0.85
MOMENTS_S = (10, 20, 50, 100)
SWEEPS = 60
HOLDOUT = 20
HEADROOM = 0.9
"""Share of the time allowed that the sweeps are planned for."""
OWN = ("poisson", "batched")
"""Methods which settle towards the end: more sweeps than `SWEEPS` gain little."""
BASELINE = "epie"
COLUMNS = {
    "probe_start": 11,
    "method": 13,
    "modes": 5,
    "sweeps": 6,
    "seconds_per_sweep": 17,
    "seconds_total": 13,
    "error": 7,
    "error_heldout": 13,
    "ssim": 6,
    "frc_cycles_per_px": 17,
    "seconds_to_ssim_085": 19,
}
"""What the table shows, and how wide."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the case."""
    parser.add_argument("--points", type=int, help=f"scan positions; default: {POINTS}")
    parser.add_argument("--photons", type=float, help=f"per frame; default: {PHOTONS:.0e}")
    parser.add_argument("--sample", choices=("etched", "letters"), help=f"default: {SAMPLE}")
    parser.add_argument("--source", type=Path, metavar="FILE", help="a recorded scan instead of the simulated one")
    parser.add_argument("--pixel-size-nm", type=float, help="of the object, where FILE does not tell it")
    parser.add_argument("--modes", type=int, nargs="+", default=[1], help="with FILE: probe modes of the own methods")
    parser.add_argument("--seconds", type=float, default=100.0, help="time for each method; default: 100")
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="default: all; with FILE: poisson and epie")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")


def run(options: argparse.Namespace) -> int:
    """Measure each method, and show a table as it grows."""
    import torch

    from bluesky_ptychonn.cli.figures import conditions, refuse_unwritable, write_figures
    from bluesky_ptychonn.training.retrieval.reconstruct import METHODS

    every = (*OWN, *(method for method in METHODS if method not in OWN))
    methods = options.methods or ((OWN[0], BASELINE) if options.source else every)
    _check(options, methods, METHODS)
    if options.json:
        refuse_unwritable("--json", options.json)
    cases = _recorded(options, methods) if options.source else _simulated(options, methods)
    source = options.source.name if options.source else options.sample
    measured_under = conditions(source=source, threads=torch.get_num_threads(), seconds_allowed=options.seconds)
    print("  ".join(name.rjust(width) for name, width in COLUMNS.items()))
    results = []
    try:
        for result in cases:
            results.append(result)
            print(_row(result), flush=True)
    finally:
        if options.json and results:
            write_figures(options.json, "bench phase-retrieval", measured_under, results)
    return 0


def _check(options: argparse.Namespace, methods: Sequence[str], known: Sequence[str]) -> None:
    if unknown := [method for method in methods if method not in known]:
        raise ValueError(f"--methods {unknown[0]}: allowed are {', '.join(known)}")
    for name, value in (("points", POINTS), ("photons", PHOTONS), ("sample", SAMPLE)):
        if getattr(options, name) is None:
            setattr(options, name, value)
        elif options.source:
            raise ValueError(f"--{name} is for the simulated scan; leave it out, or --source")
    for name, low, high, unit in (
        ("points", 100, 10_000, "positions"),
        ("photons", 1, 1e9, "photons per frame"),
        ("seconds", 0.1, 86_400, "s for each method"),
    ):
        value = getattr(options, name)
        if not low <= value <= high:
            raise ValueError(f"--{name} {value:g} is outside {low:g} to {high:g} {unit}")
    if min(options.modes) < 1:
        raise ValueError(f"--modes {min(options.modes)}: at least 1 is needed")
    if options.modes != [1] and not options.source:
        raise ValueError(f"--modes {options.modes[0]}: the simulated scan has one; give --source FILE for more")


@dataclass(frozen=True)
class Truth:
    """The object of a simulated scan, and how a reconstruction of it is judged.

    Only a constant is removed.

    Parameters
    ----------
    object_ : (H, W) complex64
        In its pixels the positions of the scan are given.
    """

    object_: np.ndarray

    def compare(self, object_: np.ndarray, origin_px: tuple[float, float]) -> tuple[Any, float]:
        """Comparison of phases, `core.metrics.PhaseComparison`, and frequency at which the FRC falls below 0.5."""
        from bluesky_ptychonn.core.frc import fourier_ring_correlation, resolution
        from bluesky_ptychonn.core.metrics import compare_phase

        top, left = (int(part) for part in origin_px)
        height, width = object_.shape
        truth = self.object_[top : top + height, left : left + width]
        region = slice(EDGE_PX, height - EDGE_PX), slice(EDGE_PX, width - EDGE_PX)
        turned = object_ * np.exp(-1j * np.angle(np.sum(object_[region] * truth[region].conj())))
        phase, true_phase = np.angle(turned), np.angle(truth)
        likeness = compare_phase(phase, true_phase, data_range=DATA_RANGE_RAD, region=region)
        return likeness, resolution(*fourier_ring_correlation(phase[region], true_phase[region]))


def simulate(points: int, photons: float, sample: str) -> tuple[ScanData, Truth]:
    """Fly a zone plate's probe over a sample and count photons.

    Returns
    -------
    scan : ScanData
        Without a probe to start from.
    truth : Truth
    """
    from bluesky_ptychonn.core.optics import Geometry, intensities, with_counts, zone_plate_probe
    from bluesky_ptychonn.core.scan import fermat_spiral
    from bluesky_ptychonn.simulation.sample import make_sample

    geometry = Geometry()
    pixel_um = geometry.pixel_size_um
    side_um = SIDE_UM * np.sqrt(points / POINTS)
    positions_px = fermat_spiral(side_um, side_um, STEP_UM) / pixel_um
    field_px = int(np.ptp(positions_px, axis=0).max()) + geometry.frame_px + 40
    object_ = make_sample(
        sample,  # type: ignore[arg-type]
        field_um=field_px * pixel_um,
        pixel_size_um=pixel_um,
        seed=SEED,
        edge_px=SHARPNESS_PX,
    )
    positions_px += len(object_) / 2
    probe = with_counts(zone_plate_probe(geometry, defocus_um=DEFOCUS_UM), photons)
    expected = intensities(object_, probe, positions_px)
    counts = np.random.default_rng(SEED).poisson(expected).astype(np.uint32)
    return ScanData(counts, positions_px, pixel_size_um=pixel_um, geometry=geometry), Truth(object_)


def _simulated(options: argparse.Namespace, methods: Sequence[str]) -> Iterator[dict[str, Any]]:
    from bluesky_ptychonn.core.optics import probe_diameter_um, zone_plate_probe

    scan, truth = simulate(options.points, options.photons, options.sample)
    assert scan.geometry is not None
    probes = {start: zone_plate_probe(scan.geometry, defocus_um=defocus_um) for start, defocus_um in STARTS_UM.items()}
    diameter_um = probe_diameter_um(probes["exact"], scan.geometry.pixel_size_um)
    for start, probe in probes.items():
        for method in methods:
            yield {
                **measure(scan, probe, method, seconds=options.seconds, truth=truth),
                "test": "phase-retrieval simulated",
                "probe_start": start,
                "points": len(scan.patterns),
                "photons_per_frame": options.photons,
                "overlap_ratio": 1 - STEP_UM / diameter_um,
                "edge_px": SHARPNESS_PX,
            }


def _recorded(options: argparse.Namespace, methods: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The own methods with each number of modes, everything else with one."""
    from bluesky_ptychonn.cli.recorded import read_scan
    from bluesky_ptychonn.core.scan_checks import refuse_unfit

    scan = read_scan(options.source, options.pixel_size_nm)
    for note in scan.notes:
        print(f"note: {note}")
    refuse_unfit(scan)
    assert scan.probe is not None
    masked = float(1 - scan.valid.mean())
    for method in methods:
        for modes in options.modes if method in OWN else [1]:
            yield {
                **measure(scan, scan.probe, method, seconds=options.seconds, modes=modes),
                "test": f"phase-retrieval {options.source.stem}",
                "probe_start": "file",
                "points": len(scan.patterns),
                "masked_fraction": masked,
            }


def measure(
    scan: ScanData,
    probe: np.ndarray,
    method: str,
    *,
    seconds: float,
    modes: int = 1,
    truth: Truth | None = None,
) -> dict[str, Any]:
    """Figures of one method; of one that cannot run, the reason in ``skipped``.

    Two sweeps tell how many there is time for.
    """
    from bluesky_ptychonn.training.retrieval import ptychi_engine

    if method in ptychi_engine.METHODS and (reason := ptychi_engine.why_not()):
        return {**dict.fromkeys(COLUMNS), "method": method, "modes": modes, "skipped": reason}
    settings: dict[str, Any] = {"method": method, "probe": probe, "modes": modes, "holdout_every": HOLDOUT}
    trial = Clock()
    at_once = None if method in ptychi_engine.METHODS else 0  # the trial's sweeps are to cost what later ones do
    origin_px = _whole(scan, sweeps=2, probe_from=at_once, on_sweep=trial.note, **settings).origin_px
    trial_s = trial.times_s[1] - trial.times_s[0]
    left_s = HEADROOM * seconds - (trial.times_s[0] - trial_s)
    fitting = max(2, int(left_s / trial_s))
    sweeps = fitting if truth and method not in OWN else min(SWEEPS, fitting)
    clock = Clock(None if truth is None else lambda object_: truth.compare(object_, origin_px)[0].ssim)
    result = _whole(scan, sweeps=sweeps, on_sweep=clock.note, **settings)
    figures = {
        "method": method,
        "modes": modes,
        "sweeps": sweeps,
        "batch": result.settings["batch"],
        "seconds_per_sweep": (clock.times_s[-1] - clock.times_s[0]) / (sweeps - 1),
        "seconds_total": clock.times_s[-1],
        **_errors(scan, probe, modes, result),
        "skipped": None,
    }
    if truth is not None:
        likeness, frequency = truth.compare(result.object_, origin_px)
        figures |= {**likeness.as_figures(), "frc_cycles_per_px": frequency, **clock.ssim_figures()}
    return figures


def _whole(scan: ScanData, **settings: Any) -> Any:
    """Reconstruct; Ctrl-C ends the bench, too."""
    from bluesky_ptychonn.training.retrieval.reconstruct import reconstruct

    result = reconstruct(scan, **settings)
    if "interrupted_after" in result.settings:
        raise KeyboardInterrupt
    return result


def _errors(scan: ScanData, probe: np.ndarray, modes: int, result: Any) -> dict[str, float]:
    """Errors of a final forward pass over all frames, and over those held out."""
    from bluesky_ptychonn.training.retrieval.forward import error_of, pick_device
    from bluesky_ptychonn.training.retrieval.problem import Sweep, make_problem

    problem, device = make_problem(scan, probe, modes=modes), pick_device()
    sweep = Sweep(result.object_, result.probe, result.positions_px)
    return {
        "error": error_of(problem, sweep, np.arange(len(scan.patterns)), device),
        "error_heldout": error_of(problem, sweep, np.flatnonzero(result.held_out), device),
    }


class Clock:
    """Time after each sweep, without the time spent on comparing.

    Parameters
    ----------
    score : callable, optional
        Takes the object, returns its likeness to the truth.
    """

    def __init__(self, score: Callable[[np.ndarray], float] | None = None) -> None:
        self._score = score
        self._begin_s = time.monotonic()
        self.times_s: list[float] = []
        self.scores: list[float] = []

    def note(self, sweep: Any) -> None:
        """Take note of a sweep, `training.retrieval.reconstruct.Progress`."""
        now_s = time.monotonic()
        self.times_s.append(now_s - self._begin_s)
        if self._score:
            self.scores.append(self._score(sweep.object_))
            self._begin_s += time.monotonic() - now_s

    def ssim_figures(self) -> dict[str, float | None]:
        """When the goal was reached, and what was reached by when."""
        pairs = list(zip(self.times_s, self.scores, strict=True))
        figures = {f"ssim_at_{by_s}s": next((s for t, s in reversed(pairs) if t <= by_s), None) for by_s in MOMENTS_S}
        return {"seconds_to_ssim_085": next((t for t, s in pairs if s >= GOAL), None), **figures}


def _row(result: dict[str, Any]) -> str:
    cells = []
    for name, width in COLUMNS.items():
        value = result.get(name)
        text = "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
        cells.append(text.rjust(width))
    return "  ".join(cells) + (f"  skipped: {result['skipped']}" if result["skipped"] else "")

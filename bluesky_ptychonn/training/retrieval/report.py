"""Did it work? What can be measured of a reconstruction without knowing the truth."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy import stats

from bluesky_ptychonn.core.frc import SMALLEST_PX, fourier_ring_correlation, resolution
from bluesky_ptychonn.core.metrics import covered_region
from bluesky_ptychonn.core.moments import smooth_object
from bluesky_ptychonn.core.reconstruction import Reconstruction, RetrievalReport
from bluesky_ptychonn.core.scan_data import ScanData
from bluesky_ptychonn.training.retrieval.engine import sweeps_of
from bluesky_ptychonn.training.retrieval.field import WELL_COVERED, covered_fraction, overlap_ratio
from bluesky_ptychonn.training.retrieval.forward import State, Waves, error_of, pick_device
from bluesky_ptychonn.training.retrieval.orientation import find_orientation
from bluesky_ptychonn.training.retrieval.problem import Problem, Sweep
from bluesky_ptychonn.training.retrieval.reconstruct import RECIPES
from bluesky_ptychonn.training.retrieval.trials import trial_error
from bluesky_ptychonn.training.retrieval.verdict import verdict

HALF_SWEEPS = 16
HALF_BATCH = 48
SCALES = (0.9, 1.0, 1.1)
BROAD = 0.04
"""Frequency, cycles/px, up to which halves may differ: what is as broad as the probe settles last of all."""
BETTER = 0.98
"""Ratio of errors from which down on another scale is better; the noise of the data hides smaller differences."""


def judge(
    scan: ScanData,
    reconstruction: Reconstruction,
    *,
    trusted_probe: bool = True,
    device: torch.device | None = None,
    on_step: Callable[[str], None] | None = None,
) -> Reconstruction:
    """Add a report to a reconstruction.

    Two halves of the frames are reconstructed anew for the ring correlation, and short trials ask whether another
    orientation or a stretched scan would fit better.

    Parameters
    ----------
    scan : ScanData
        The one that was reconstructed.
    reconstruction : Reconstruction
    trusted_probe : bool
        Whether the sign of the starting probe's defocus is known; only then can twins be told apart.
    device : torch.device, optional
    on_step : callable, optional
        Told what is being measured.
    """
    device, say = device or pick_device(), on_step or (lambda _: None)
    problem, last = _solved(scan, reconstruction)
    every = np.arange(len(problem.patterns))
    held_out = np.flatnonzero(reconstruction.held_out)
    say("errors")
    blank = Sweep(np.ones_like(last.object_), last.probe, last.positions_px)
    frame_counts = float(np.median(np.sum(scan.patterns, axis=(1, 2), where=scan.valid, dtype=np.float64)))
    measured: dict[str, Any] = {
        "error": error_of(problem, last, every, device),
        "error_heldout": error_of(problem, last, held_out, device),
        "error_blank": error_of(problem, blank, every, device),
        "error_noise": noise_of(problem, last, device),
        "photons_per_frame": frame_counts,
    }
    say("ring correlation of two halves")
    finest = half_correlation(problem, reconstruction, device)
    pixel_um = reconstruction.pixel_size_um
    measured["frc_cycles_per_px"] = finest
    measured["frc_nm"] = 1e3 * pixel_um / (2 * finest) if pixel_um and finest else None
    measured["covered_fraction"] = covered_fraction(reconstruction.coverage, last.positions_px)
    say("stretched scans")
    refined = replace(scan, probe=reconstruction.probe, positions_px=last.positions_px)
    measured["position_scale"] = best_scale([trial_error(refined, scale=scale, device=device) for scale in SCALES])
    probe = reconstruction.probe if scan.probe is None else scan.probe
    measured["overlap_ratio"] = overlap_ratio(last.positions_px, probe)
    found = find_orientation(replace(scan, probe=probe), trusted_probe=trusted_probe, device=device, on_step=say)
    measured |= {"orientation": found.best, "orientation_margin": found.margin, "orientation_gain": found.gain}
    measured["twin"] = found.twin
    report = RetrievalReport(trusted=False, reason="", **measured)
    trusted, reason = verdict(report)
    return replace(reconstruction, report=replace(report, trusted=trusted, reason=reason))


def _solved(scan: ScanData, reconstruction: Reconstruction) -> tuple[Problem, Sweep]:
    last = Sweep(reconstruction.object_, reconstruction.probe, reconstruction.positions_px)
    problem = Problem(
        scan.patterns,
        reconstruction.positions_px,
        reconstruction.origin_px,
        reconstruction.object_,
        reconstruction.probe,
        np.flatnonzero(~reconstruction.held_out),
    )
    return problem, last


def noise_of(problem: Problem, sweep: Sweep, device: torch.device) -> float:
    """The error that counting statistics alone would leave of a perfect model with these intensities."""
    expected = np.geomspace(1e-4, 1e2, 121)
    most = np.arange(201)
    roots = (stats.poisson.pmf(most[None], expected[:, None]) * np.sqrt(most)).sum(axis=1)
    spread = 2 * expected - 2 * np.sqrt(expected) * roots
    misfit = counts = 0.0
    rows = problem.used[:: max(1, len(problem.used) // 128)]
    for first in range(0, len(rows), 32):
        part = rows[first : first + 32]
        state = State(replace(problem, patterns=problem.patterns[part], positions_px=sweep.positions_px[part]), device)
        intensity = Waves(state, np.arange(len(part))).intensity.cpu().numpy()
        valid = 1.0 if state.valid is None else state.valid.cpu().numpy()
        misfit += float(np.sum(np.interp(intensity, expected, spread, left=0.0) * valid))
        counts += float(state.counts.sum(dtype=torch.float64))
    return misfit / counts if counts > 0 else float("nan")


def half_correlation(problem: Problem, reconstruction: Reconstruction, device: torch.device) -> float | None:
    """Frequency, cycles/px, down to which two reconstructions from every other frame agree; None on too small a field.

    Both have the refined probe, held fixed, and an object of their own, with a first guess from their own frames.
    """
    halves = []
    recipe = replace(RECIPES["poisson"], batch=min(HALF_BATCH, max(1, len(problem.used) // 20)), probe_from=HALF_SWEEPS)
    for half in (problem.used[::2], problem.used[1::2]):
        guess = smooth_object(
            problem.patterns[half], problem.positions_px[half], problem.probe[0], problem.object_.shape
        )
        *_, last = sweeps_of(replace(problem, used=half, object_=guess), recipe, sweeps=HALF_SWEEPS, device=device)
        halves.append(last.object_)
    try:
        field = covered_region(reconstruction.coverage, WELL_COVERED)
    except ValueError:
        return None
    cut = [half[field] for half in halves]
    if min(cut[0].shape) < SMALLEST_PX:
        return None
    constant = np.vdot(cut[1], cut[0])
    frequencies, correlation = fourier_ring_correlation(cut[0], cut[1] * (constant / max(abs(constant), 1e-30)))
    asked = frequencies > BROAD
    return resolution(frequencies[asked], correlation[asked])


def best_scale(errors: list[float]) -> float:
    """Where a parabola through the errors at `SCALES` is least, within twice their range; 1 if no other is better."""
    below, middle, above = errors
    if min(below, above) > BETTER * middle:
        return 1.0
    bend = below - 2 * middle + above
    if bend <= 0:
        return SCALES[int(np.argmin(errors))]
    step = SCALES[2] - SCALES[1]
    return float(np.clip(1 + step * (below - above) / (2 * bend), 1 - 2 * step, 1 + 2 * step))

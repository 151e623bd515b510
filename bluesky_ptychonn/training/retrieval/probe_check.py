"""Probe, defocus and orientation from one dense scan of a test pattern, starting from what the optics should be.

First the orientation, by short reconstructions that refine the probe; then the residual against defocus, the probe held
fixed, for a start that is near; then a reconstruction of all frames, whose probe tells defocus and astigmatism.

The sign of the defocus is the expected probe's. Data in one orientation with one sign are explained as well by the
orientation half a turn away with the other sign: without a sign, only pairs of orientations can be told apart.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from bluesky_ptychonn.core.optics import Geometry
from bluesky_ptychonn.core.probe_fit import OpticsFit, defocused, fit_optics
from bluesky_ptychonn.core.reconstruction import Reconstruction
from bluesky_ptychonn.core.scan_data import ScanData
from bluesky_ptychonn.training.retrieval.forward import pick_device
from bluesky_ptychonn.training.retrieval.orientation import Orientation, find_orientation
from bluesky_ptychonn.training.retrieval.reconstruct import SWEEPS, Progress, reconstruct
from bluesky_ptychonn.training.retrieval.report import judge
from bluesky_ptychonn.training.retrieval.trials import trial_error

STEP = 0.1
"""Between two defoci that are tried, in units of the expected one."""
NEAR, FAR = 0.4, 0.8
"""Largest error of the expected defocus, in its own units, that is tried at once, and at all."""
LEAST_MARGIN = 1.1
"""Error of the next best pair of orientations over that of the best, from which on it is decided."""


@dataclass(frozen=True)
class DefocusTrials:
    """Error on held out frames of a short reconstruction with a fixed probe, against its defocus.

    Parameters
    ----------
    defocus_um, errors : (K,) float64
    best_um : float
        Where a parabola through the least error and its neighbours has its minimum.
    inside : bool
        Whether the least error lies within the range that was tried.
    """

    defocus_um: np.ndarray
    errors: np.ndarray
    best_um: float
    inside: bool


@dataclass(frozen=True)
class CheckedProbe:
    """What the scan says, beside what was expected.

    Parameters
    ----------
    scan : ScanData
        In the orientation found.
    orientation : Orientation
    trials : DefocusTrials
    reconstruction : Reconstruction
        With its report.
    fit, expected : OpticsFit
        Of the retrieved probe, and of the expected one.
    problems : tuple of str
        Why it should not be believed; none if it should.
    """

    scan: ScanData
    orientation: Orientation
    trials: DefocusTrials
    reconstruction: Reconstruction
    fit: OpticsFit
    expected: OpticsFit
    problems: tuple[str, ...]


def check_probe(
    scan_in: Callable[[str], ScanData],
    *,
    sweeps: int = SWEEPS,
    seed: int = 0,
    device: torch.device | None = None,
    on_step: Callable[[str], None] = lambda text: None,
    on_sweep: Callable[[Progress], None] | None = None,
) -> CheckedProbe:
    """Find orientation, probe, defocus and astigmatism of a scan.

    Parameters
    ----------
    scan_in : callable
        Gives the scan in an orientation of its frames (`core.frames.ORIENTATIONS`), cut around its beam, with the
        expected probe, whose defocus has the right sign and is right to some 30 %.
    sweeps : int
        Of the reconstruction.
    seed : int
    device : torch.device, optional
    on_step, on_sweep : callable, optional
        Told what is tried, and each sweep of the reconstruction.

    Raises
    ------
    ValueError
        If the scan has no geometry, or no probe of one mode.
    """
    device = device or pick_device()
    as_measured = scan_in("identity")
    geometry, probe = as_measured.geometry, as_measured.probe
    if geometry is None or probe is None or probe.ndim != 2:
        raise ValueError("energy, distance, detector pixel and an expected probe (n, n) are needed")
    expected = fit_optics(probe, geometry)
    orientation = find_orientation(as_measured, seed=seed, device=device, on_step=on_step)
    scan = scan_in(orientation.best)
    on_step("residual against defocus")
    trials = try_defoci(scan, probe, geometry, expected.defocus_um, seed=seed, device=device)
    scan = replace(scan, probe=defocused(probe, geometry, trials.best_um - expected.defocus_um))
    on_step(f"reconstruction of {len(scan.patterns)} frames, beginning {trials.best_um:.0f} um behind the focus")
    found = reconstruct(scan, sweeps=sweeps, modes=1, seed=seed, device=device, on_sweep=on_sweep)
    fit = fit_optics(found.probe[0], geometry)
    found = judge(scan, found, device=device, on_step=on_step)
    problems = tuple(_problems(orientation, trials, fit, found))
    return CheckedProbe(scan, orientation, trials, found, fit, expected, problems)


def try_defoci(
    scan: ScanData, probe: np.ndarray, geometry: Geometry, expected_um: float, *, seed: int, device: torch.device
) -> DefocusTrials:
    """Errors around the expected defocus; where the least is at an end, beyond it, too, but not beyond the focus."""
    step_um = STEP * abs(expected_um)
    numbers = list(range(-round(NEAR / STEP), round(NEAR / STEP) + 1))
    errors: dict[int, float] = {}
    while True:
        for number in numbers:
            moved = replace(scan, probe=defocused(probe, geometry, number * step_um))
            errors[number] = trial_error(moved, fixed_probe=True, seed=seed, device=device)
        best = min(errors, key=errors.__getitem__)
        inside = min(errors) < best < max(errors)
        if inside or abs(best) >= round(FAR / STEP):
            break
        numbers = [best + (1 if best > 0 else -1)]
    tried = np.array(sorted(errors))
    summit = 0.0
    if inside:
        before, here, after = (errors[best + move] for move in (-1, 0, 1))
        summit = float(np.clip((before - after) / (2 * (before - 2 * here + after)), -0.5, 0.5))
    return DefocusTrials(
        defocus_um=expected_um + tried * step_um,
        errors=np.array([errors[number] for number in tried]),
        best_um=expected_um + (best + summit) * step_um,
        inside=inside,
    )


def _problems(
    orientation: Orientation, trials: DefocusTrials, fit: OpticsFit, reconstruction: Reconstruction
) -> list[str]:
    problems = []
    if orientation.margin < LEAST_MARGIN:
        problems.append(
            f"the orientation is not decided: the next pair's error is {orientation.margin:.2f} times as large, at "
            f"least {LEAST_MARGIN} is needed; scan a stronger pattern, or give more light"
        )
    if orientation.twin != "decided":
        problems.append(
            "which of two orientations half a turn apart is right is not decided; that takes a defocused probe: move "
            "the sample out of the focus, and set probe.defocus_um"
        )
    if not trials.inside:
        low, high = trials.defocus_um[[0, -1]]
        problems.append(
            f"the defocus is not between {low:.0f} and {high:.0f} um, or something else is wrong, such as distance or "
            "energy; correct probe.defocus_um in the settings"
        )
    if not fit.believed:
        problems.append(
            f"the probe is not that of a zone plate with defocus and astigmatism: {100 * fit.coherence:.0f} % of its "
            "cone has that phase; look at the picture"
        )
    report = reconstruction.report
    if report is not None and not report.trusted:
        problems.append(f"the reconstruction is not trusted: {report.reason}")
    return problems

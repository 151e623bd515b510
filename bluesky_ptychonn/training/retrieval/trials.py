"""Short reconstructions of the middle of a scan, to ask which of several assumptions fits the data."""

from dataclasses import replace

import numpy as np
import torch

from bluesky_ptychonn.core.frames import orient_patterns
from bluesky_ptychonn.core.optics import far_field, near_field
from bluesky_ptychonn.core.scan_data import ScanData
from bluesky_ptychonn.training.retrieval.engine import Recipe, sweeps_of
from bluesky_ptychonn.training.retrieval.forward import error_of
from bluesky_ptychonn.training.retrieval.reconstruct import start_of

FRAMES = 100
SWEEPS = 10
HELD_OUT_EVERY = 5
RECIPE = Recipe(10, 0.5, 0.5, 0.1, momentum=0.7, settle=0.5, probe_from=2)


def trial_error(
    scan: ScanData,
    *,
    orientation: str = "identity",
    scale: float = 1.0,
    fixed_probe: bool = False,
    seed: int = 0,
    device: torch.device,
) -> float:
    """Error on held out frames of a short reconstruction around the middle of a scan; see `RetrievalReport`.

    Parameters
    ----------
    scan : ScanData
        With a probe.
    orientation : str
        Done to the patterns first (`core.frames.ORIENTATIONS`).
    scale : float
        Factor on the positions; the probe's defocus goes with it, because the two are felt together.
    fixed_probe : bool
        Hold the probe.
    seed : int
    device : torch.device
    """
    away = np.linalg.norm(scan.positions_px - np.median(scan.positions_px, axis=0), axis=1)
    rows = np.sort(np.argsort(away, kind="stable")[:FRAMES])
    if scan.probe is None:
        raise ValueError("there is no probe to try with; give one")
    some = replace(
        scan,
        patterns=orient_patterns(scan.patterns[rows], orientation),
        positions_px=scan.positions_px[rows] * scale,
        probe=scan.probe if scale == 1 else with_defocus(scan.probe, scale),
        trigger_index=rows,
    )
    problem = start_of(some, None, holdout_every=HELD_OUT_EVERY)
    recipe = replace(RECIPE, probe_from=SWEEPS) if fixed_probe else RECIPE
    *_, last = sweeps_of(problem, recipe, sweeps=SWEEPS, device=device, seed=seed)
    held_out = np.setdiff1d(np.arange(len(rows)), problem.used)
    return error_of(problem, last, held_out if len(held_out) else problem.used, device)


def with_defocus(probe: np.ndarray, factor: float) -> np.ndarray:
    """The probe (n, n) or modes (M, n, n) with its defocus multiplied by ``factor``."""
    spectrum = far_field(probe)
    n = probe.shape[-1]
    q = np.arange(n) - n / 2
    phase = curvature(probe) * (factor - 1) * (q[:, None] ** 2 + q[None, :] ** 2)
    return near_field(spectrum * np.exp(1j * phase)).astype(np.complex64)


def curvature(probe: np.ndarray) -> float:
    """Curvature of the phase of the (first) mode across its cone, rad/px^2: 0 in focus, of the sign of the defocus."""
    spectrum = far_field(probe if probe.ndim == 2 else probe[0])
    n = probe.shape[-1]
    power = np.abs(spectrum) ** 2
    q = (np.arange(n - 1) + 0.5 - n / 2)[:, None]
    lever = rise = 0.0
    for wave, light in ((spectrum, power), (spectrum.T, power.T)):
        weight = np.minimum(light[1:], light[:-1]).astype(np.float64)
        rise += np.sum(weight * np.angle(wave[1:] * np.conj(wave[:-1])) * q)
        lever += 2 * np.sum(weight * q**2)
    return float(rise / lever) if lever > 0 else 0.0

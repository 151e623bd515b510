"""From a scan to its object: one call for every method."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from bluesky_ptychonn import __version__
from bluesky_ptychonn.core.moments import smooth_object
from bluesky_ptychonn.core.reconstruction import Reconstruction
from bluesky_ptychonn.core.scan_data import ScanData
from bluesky_ptychonn.training.retrieval import ptychi_engine
from bluesky_ptychonn.training.retrieval.engine import Recipe, sweeps_of
from bluesky_ptychonn.training.retrieval.field import light_on
from bluesky_ptychonn.training.retrieval.forward import error_of, pick_device
from bluesky_ptychonn.training.retrieval.positions import PositionCorrection
from bluesky_ptychonn.training.retrieval.problem import Problem, Sweep, make_problem

RECIPES = {
    "batched": Recipe(96, 0.3, 0.5, 0.05, momentum=0.9, settle=0.5),
    "poisson": Recipe(96, 0.3, 0.5, 0.05, momentum=0.9, settle=0.5, photons_from=0.15),
    "epie": Recipe(1, 0.7, 0.5, 1.0, probe_from=5),
    "rpie": Recipe(1, 0.5, 0.5, 0.1, probe_from=5),
}
"""Own methods; see `engine`."""
METHODS = (*RECIPES, *ptychi_engine.METHODS)
SWEEPS = 60
FRAMES_PER_BATCH = 10
"""A batch is at most this part of the frames: more would see each pixel too often at once."""
LARGEST_BATCH_GPU = 256
PTYCHI_BATCH = 24
"""Costs per sweep what larger ones do, and converges twice as fast."""
DIVERGED = 2.0
"""Error of the last sweep, in units of the least, from which on it is not kept."""
SAMPLE = 128
"""Frames in use that are asked for the error after each sweep."""


@dataclass(frozen=True)
class Progress:
    """What is known after sweep ``number`` (from 1) of ``total``.

    Errors are those of `RetrievalReport`; `error` is that of a sample of the frames in use, `error_heldout` is NaN if
    none is held out.
    """

    number: int
    total: int
    error: float
    error_heldout: float
    object_: np.ndarray


def reconstruct(
    scan: ScanData,
    *,
    method: str = "poisson",
    sweeps: int = SWEEPS,
    probe: np.ndarray | None = None,
    modes: int | None = None,
    probe_from: int | None = None,
    position_bound_px: float | None = None,
    holdout_every: int = 20,
    batch: int | None = None,
    seed: int = 0,
    device: torch.device | None = None,
    on_sweep: Callable[[Progress], None] | None = None,
) -> Reconstruction:
    """Reconstruct the object and the probe of a scan.

    The last sweep is kept, unless it diverged. Ctrl-C ends it early and keeps the sweep with the least error on the
    frames held out.

    Parameters
    ----------
    scan : ScanData
    method : str
        ``"poisson"`` (batched, counts photons in the end), ``"batched"`` (amplitudes throughout), ``"epie"``,
        ``"rpie"``, or one of pty-chi's, ``"ptychi-lsqml"``, ``"ptychi-epie"``, ``"ptychi-rpie"``.
    sweeps : int
        Passes over all frames.
    probe : (n, n) or (M, n, n) complex, optional
        To start from; the scan's own without it.
    modes : int, optional
        Incoherent probe modes; as many as the starting probe has without it.
    probe_from : int, optional
        First sweep, from 0, that updates the probe; ``sweeps`` or more for a probe held fixed; the method's own choice
        without it.
    position_bound_px : float, optional
        Correct the positions, each by at most this much along y and x; not at all without it.
    holdout_every : int
        One frame of this many is never used for an update; 0 for none.
    batch : int, optional
        Frames that act at once; chosen by the machine and the number of frames without it.
    seed : int
    device : torch.device, optional
    on_sweep : callable, optional
        Called after each sweep.

    Returns
    -------
    Reconstruction
        Without a report; see `report.judge`.

    Raises
    ------
    ValueError
        If the scan has no probe to start from, or a parameter is out of range.
    """
    _check(method, sweeps, modes, probe_from, position_bound_px, batch, holdout_every, seed)
    problem = start_of(
        scan,
        probe,
        modes=modes,
        holdout_every=holdout_every,
        room_px=position_bound_px or 0.0,
        smooth=method in ("batched", "poisson"),
    )
    device = device or pick_device()
    engine, settings = _engine(problem, method, sweeps, probe_from, position_bound_px, batch, seed, device)
    some = problem.used[:: max(1, len(problem.used) // SAMPLE)]
    held_out = np.setdiff1d(np.arange(len(problem.patterns)), problem.used)
    counts_photons = int(np.ceil(settings.get("photons_from", 1.0) * sweeps)) + 1
    best: tuple[float, int, Sweep] | None = None
    errors: list[tuple[float, float]] = []
    try:
        for number, sweep in enumerate(engine, 1):
            errors.append((error_of(problem, sweep, some, device), error_of(problem, sweep, held_out, device)))
            measure = errors[-1][1 if len(held_out) else 0]
            done = number == sweeps and best is not None and measure < DIVERGED * best[0]
            fresh = number == counts_photons  # from here on errors in amplitude are higher, and say less
            if best is None or measure <= best[0] or done or fresh:
                best = measure, number, sweep
            if on_sweep:
                on_sweep(Progress(number, sweeps, *errors[-1], sweep.object_))
    except KeyboardInterrupt:
        if best is None:
            raise
        settings["interrupted_after"] = len(errors)
    if best is None:
        raise RuntimeError(f"method {method!r} made no sweep")
    _, kept, sweep = best
    settings |= {"modes": len(sweep.probe), "seed": seed, "kept_sweep": kept}
    return _result(scan, problem, sweep, np.array(errors), settings, device)


def start_of(
    scan: ScanData,
    probe: np.ndarray | None,
    *,
    modes: int | None = None,
    holdout_every: int = 20,
    room_px: float = 0.0,
    smooth: bool = True,
) -> Problem:
    """Prepare a scan with the given or its own probe, and a first guess of the object where that explains more."""
    probe = scan.probe if probe is None else probe
    if probe is None:
        raise ValueError("there is no probe to start from; give one: a file, the optics, or an earlier reconstruction")
    modes = modes or (1 if probe.ndim == 2 else len(probe))
    problem = make_problem(scan, probe, modes=modes, holdout_every=holdout_every, room_px=room_px)
    if not smooth:
        return problem
    used = problem.used
    guess = smooth_object(problem.patterns[used], problem.positions_px[used], problem.probe[0], problem.object_.shape)
    some = used[:: max(1, len(used) // SAMPLE)]
    flat, smoothed = (
        error_of(problem, Sweep(object_, problem.probe, problem.positions_px), some, torch.device("cpu"))
        for object_ in (problem.object_, guess)
    )
    return replace(problem, object_=guess) if smoothed < flat else problem


def _check(
    method: str,
    sweeps: int,
    modes: int | None,
    probe_from: int | None,
    bound_px: float | None,
    batch: int | None,
    holdout_every: int,
    seed: int,
) -> None:
    if method not in METHODS:
        raise ValueError(f"method = {method!r}; allowed is one of {', '.join(METHODS)}")
    at_least = (("sweeps", sweeps, 1), ("modes", modes, 1), ("probe_from", probe_from, 0), ("batch", batch, 1))
    for name, value, least in (*at_least, ("seed", seed, 0)):
        if value is not None and value < least:
            raise ValueError(f"{name} = {value}; it must be at least {least}")
    if holdout_every < 0 or holdout_every == 1:
        raise ValueError(f"holdout_every = {holdout_every}; allowed are 0 for none, or 2 and more")
    if bound_px is not None and not (np.isfinite(bound_px) and bound_px > 0):
        raise ValueError(f"position_bound_px = {bound_px} px; it must be positive")
    if probe_from is not None and method in ptychi_engine.METHODS:
        raise ValueError(f"probe_from = {probe_from}; {method} updates the probe from the first sweep; leave it out")


def _engine(
    problem: Problem,
    method: str,
    sweeps: int,
    probe_from: int | None,
    bound_px: float | None,
    batch: int | None,
    seed: int,
    device: torch.device,
) -> tuple[Iterator[Sweep], dict[str, Any]]:
    settings: dict[str, Any] = {"method": method, "sweeps": sweeps, "position_bound_px": bound_px}
    if method in ptychi_engine.METHODS:
        settings["batch"] = batch or PTYCHI_BATCH
        engine = ptychi_engine.ptychi_sweeps(
            problem,
            method=method,
            sweeps=sweeps,
            batch=settings["batch"],
            seed=seed,
            position_bound_px=bound_px,
        )
        return engine, settings
    recipe = RECIPES[method]
    if probe_from is not None:
        recipe = replace(recipe, probe_from=probe_from)
    if recipe.batch > 1:
        most = recipe.batch if device.type == "cpu" else LARGEST_BATCH_GPU
        recipe = replace(recipe, batch=batch or int(np.clip(len(problem.used) // FRAMES_PER_BATCH, 1, most)))
    correction = PositionCorrection(problem.positions_px, bound_px=bound_px) if bound_px else None
    settings |= vars(recipe)
    return sweeps_of(problem, recipe, sweeps=sweeps, device=device, seed=seed, correction=correction), settings


def _result(
    scan: ScanData,
    problem: Problem,
    sweep: Sweep,
    errors: np.ndarray,
    settings: dict[str, Any],
    device: torch.device,
) -> Reconstruction:
    held_out = np.ones(len(problem.patterns), bool)
    held_out[problem.used] = False
    libraries = {"bluesky_ptychonn": __version__, "torch": version("torch")}
    if settings["method"] in ptychi_engine.METHODS:
        libraries["ptychi"] = version("ptychi")
    return Reconstruction(
        object_=sweep.object_,
        probe=sweep.probe,
        positions_px=sweep.positions_px,
        origin_px=problem.origin_px,
        pixel_size_um=scan.pixel_size_um,
        coverage=light_on(sweep),
        trigger_index=scan.trigger_index,
        held_out=held_out,
        errors=errors[:, 0],
        errors_heldout=errors[:, 1],
        settings={**settings, "device": device.type},
        provenance={**scan.provenance, **libraries},
    )

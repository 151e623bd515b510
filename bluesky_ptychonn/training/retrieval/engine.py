"""ePIE and its relatives: one sweep updates object and probe from every frame in use, in random order.

Both kinds replace the modelled amplitude of a frame by the measured one and let object and probe follow the difference
of the exit waves. They differ in how many frames act at once and in the denominators::

    epie      one frame;   object += alpha conj(P) d / max |P|^2               (Maiden & Rodenburg 2009, eq. 6)
    rpie      one frame;   object += conj(P) d / ((1 - a) |P|^2 + a max |P|^2)  (Maiden et al. 2017, eq. 20)
    batched   many frames; the same sums over the batch, with momentum; steps shrink towards the end, so that the noise
              of the last frames does not stay in the object; and the last part counts photons instead of amplitudes

References
----------
Maiden and Rodenburg, Ultramicroscopy 109, 1256 (2009), eqs. 6 and 7.
Maiden, Johnson and Li, Optica 4, 736 (2017), eq. 20 and the momentum of section 4.
Thibault and Guizar-Sicairos, New J. Phys. 14, 063004 (2012): Poisson likelihood.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from bluesky_ptychonn.training.retrieval.forward import State, Waves, squared
from bluesky_ptychonn.training.retrieval.gauge import Gauge
from bluesky_ptychonn.training.retrieval.positions import PositionCorrection
from bluesky_ptychonn.training.retrieval.problem import Problem, Sweep

DARK = 1e-3
"""Modelled amplitude below which a pixel has no phase, sqrt(photons)."""
FEW = 0.02
"""Photons added to model and measurement in the likelihood: a lone photon where none is expected must not rule."""
LARGEST_FACTOR = 5.0


@dataclass(frozen=True)
class Recipe:
    """How an engine steps.

    Parameters
    ----------
    batch : int
        Frames that act at once.
    object_step, probe_step : float
        Share of the difference that is taken over.
    regularisation : float
        Share of the largest |P|^2 in the denominator, 1 for ePIE's.
    momentum : float
        Share of the last step that is taken again.
    settle : float
        Share of the sweeps, at the end, over which the steps shrink to nothing.
    photons_from : float
        Share of the sweeps after which the Poisson likelihood replaces amplitudes; 1 for never.
    probe_from : int
        First sweep (from 0) that updates the probe.
    """

    batch: int
    object_step: float
    probe_step: float
    regularisation: float
    momentum: float = 0.0
    settle: float = 0.0
    photons_from: float = 1.0
    probe_from: int = 0


def sweeps_of(
    problem: Problem,
    recipe: Recipe,
    *,
    sweeps: int,
    device: torch.device,
    seed: int = 0,
    correction: PositionCorrection | None = None,
) -> Iterator[Sweep]:
    """Yield object, probe and positions after each sweep.

    Parameters
    ----------
    problem : Problem
    recipe : Recipe
    sweeps : int
        How many; the step sizes are planned for it.
    device : torch.device
    seed : int
        Of the order of the frames.
    correction : PositionCorrection, optional
        Moves positions too, those of held out frames as well: nothing else is learned from these.
    """
    rng = np.random.default_rng(seed)
    state, gauge = State(problem, device), Gauge(problem.probe)
    held_out = np.setdiff1d(np.arange(len(problem.patterns)), problem.used)
    pace = [torch.zeros_like(state.object_), torch.zeros_like(state.probe)]
    for number in range(sweeps):
        share = min(1.0, (sweeps - number) / (recipe.settle * sweeps + 1))
        photons = number >= recipe.photons_from * sweeps
        probe_step = share * recipe.probe_step if number >= recipe.probe_from else 0.0
        order = rng.permutation(problem.used)
        for first in range(0, len(order), recipe.batch):
            rows = order[first : first + recipe.batch]
            waves = Waves(state, rows)
            difference = _difference(state, rows, waves, photons)
            if correction is not None:
                correction.add(rows, waves, difference, state)
            step = share * recipe.object_step * _object_change(state, waves, difference, recipe.regularisation)
            pace[0] = recipe.momentum * pace[0] + step
            if probe_step:
                pace[1] = recipe.momentum * pace[1] + probe_step * _probe_change(waves, difference)
                state.probe = state.probe + pace[1]
            state.object_ = state.object_ + pace[0]
        if correction is not None:
            for first in range(0, len(held_out), recipe.batch):
                rows = held_out[first : first + recipe.batch]
                waves = Waves(state, rows)
                correction.add(rows, waves, _difference(state, rows, waves, photons), state)
            correction.apply(state, number)
        if probe_step:
            gauge.restore(state, pace)
        yield state.sweep()


def _difference(state: State, rows: np.ndarray, waves: Waves, photons: bool) -> torch.Tensor:
    """How the exit waves (B, M, n, n) should change so that their far field fits the measurement."""
    if photons:
        factor = ((state.counts[rows] + FEW) / (waves.intensity + FEW) - 1) / 2
        factor = factor.clamp(max=LARGEST_FACTOR)
    else:
        factor = state.amplitude[rows] / (waves.intensity.sqrt() + DARK) - 1
    if state.valid is not None:
        factor = factor * state.valid[rows]
    return torch.fft.ifft2(waves.far * factor[:, None], norm="ortho")


def _object_change(state: State, waves: Waves, difference: torch.Tensor, regularisation: float) -> torch.Tensor:
    flat, seen = waves.index.reshape(-1), squared(waves.probe).sum(1).reshape(-1)
    change = torch.zeros(state.object_.numel(), dtype=torch.complex64, device=flat.device)
    light = torch.zeros(state.object_.numel(), device=flat.device)
    change.index_add_(0, flat, (waves.probe.conj() * difference).sum(1).reshape(-1))
    light.index_add_(0, flat, seen)
    change /= (1 - regularisation) * light + regularisation * light.max()
    return change.view(state.object_.shape)


def _probe_change(waves: Waves, difference: torch.Tensor) -> torch.Tensor:
    spectrum = torch.fft.fft2(waves.patch.conj()[:, None] * difference) * waves.ramp.conj()
    return torch.fft.ifft2(spectrum.sum(0)) / squared(waves.patch).sum(0).max()

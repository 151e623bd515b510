"""The forward model on torch: exit waves and far fields of many frames at once.

Equal to `core.optics.intensities`. Patterns are kept with the zero frequency at pixel (0, 0), so that no transform
needs a shift; a probe is moved by parts of a pixel by a ramp on its spectrum.
"""

import numpy as np
import torch

from bluesky_ptychonn.core.frames import no_data
from bluesky_ptychonn.training.retrieval.problem import Problem, Sweep

JUDGED_AT_ONCE = 64


def pick_device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def error_of(problem: Problem, sweep: Sweep, rows: np.ndarray, device: torch.device) -> float:
    """Sum of (modelled - measured amplitude)^2 / sum of counts over some frames; NaN for none.

    Parameters
    ----------
    problem : Problem
        Where the measurements come from.
    sweep : Sweep
        Object, probe and positions under test.
    rows : (K,) int64
        Frames that are asked.
    device : torch.device
    """
    misfit = counts = 0.0
    for first in range(0, len(rows), JUDGED_AT_ONCE):
        part = rows[first : first + JUDGED_AT_ONCE]
        state = State(
            Problem(problem.patterns[part], sweep.positions_px[part], (0, 0), sweep.object_, sweep.probe, part), device
        )
        every = np.arange(len(part))
        misfit += float(state.misfit(every, Waves(state, every).intensity).sum(dtype=torch.float64))
        counts += float(state.counts.sum(dtype=torch.float64))
    return misfit / counts if counts > 0 else float("nan")


def squared(wave: torch.Tensor) -> torch.Tensor:
    """|wave|^2; faster than ``abs``, which guards against overflow."""
    parts = torch.view_as_real(wave)
    return (parts * parts).sum(-1)


class Waves:
    """One batch of frames under the present object and probe.

    Attributes
    ----------
    index : (B, n, n) int64
        Pixels of the flattened object that each frame sees.
    ramp : (B, 1, n, n) complex64
        Moves the probe's spectrum by the part of a pixel.
    probe : (B, M, n, n) complex64
        Modes of the moved probe.
    patch : (B, n, n) complex64
        The object under each probe.
    far : (B, M, n, n) complex64
        On the detector.
    intensity : (B, n, n) float32
        Sum over the modes.
    """

    def __init__(self, state: "State", rows: np.ndarray) -> None:
        n, width = state.side, state.object_.shape[1]
        whole = torch.round(state.positions[rows])
        part = (state.positions[rows] - whole).to(torch.float32)
        corner = whole.long() - n // 2
        self.index = (
            (corner[:, 0, None, None] + state.pixels[:, None]) * width + corner[:, 1, None, None] + state.pixels
        )
        turn_y, turn_x = (torch.exp(-2j * np.pi * part[:, axis, None] * state.frequency) for axis in (0, 1))
        self.ramp = (turn_y[:, :, None] * turn_x[:, None, :])[:, None]
        self.probe = torch.fft.ifft2(torch.fft.fft2(state.probe) * self.ramp)
        self.patch = state.object_.view(-1)[self.index]
        self.far = torch.fft.fft2(self.probe * self.patch[:, None], norm="ortho")
        self.intensity = squared(self.far).sum(1)


class State:
    """Object, probe, positions and measured counts on one device.

    Parameters
    ----------
    problem : Problem
    device : torch.device
    """

    def __init__(self, problem: Problem, device: torch.device) -> None:
        patterns = problem.patterns
        valid = patterns != no_data(patterns.dtype)
        counts = np.where(valid, patterns, 0).astype(np.float32)
        corner_first = [np.fft.ifftshift(array, axes=(1, 2)) for array in (counts, valid)]
        self.counts = torch.from_numpy(corner_first[0].copy()).to(device)
        self.amplitude = self.counts.sqrt()
        self.valid = torch.from_numpy(corner_first[1].astype(np.float32)).to(device) if not valid.all() else None
        self.object_ = torch.from_numpy(problem.object_.copy()).to(device)
        self.probe = torch.from_numpy(problem.probe.copy()).to(device)
        self.positions = torch.from_numpy(problem.positions_px.copy()).to(device)
        self.side = patterns.shape[-1]
        self.pixels = torch.arange(self.side, device=device)
        self.frequency = torch.fft.fftfreq(self.side, device=device)

    def misfit(self, rows: np.ndarray, intensity: torch.Tensor) -> torch.Tensor:
        """Sum over the measured pixels of (modelled - measured amplitude)^2, (B,)."""
        squares = (intensity.sqrt() - self.amplitude[rows]) ** 2
        if self.valid is not None:
            squares = squares * self.valid[rows]
        return squares.sum((1, 2))

    def sweep(self) -> Sweep:
        """Copies on the host."""
        return Sweep(*(array.cpu().numpy().copy() for array in (self.object_, self.probe, self.positions)))

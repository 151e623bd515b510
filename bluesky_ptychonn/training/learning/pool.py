"""A pool of simulated scans that is refreshed while a network learns from it."""

import numpy as np
import torch

from bluesky_ptychonn.training.learning.simulated import PATCH_PX, Pairs, simulate_pairs


class Pool:
    """Simulated scans to draw batches from; each `refresh` replaces the oldest scan by a new one.

    Parameters
    ----------
    rng : numpy.random.Generator
    scans, frames : int
        Scans held, and frames of each.
    """

    def __init__(self, rng: np.random.Generator, scans: int, frames: int) -> None:
        self._rng = rng
        self._lifted = np.zeros((scans, frames, 2, PATCH_PX, PATCH_PX), np.float16)
        self._phase = np.zeros((scans, frames, PATCH_PX, PATCH_PX), np.float16)
        self._weight = np.zeros((scans, PATCH_PX, PATCH_PX), np.float16)
        self._next = 0
        self.filled = 0

    @property
    def frames(self) -> int:
        """Frames of one scan."""
        return self._phase.shape[1]

    def refresh(self) -> None:
        """Simulate one more scan."""
        pairs = simulate_pairs(self._rng, self.frames)
        self._lifted[self._next], self._phase[self._next] = pairs.lifted, pairs.phase_rad
        self._weight[self._next] = pairs.weight
        self._next = (self._next + 1) % len(self._phase)
        self.filled = max(self.filled, self._next or len(self._phase))

    def batch(self, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Random lifted patterns, labels and weights, all mirrored or turned alike.

        Mirrors and turns are valid because pattern, object and probe turn together and probes come in every direction.
        """
        scan = self._rng.integers(self.filled, size=size)
        frame = self._rng.integers(self.frames, size=size)
        arrays = (self._lifted[scan, frame], self._phase[scan, frame], self._weight[scan])
        tensors = [torch.from_numpy(array).float() for array in arrays]
        flip_y, flip_x, swap = self._rng.random(3) < 0.5
        tensors = [turn(tensor, bool(flip_y), bool(flip_x), bool(swap)) for tensor in tensors]
        return tensors[0], tensors[1], tensors[2]


def turn(tensor: torch.Tensor, flip_y: bool, flip_x: bool, swap: bool) -> torch.Tensor:
    """Mirror the last two axes about their centre pixel N/2 and swap them."""
    for axis, flip in ((-2, flip_y), (-1, flip_x)):
        if flip:
            tensor = tensor.flip(axis).roll(1, axis)
    return tensor.transpose(-1, -2) if swap else tensor


def held_out(seed: int, counts: float, scans: int, frames: int) -> list[Pairs]:
    """Scans of a dose that no training sees, the same for the same seed."""
    rng = np.random.default_rng([seed, 1, int(counts)])
    return [simulate_pairs(rng, frames, counts=counts) for _ in range(scans)]

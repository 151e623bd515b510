"""Batches of a snapshot of the corpus: the same for the same seed and step, on any number of processes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from bluesky_ptychonn.core.frames import no_data
from bluesky_ptychonn.core.optics import with_counts
from bluesky_ptychonn.training.learning.corpus import Shard
from bluesky_ptychonn.training.learning.simulated import DOSES, imperfect


@dataclass(frozen=True)
class Batch:
    """Pairs to learn from.

    Parameters
    ----------
    patterns : (B, n, n) float32
        Counts, 0 where there is no data.
    valid : (B, n, n) bool
    probe : (B, n, n) complex64
    labels : (B, 2, n, n) float32
        Log amplitude and phase, rad.
    weight : (B, n, n) float32
        Intensity of the probe, less where the label is badly known.
    """

    patterns: torch.Tensor
    valid: torch.Tensor
    probe: torch.Tensor
    labels: torch.Tensor
    weight: torch.Tensor

    def to(self, device: torch.device) -> "Batch":
        """Move to a device."""
        patterns, valid, probe, labels, weight = (image.to(device, non_blocking=True) for image in self.images)
        return Batch(patterns, valid, probe, labels, weight)

    def turned(self, flip_y: bool, flip_x: bool, swap: bool) -> "Batch":
        """Mirror everything about the centre pixels, and swap the axes."""
        patterns, valid, probe, labels, weight = (turn(image, flip_y, flip_x, swap) for image in self.images)
        return Batch(patterns, valid, probe, labels, weight)

    @property
    def images(self) -> tuple[torch.Tensor, ...]:
        """Everything with the axes of the frames."""
        return self.patterns, self.valid, self.probe, self.labels, self.weight


@dataclass(frozen=True)
class Augmentation:
    """What is changed at random in each pair; shares are from 0 to 1.

    Parameters
    ----------
    symmetries : bool
        Mirrors and turns about the central pixel, of pattern, probe and label together: valid for every probe. The
        conjugate inversion is left out: it would teach objects that advance the phase.
    thinning : float
        Share of frames whose dose is lowered by up to a hundred, by drawing from their counts: the distribution of a
        shorter exposure.
    probe_errors : float
        Share of frames whose probe is given wrongly.
    """

    symmetries: bool = True
    thinning: float = 0.0
    probe_errors: float = 0.0


class Batches:
    """Random batches; a frame comes once in each epoch.

    Parameters
    ----------
    shards : sequence of Shard
    size : int
        Pairs of one step, on all processes together.
    seed : int
    augmentation : Augmentation
    rows : (K,) int64, optional
        Pairs to use, counted over all shards; every one without it.
    rank, ranks : int
        This process, and how many there are: each gets its part of every batch.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        size: int,
        seed: int,
        augmentation: Augmentation,
        *,
        rows: np.ndarray | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        if size % ranks:
            raise ValueError(f"a batch of {size} cannot be shared among {ranks} processes; use a multiple")
        self._shards, self._size, self._seed, self._augmentation = list(shards), size, seed, augmentation
        self._mine = range(rank * size // ranks, (rank + 1) * size // ranks)
        frames = [shard.frames for shard in self._shards]
        self._shard_of = np.repeat(np.arange(len(frames)), frames)
        self._frame_of = np.concatenate([np.arange(count) for count in frames])
        if rows is not None:
            self._shard_of, self._frame_of = self._shard_of[rows], self._frame_of[rows]
        self._epoch, self._order = -1, np.empty(0, np.int64)

    @property
    def pairs(self) -> int:
        """Pairs in all."""
        return len(self._shard_of)

    @property
    def steps_per_epoch(self) -> int:
        """Steps after which every frame has come; the last one of an epoch is filled up from its beginning."""
        return -(-self.pairs // self._size)

    def batch(self, step: int) -> Batch:
        """Pairs of one step."""
        epoch, part = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng([self._seed, 1, epoch]).permutation(self.pairs)
        chosen = self._order[(part * self._size + np.array(self._mine)) % self.pairs]
        rows = [self._pair(int(row), [self._seed, 2, step, k]) for row, k in zip(chosen, self._mine, strict=True)]
        patterns, valid, probe, labels, weight = (
            torch.from_numpy(np.stack(arrays)) for arrays in zip(*rows, strict=True)
        )
        batch = Batch(patterns, valid, probe, labels.float(), weight)
        if not self._augmentation.symmetries:
            return batch
        flip_y, flip_x, swap = np.random.default_rng([self._seed, 3, step]).random(3) < 0.5
        return batch.turned(bool(flip_y), bool(flip_x), bool(swap))

    def _pair(self, row: int, seed: list[int]) -> tuple[np.ndarray, ...]:
        shard, frame = self._shards[self._shard_of[row]], self._frame_of[row]
        rng = np.random.default_rng(seed)
        pattern, probe = shard.patterns[frame], np.asarray(shard.probe)
        valid = pattern != no_data(pattern.dtype)
        counts = np.where(valid, pattern, 0)
        weight = np.abs(probe) ** 2
        if rng.random() < self._augmentation.thinning:
            counts, probe = thinned(rng, counts, probe)
        if rng.random() < self._augmentation.probe_errors:
            probe = imperfect(rng, probe)
        if shard.seen is not None:
            weight = weight * (shard.seen[frame] / np.float32(255))
        return counts.astype(np.float32), valid, probe, shard.labels[frame], weight / max(weight.mean(), 1e-12)


def thinned(rng: np.random.Generator, counts: np.ndarray, probe: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts and probe of an exposure up to a hundred times shorter, though not below the least of `DOSES`."""
    dose = float(np.sum(np.abs(probe) ** 2, dtype=np.float64))
    part = 10 ** -rng.uniform(0, np.clip(np.log10(dose / DOSES[0]), 0, 2))
    return rng.binomial(counts.astype(np.int64), part), with_counts(probe, part * dose)


def turn(tensor: torch.Tensor, flip_y: bool, flip_x: bool, swap: bool) -> torch.Tensor:
    """Mirror the last two axes about their centre pixel N/2 and swap them."""
    for axis, flip in ((-2, flip_y), (-1, flip_x)):
        if flip:
            tensor = tensor.flip(axis).roll(1, axis)
    return tensor.transpose(-1, -2).contiguous() if swap else tensor

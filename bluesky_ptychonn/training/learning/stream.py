"""Batches of scans that are simulated while a network learns: no corpus on disk, nothing learned by heart."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from bluesky_ptychonn.engines import torch_physics as physics
from bluesky_ptychonn.training.learning.batches import Augmentation, Batch, Batches
from bluesky_ptychonn.training.learning.corpus import Shard
from bluesky_ptychonn.training.learning.held_out import MOST_FRAMES, VALIDATED_AT_ONCE, split
from bluesky_ptychonn.training.learning.ranks import Ranks
from bluesky_ptychonn.training.learning.recipes import Recipe
from bluesky_ptychonn.training.learning.simulated import DOSES, GEOMETRY, simulate_scan
from bluesky_ptychonn.training.learning.simulators import SCAN_FRAMES, Simulation, Simulators

EPOCH_STEPS = 1000
"""A stream has no end; so many steps are called an epoch."""
HELD_OUT_SCANS = 24
FIRST_SCANS = 200
"""Scans before the first step."""


def lessons(
    shards: Sequence[Shard] | Simulation, recipe: Recipe, seed: int, patch_px: int, ranks: Ranks
) -> tuple["Batches | SimulatedBatches", list[Batch]]:
    """What a training learns from, and what it is judged by, of a snapshot or of a simulation."""
    if not isinstance(shards, Simulation):
        return split(
            shards,
            recipe.held_out,
            recipe.validation_share,
            seed,
            size=recipe.batch,
            augmentation=recipe.augmentation,
            ranks=ranks,
        )
    batches = SimulatedBatches(
        shards,
        recipe.batch,
        seed,
        recipe.augmentation,
        side_px=min(patch_px + 2, GEOMETRY.frame_px),  # mirrored about its centre, a patch lacks its first row
        device=ranks.device,
        rank=ranks.rank,
        ranks=ranks.size,
    )
    return batches, held_out_scans(shards, seed, VALIDATED_AT_ONCE)[: MOST_FRAMES // VALIDATED_AT_ONCE]


def held_out_scans(simulation: Simulation, seed: int, size: int) -> list[Batch]:
    """Pairs of scans that no training of this seed sees."""
    scans = (
        simulate_scan(np.random.default_rng([seed, 6, k]), SCAN_FRAMES, counts=simulation.photons)
        for k in range(HELD_OUT_SCANS)
    )
    return [batch for scan in scans for batch in _batches_of(scan, size)]


def _batches_of(scan: Any, size: int) -> Iterator[Batch]:
    probe = torch.from_numpy(np.asarray(scan.probe))
    for first in range(0, len(scan.patterns), size):
        patterns = torch.from_numpy(scan.patterns[first : first + size].view(np.int16))
        labels = torch.from_numpy(scan.labels[first : first + size]).float()
        yield _batch(patterns, labels, probe.expand(len(patterns), -1, -1))


def _batch(patterns: torch.Tensor, labels: torch.Tensor, probe: torch.Tensor) -> Batch:
    """Batch of patterns whose 16 bits are read as signed ones, which torch computes with."""
    valid = patterns != -1
    counts = torch.where(valid, patterns.int() & 0xFFFF, 0).float()
    return Batch(counts, valid, probe, labels, _weight(probe, labels.shape[-1]))


def _weight(probe: torch.Tensor, side_px: int) -> torch.Tensor:
    intensity = physics.centre(probe.abs() ** 2, side_px)
    return intensity / intensity.mean((-2, -1), keepdim=True).clamp_min(1e-12)


class SimulatedBatches:
    """Random batches of the newest scans; the same for the same seed and step.

    Parameters
    ----------
    simulation : Simulation
    size : int
        Pairs of one step, on all ranks together.
    seed : int
    augmentation : Augmentation
        Probes are told wrongly by the simulation itself.
    side_px : int
        Of the labels that are kept.
    device : torch.device
    rank, ranks : int
        This process, and how many there are: each has its own scans.
    """

    steps_per_epoch = EPOCH_STEPS

    def __init__(
        self,
        simulation: Simulation,
        size: int,
        seed: int,
        augmentation: Augmentation,
        *,
        side_px: int,
        device: torch.device,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        if size % ranks:
            raise ValueError(f"a batch of {size} cannot be shared among {ranks} processes; use a multiple")
        if simulation.workers < 1 or not simulation.visits > 0 or simulation.kept < FIRST_SCANS:
            raise ValueError(f"{simulation}; it needs a process, visits, and at least {FIRST_SCANS} scans kept")
        self._simulation, self._size, self._augmentation = simulation, size // ranks, augmentation
        self._seed, self._side_px, self._device = [seed, rank], side_px, device
        self._fresh = self._size / SCAN_FRAMES / simulation.visits
        self._workers: Simulators | None = None
        n, kept, frames = GEOMETRY.frame_px, simulation.kept, SCAN_FRAMES
        self._patterns = torch.empty((kept, frames, n, n), dtype=torch.int16, device=device)
        self._labels = torch.empty((kept, frames, 2, side_px, side_px), dtype=torch.float16, device=device)
        self._probes = torch.empty((kept, n, n), dtype=torch.complex64, device=device)
        self._generator = torch.Generator(device)
        self._newest = 0

    @property
    def pairs(self) -> int:
        """Pairs simulated until now."""
        return self._newest * SCAN_FRAMES

    def batch(self, step: int) -> Batch:
        """Pairs of one step, on the device."""
        self._fill(FIRST_SCANS + int(step * self._fresh))
        rng = np.random.default_rng([*self._seed, 1, step])
        kept = self._simulation.kept
        scans = rng.integers(max(0, self._newest - kept), self._newest, self._size) % kept
        frames = rng.integers(0, SCAN_FRAMES, self._size)
        scan, frame = (torch.from_numpy(numbers).to(self._device) for numbers in (scans, frames))
        batch = _batch(self._patterns[scan, frame], self._labels[scan, frame].float(), self._probes[scan])
        self._thin(batch, rng, step)
        if not self._augmentation.symmetries:
            return batch
        flip_y, flip_x, swap = (bool(flag) for flag in rng.random(3) < 0.5)
        return batch.turned(flip_y, flip_x, swap)

    def close(self) -> None:
        """End the processes."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None

    def _thin(self, batch: Batch, rng: np.random.Generator, step: int) -> None:
        """Lower the dose of a share of the frames, as `batches.thinned` does."""
        chosen = np.flatnonzero(rng.random(self._size) < self._augmentation.thinning)
        if not len(chosen):
            return
        rows = torch.from_numpy(chosen).to(self._device)
        share = torch.from_numpy(rng.random(len(chosen), np.float32)).to(self._device)
        probe, counts = batch.probe[rows], batch.patterns[rows]
        decades = torch.log10((probe.abs() ** 2).sum((-2, -1)) / DOSES[0]).clamp(0, 2) * share
        part = (10**-decades)[:, None, None]
        self._generator.manual_seed(hash((*self._seed, step)) & 0x7FFFFFFF)
        batch.patterns[rows] = torch.binomial(counts, part.expand_as(counts).contiguous(), self._generator)
        batch.probe[rows] = probe * part.sqrt()

    def _fill(self, newest: int) -> None:
        """Take scans, in their order, until there are so many."""
        if newest <= self._newest:
            return
        kept = self._simulation.kept
        if self._workers is None:
            self._newest = max(0, newest - kept)  # after a resume the older ones are not wanted
            self._workers = Simulators(self._simulation, self._seed, self._newest, self._side_px)
        for number in range(self._newest, newest):
            for scan in self._workers.take():
                slot = number % kept
                self._patterns[slot] = torch.from_numpy(scan["patterns"]).to(self._device)
                self._labels[slot] = torch.from_numpy(scan["labels"]).to(self._device)
                self._probes[slot] = torch.from_numpy(scan["probe"]).to(self._device)
        self._newest = newest

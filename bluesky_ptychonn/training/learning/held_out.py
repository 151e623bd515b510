"""What a training keeps away from the network to judge it by: whole scans, or frames as the paper has it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from skimage import io

from bluesky_ptychonn.engines import torch_physics as physics
from bluesky_ptychonn.training.learning.batches import Augmentation, Batch, Batches
from bluesky_ptychonn.training.learning.corpus import Shard
from bluesky_ptychonn.training.learning.ranks import Ranks
from bluesky_ptychonn.training.learning.recipes import errors

MOST_FRAMES = 1024
"""Frames that one validation looks at."""
VALIDATED_AT_ONCE = 32
UNCHANGED = Augmentation(symmetries=False)


def split(
    shards: Sequence[Shard], how: str, share: float, seed: int, *, size: int, augmentation: Augmentation, ranks: Ranks
) -> tuple[Batches, list[Batch]]:
    """Divide a snapshot into what is learned from and what is held out.

    Parameters
    ----------
    shards : sequence of Shard
    how : {"scan", "frame"}
        All shards of a run go the same way, or single frames.
    share : float
        Held out.
    seed : int
    size, augmentation, ranks
        Of the batches to learn from.

    Returns
    -------
    Batches
        To learn from.
    list of Batch
        Up to `MOST_FRAMES` pairs held out, unchanged and always the same.

    Raises
    ------
    ValueError
        If nothing would be left to learn from, or nothing to hold out.
    """
    rng = np.random.default_rng([seed, 4])
    if how == "frame":
        order = rng.permutation(sum(shard.frames for shard in shards))
        count = max(1, round(share * len(order)))
        learning = Batches(
            shards, size, seed, augmentation, rows=np.sort(order[count:]), rank=ranks.rank, ranks=ranks.size
        )
        return learning, _first(Batches(shards, VALIDATED_AT_ONCE, seed, UNCHANGED, rows=np.sort(order[:count])))
    runs = sorted({shard.run for shard in shards})
    if len(runs) < 2:
        raise ValueError(f"{len(runs)} scan in the snapshot; validation holds out whole scans, so two are needed")
    count = min(max(1, round(share * len(runs))), len(runs) - 1)
    out = {runs[k] for k in rng.permutation(len(runs))[:count]}
    learning = Batches(
        [s for s in shards if s.run not in out], size, seed, augmentation, rank=ranks.rank, ranks=ranks.size
    )
    return learning, _first(Batches([s for s in shards if s.run in out], VALIDATED_AT_ONCE, seed, UNCHANGED))


def _first(batches: Batches) -> list[Batch]:
    return [batches.batch(step) for step in range(min(batches.steps_per_epoch, MOST_FRAMES // VALIDATED_AT_ONCE))]


def pair_errors(network: torch.nn.Module, batches: Sequence[Batch], device: torch.device) -> dict[str, float]:
    """Probe-weighted errors of the phase of single patches, beside those of predicting nothing.

    Returns
    -------
    dict
        ``mae_rad`` and ``mae_offset_free_rad`` (each patch's own constant removed), the same for a phase of 0, and
        ``mae_guess_rad`` of the first estimate: of a network of two steps, whether the first one does its part.
    """
    sums, frames = np.zeros(5), 0
    network.eval()
    with torch.no_grad():
        for batch in (b.to(device) for b in batches):
            estimates = network(batch.patterns, batch.valid, batch.probe)
            guess, phase = estimates[0][:, 1], estimates[-1][:, 1]
            label, weight = (physics.centre(x, phase.shape[-1]) for x in (batch.labels[:, 1], batch.weight))
            nothing = errors(torch.zeros_like(label), label, weight)
            found = (*errors(phase, label, weight), *nothing, errors(guess, label, weight)[0])
            sums += [float(error.sum()) for error in found]
            frames += len(phase)
    network.train()
    names = ("mae_rad", "mae_offset_free_rad", "mae_of_nothing_rad", "mae_of_nothing_offset_free_rad", "mae_guess_rad")
    return {name: round(float(value), 5) for name, value in zip(names, sums / max(frames, 1), strict=True)}


def draw_samples(path: Path, network: torch.nn.Module, batch: Batch, device: torch.device, rows: int = 12) -> None:
    """Draw patches of held-out frames, two per row: label beside network, with the label's range of grey."""
    network.eval()
    with torch.no_grad():
        part = batch.to(device)
        phase = network(part.patterns, part.valid, part.probe)[-1][:, 1].cpu()
    network.train()
    label = physics.centre(batch.labels[:, 1], phase.shape[-1])
    tiles = []
    for one, other in zip(label.numpy(), phase.numpy(), strict=True):
        low, high = float(one.min()), float(one.max()) + 1e-3
        tiles.append(np.hstack([np.clip((tile - low) / (high - low), 0, 1) for tile in (one, other)]))
    lines = [np.hstack(tiles[k : k + 2]) for k in range(0, min(2 * rows, len(tiles) // 2 * 2), 2)]
    io.imsave(path, (255 * np.vstack(lines)).astype(np.uint8), check_contrast=False)

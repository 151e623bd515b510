"""Train the patch network on simulated scans: ``python -m bluesky_ptychonn.training.learning.train --help``."""

import argparse
import copy
import json
import math
import os
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from skimage import io
from tqdm import tqdm

from bluesky_ptychonn.training.learning.networks import PatchNetwork
from bluesky_ptychonn.training.learning.pool import Pool, held_out
from bluesky_ptychonn.training.learning.simulated import Pairs

CHECKPOINT = "checkpoint.pt"
BATCH = 64
PEAK_LEARNING_RATE = 2e-3
EMA_DECAY = 0.999
REUSE = 8
"""How often a simulated frame is learned from, on average; a mirror or a turn makes it another one."""
VALIDATION_COUNTS = (1e6, 1e5, 1e4)
VALIDATION_SEED = 20230


def errors(predicted: torch.Tensor, label: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Probe-weighted mean absolute error of each patch, rad, as it is and with the patch's constant removed.

    A single pattern says little of the constant: the first error teaches what can be known of it from structure, the
    second one the structure itself.
    """
    difference = predicted - label
    total = weight.sum((-2, -1))
    offset = (weight * difference).sum((-2, -1)) / total
    absolute = (weight * difference.abs()).sum((-2, -1)) / total
    free = (weight * (difference - offset[:, None, None]).abs()).sum((-2, -1)) / total
    return absolute, free


def loss(predicted: torch.Tensor, label: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Mean of both `errors`, relative to the contrast of the label for strong objects."""
    absolute, free = errors(predicted, label, weight)
    mean = (weight * label).mean((-2, -1), keepdim=True)
    contrast = (weight * (label - mean) ** 2).mean((-2, -1)).sqrt()
    return ((absolute + free) / (0.2 + contrast)).mean()


def learning_rate(done: float) -> float:
    """Rise over the first 3 % of the time, then half a cosine to 1 % of the peak; ``done`` runs from 0 to 1."""
    if done < 0.03:
        return PEAK_LEARNING_RATE * max(done / 0.03, 0.01)
    return PEAK_LEARNING_RATE * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, (done - 0.03) / 0.97))))


def validate(network: torch.nn.Module, scans: list[Pairs]) -> dict[str, float]:
    """Errors of a network on held-out scans, beside those of predicting nothing."""
    sums = np.zeros(4)
    with torch.no_grad():
        for pairs in scans:
            label, weight = torch.from_numpy(pairs.phase_rad).float(), torch.from_numpy(pairs.weight).float()
            predicted = network(torch.from_numpy(pairs.lifted).float())
            found = (*errors(predicted, label, weight), *errors(torch.zeros_like(label), label, weight))
            sums += [float(error.mean()) for error in found]
    names = ("mae_rad", "mae_offset_free_rad", "mae_of_nothing_rad", "mae_of_nothing_offset_free_rad")
    return {name: round(float(value), 5) for name, value in zip(names, sums / len(scans), strict=True)}


def train(
    out: Path,
    *,
    minutes: float,
    seed: int = 0,
    checkpoint_minutes: float = 2.0,
    threads: int = 1,
    scans: int = 160,
    frames: int = 96,
    validation_scans: int = 12,
) -> dict:
    """Train for a time, from the checkpoint in ``out`` if there is one, and return the last figures.

    Parameters
    ----------
    out : Path
        Folder for `checkpoint.pt` (network, averaged network, optimiser, time spent), `figures.json` and `samples.png`.
    minutes : float
        Time to spend in all; earlier parts of a resumed training count. Sets the schedule of the learning rate.
    seed : int
        Starts networks and simulations; equal seeds give equal trainings up to the speed of the machine.
    checkpoint_minutes : float
        Time between two checkpoints.
    threads : int
        Cores for the network.
    scans, frames : int
        Size of the pool of simulated scans.
    validation_scans : int
        Held-out scans of each dose.
    """
    if not minutes > 0:
        raise ValueError(f"minutes = {minutes}; it must be positive")
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    network = PatchNetwork()
    network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    averaged = copy.deepcopy(network)
    optimiser = torch.optim.AdamW(network.parameters(), lr=PEAK_LEARNING_RATE, weight_decay=1e-4)
    spent_s, step = _resume(out / CHECKPOINT, network, averaged, optimiser)
    validation = {counts: held_out(VALIDATION_SEED, counts, validation_scans, 24) for counts in VALIDATION_COUNTS}
    pool = Pool(np.random.default_rng([seed, 0, step]), scans, frames)
    for _ in tqdm(range(scans), desc="simulate", mininterval=10):
        pool.refresh()

    figures: dict = {}
    budget_s, part_s = 60 * minutes, 60 * checkpoint_minutes
    saved_s, last = spent_s, time.monotonic()
    running = None
    progress = tqdm(total=round(budget_s), initial=round(spent_s), desc="train", unit="s", mininterval=10)
    while spent_s < budget_s:
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(spent_s / budget_s)
        lifted, label, weight = pool.batch(BATCH)
        value = loss(network(lifted.contiguous(memory_format=torch.channels_last)), label, weight)
        optimiser.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        step += 1
        _average(averaged, network, min(EMA_DECAY, step / (step + 10)))
        if step * BATCH // (pool.frames * REUSE) != (step - 1) * BATCH // (pool.frames * REUSE):
            pool.refresh()
        running = value.item() if running is None else 0.99 * running + 0.01 * value.item()
        now = time.monotonic()
        spent_s, last = spent_s + now - last, now
        progress.update(round(spent_s) - progress.n)
        progress.set_postfix(loss=f"{running:.4f}", step=step, refresh=False)
        if spent_s - saved_s >= part_s or spent_s >= budget_s:
            figures = {
                "command": f"python -m bluesky_ptychonn.training.learning.train --minutes {minutes:g} --seed {seed}",
                "version": version("bluesky-ptychonn"),
                "conditions": {
                    "seed": seed,
                    "minutes": round(spent_s / 60, 2),
                    "frames_seen": step * BATCH,
                    "training_loss": round(running, 5),
                },
                "results": [
                    {"test": "simulated scans", "photons_per_frame": counts, **validate(averaged, held)}
                    for counts, held in validation.items()
                ],
            }
            _save(out, network, averaged, optimiser, {"spent_s": spent_s, "step": step, "figures": figures})
            _draw(out / "samples.png", averaged, validation[1e6])
            tqdm.write(json.dumps(figures["results"]))
            saved_s, last = spent_s, time.monotonic()
    progress.close()
    return figures


def _average(averaged: torch.nn.Module, network: torch.nn.Module, decay: float) -> None:
    with torch.no_grad():
        for mean, value in zip(averaged.parameters(), network.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)


def _resume(path: Path, network, averaged, optimiser) -> tuple[float, int]:
    if not path.exists():
        return 0.0, 0
    state = torch.load(path, weights_only=True)
    network.load_state_dict(state["network"])
    averaged.load_state_dict(state["averaged"])
    optimiser.load_state_dict(state["optimiser"])
    return state["spent_s"], state["step"]


def _save(out: Path, network, averaged, optimiser, record: dict) -> None:
    """Write checkpoint and figures, each complete before it takes its name."""
    state = {
        "network": network.state_dict(),
        "averaged": averaged.state_dict(),
        "optimiser": optimiser.state_dict(),
        "widths": list(network.widths),
        **record,
    }
    torch.save(state, out / (CHECKPOINT + ".part"))
    os.replace(out / (CHECKPOINT + ".part"), out / CHECKPOINT)
    (out / "figures.json.part").write_text(json.dumps(record["figures"], indent=1) + "\n")
    os.replace(out / "figures.json.part", out / "figures.json")


def _draw(path: Path, network: torch.nn.Module, scans: list[Pairs]) -> None:
    """One row per held-out scan: lift (imaginary part), network, label, with the label's range of grey."""
    rows = []
    with torch.no_grad():
        for pairs in scans:
            predicted = network(torch.from_numpy(pairs.lifted[:2]).float()).numpy()
            low, high = float(pairs.phase_rad[:2].min()), float(pairs.phase_rad[:2].max()) + 1e-3
            tiles = [tile for k in (0, 1) for tile in (pairs.lifted[k, 1], predicted[k], pairs.phase_rad[k])]
            rows.append(np.hstack([np.clip((tile.astype(float) - low) / (high - low), 0, 1) for tile in tiles]))
    io.imsave(path, (255 * np.vstack(rows)).astype(np.uint8), check_contrast=False)


def main(arguments: list[str] | None = None) -> None:
    """Command line of `train`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint, figures and sample patches")
    parser.add_argument("--minutes", type=float, required=True, help="time to spend in all, resumed parts included")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint-minutes", type=float, default=2.0)
    parser.add_argument("--threads", type=int, default=1)
    train(**vars(parser.parse_args(arguments)))


if __name__ == "__main__":
    main()

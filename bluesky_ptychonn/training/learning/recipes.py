"""How a network is trained: losses, schedules, and the recipes, the paper's and ours."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from bluesky_ptychonn.engines import torch_physics as physics
from bluesky_ptychonn.training.learning.batches import Augmentation, Batch

STEPS_ON_THE_WAY = 0.3
"""Weight of an estimate that is not the last one."""
AMPLITUDE = 0.3
"""Weight of the log amplitude beside the phase."""


@dataclass(frozen=True)
class Recipe:
    """Everything of a training but the network and the corpus.

    Parameters
    ----------
    name : str
    batch : int
        Pairs of one step, on all processes together.
    epochs : int
        Where nothing else is asked for.
    loss : {"mae", "probe-weighted"}
    schedule : {"triangular2", "one-cycle"}
    low_rate, high_rate : float
        Learning rates between which the schedule moves.
    weight_decay : float
    clip : float
        Largest norm of the gradient; 0 leaves it as it is.
    averaging : float
        Decay of the exponential average of the weights which is kept; 0 keeps the weights themselves.
    augmentation : Augmentation
    held_out : {"scan", "frame"}
        What validation takes away whole: neighbouring frames overlap, so "frame" flatters.
    validation_share : float
    validation_steps : int
        Validate after so many steps too, where an epoch is long; 0 leaves it to the epochs.
    keep_best : bool
        Keep the weights of the best validation, not the last ones.
    physics : float
        Weight of the misfit between the measured counts and those of the estimate under the given probe.
    bf16 : bool
        Compute convolutions in bfloat16.
    """

    name: str
    batch: int = 32
    epochs: int = 10
    loss: str = "probe-weighted"
    schedule: str = "one-cycle"
    low_rate: float = 1e-5
    high_rate: float = 1.5e-3
    weight_decay: float = 1e-4
    clip: float = 1.0
    averaging: float = 0.999
    augmentation: Augmentation = field(default_factory=lambda: Augmentation(True, 0.15, 0.05))
    held_out: str = "scan"
    validation_share: float = 0.05
    validation_steps: int = 0
    keep_best: bool = False
    physics: float = 0.0
    bf16: bool = True

    def as_figures(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


RECIPES = {
    "robust": Recipe("robust"),
    "large": Recipe(
        "large",
        batch=1024,
        epochs=20,
        high_rate=2e-3,
        augmentation=Augmentation(thinning=0.3),
        validation_steps=500,
    ),
    "tune": Recipe("tune", epochs=20, high_rate=5e-4, low_rate=1e-5, held_out="frame"),
    "paper": Recipe(
        "paper",
        batch=64,
        epochs=50,
        loss="mae",
        schedule="triangular2",
        low_rate=1e-4,
        high_rate=5e-4,
        weight_decay=0.0,
        clip=0.0,
        averaging=0.0,
        augmentation=Augmentation(symmetries=False),
        held_out="frame",
        validation_share=0.1,
        keep_best=True,
        bf16=False,
    ),
}
"""``robust`` learns many beamlines, ``large`` does so on a GPU, ``tune`` one sample from where another training ended;
``paper`` is Babu et al., Nat. Commun. 14, 7059 (2023), and its published training script."""


def triangular2(recipe: Recipe, step: int, total: int, per_epoch: int) -> float:
    """Up and down between the rates, six epochs each way, the height halved after each cycle (Smith, WACV 2017)."""
    half = 6 * per_epoch
    cycle, part = divmod(step, 2 * half)
    height = 1 - abs(part / half - 1)
    return recipe.low_rate + (recipe.high_rate - recipe.low_rate) * height / 2**cycle


def one_cycle(recipe: Recipe, step: int, total: int, per_epoch: int) -> float:
    """Up over the first 3 % of the steps, then half a cosine down; low while their number is not known yet."""
    if not total:
        return recipe.low_rate
    done = step / total
    if done < 0.03:
        return max(recipe.low_rate, recipe.high_rate * done / 0.03)
    falling = 0.5 * (1 + math.cos(math.pi * min(1.0, (done - 0.03) / 0.97)))
    return recipe.low_rate + (recipe.high_rate - recipe.low_rate) * falling


SCHEDULES: dict[str, Callable[[Recipe, int, int, int], float]] = {"triangular2": triangular2, "one-cycle": one_cycle}


def errors(predicted: torch.Tensor, label: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted mean absolute error of each image (B, h, h), as it is and with the image's own constant removed.

    A single pattern says little of the constant: the first error teaches what can be known of it from structure, the
    second one the structure itself.
    """
    difference = predicted - label
    total = weight.sum((-2, -1))
    offset = (weight * difference).sum((-2, -1)) / total
    absolute = (weight * difference.abs()).sum((-2, -1)) / total
    free = (weight * (difference - offset[:, None, None]).abs()).sum((-2, -1)) / total
    return absolute, free


def probe_weighted(estimate: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Both `errors` of phase and log amplitude, relative to the contrast of the label where that is strong."""
    total = torch.zeros((), device=estimate.device)
    for channel, share in ((1, 1.0), (0, AMPLITUDE)):
        label = labels[:, channel]
        absolute, free = errors(estimate[:, channel], label, weight)
        mean = (weight * label).sum((-2, -1), keepdim=True) / weight.sum((-2, -1), keepdim=True)
        contrast = ((weight * (label - mean) ** 2).sum((-2, -1)) / weight.sum((-2, -1))).sqrt()
        total = total + share * ((absolute + free) / (0.2 + contrast)).mean()
    return total


def mae(estimate: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Mean absolute error of every pixel, of phase and log amplitude."""
    return 2 * (estimate - labels).abs().mean()


LOSSES = {"mae": mae, "probe-weighted": probe_weighted}


def loss_of(recipe: Recipe, estimates: list[torch.Tensor], batch: Batch) -> torch.Tensor:
    """Loss of all estimates of a network, the last one counting in full."""
    side = estimates[-1].shape[-1]
    labels, weight = physics.centre(batch.labels, side), physics.centre(batch.weight, side)
    terms = [LOSSES[recipe.loss](estimate, labels, weight) for estimate in estimates]
    total = terms[-1] + STEPS_ON_THE_WAY * sum(terms[:-1], torch.zeros((), device=weight.device))
    if recipe.physics:
        misfit = physics.misfit(batch.patterns, batch.valid, batch.probe, estimates[-1])
        total = total + recipe.physics * misfit.mean()
    return total

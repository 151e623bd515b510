"""The training loop: any network of the registry, any snapshot of the corpus, one process or several."""

import copy
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import get_ema_multi_avg_fn
from tqdm import tqdm

from bluesky_ptychonn.io.durable import replace_file
from bluesky_ptychonn.training.learning.batches import Batch
from bluesky_ptychonn.training.learning.checkpoint import CHECKPOINT, read_checkpoint, trained_network, write_checkpoint
from bluesky_ptychonn.training.learning.corpus import Shard, snapshot_sha256
from bluesky_ptychonn.training.learning.held_out import draw_samples, pair_errors
from bluesky_ptychonn.training.learning.networks import build_network
from bluesky_ptychonn.training.learning.ranks import Ranks, joined
from bluesky_ptychonn.training.learning.recipes import SCHEDULES, Recipe, loss_of
from bluesky_ptychonn.training.learning.simulators import Simulation
from bluesky_ptychonn.training.learning.stream import SimulatedBatches, lessons

TIMED_STEPS = (10, 40)
"""Steps between which the speed is measured, where a training is limited by time."""
SAVE_EVERY_S = 120.0
SHOW_EVERY = 20
"""Steps between two looks at the loss: each look waits for the device."""


def train(
    out: Path,
    shards: Sequence[Shard] | Simulation,
    *,
    recipe: Recipe,
    network: str = "ptychonn-lift",
    configuration: Mapping[str, Any] | None = None,
    epochs: int | None = None,
    minutes: float | None = None,
    seed: int = 0,
    threads: int = 1,
    start: Path | None = None,
    ranks: Ranks = Ranks(),  # noqa: B008 - a value
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Train a network, or go on with the training whose checkpoint is in ``out``.

    The same arguments on the same kind of processor give the same weights, however often the training was killed and
    resumed; with ``minutes`` the number of steps is found once, from the speed of the first ones.

    Parameters
    ----------
    out : Path
        Folder for `checkpoint.pt`, `figures.json` and `samples.png`, written each epoch.
    shards : sequence of Shard, or Simulation
        The snapshot, or what makes scans while the network learns.
    recipe : Recipe
    network : str
        Name in `networks.NETWORKS`.
    configuration : mapping, optional
        Of the network; that of ``start``, or its defaults, without it.
    epochs, minutes : optional
        How long; the epochs of the recipe if neither is given. Minutes are those of computing: on a CPU its time per
        thread, so that other programs do not shorten a training.
    seed : int
    threads : int
        Cores for one process; results depend on it in the last digits.
    start : Path, optional
        Folder of a training whose network is learned further.
    ranks : Ranks
        This process among those that share each batch.
    on_epoch : callable, optional
        Is given the figures after each epoch.
    stop : callable
        Asked after each step; where one process says so, all write the checkpoint and end.

    Returns
    -------
    dict
        Figures: conditions, one entry per epoch in ``history``, the last one as ``results``.

    Raises
    ------
    ValueError
        If the training cannot be done with this snapshot, or ``out`` holds another one.
    """
    if (minutes is not None and not minutes > 0) or (epochs is not None and epochs < 1):
        raise ValueError(f"minutes = {minutes}, epochs = {epochs}; a training needs a positive time or an epoch")
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(threads)
    with joined(ranks):
        run = _Training(out, shards, recipe, network, configuration, seed, start, ranks)
        try:
            run.go(epochs or (None if minutes else recipe.epochs), minutes, on_epoch, stop)
        finally:
            run.close()
        return run.figures()


class _Training:
    """Everything that changes while a network learns."""

    def __init__(self, out, shards, recipe: Recipe, network, configuration, seed, start, ranks: Ranks) -> None:
        torch.manual_seed(seed)
        first = trained_network(start) if start else None
        self.out, self.recipe, self.seed, self.ranks, self.device = out, recipe, seed, ranks, ranks.device
        model = first[0].train() if first else build_network(network, configuration)
        self.identity = {
            "network": first[1]["network"] if first else network,
            "configuration": model.configuration,
            "recipe": recipe.as_figures(),
            "seed": seed,
            "snapshot": [shards.name] if isinstance(shards, Simulation) else sorted(shard.name for shard in shards),
            "start": hashlib.sha256((start / CHECKPOINT).read_bytes()).hexdigest() if start else "",
        }
        patch_px = int(model.patch_px)  # pyright: ignore[reportArgumentType]
        self.batches, self.held_out = lessons(shards, recipe, seed, patch_px, ranks)
        self.model = model.to(self.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.kept = copy.deepcopy(self.model)
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(),
            lr=recipe.high_rate,
            weight_decay=recipe.weight_decay,
            fused=self.device.type == "cuda",
        )
        self.step, self.total, self.spent_s = 0, 0, 0.0
        self.running = torch.zeros((), device=self.device)
        self.best = float("inf")
        self.history: list[dict[str, Any]] = []
        if (out / CHECKPOINT).exists():
            self._resume()
        wrapped = ranks.size > 1
        self.learner = DistributedDataParallel(self.model) if wrapped else self.model

    def go(self, epochs: int | None, minutes: float | None, on_epoch, stop) -> None:
        """Learn until the last step, or until told to stop."""
        per_epoch = self.batches.steps_per_epoch
        if epochs:
            self.total = epochs * per_epoch
        began, timed = self._clock_s() - self.spent_s, 0.0
        saved = time.monotonic()
        bar = tqdm(
            total=self.total or None,
            initial=self.step,
            desc="train",
            unit="step",
            mininterval=5,
            disable=not self.ranks.first,
        )
        while not self.total or self.step < self.total:
            self.learn(self.batches.batch(self.step))
            bar.update()
            if self.step % SHOW_EVERY == 0:
                held_out = {"held_out_rad": self.history[-1]["mae_rad"]} if self.history else {}
                bar.set_postfix(loss=f"{float(self.running):.4f}", **held_out, refresh=False)
            self.spent_s = self._clock_s() - began
            if not self.total and self.step == TIMED_STEPS[0]:
                timed = self.spent_s
            elif not self.total and self.step == TIMED_STEPS[1]:
                pace_s = (self.spent_s - timed) / (TIMED_STEPS[1] - TIMED_STEPS[0])
                self.total = bar.total = self._agreed(self.step + (60 * (minutes or 0) - self.spent_s) / pace_s)
            if self.step == self.total or self._is_due(per_epoch):
                self.validate(on_epoch)
                saved = time.monotonic()
            if self.ranks.any(stop()):
                if self.ranks.first:
                    self._save()
                break
            if time.monotonic() - saved > SAVE_EVERY_S and self.total and self.ranks.first:
                self._save()
                saved = time.monotonic()
        bar.close()

    def _is_due(self, per_epoch: int) -> bool:
        """Whether it is time to validate."""
        often = self.recipe.validation_steps
        return self.step % per_epoch == 0 or (often > 0 and self.step % often == 0)

    def _clock_s(self) -> float:
        """Seconds of computing."""
        if self.device.type == "cuda":
            return time.monotonic()
        return time.process_time() / torch.get_num_threads()

    def close(self) -> None:
        """End the processes that simulate, if there are any."""
        if isinstance(self.batches, SimulatedBatches):
            self.batches.close()

    def learn(self, batch: Batch) -> None:
        """One step."""
        recipe = self.recipe
        rate = SCHEDULES[recipe.schedule](recipe, self.step, self.total, self.batches.steps_per_epoch)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        batch = batch.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=recipe.bf16):
            estimates = self.learner(batch.patterns, batch.valid, batch.probe)
        loss = loss_of(recipe, [estimate.float() for estimate in estimates], batch)
        self.optimiser.zero_grad()
        loss.backward()
        if recipe.clip:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip)
        self.optimiser.step()
        self.step += 1
        self.running = loss.detach() if self.step == 1 else self.running.lerp(loss.detach(), 0.01)
        if recipe.averaging:
            decay = min(recipe.averaging, self.step / (self.step + 10))
            follow = get_ema_multi_avg_fn(decay)
            follow(list(self.kept.parameters()), list(self.model.parameters()), self.step)

    def validate(self, on_epoch) -> None:
        """Validate, and write what there is."""
        judged = self.kept if self.recipe.averaging else self.model
        found = pair_errors(judged, self.held_out, self.device)
        better = found["mae_rad"] < self.best
        self.best = min(self.best, found["mae_rad"])
        if not self.recipe.averaging and (better or not self.recipe.keep_best):
            self.kept.load_state_dict(self.model.state_dict())
        self.history.append(
            {
                "epoch": round(self.step / self.batches.steps_per_epoch, 3),
                "step": self.step,
                "pairs_seen": self.step * self.recipe.batch,
                "minutes": round(self.spent_s / 60, 2),
                "training_loss": round(float(self.running), 5),
                **found,
            }
        )
        if self.ranks.first:
            self._save()
            figures = self.figures()
            replace_file(self.out / "figures.json", (json.dumps(figures, indent=1) + "\n").encode())
            draw_samples(self.out / "samples.png", self.kept, self.held_out[0], self.device)
            if on_epoch:
                on_epoch(figures)

    def figures(self) -> dict[str, Any]:
        """What was done and how well it went, for a figures file and a model card."""
        return {
            "command": "train",
            "version": version("bluesky-ptychonn"),
            "conditions": {
                **{key: value for key, value in self.identity.items() if key != "snapshot"},
                "snapshot": snapshot_sha256(self.identity["snapshot"]),
                "shards": len(self.identity["snapshot"]),
                "pairs": self.batches.pairs,
                "steps": self.total,
                "processes": self.ranks.size,
                "device": self.device.type,
            },
            "results": self.history[-1:],
            "history": self.history,
        }

    def _agreed(self, total: float) -> int:
        """The number of steps that the first process found, for all of them."""
        value = torch.tensor([max(total, self.step + 1) if self.ranks.first else 0.0], device=self.device)
        if self.ranks.size > 1:
            torch.distributed.all_reduce(value)
        return round(float(value.item()))

    def _save(self) -> None:
        state = {
            **self.identity,
            "weights": self.model.state_dict(),
            "kept": self.kept.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "total": self.total,
            "spent_s": self.spent_s,
            "running": float(self.running),
            "best": self.best,
            "history": self.history,
            "figures": self.figures(),
        }
        write_checkpoint(self.out, state)

    def _resume(self) -> None:
        state = read_checkpoint(self.out)
        for key, value in self.identity.items():
            if state[key] != value:
                shown = f"another {key}" if key in ("snapshot", "start") else f"{key} = {state[key]!r}, not {value!r}"
                raise ValueError(f"{self.out} holds a training with {shown}; choose another folder")
        self.model.load_state_dict(state["weights"])
        self.kept.load_state_dict(state["kept"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.total, self.spent_s = state["step"], state["total"], state["spent_s"]
        self.running = torch.tensor(state["running"], device=self.device)
        self.best, self.history = state["best"], state["history"]

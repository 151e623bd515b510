"""What engines share: the steps from patterns to phase around a network, their limits, and the golden pair."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from bluesky_ptychonn.core.lift import FastLift
from bluesky_ptychonn.core.model_card import ModelCard
from bluesky_ptychonn.core.projection import FastProjection, light
from bluesky_ptychonn.core.protocols import EngineMismatch
from bluesky_ptychonn.engines.lift import lift_for
from bluesky_ptychonn.io.model_store import StoredModel

GOLDEN_TOLERANCE_RAD = 0.02
"""Root mean square by which patches may differ from the golden ones."""


class Steps(Protocol):
    """The way from patterns to phase, for one batch."""

    batch: int
    """Largest batch `infer` takes."""

    dtype: str
    """What the networks compute in: "fp32", "bf16", "fp16" or "int8"."""

    guesses: bool
    """Whether there is a first estimate, for a part of the cost."""

    def set_probe(self, probe: np.ndarray) -> None:
        """Take a new probe (N, N), scaled to the counts per frame."""
        ...

    def infer(self, patterns: np.ndarray, phase: np.ndarray) -> None:
        """Fill ``phase`` (B, h, h) from patterns (B, N, N)."""
        ...

    def guess(self, patterns: np.ndarray, phase: np.ndarray) -> None:
        """Fill ``phase`` with a first estimate; only where `guesses` is True."""
        ...

    def run_networks(self) -> None:
        """Run the networks alone, on whatever stands in their inputs, for ``batch`` patterns."""
        ...


class StepsEngine:
    """An engine around some steps: larger batches are divided, and the golden pair holds before it can be used.

    Parameters
    ----------
    model : StoredModel
    max_batch : int
    steps : Steps

    Raises
    ------
    EngineMismatch
        If the model does not give its golden patches.
    """

    name = ""
    networks_apart = True
    """Whether `run_networks` runs them without the preparation."""

    def __init__(self, model: StoredModel, max_batch: int, steps: Steps) -> None:
        card = model.card
        self.card: ModelCard | None = card
        self.frame_px, self.patch_px, self.max_batch = card.frame_px, card.patch_px, max_batch
        self.dtype = steps.dtype
        self._steps, self._has_probe = steps, False
        check_golden(self, model)
        self._has_probe = False

    def set_probe(self, probe: np.ndarray) -> None:
        """Take a new probe (N, N), scaled to the counts per frame; the networks stay compiled."""
        self._steps.set_probe(probe)
        self._has_probe = True

    def infer(self, patterns: np.ndarray) -> np.ndarray:
        """Patterns (B, N, N) to phase (B, h, h) float32, rad."""
        return self._by(self._steps.infer, patterns)

    @property
    def guess(self) -> Callable[[np.ndarray], np.ndarray] | None:
        """First estimate of the phase, as `infer`, for a part of its cost; None where the model has none."""
        return functools.partial(self._by, self._steps.guess) if self._steps.guesses else None

    def _by(self, step: Callable[[np.ndarray, np.ndarray], None], patterns: np.ndarray) -> np.ndarray:
        if not self._has_probe:
            raise RuntimeError("the engine has no probe yet; call set_probe first")
        if not 1 <= len(patterns) <= self.max_batch:
            raise ValueError(f"a batch of {len(patterns)} patterns; this engine takes 1 to {self.max_batch}")
        phase = np.empty((len(patterns), self.patch_px, self.patch_px), np.float32)
        size = self._steps.batch
        for first in range(0, len(patterns), size):
            step(patterns[first : first + size], phase[first : first + size])
        return phase

    def run_networks(self) -> None:
        """Run the networks alone, without preparation and copies, for ``max_batch`` patterns: to measure them."""
        for _ in range(0, self.max_batch, self._steps.batch):
            self._steps.run_networks()


class Wanted(NamedTuple):
    """What a card says of a graph: it takes (``batch``, ``channels``, ``side_px``, ``side_px``)."""

    file: str
    """Among the files of the model."""
    batch: int
    """Compiled for; the graph's own batch where that is fixed."""
    channels: int
    side_px: int
    gives: tuple[tuple[int, ...], ...]
    """Shapes that its output may have behind the batch."""

    def refuse_input(self, who: str, found: Sequence[int | None]) -> int:
        """Batch to compile for; `EngineMismatch` if an input of these sides, None where any will do, does not fit."""
        wanted = [(found and found[0]) or self.batch, self.channels, self.side_px, self.side_px]
        if len(found) != 4 or any(side not in (None, asked) for side, asked in zip(found, wanted)):
            raise EngineMismatch(f"{who} takes {_sides(found)}; its card says {wanted}")
        return wanted[0]

    def refuse_output(self, who: str, found: Sequence[int | None], batch: int) -> None:
        """Raise `EngineMismatch` if an output of these sides, for a batch, is not one of those that may be."""
        if tuple(found) not in [(batch, *behind) for behind in self.gives]:
            wanted = " or ".join(str(("B", *behind)) for behind in self.gives)
            raise EngineMismatch(f"{who} gives {_sides(found)}; its card says {wanted}")


def _sides(found: Sequence[int | None]) -> str:
    return f"[{','.join('?' if side is None else str(side) for side in found)}]"


def first_wanted(card: ModelCard, batch: int) -> Wanted:
    """What a card says of its first graph."""
    side_px = card.patch_px
    if card.preparation == "counts":
        gives = tuple((*channels, side_px, side_px) for channels in ((), (1,), (2,)))
        return Wanted(card.graph_file, batch, 1, side_px, gives)
    return Wanted(card.graph_file, batch, 3, side_px, ((2, side_px, side_px),))


def refine_wanted(card: ModelCard, batch: int) -> Wanted:
    """What a card says of its refining graph."""
    return Wanted(card.refine_file, batch, 5, card.patch_px, ((2, card.patch_px, card.patch_px),))


def refuse_batches(card: ModelCard, first: int, refine: int) -> None:
    """Raise `EngineMismatch` if the graphs of a model have fixed batches that differ."""
    if first != refine:
        raise EngineMismatch(
            f"model {card.version}: {card.graph_file} takes {first} patches at once and "
            f"{card.refine_file} {refine}; export both with the same batch"
        )


class Network(Protocol):
    """One compiled graph on the CPU, the array it reads and the one it writes."""

    batch: int
    dtype: str
    input: np.ndarray

    def run(self) -> np.ndarray:
        """Output for what now stands in ``input``; the next run overwrites it."""
        ...


def array_steps(model: StoredModel, batch: int, open_network: Callable[[Wanted], Network]) -> Steps:
    """Steps of a model on the CPU, around networks of some library."""
    return (_CountsStep if model.card.preparation == "counts" else _LiftSteps)(model.card, batch, open_network)


class _LiftSteps:
    """The lift, a first guess, and, where the model has it, the projection of the guess and its correction."""

    def __init__(self, card: ModelCard, batch: int, open_network: Callable[[Wanted], Network]) -> None:
        self._frame_px = card.frame_px
        self._first = open_network(first_wanted(card, batch))
        self.batch, self.dtype = self._first.batch, self._first.dtype
        self._refine = None
        if card.refine_file:
            self._refine = open_network(refine_wanted(card, self.batch))
            refuse_batches(card, self.batch, self._refine.batch)
        self.guesses = self._refine is not None

    def set_probe(self, probe: np.ndarray) -> None:
        side_px = self._first.input.shape[-1]
        self._lift: FastLift = lift_for(probe, self._frame_px, side_px)
        self._first.input[:, 2] = light(probe, side_px)
        if self._refine is not None:
            self._project = FastProjection(probe, side_px)
            self._refine.input[:, 4] = self._first.input[:, 2]

    def infer(self, patterns: np.ndarray, phase: np.ndarray) -> None:
        count, guess = len(patterns), self._guessed(patterns)
        if self._refine is None:
            phase[:] = guess[:, 1]
            return
        fed = self._refine.input[:count]
        fed[:, 2:4] = guess
        self._project(patterns, guess, fed[:, :2])
        np.add(guess[:, 1], self._refine.run()[:count, 1], out=phase)

    def guess(self, patterns: np.ndarray, phase: np.ndarray) -> None:
        phase[:] = self._guessed(patterns)[:, 1]

    def _guessed(self, patterns: np.ndarray) -> np.ndarray:
        self._lift(patterns, self._first.input[: len(patterns), :2])
        return self._first.run()[: len(patterns)]

    def run_networks(self) -> None:
        self._first.run()
        if self._refine is not None:
            self._refine.run()


class OneStep:
    """Steps without a first estimate."""

    guesses = False

    def guess(self, patterns: np.ndarray, phase: np.ndarray) -> None:
        """There is none."""
        raise NotImplementedError


class _CountsStep(OneStep):
    """Counts as they are, or scaled to those of the training."""

    def __init__(self, card: ModelCard, batch: int, open_network: Callable[[Wanted], Network]) -> None:
        self._card = card
        self._network = open_network(first_wanted(card, batch))
        self.batch, self.dtype = self._network.batch, self._network.dtype
        self._scale = np.float32(1)

    def set_probe(self, probe: np.ndarray) -> None:
        counts = counts_of_probe(probe, self._card.frame_px)
        if self._card.reference_counts is not None:
            self._scale = np.float32(self._card.reference_counts / counts)

    def infer(self, patterns: np.ndarray, phase: np.ndarray) -> None:
        refuse_patterns(patterns, self._card.frame_px)
        fed = self._network.input[: len(patterns), 0]
        np.multiply(patterns, self._scale, out=fed, casting="unsafe")
        fed[patterns == np.iinfo(patterns.dtype).max] = 0
        given = self._network.run()[: len(patterns)]
        phase[:] = given if given.ndim == 3 else given[:, -1]

    def run_networks(self) -> None:
        self._network.run()


def counts_of_probe(probe: np.ndarray, frame_px: int) -> float:
    """Photons per frame of a probe; `ValueError` if it does not fit or is dark."""
    counts = float(np.sum(np.abs(probe).astype(np.float64) ** 2))
    if np.shape(probe) != (frame_px, frame_px):
        raise ValueError(f"the probe has shape {np.shape(probe)} px; this engine takes ({frame_px}, {frame_px})")
    if not (np.isfinite(counts) and counts > 0):
        raise ValueError(f"the probe holds {counts} counts; it must be finite and have power")
    return counts


def refuse_patterns(patterns: np.ndarray, frame_px: int) -> None:
    """Raise `ValueError` if patterns are not unsigned counts (B, N, N)."""
    if patterns.ndim != 3 or patterns.shape[1:] != (frame_px, frame_px) or patterns.dtype.kind != "u":
        raise ValueError(
            f"patterns have shape {patterns.shape} and type {patterns.dtype}; the model asks for unsigned counts "
            f"(B, {frame_px}, {frame_px})"
        )


def is_eight_bit(graph_file: Path) -> bool:
    """Whether a graph computes in 8 bits: ONNX holds the names of its operators as plain text."""
    return b"DequantizeLinear" in graph_file.read_bytes()


def check_golden(engine, model: StoredModel) -> None:
    """Compare what an engine makes of the golden patterns with the golden patches, one batch after another.

    Raises
    ------
    EngineMismatch
        If they differ by more than `GOLDEN_TOLERANCE_RAD`.
    """
    with np.load(model.golden_path, allow_pickle=False) as golden:
        patterns, probe, expected = golden["patterns"], golden["probe"], golden["patches_rad"]
    try:
        engine.set_probe(probe)
        batches = range(0, len(patterns), engine.max_batch)
        found = np.concatenate([engine.infer(patterns[b : b + engine.max_batch]) for b in batches])
        error_rad = float(np.sqrt(np.mean((found - expected) ** 2)))
    except ValueError as error:
        raise EngineMismatch(f"model {model.card.version}: the golden pair does not fit: {error}") from error
    if not error_rad <= GOLDEN_TOLERANCE_RAD:
        raise EngineMismatch(
            f"model {model.card.version} misses its golden patches by {error_rad:.3f} rad (allowed is "
            f"{GOLDEN_TOLERANCE_RAD} rad) in engine {engine.name}; use another engine, or export the model anew"
        )

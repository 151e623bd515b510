"""Several engines of one model as one: what has all its frames at once can use all cores."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from bluesky_ptychonn.core.model_card import ModelCard
from bluesky_ptychonn.core.protocols import Engine
from bluesky_ptychonn.engines.registry import open_engine

ON_ONE_CORE = ("openvino", "onnxruntime", "lift")
"""Engines that keep one core busy."""
MOST = 4


class Team:
    """Engines side by side, each in a thread of its own; behind the protocol of an engine.

    Each engine gets whole batches of its own size, so that patches are bit by bit those of one engine.

    Parameters
    ----------
    engines : sequence of Engine
        Of one model.

    Examples
    --------
    >>> team = Team([open_engine("lift"), open_engine("lift")])
    >>> team.max_batch
    16
    """

    guess: Callable[[np.ndarray], np.ndarray] | None = None

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._engines = engines
        self._threads = ThreadPoolExecutor(len(engines), thread_name_prefix="team")
        first = engines[0]
        self.name: str = first.name
        self.card: ModelCard | None = first.card
        self.frame_px, self.patch_px = first.frame_px, first.patch_px
        self.max_batch = len(engines) * first.max_batch

    def set_probe(self, probe: np.ndarray) -> None:
        """Take a new probe (N, N), scaled to the counts per frame."""
        for engine in self._engines:
            engine.set_probe(probe)

    def infer(self, patterns: np.ndarray) -> np.ndarray:
        """Patterns (B, N, N) to phase (B, h, h) float32, rad."""
        if not 1 <= len(patterns) <= self.max_batch:
            raise ValueError(f"a batch of {len(patterns)} patterns; this engine takes 1 to {self.max_batch}")
        size = self._engines[0].max_batch
        parts = [patterns[first : first + size] for first in range(0, len(patterns), size)]
        return np.concatenate(list(self._threads.map(lambda engine, part: engine.infer(part), self._engines, parts)))


def open_team(name: str, model_dir: Path | None = None, *, max_batch: int = 8, frame_px: int = 128) -> Engine:
    """Open an engine, as `engines.registry.open_engine`, and as many beside it as this process has cores for.

    Parameters as there; errors, too.
    """
    first = open_engine(name, model_dir, max_batch=max_batch, frame_px=frame_px)
    cores = min(MOST, len(os.sched_getaffinity(0)))
    if first.name not in ON_ONE_CORE or cores == 1:
        return first
    others = [open_engine(first.name, model_dir, max_batch=max_batch, frame_px=frame_px) for _ in range(cores - 1)]
    return Team([first, *others])

"""More frames than can be inferred in full: a first estimate of some, in full when there is time."""

import time
from collections import deque

import numpy as np

from bluesky_ptychonn.core.protocols import Engine

PRESSURE_BATCHES = 8
"""Batches that wait, from which on frames are guessed until none waits any more."""
REST = 2
"""So many times as many batches are guessed then, to leave time for what else the processor has to do."""
CALM_S = 3.0
"""So long after the last guess there is time to infer guessed frames in full during a run."""
KEPT = 2048
"""Patterns of guessed frames that are kept."""

Batch = tuple[np.ndarray, np.ndarray]
"""Triggers (B,) and patterns (B, N, N), or patches (B, h, h)."""


class Hurry:
    """Infers batches, by the engine's first estimate while too many frames wait, so that none need be shed.

    Parameters
    ----------
    engine : Engine
        One without a first estimate infers all frames in full.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._in_a_row = self._resting = 0
        self._last_guess_s = -np.inf
        self._anew: deque[Batch] = deque()
        self._guessed: deque[Batch] = deque()
        self._kept = 0
        self.guessed = 0
        """Frames which have no more than a first estimate."""

    def infer(self, indices: np.ndarray, patterns: np.ndarray, waiting: int) -> np.ndarray:
        """Patches (B, h, h) of a batch.

        Parameters
        ----------
        indices : (B,) int
            Triggers of the patterns.
        patterns : (B, N, N) unsigned integer
            Kept as they are, not copied.
        waiting : int
            Frames that wait, these among them.
        """
        guess = self._engine.guess if self._is_hurried(waiting, len(patterns)) else None
        if guess is None:
            return self._engine.infer(patterns)
        patches = guess(patterns)
        self._last_guess_s = time.monotonic()
        if self._kept + len(patterns) <= KEPT:
            self._guessed.append((indices.copy(), patterns))
            self._kept += len(patterns)
        self.guessed += len(patterns)
        return patches

    def _is_hurried(self, waiting: int, batch: int) -> bool:
        if waiting > (batch if self._in_a_row else PRESSURE_BATCHES * self._engine.max_batch):
            self._in_a_row += 1
            return True
        if self._in_a_row:
            self._resting, self._in_a_row = REST * self._in_a_row, 0
        self._resting = max(0, self._resting - 1)
        return self._resting > 0

    def owe(self, indices: np.ndarray, patterns: np.ndarray) -> None:
        """Remember frames to be inferred anew, because their probe was not known well."""
        for first in range(0, len(patterns), self._engine.max_batch):
            part = slice(first, first + self._engine.max_batch)
            self._anew.append((indices[part], patterns[part]))

    def pay(self, *, all_of_it: bool = False) -> Batch | None:
        """Triggers and better patches of one remembered batch; None if there is none, or no time for it now.

        Parameters
        ----------
        all_of_it : bool
            Whether also guessed frames are due while others had to be guessed a moment ago.
        """
        if self._anew:
            indices, patterns = self._anew.popleft()
        elif self._guessed and (all_of_it or time.monotonic() - self._last_guess_s > CALM_S):
            indices, patterns = self._guessed.popleft()
            self._kept -= len(indices)
            self.guessed -= len(indices)
        else:
            return None
        return indices, self._engine.infer(patterns)

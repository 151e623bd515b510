"""More frames than can be inferred: a first estimate of some, in full at the end of the run."""

import numpy as np

from bluesky_ptychonn.core.protocols import Engine

PRESSURE_BATCHES = 8
"""Batches that wait, from which on frames are guessed until none waits any more."""
KEPT = 2048
"""Patterns of guessed frames that are kept."""


class Hurry:
    """Infers batches, by the engine's first estimate while too many frames wait, so that none need be shed.

    Parameters
    ----------
    engine : Engine
        One without a first estimate infers all frames in full.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._hurried = False
        self._kept: list[tuple[np.ndarray, np.ndarray]] = []
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
        self._hurried = waiting > (len(patterns) if self._hurried else PRESSURE_BATCHES * self._engine.max_batch)
        guess = self._engine.guess if self._hurried else None
        if guess is None:
            return self._engine.infer(patterns)
        patches = guess(patterns)
        if self.guessed + len(patterns) <= KEPT:
            self._kept.append((indices.copy(), patterns))
        self.guessed += len(patterns)
        return patches

    def in_full(self) -> tuple[np.ndarray, np.ndarray]:
        """Triggers (n,) and patches (n, h, h) of the kept frames that were guessed; they are guessed no more."""
        if not self._kept:
            return np.empty(0, int), np.empty((0, self._engine.patch_px, self._engine.patch_px), np.float32)
        indices, patterns = (np.concatenate(parts) for parts in zip(*self._kept))
        size = self._engine.max_batch
        patches = [self._engine.infer(patterns[first : first + size]) for first in range(0, len(patterns), size)]
        self.guessed -= len(indices)
        self._kept = []
        return indices, np.concatenate(patches)

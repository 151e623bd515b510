"""The engine that needs no model: the lift itself as a picture of the phase."""

import numpy as np

from bluesky_ptychonn.core.lift import FastLift
from bluesky_ptychonn.core.model_card import ModelCard


class LiftEngine:
    """Phase from the linear lift: to first order in the object, its phase is the imaginary part of o.

    Too weak in contrast, and blurred as the probe is; but a picture of any sample that needs nothing but the probe.

    Parameters
    ----------
    frame_px, patch_px : int
        Sides of patterns and patches.
    max_batch : int
    """

    name = "lift"
    card: ModelCard | None = None
    guess = None

    def __init__(self, frame_px: int = 128, patch_px: int | None = None, max_batch: int = 8) -> None:
        self.frame_px = frame_px
        self.patch_px = patch_px or frame_px * 3 // 16 * 4
        self.max_batch = max_batch
        self._lift: FastLift | None = None

    def set_probe(self, probe: np.ndarray) -> None:
        """Take a new probe (N, N), scaled to the counts per frame."""
        self._lift = lift_for(probe, self.frame_px, self.patch_px)

    def infer(self, patterns: np.ndarray) -> np.ndarray:
        """Patterns (B, N, N) to phase (B, h, h) float32, rad."""
        return np.ascontiguousarray(lifted(self._lift, patterns, self.max_batch)[:, 1])


def lift_for(probe: np.ndarray, frame_px: int, patch_px: int) -> FastLift:
    """Prepare the lift for a probe, or say why this engine cannot."""
    if np.shape(probe) != (frame_px, frame_px):
        raise ValueError(f"the probe has shape {np.shape(probe)} px; this engine takes ({frame_px}, {frame_px})")
    return FastLift(probe, patch_px)


def lifted(lift: FastLift | None, patterns: np.ndarray, max_batch: int, out: np.ndarray | None = None) -> np.ndarray:
    """Lift one batch of patterns, within the limits of an engine."""
    if lift is None:
        raise RuntimeError("the engine has no probe yet; call set_probe first")
    if not 1 <= len(patterns) <= max_batch:
        raise ValueError(f"a batch of {len(patterns)} patterns; this engine takes 1 to {max_batch}")
    return lift(patterns, out)

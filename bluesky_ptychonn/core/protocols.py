"""What the rooms ask of each other's parts."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np

from bluesky_ptychonn.core.model_card import ModelCard


class EngineMismatch(ValueError):  # noqa: N818 - the name of the design
    """A model cannot be used: a hash, a shape or the golden pair does not hold. Keep the one that runs."""


class GraphUnsupported(EngineMismatch):
    """A model is unharmed, but its graph holds what this engine cannot compute; another engine may."""


class EngineUnavailable(RuntimeError):  # noqa: N818 - as above
    """An engine does not fit this machine: its library, driver or device is not there; another engine may."""


@runtime_checkable
class Engine(Protocol):
    """A compiled model: diffraction patterns in, phase patches out."""

    @property
    def name(self) -> str:
        """Name under which `engines.registry.open_engine` opens it."""
        ...

    @property
    def card(self) -> ModelCard | None:
        """What is known of the model; None where nothing was trained, so that any pixel size and energy will do."""
        ...

    @property
    def max_batch(self) -> int:
        """Largest batch `infer` takes."""
        ...

    @property
    def frame_px(self) -> int:
        """Side of the diffraction patterns, px."""
        ...

    @property
    def patch_px(self) -> int:
        """Side of the patches, the central part of the field, px."""
        ...

    @property
    def guess(self) -> Callable[[np.ndarray], np.ndarray] | None:
        """A first estimate of the same phase, for a part of the cost of `infer`; None where there is none."""
        ...

    def set_probe(self, probe: np.ndarray) -> None:
        """Take a new probe (N, N) complex64, scaled to the counts per frame; the compiled network stays."""
        ...

    def infer(self, patterns: np.ndarray) -> np.ndarray:
        """Turn patterns (B, N, N) of unsigned counts, 1 <= B <= max_batch, into phase (B, h, h) float32, rad."""
        ...

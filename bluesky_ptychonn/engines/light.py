"""The light of a run: its probe, scaled and measured by the frames themselves."""

import logging

import numpy as np

from bluesky_ptychonn.core.optics import PROBE_FRAMES, counts_of, counts_of_each, measured_probe, with_counts
from bluesky_ptychonn.core.protocols import Engine

logger = logging.getLogger(__name__)
SCALE_FACTOR = 30.0
"""Counts per frame this many times more or fewer than the model knows are warned of."""


class Light:
    """Gives an engine the probe of a run: at once with its counts, better with each quarter of the first frames.

    Parameters
    ----------
    engine : Engine
    unit_probe : (N, N) complex64
        Of any power.
    """

    def __init__(self, engine: Engine, unit_probe: np.ndarray) -> None:
        self._engine = engine
        self._probe = unit_probe
        self._early: list[tuple[np.ndarray, np.ndarray]] = []
        self.settled = False
        """Whether the probe of the run is known: enough frames have shown light."""
        self.intensity_scale = 0.0
        """Counts per frame; 0 before there are any."""
        self.probe_swaps = 0
        self.message_text = ""

    def take_probe(self, unit_probe: np.ndarray) -> None:
        """Use another probe from now on, with the counts of before; its scale and its cone are measured anew."""
        self._probe = unit_probe
        self.probe_swaps += 1
        self._early, self.settled = [], False
        if self.intensity_scale:
            self._engine.set_probe(with_counts(unit_probe, self.intensity_scale))

    def see(self, indices: np.ndarray, patterns: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Look at a batch before it is inferred; return the frames before it that are worth inferring anew, if any.

        Raises
        ------
        DarkError
            If no frame of the run has shown light yet.
        """
        if not self.intensity_scale:
            self._set_scale(patterns)
        if self.settled:
            return None
        lit = counts_of_each(patterns, self._probe) >= self.intensity_scale / SCALE_FACTOR
        if not lit.any():
            return None
        indices, patterns = indices[lit], patterns[lit]
        before = sum(len(part) for part, _ in self._early)
        count = before + len(patterns)
        self._early.append((indices.copy(), patterns))
        if count >= PROBE_FRAMES:
            *earlier, _ = self._settle()
            return _joined(earlier)
        if not before or before < PROBE_FRAMES // 4 <= count:
            self._engine.set_probe(measured_probe(self._probe, np.concatenate([part for _, part in self._early])))
        return None

    def settle(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Measure the probe from all that was seen; return the frames to infer anew."""
        return _joined(self._settle()) if self._early else None

    def _settle(self) -> list[tuple[np.ndarray, np.ndarray]]:
        early, self._early, self.settled = self._early, [], True
        probe = measured_probe(self._probe, np.concatenate([part for _, part in early])[:PROBE_FRAMES])
        self._engine.set_probe(probe)
        self.intensity_scale = float(np.sum(np.abs(probe) ** 2, dtype=np.float64))
        return early

    def _set_scale(self, patterns: np.ndarray) -> None:
        counts = counts_of(patterns, self._probe)
        if counts < 1:
            self.message_text = "frames are dark: is the shutter open?"
            raise DarkError(self.message_text)
        self.intensity_scale = counts
        self.message_text = ""
        reference = (self._engine.card and self._engine.card.reference_counts) or counts
        if not 1 / SCALE_FACTOR <= counts / reference <= SCALE_FACTOR:
            self.message_text = (
                f"{counts:.3g} counts per frame where the model knows about {reference:.3g}: expect a poor image; "
                "change the exposure, or use a model trained for this dose"
            )
            logger.warning("%s", self.message_text)


class DarkError(ValueError):
    """Frames without light."""


def _joined(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray] | None:
    if not parts:
        return None
    indices, patterns = (np.concatenate(column) for column in zip(*parts))
    return indices, patterns

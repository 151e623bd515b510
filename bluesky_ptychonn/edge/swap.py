"""Another model or probe while the edge runs: made and checked beside the running one, taken up between two batches."""

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from bluesky_ptychonn.core.model_card import PROBE, ModelCard
from bluesky_ptychonn.core.optics import with_counts
from bluesky_ptychonn.core.protocols import Engine

logger = logging.getLogger(__name__)


class Version(NamedTuple):
    """What goes together, and is only changed together."""

    engine: Engine
    card: ModelCard | None
    """Of the version; another than the engine's own where only the probe differs from the version it was opened for."""
    probe: np.ndarray | None
    """(N, N) complex64 of any power; None where it is known elsewhere."""


class EngineSlot:
    """The engine in use, behind the protocol of an engine; another one may take its place between two batches.

    One thread at a time infers, exchanges and sets probes; any thread may offer.

    Parameters
    ----------
    engine : Engine
    probe : (N, N) complex64, optional
        That goes with it, of any power. Without one, a version with a probe of its own waits for the end of the run:
        who sets the probe has to know of it.
    """

    def __init__(self, engine: Engine, probe: np.ndarray | None = None) -> None:
        self._used = Version(engine, engine.card, probe)
        self._previous: Engine | None = None
        self._offered: Version | None = None
        self._scaled: np.ndarray | None = None
        self._lock = threading.Lock()
        self.swaps = 0
        """How often the model was changed."""

    @property
    def name(self) -> str:
        """Of the engine in use."""
        return self._used.engine.name

    @property
    def card(self) -> ModelCard | None:
        """Of the model in use."""
        return self._used.card

    @property
    def probe(self) -> np.ndarray | None:
        """That goes with the model in use, of any power."""
        return self._used.probe

    @property
    def max_batch(self) -> int:
        """Of the engine in use."""
        return self._used.engine.max_batch

    @property
    def frame_px(self) -> int:
        """Of the engine in use."""
        return self._used.engine.frame_px

    @property
    def patch_px(self) -> int:
        """Of the engine in use."""
        return self._used.engine.patch_px

    @property
    def guess(self) -> Callable[[np.ndarray], np.ndarray] | None:
        """Of the engine in use."""
        return getattr(self._used.engine, "guess", None)

    @property
    def newest(self) -> Version:
        """What is offered, or else in use."""
        offered = self._offered  # read once: it may be taken meanwhile, and is in use then
        return offered if offered is not None else self._used

    def set_probe(self, probe: np.ndarray) -> None:
        """Take a probe scaled to the counts; also for the engines to come."""
        self._used.engine.set_probe(probe)
        self._scaled = probe

    def infer(self, patterns: np.ndarray) -> np.ndarray:
        """Infer one batch, all of it with one model and its probe."""
        return self._used.engine.infer(patterns)

    def exchange(self, *, another_probe: bool = False) -> np.ndarray | None:
        """Between two batches, take what is offered, if it fits into a run under way.

        Parameters
        ----------
        another_probe : bool
            Whether also a version with a probe of its own may come where the slot has none, because nothing more is
            inferred in this run.

        Returns
        -------
        (N, N) complex64, optional
            The probe that goes with it, of any power, if it is another one: it has to be set before the next batch.
        """
        offered = self._offered
        if offered is None or not _exchangeable(offered, self._used):
            return None
        if offered.probe is None and not another_probe and not _same_probe(offered, self._used):
            return None
        return self._take(offered)

    def between_runs(self) -> None:
        """Take what is offered, also where its patches have another size."""
        if (offered := self._offered) is not None:
            self._take(offered)

    def offer(self, engine: Engine, probe: np.ndarray | None = None, card: ModelCard | None = None) -> None:
        """Put an engine forward that is checked and warm, with the probe and the card that go with it.

        Parameters
        ----------
        engine : Engine
        probe : (N, N) complex64, optional
            Of any power; that in use by default.
        card : ModelCard, optional
            That of the engine by default.

        Raises
        ------
        ValueError
            If its patterns have another size: the edge would have to start anew.
        """
        if engine.frame_px != self.frame_px:
            raise ValueError(
                f"it takes patterns of {engine.frame_px} px, the edge runs with {self.frame_px} px; start the edge "
                "anew with it"
            )
        version = Version(engine, card or engine.card, self.newest.probe if probe is None else probe)
        with self._lock:
            self._offered = version

    def kept(self, card: ModelCard) -> Engine | None:
        """An engine that does what a card says, where it is still there: offered, in use, or the one before it."""
        for engine in (self.newest.engine, self._used.engine, self._previous):
            if engine is not None and engine.card is not None and same_engine(engine.card, card):
                return engine
        return None

    def _take(self, offered: Version) -> np.ndarray | None:
        used = self._used
        try:
            if offered.engine is not used.engine:
                if self._scaled is not None:
                    offered.engine.set_probe(self._scaled)
                self._previous = used.engine
            self._used = offered
        finally:
            with self._lock:
                if self._offered is offered:
                    self._offered = None
        if offered.engine is not used.engine or offered.card != used.card:
            self.swaps += 1
            logger.info("model %s is in use", offered.card.version if offered.card else offered.engine.name)
        if offered.probe is None or (used.probe is not None and np.array_equal(offered.probe, used.probe)):
            return None
        return offered.probe


def same_engine(one: ModelCard, other: ModelCard) -> bool:
    """Whether an engine opened for one version does the same for the other: they differ in probe and history alone."""
    return _of_engine(one) == _of_engine(other)


def _of_engine(card: ModelCard) -> ModelCard:
    files = {name: sha256 for name, sha256 in card.files.items() if name != PROBE}
    return replace(card, name="any", version="any", files=files, probe_sha256="", corpus="", parent="", training={})


def _exchangeable(one: Version, other: Version) -> bool:
    """Whether one may go on with the run of the other."""
    if one.engine.patch_px != other.engine.patch_px or one.card is None or other.card is None:
        return one.engine is other.engine
    return all(getattr(one.card, name) == getattr(other.card, name) for name in ("pixel_size_um", "energy_kev"))


def _same_probe(one: Version, other: Version) -> bool:
    return one.card is None or other.card is None or one.card.probe_sha256 == other.card.probe_sha256


def warm_up(engine: Engine, probe: np.ndarray) -> None:
    """Let an engine compile what it compiles on first use, for batches of every size that is usual."""
    engine.set_probe(with_counts(probe, 1e5))
    for count in (1, engine.max_batch):
        for dtype in (np.uint16, np.uint32):
            engine.infer(np.ones((count, engine.frame_px, engine.frame_px), dtype))

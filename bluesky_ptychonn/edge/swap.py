"""Another model or probe while the edge runs: made and checked beside the running one, taken up between two batches."""

import logging
import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import numpy as np

from bluesky_ptychonn.core.model_card import ModelCard
from bluesky_ptychonn.core.optics import with_counts
from bluesky_ptychonn.core.protocols import Engine
from bluesky_ptychonn.io.model_store import CURRENT, VERSIONS, current_version

logger = logging.getLogger(__name__)
LOOK_S = 0.3


class EngineSlot:
    """The engine in use, behind the protocol of an engine; another one may take its place between two batches.

    One thread at a time infers and sets probes; any thread may offer.

    Parameters
    ----------
    engine : Engine
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._previous: Engine | None = None
        self._offered: Engine | None = None
        self._probe: np.ndarray | None = None
        self.swaps = 0
        """How often the model was changed."""

    @property
    def name(self) -> str:
        """Of the engine in use."""
        return self._engine.name

    @property
    def card(self) -> ModelCard | None:
        """Of the model in use."""
        return self._engine.card

    @property
    def max_batch(self) -> int:
        """Of the engine in use."""
        return self._engine.max_batch

    @property
    def frame_px(self) -> int:
        """Of the engine in use."""
        return self._engine.frame_px

    @property
    def patch_px(self) -> int:
        """Of the engine in use."""
        return self._engine.patch_px

    def set_probe(self, probe: np.ndarray) -> None:
        """Take a new probe; also for the engines to come."""
        self._engine.set_probe(probe)
        self._probe = probe

    def infer(self, patterns: np.ndarray) -> np.ndarray:
        """Infer one batch, all of it with one model: the offered one, if it fits into a run under way."""
        self._take_what_fits()
        return self._engine.infer(patterns)

    @property
    def guess(self) -> Callable[[np.ndarray], np.ndarray] | None:
        """Of the engine that infers the next batch."""
        self._take_what_fits()
        return getattr(self._engine, "guess", None)

    def _take_what_fits(self) -> None:
        offered = self._offered
        if offered is not None and _exchangeable(offered, self._engine):
            self._take(offered)

    def between_runs(self) -> None:
        """Take what is offered, also where its patches have another size."""
        if self._offered is not None:
            self._take(self._offered)

    def offer(self, engine: Engine) -> None:
        """Put an engine forward that is checked and warm.

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
        self._offered = engine

    def kept(self, version: str) -> Engine | None:
        """The engine of a version, where it is still there: the one in use, or the one before it."""
        for engine in (self._engine, self._previous):
            if engine is not None and engine.card is not None and engine.card.version == version:
                return engine
        return None

    def _take(self, offered: Engine) -> None:
        if self._probe is not None:
            offered.set_probe(self._probe)
        if offered is not self._engine:
            self._previous, self._engine = self._engine, offered
            self.swaps += 1
            logger.info("model %s is in use", offered.card.version if offered.card else offered.name)
        if self._offered is offered:
            self._offered = None


def _exchangeable(one: Engine, other: Engine) -> bool:
    """Whether one may go on with the run of the other."""
    if one.patch_px != other.patch_px or one.card is None or other.card is None:
        return False
    return all(getattr(one.card, name) == getattr(other.card, name) for name in ("pixel_size_um", "energy_kev"))


class Watch:
    """Looks at files, and acts when one was written anew; a file that is harmed or gone changes nothing.

    Parameters
    ----------
    actions : mapping of Path to callable
        What to do, in the thread of the watch, when the file has changed. It may raise: then nothing has changed, and
        the reason is kept.
    at_once : collection of Path
        Files that may have changed since they were read: these are looked into at the start.
    """

    def __init__(self, actions: Mapping[Path, Callable[[], None]], at_once: Collection[Path] = ()) -> None:
        self._actions = dict(actions)
        self._seen = {path: None if path in at_once else _written(path) for path in actions}
        self.refused = 0
        """Changes that could not be taken up."""
        self._problem = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)
        self._thread.start()

    def take_problem(self) -> str:
        """Return what was last refused and why, once."""
        problem, self._problem = self._problem, ""
        return problem

    def close(self) -> None:
        """Look no more."""
        self._stop.set()
        self._thread.join(10)

    def _look(self) -> None:
        while not self._stop.wait(LOOK_S):
            for path, act in self._actions.items():
                written = _written(path)
                if written is None or written == self._seen[path]:
                    continue
                self._seen[path] = written
                try:
                    act()
                except Exception as error:  # whatever is wrong with a file, the edge goes on with what it has
                    self.refused += 1
                    self._problem = f"refused, the one in use stays: {error}"
                    logger.warning("%s: %s", path, self._problem)


def _written(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino


def follow_store(store: Path, slot: EngineSlot, open_version: Callable[[Path], Engine]) -> Callable[[], None]:
    """What to do when ``CURRENT`` of a model store changes: offer the engine of that version.

    Parameters
    ----------
    store : Path
    slot : EngineSlot
    open_version : callable
        Opens the engine of a version's folder, checked and warm. The version before the one in use is still open: a
        rollback waits for nothing.
    """

    def offer_current() -> None:
        version = current_version(store)
        slot.offer(slot.kept(version) or open_version(store / VERSIONS / version))

    return offer_current


def is_store(path: Path | None) -> bool:
    """Whether a folder is a model store, which may change, and not one model."""
    return path is not None and (path / CURRENT).is_file()


def warm_up(engine: Engine, probe: np.ndarray) -> None:
    """Let an engine compile what it compiles on first use, for batches of every size that is usual."""
    engine.set_probe(with_counts(probe, 1e5))
    for count in (1, engine.max_batch):
        for dtype in (np.uint16, np.uint32):
            engine.infer(np.ones((count, engine.frame_px, engine.frame_px), dtype))

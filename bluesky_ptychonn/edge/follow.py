"""What changes on disk while the edge runs: the current version of a model store, and the probe of the settings."""

import logging
import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import numpy as np

from bluesky_ptychonn.core.protocols import Engine
from bluesky_ptychonn.edge.swap import EngineSlot
from bluesky_ptychonn.io.model_probe import probe_of
from bluesky_ptychonn.io.model_store import CURRENT, VERSIONS, current_version, open_model

logger = logging.getLogger(__name__)
LOOK_S = 0.3


class Follower:
    """Offers a slot the current version of a store with the probe that goes with it: its own, or that of the settings.

    Parameters
    ----------
    slot : EngineSlot
    open_version : callable
        Opens the engine of a version's folder, checked and warm. It is not asked where an engine that is still open
        does the same: after a rollback, or where only the probe differs.
    settings_probe : (N, N) complex64, optional
        None where the slot knows of no probes.
    own_probe : (N, N) complex64, optional
        Of the version in use, if it has one.
    """

    def __init__(
        self,
        slot: EngineSlot,
        open_version: Callable[[Path], Engine],
        settings_probe: np.ndarray | None = None,
        own_probe: np.ndarray | None = None,
    ) -> None:
        self._slot, self._open_version = slot, open_version
        self._settings_probe, self._own_probe = settings_probe, own_probe

    def take_version(self, store: Path) -> None:
        """Offer the current version of a store.

        Raises
        ------
        Exception
            If it cannot be used, whatever the reason; nothing is offered then.
        """
        folder = store / VERSIONS / current_version(store)
        model = open_model(folder)
        own = probe_of(model)
        engine = self._slot.kept(model.card) or self._open_version(folder)
        self._slot.offer(engine, self._live(own), model.card)
        self._own_probe = own

    def take_probe(self, probe: np.ndarray) -> None:
        """Offer another probe of the settings; it waits while the version in use has its own."""
        self._settings_probe = probe
        if self._own_probe is None:
            newest = self._slot.newest
            self._slot.offer(newest.engine, probe, newest.card)

    def _live(self, own: np.ndarray | None) -> np.ndarray | None:
        return self._settings_probe if self._settings_probe is None or own is None else own


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


def is_store(path: Path | None) -> bool:
    """Whether a folder is a model store, which may change, and not one model."""
    return path is not None and (path / CURRENT).is_file()

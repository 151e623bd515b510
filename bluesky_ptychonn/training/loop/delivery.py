"""The edge's own model store, kept like the one of the loop: each version that goes live there is live here, too."""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from bluesky_ptychonn.io.journal import Journal, JournalError
from bluesky_ptychonn.io.model_store import live_version
from bluesky_ptychonn.io.store_copy import send_live_version

logger = logging.getLogger(__name__)

EDGE_STORE = "edge_store"
"""Fact: ``to``, the ``version`` that is live there and since when (``at_s``), and what keeps others away (``told``)."""
LONGEST_S = 300.0
ANEW_S = 3600.0
"""The copy is looked at so often, even if nothing has changed here."""


class Delivery:
    """Copies the live version whenever it is another one, a rollback as well, until it is there.

    Parameters
    ----------
    journal : Journal
    store : Path
    to : str
        ``host:/folder``.
    ssh_config : Path, optional
    clock : callable
        s since 1970.
    """

    def __init__(
        self,
        journal: Journal,
        store: Path,
        to: str,
        ssh_config: Path | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._journal, self._store, self._to, self._ssh_config = journal, store, to, ssh_config
        self._clock = clock
        self._done: tuple[str, float] | None = None

    def look(self) -> bool:
        """Deliver if there is something to deliver; False if that failed."""
        fact = self._journal.fact(EDGE_STORE) or {}
        before = fact if fact.get("to") == self._to else {"to": self._to, "version": "", "at_s": 0.0}
        try:
            version = live_version(self._store)
            if self._done and self._done[0] == version and 0 <= self._clock() - self._done[1] < ANEW_S:
                return True
            version = send_live_version(self._store, self._to, ssh_config=self._ssh_config)
        except (RuntimeError, OSError, ValueError) as error:
            if before.get("told") != str(error):
                logger.warning("the edge's store: %s", error)
                self._journal.set_fact(EDGE_STORE, {**before, "told": str(error)})
            return False
        if before["version"] != version or before.get("told") != "":
            logger.info("the edge's store %s has version %s", self._to, version)
            told = {"to": self._to, "version": version, "at_s": self._clock(), "told": ""}
            self._journal.set_fact(EDGE_STORE, told)
        self._done = version, self._clock()
        return True

    def run(self, stop: threading.Event, poll_s: float) -> None:
        """Look again and again until told to stop; less often while it fails."""
        in_a_row = 0
        while not stop.is_set():
            try:
                in_a_row = 0 if self.look() else in_a_row + 1
            except JournalError as error:
                in_a_row += 1
                logger.warning("what the edge's store has cannot be written down: %s", error)
            stop.wait(min(poll_s * 2.0 ** min(in_a_row, 10), max(LONGEST_S, poll_s)))

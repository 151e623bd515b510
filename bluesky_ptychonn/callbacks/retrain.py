"""The retrain trigger: each ptychography run is noted in the journal, whatever else is down."""

import atexit
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bluesky_ptychonn.io.journal import Journal
from bluesky_ptychonn.io.spill import append, as_line, from_line

logger = logging.getLogger(__name__)

LOCKED_S = 0.03
PATIENCE_S = 0.05
RETRY_S = 5.0
EXIT_S = 1.0
QUIET_S = 600.0


JOURNALED, SPILLED, HELD = range(3)


class _Waiting(NamedTuple):
    """A document, and what is set when it is on a disk or cannot be for now."""

    line: str
    handled: threading.Event


class RetrainTrigger:
    """Write one journal row per ptychography run, on its start and its stop document; no network, and a bounded wait.

    A thread of its own writes, so that even a disk that hangs delays a scan by no more than ``patience_s``, once. What
    the journal does not take within 30 ms goes into the spill file beside it, which `bluesky-ptychonn loop run` takes
    over. What no disk takes is kept in memory and tried again at the next document, every 5 s, and at the end. The
    scan goes on in any case; trouble is told in one warning, and told again only if it comes back after ten minutes.

    Parameters
    ----------
    journal_path : Path
        The journal, on a local disk; settings: ``loop.journal_file``.
    patience_s : float
        The longest that a document may delay a scan.

    Notes
    -----
    In the RunEngine::

        trigger = RetrainTrigger(settings.loop.journal_file)
        for name in ("start", "stop"):  # events need not pass through it
            RE.subscribe(trigger, name)

    In a process of its own on the journal's machine, over 0MQ (pyzmq; `bluesky-0MQ-proxy 5577 5578` runs beside)::

        RE.subscribe(bluesky.callbacks.zmq.Publisher("localhost:5577"))  # in the RunEngine's process

    and there ``bluesky-ptychonn loop listen localhost:5578``.

    0MQ drops documents which are published before the dispatcher is connected, and does not say so; the loop service
    finds such runs in the catalog when it starts (`io.sweep`).
    """

    def __init__(self, journal_path: Path | str, *, patience_s: float = PATIENCE_S) -> None:
        self._journal = Journal(journal_path, timeout_s=LOCKED_S)
        self._patience_s = patience_s
        self._is_ptycho: dict[str, bool] = {}  # of runs that are open
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._kept: list[_Waiting] = []  # the thread's alone
        self._journaled = self._spilled = 0
        self._state = self._told = JOURNALED
        self._trouble_s = 0.0
        self._late, self._told_late = threading.Event(), False
        self._start_thread()
        atexit.register(self.close)

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take a document; never raises."""
        if name not in ("start", "stop"):
            return
        try:
            if self._concerns(name, doc):
                self._accept(as_line(name, doc))
        except Exception:
            logger.exception("the loop misses a %s document; the scan is not affected", name)

    @property
    def counts(self) -> dict[str, int]:
        """How many documents went into the journal, how many into the spill, and how many are in memory alone."""
        held = len(self._kept) + self._queue.qsize()
        return {"journaled": self._journaled, "spilled": self._spilled, "held": held}

    def close(self, timeout_s: float = EXIT_S) -> bool:
        """Write what is kept in memory, and end the thread; a later document starts it again.

        Returns
        -------
        bool
            False if something is in memory alone after ``timeout_s``; the user is told.
        """
        atexit.unregister(self.close)
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join(timeout_s)
        held = self.counts["held"]
        if held:
            logger.warning(
                "%d documents could not be written beside %s; their runs are found in the catalog when the loop starts",
                held,
                self._journal.path,
            )
        return not held

    # in the caller's thread

    def _concerns(self, name: str, doc: Mapping[str, Any]) -> bool:
        uid = doc["uid" if name == "start" else "run_start"]
        uid.encode()  # a text, and one that can be kept
        if name == "start":
            self._is_ptycho[uid] = "ptycho" in doc
            return self._is_ptycho[uid]
        return self._is_ptycho.pop(uid, True)  # without its start, the journal decides

    def _accept(self, line: str) -> None:
        if not self._thread.is_alive():
            self._start_thread()
        waiting = _Waiting(line, threading.Event())
        self._queue.put(waiting)
        if self._late.is_set() or waiting.handled.wait(self._patience_s):
            return
        self._late.set()
        if waiting.handled.is_set():
            self._late.clear()
        elif not self._told_late:
            self._told_late = True
            logger.warning(
                "the disk of %s does not answer within %g ms; the scan goes on, what the loop must know of it follows",
                self._journal.path,
                1e3 * self._patience_s,
            )

    def _start_thread(self) -> None:
        self._thread = threading.Thread(target=self._work, name="retrain trigger", daemon=True)
        self._thread.start()

    # in the thread

    def _work(self) -> None:
        with contextlib.suppress(Exception):
            self._journal.open()  # not at the first document
        going_on = True
        while going_on:
            going_on = self._collect()
            handled = list(self._kept)
            if handled and self._store(handled):
                self._kept.clear()
            self._late.clear()
            for waiting in handled:
                waiting.handled.set()

    def _collect(self) -> bool:
        """Wait for documents, or until it is time to try again; False at the end."""
        try:
            item = self._queue.get(timeout=RETRY_S if self._kept else None)
            while item is not None:
                self._kept.append(item)
                item = self._queue.get_nowait()  # all there is goes in one transaction
        except queue.Empty:
            return True
        return False

    def _store(self, waiting: Sequence[_Waiting]) -> bool:
        """Put documents into the journal, else into the spill; False if neither takes them."""
        lines = [item.line for item in waiting]
        try:
            self._journal.note(document for line in lines if (document := from_line(line)))
            self._journaled += len(lines)
            self._tell(JOURNALED)
            return True
        except Exception as error:
            why = error
        try:
            append(self._journal.spill_path, lines)
            self._spilled += len(lines)
            self._tell(SPILLED, "%s. The scan goes on; the loop will read %s", why, self._journal.spill_path)
            return True
        except Exception as error:
            message = "%s; nor can its spill (%s). The scan goes on; what the loop must know of it is kept in memory"
            self._tell(HELD, message, why, error)
            return False

    def _tell(self, state: int, message: str = "", *values: Any) -> None:
        """Warn when it becomes worse, or again after some quiet; say when it is over."""
        if state == JOURNALED:
            if self._state != JOURNALED:
                logger.info("the journal %s takes documents again", self._journal.path)
        else:
            now_s = time.monotonic()
            if state > self._told or now_s - self._trouble_s > QUIET_S:
                logger.warning(message, *values)
                self._told = state
            self._trouble_s = now_s
        self._state = state

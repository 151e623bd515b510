"""News of the loop in the user's session: one line when a scan's loop ends; the RunEngine knows nothing of it."""

import logging
import re
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from bluesky_ptychonn.io.journal import Journal, JournalError
from bluesky_ptychonn.io.journal_rows import LIVE_AGAIN, HistoryLine, ScanRow

logger = logging.getLogger(__name__)

ENDED = ("validated", "published", "suspended", "parked")
"""States in which nothing more is done for a scan."""


class LoopNews:
    """Tell, in a thread of its own, when the loop has done with a scan; the journal is only read.

    What had ended before is no news. A journal that is not there yet, or cannot be read now, is looked at again later.

    Parameters
    ----------
    journal_path : Path
    say : callable
        Is given each line.
    poll_s : float
        Between two looks.
    """

    def __init__(self, journal_path: Path, say: Callable[[str], object] = print, *, poll_s: float = 2.0) -> None:
        self._path, self._say, self._poll_s = Path(journal_path), say, poll_s
        self._known: dict[str, str] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="loop news", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join(self._poll_s + 5)

    def _watch(self) -> None:
        journal: Journal | None = None
        while True:
            try:
                if journal is None and self._path.is_file():
                    journal = Journal(self._path)
                if journal is None:
                    self._known = {}  # nothing has ended in a journal that is not there
                else:
                    self._tell(journal)
            except JournalError as error:
                logger.debug("no news of the loop now: %s", error)
            except Exception:
                logger.exception("news of the loop cannot be told")
            if self._stop.wait(self._poll_s):
                break
        if journal is not None:
            journal.close()

    def _tell(self, journal: Journal) -> None:
        ended = {row.uid: row for row in journal.scans(ENDED) if row.job is None}
        known, self._known = self._known, {uid: row.sentence for uid, row in ended.items()}
        if known is None:
            return
        for uid, row in ended.items():
            if known.get(uid) != row.sentence:
                self._say(line_of(row, journal.history(uid)))


def line_of(row: ScanRow, history: Iterable[HistoryLine] = ()) -> str:
    """What a user is told of a scan whose loop has ended, and of an earlier version with which its experiment began."""
    named = f"scan {row.scan_id}" if row.scan_id else f"run {row.uid[:8]}"
    found = (re.search(rf"version \w+ {LIVE_AGAIN}", line.sentence) for line in history)
    began = next((f"{one.group()}; " for one in found if one), "")
    return f"loop: {named} {row.state}: {began}{row.sentence}"

"""The edge's acknowledgement: whether, and since when, it uses what the loop has published.

The edge says in its channel ``stats`` which version it uses. It is listened to in a thread of its own; a tick only
looks at what was heard. Where no edge can be reached, nothing waits and nothing fails.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bluesky_ptychonn.io.journal import Journal, JournalError
from bluesky_ptychonn.io.model_store import CURRENT, VERSIONS
from bluesky_ptychonn.io.pva import PvaChannel
from bluesky_ptychonn.training.loop.policy import clock

logger = logging.getLogger(__name__)

EDGE = "edge"
"""Fact: ``version`` that the edge was heard to use, and ``heard_s``, to `HEARD_S`."""
ANSWER = "edge_answer"
"""Fact: the newest published ``version``, when that was (``published_s``), and ``told``: "", "absent" or "used"."""
HEARD_S = 10.0
PATIENCE_S = 120.0
"""So long after a version was published its absence from the edge is told."""


class Heard(NamedTuple):
    """What the edge said last."""

    version: str
    """"" where it uses none."""
    since_s: float
    """When it first said so, s since 1970."""
    changed: bool
    """Whether it said something else before, so that it did begin then."""
    heard_s: float


class EdgeEar:
    """Listens to the edge's channel ``stats``, which need not be there.

    Parameters
    ----------
    prefix : str
        Of the edge's channels, such as ``"ptychonn:"``.
    open_channel : callable
        Opens a channel by its name; for tests.
    """

    def __init__(self, prefix: str, open_channel: Callable[[str], Any] = PvaChannel) -> None:
        self._name, self._open_channel = f"{prefix}stats", open_channel
        self._heard: Heard | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="edge", daemon=True)
        self._thread.start()

    @property
    def heard(self) -> Heard | None:
        """What was said last; None if nothing was."""
        return self._heard

    def close(self) -> None:
        """Listen no more."""
        self._stop.set()
        self._thread.join(5)

    def _listen(self) -> None:
        try:
            channel = self._open_channel(self._name)
            channel.monitor(self._take, queue_size=4, field="model_version")
        except Exception as error:  # no PVA library on this machine, among others
            logger.warning("the edge cannot be listened to, what it uses stays unknown: %s", error)
            return
        self._stop.wait()
        channel.close()

    def _take(self, update: Any) -> None:
        now_s, version, before = time.time(), str(update["model_version"]), self._heard
        if before is not None and before.version == version:
            self._heard = before._replace(heard_s=now_s)
        else:
            self._heard = Heard(version, now_s, before is not None, now_s)


class Acknowledgements:
    """Writes into the journal, once for each published version, when the edge took it up, or that it has not.

    Parameters
    ----------
    journal : Journal
    heard : callable
        What the edge said last, see `EdgeEar.heard`.
    store : Path
        Model store, which tells when a version was published.
    """

    def __init__(self, journal: Journal, heard: Callable[[], Heard | None], store: Path) -> None:
        self._journal, self._heard, self._store = journal, heard, store
        self._told: tuple[str, float] = "", float("-inf")
        self._trouble = ""

    def look(self, now_s: float) -> None:
        """Note what is new; called after each tick. A journal that cannot be used now is written to later.

        Parameters
        ----------
        now_s : float
            s since 1970.
        """
        try:
            self._look(now_s)
            self._trouble = ""
        except JournalError as error:
            if str(error) != self._trouble:
                self._trouble = str(error)
                logger.warning("what the edge uses is not noted now: %s", error)

    def _look(self, now_s: float) -> None:
        heard = self._heard()
        if heard is not None and (heard.version != self._told[0] or heard.heard_s - self._told[1] > HEARD_S):
            self._journal.set_fact(EDGE, {"version": heard.version, "heard_s": heard.heard_s})
            self._told = heard.version, heard.heard_s
        newest = self._journal.newest_version()
        if not newest:
            return
        answer = self._journal.fact(ANSWER) or {}
        if answer.get("version") != newest:
            answer = {"version": newest, "published_s": published_s(self._store, newest, now_s), "told": ""}
            self._journal.set_fact(ANSWER, answer)
        if answer["told"] == "used":
            return
        if heard is not None and heard.version == newest:
            self._tell({**answer, "told": "used", "since_s": heard.since_s}, used(heard, answer["published_s"]), now_s)
        elif not answer["told"] and now_s - answer["published_s"] > PATIENCE_S:
            self._tell(
                {**answer, "told": "absent"}, f"no edge has taken up version {newest} yet{_instead(heard)}", now_s
            )

    def _tell(self, answer: Mapping[str, Any], sentence: str, now_s: float) -> None:
        with self._journal.transaction():
            for key in self._journal.published_by(answer["version"]):
                self._journal.remark(key, sentence, at_s=now_s)
            self._journal.set_fact(ANSWER, answer)
        logger.info("%s", sentence)


def published_s(store: Path, version: str, now_s: float) -> float:
    """When a version was made current, s since 1970; if that is not known any more, when it was written, or now."""
    try:
        current = store / CURRENT
        return (current if current.read_text().strip() == version else store / VERSIONS / version).stat().st_mtime
    except OSError:
        return now_s


def used(heard: Heard, published_s: float) -> str:
    """The sentence for a version that the edge uses.

    Examples
    --------
    >>> used(Heard("000003", 100.7, True, 101.0), 100.0).partition(" since ")[0]
    'the edge uses version 000003'
    """
    told = f"the edge uses version {heard.version}"
    if not heard.changed:
        return f"{told}, as was heard at {clock(heard.since_s)}"
    return f"{told} since {clock(heard.since_s)}, {max(0.0, heard.since_s - published_s):.1f} s after it was published"


def _instead(heard: Heard | None) -> str:
    if heard is None:
        return ", none is heard"
    return f"; it uses {heard.version}" if heard.version else "; the one that is heard uses no model"

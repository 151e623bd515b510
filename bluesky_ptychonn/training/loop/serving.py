"""The service as a process: alone on its journal, tick after tick, whatever goes wrong in one of them."""

import contextlib
import fcntl
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bluesky_ptychonn.io.journal import Journal, JournalError
from bluesky_ptychonn.training.loop.service import LoopService

logger = logging.getLogger(__name__)

PULSE = "service"
"""Fact: ``pid`` and ``host`` of the service, when it began, its last tick (to `PULSE_S`), and what troubles it."""
PULSE_S = 10.0
LONGEST_S = 60.0
LOCK_S = 1.0


class OtherServiceError(RuntimeError):
    """Another service works on this journal."""


def lock_path(journal: Path) -> Path:
    """File whose lock says that a service works on the journal."""
    return Path(journal).with_suffix(".lock")


@contextlib.contextmanager
def only_one(journal: Path) -> Iterator[None]:
    """Within, no other service works on this journal; a killed one leaves nothing behind that holds.

    Raises
    ------
    OtherServiceError
        If one does already.
    """
    path = lock_path(journal)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as file:
        deadline = time.monotonic() + LOCK_S
        while True:  # `is_served` holds the lock for an instant
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    file.seek(0)
                    raise OtherServiceError(
                        f"a loop service works on {journal} already ({file.read().strip() or 'not known which'}); "
                        "end that one first, or look at it by `bluesky-ptychonn loop status`"
                    ) from None
                time.sleep(0.05)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def is_served(journal: Path) -> bool:
    """Whether a service works on this journal now."""
    try:
        with open(lock_path(journal), encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def serve(
    service: LoopService,
    journal: Journal,
    stop: threading.Event,
    *,
    poll_s: float,
    after: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.time,
) -> None:
    """Tick until told to stop; jobs go on without the service.

    Parameters
    ----------
    service : LoopService
    journal : Journal
        That of the service.
    stop : threading.Event
        Ends it between two ticks.
    poll_s : float
        Between two ticks; longer, up to a minute, while the journal cannot be used.
    after : callable
        Called after each tick; what it raises is logged.
    clock : callable
        s since 1970.
    """
    began_s, told_s, in_a_row, trouble = clock(), float("-inf"), 0, ""
    while not stop.is_set():
        try:
            service.tick(clock())
            if not 0 <= clock() - told_s < PULSE_S or trouble:
                told_s, trouble = clock(), ""
                journal.set_fact(
                    PULSE, {"pid": os.getpid(), "host": socket.gethostname(), "began_s": began_s, "tick_s": told_s}
                )
            in_a_row = 0
        except Exception as error:  # it must outlive whatever a tick meets; the next one begins anew
            in_a_row += 1
            if str(error) != trouble:
                trouble = str(error)
                logger.error("the loop waits: %s", error, exc_info=not isinstance(error, JournalError))
        try:
            after()
        except Exception:
            logger.exception("what follows a tick failed; the loop goes on")
        stop.wait(min(poll_s * 2.0 ** min(in_a_row, 10), max(LONGEST_S, poll_s)) if in_a_row else poll_s)

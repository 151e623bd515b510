"""Ending processes, whatever the terminal says meanwhile."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def signals_held(*, drop: bool = False) -> Iterator[None]:
    """Within, Ctrl-C, SIGTERM and SIGHUP do not interrupt; afterwards they act, unless they are dropped.

    Python runs handlers in the main thread only; in any other thread this does nothing.

    Parameters
    ----------
    drop : bool
        Forget them: for the way out, on which a second Ctrl-C asks for what is being done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    # Handlers, not SIG_IGN or a mask: those would be inherited by what is started within.
    before = {number: signal.signal(number, lambda got, _: held.append(got)) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if held and not drop:
        signal.raise_signal(held[0])


def signal_group(leader: int, number: int) -> None:
    """Signal a process started with ``start_new_session`` and its descendants; harmless if they have ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)

"""Ctrl-C, SIGTERM and SIGHUP: the plan cleans up, what was started is ended, and the exit status says why."""

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from bluesky_ptychonn.simulation.processes import ENDING

Handler = Callable[[int, Any], object] | signal.Handlers


@contextlib.contextmanager
def signals_raised() -> Iterator[None]:
    """Within, SIGTERM and SIGHUP raise ``SystemExit(128 + number)``, so that context managers end what they own."""

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = _handle([number for number in ENDING if number != signal.SIGINT], leave)
    try:
        yield
    finally:
        _restore(before)


@contextlib.contextmanager
def signals_noted(numbers: Iterable[int]) -> Iterator[list[int]]:
    """Within, these signals only join a list, for work that ends where it is safe."""
    got: list[int] = []
    before = {number: signal.signal(number, lambda number, _: got.append(number)) for number in numbers}
    try:
        yield got
    finally:
        _restore(before)


def ignore_signals() -> None:
    """Let no signal change an exit status that stands: for a process that has cleaned up and only has to end.

    Python's own shutdown puts the default actions back, which kill, but leaves ignored signals ignored.
    """
    _handle(ENDING, signal.SIG_IGN)


class AbortOnSignal:
    """Context manager of a RunEngine: a signal aborts the plan with its cleanup, and acts when that is done.

    The RunEngine's own waits for a checkpoint, which a fly scan does not have, and then for a user who decides.

    Parameters
    ----------
    RE : bluesky.RunEngine
    """

    def __init__(self, RE: Any) -> None:
        self._RE, self._got = RE, 0
        self._left = threading.Event()

    def __enter__(self) -> "AbortOnSignal":
        self._before = _handle(ENDING, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        _restore(self._before)
        if self._got:
            self._RE.log.logger.removeFilter(_is_no_abort)
            signal.raise_signal(self._got)

    def _on_signal(self, number: int, _: object) -> None:
        if not self._got:
            self._got = number
            self._RE.log.logger.addFilter(_is_no_abort)
            threading.Thread(target=self._abort, daemon=True).start()  # a handler must not wait for the plan

    def _abort(self) -> None:
        from bluesky.run_engine import TransitionError  # pyright: ignore[reportPrivateImportUsage]

        while not self._left.wait(0.05):
            with contextlib.suppress(TransitionError):  # not running yet
                self._RE.abort(f"signal {self._got}")
                return


def _is_no_abort(record: logging.LogRecord) -> bool:
    """The RunEngine logs an abort with a traceback; who sent the signal knows."""
    return record.msg != "Run aborted"


def _handle(numbers: Any, handler: Handler) -> dict[int, Any]:
    """Install a handler where Python runs them, the main thread, unless a signal is ignored (nohup stays nohup)."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    wanted = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in wanted}


def _restore(before: dict[int, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)

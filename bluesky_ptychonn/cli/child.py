"""A process of ours beside this one, with a log."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bluesky_ptychonn.simulation.processes import signal_group, signals_held

PATIENCE_S = 90.0
END_S = 10.0


class Child:
    """A process of ours with a log; Ctrl-C in the terminal does not reach it, `end` does.

    Parameters
    ----------
    name : str
        For messages and the name of the log.
    arguments : list of str
        Arguments of ``bluesky-ptychonn``.
    directory : Path
        Where the log goes.
    """

    def __init__(self, name: str, arguments: list[str], directory: Path) -> None:
        self.name, self._arguments, self._log = name, arguments, directory / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id; 0 before the start."""
        return self._process.pid if self._process else 0

    def start(self) -> None:
        """Start it, or start it again."""
        with signals_held(), self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bluesky_ptychonn.cli.main", *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                start_new_session=True,
            )

    @property
    def runs(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def wait_until(self, ready: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
        """Wait until it serves.

        Raises
        ------
        RuntimeError
            If it ends, or does not serve in time; with the last lines of its log.
        """
        deadline = time.monotonic() + timeout_s
        while not ready():
            ended = not self.runs
            if ended or time.monotonic() > deadline:
                what = "ended" if ended else f"does not serve within {timeout_s:g} s"
                raise RuntimeError(f"{self.name} {what}; its log {self._log} says:\n{self.last_words()}")
            time.sleep(0.05)

    def last_words(self) -> str:
        """The last lines of its log."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-8:])

    def end(self) -> None:
        """End it and what it started: SIGTERM, then SIGKILL."""
        if self._process is not None and self.runs:
            signal_group(self._process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_S)
            signal_group(self._process.pid, signal.SIGKILL)
            self._process.wait(END_S)
        self._process = None

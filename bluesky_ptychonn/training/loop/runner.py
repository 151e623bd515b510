"""Where jobs run: on this machine, under Slurm or under PBS, submitted through PSI/J.

Everything is bounded in time, because schedulers hang. What they say is taken for what it is worth: a job that is
found waiting or running is alive; one that is not found is not; and a scheduler which does not answer proves nothing.
Whether a job did its work is never asked here, see `jobs.result`.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from bluesky_ptychonn.training.loop import queues
from bluesky_ptychonn.training.loop.jobs import read_spec, submitted

TIMEOUT_S = 20.0
"""For one question to the scheduler; one that is down says so after 9 s."""
ASKED_S = 1.0
"""How long an answer counts."""
COMMAND = (sys.executable, "-m", "bluesky_ptychonn.cli.main", "job")


class RunnerError(RuntimeError):
    """A job was not taken, or nobody knows whether it was: it may be submitted again."""


@dataclass(frozen=True)
class Resources:
    """What a job asks of the scheduler; the local runner looks at ``environment`` and ``modules`` only.

    Parameters
    ----------
    queue, account : str
        "" for the scheduler's default.
    walltime_min : float
    nodes, ranks : int
        Machines, and processes on all of them.
    gpus : int
        Of each node.
    cores : int
        Of each process; 0 for the scheduler's default.
    modules : sequence of str
        Environment modules to load.
    environment : mapping of str to str

    Raises
    ------
    ValueError
        If there are no such resources.
    """

    queue: str = ""
    account: str = ""
    walltime_min: float = 60.0
    nodes: int = 1
    ranks: int = 1
    gpus: int = 0
    cores: int = 0
    modules: Sequence[str] = ()
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.walltime_min > 0 or self.nodes < 1:
            raise ValueError(
                f"walltime_min = {self.walltime_min:g}, nodes = {self.nodes}; a job needs a time and a node"
            )
        if min(self.gpus, self.cores) < 0:
            raise ValueError(
                f"gpus = {self.gpus}, cores = {self.cores}; give 0 for none, or for the scheduler's default"
            )
        if self.ranks < 1 or self.ranks % self.nodes:
            raise ValueError(f"ranks = {self.ranks} on nodes = {self.nodes}; give a multiple of the nodes")


class Runner(Protocol):
    """Runs jobs."""

    def submit(self, directory: Path, resources: Resources | None = None) -> str:
        """Start the job of a folder, unless it is waiting or running already; returns what it is called.

        Raises
        ------
        RunnerError
            If it was not taken, or if nobody knows.
        """
        ...

    def alive(self, native: str) -> bool | None:
        """Whether a job waits or runs; None if that cannot be told now."""
        ...

    def cancel(self, native: str) -> None:
        """Tell a job to end; one that has ended stays so.

        Raises
        ------
        RunnerError
            If the scheduler does not answer.
        """
        ...


def make_runner(kind: str, resources: Resources | None = None, *, timeout_s: float = TIMEOUT_S) -> Runner:
    """Make the runner of a kind.

    Parameters
    ----------
    kind : {"local", "slurm", "pbs"}
    resources : Resources, optional
        Of jobs that ask for none.
    timeout_s : float
        For one question to the scheduler.

    Raises
    ------
    ValueError
        If the kind is unknown.
    RunnerError
        If PSI/J is not installed.
    """
    if kind not in ("local", *queues.QUEUES):
        raise ValueError(f"runner = {kind!r}; allowed is one of local, {', '.join(queues.QUEUES)}")
    try:
        import psutil  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise RunnerError(f"{error}; pip install 'bluesky-ptychonn[loop]'") from error
    common = (resources or Resources(), timeout_s)
    return LocalRunner(*common) if kind == "local" else BatchRunner(kind, *common)


class LocalRunner:
    """Processes of this machine, each in a session of its own, so that they survive the one who started them."""

    def __init__(self, resources: Resources, timeout_s: float) -> None:
        self._resources, self._timeout_s = resources, timeout_s

    def submit(self, directory: Path, resources: Resources | None = None) -> str:
        """See `Runner`."""
        before = submitted(directory)
        if before and self.alive(before):
            return before
        return _submit("local", directory, resources or self._resources, self._timeout_s)

    def alive(self, native: str) -> bool | None:
        """See `Runner`; a job is alive as long as any process of its session is."""
        import psutil

        pid, began_s, session = _parsed(native)
        if _runs(pid) and abs(psutil.Process(pid).create_time() - began_s) < 0.1:
            return True
        if _runs(session):  # another session has this number by now
            return False
        return any(_session_of(number) == session and _runs(number) for number in psutil.pids())

    def cancel(self, native: str) -> None:
        """See `Runner`."""
        self._signal(native, signal.SIGTERM)

    def end(self, native: str, patience_s: float) -> None:
        """End a job for good: tell it, and kill it if it is still there after ``patience_s``."""
        self.cancel(native)
        end_s = time.monotonic() + patience_s
        while self.alive(native) and time.monotonic() < end_s:
            time.sleep(0.05)
        self._signal(native, signal.SIGKILL)

    def _signal(self, native: str, number: int) -> None:
        if self.alive(native):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(_parsed(native)[2], number)


class BatchRunner:
    """Jobs of Slurm or PBS, found in the queue by number and name: numbers alone are given anew after an accident."""

    def __init__(self, kind: str, resources: Resources, timeout_s: float) -> None:
        self._kind, self._queue = kind, queues.QUEUES[kind]
        self._resources, self._timeout_s = resources, timeout_s
        self._answers: dict[str, tuple[float, dict[str, queues.Job] | None]] = {}

    def submit(self, directory: Path, resources: Resources | None = None) -> str:
        """See `Runner`."""
        self._forget()
        number, name = submitted(directory).partition(":")[0], read_spec(directory).name
        jobs = self._jobs(number)
        if jobs is None:
            raise RunnerError(f"{self._kind} does not answer; {name} is not submitted")
        for there, job in jobs.items():
            if job.name == name and job.state in self._queue.ending:
                raise RunnerError(f"job {there} of {name} is just ending; it is submitted when that is done")
            if job.name == name and job.state not in self._queue.ended:
                return f"{there}:{name}"
        try:
            return _submit(self._kind, directory, resources or self._resources, self._timeout_s)
        finally:
            self._forget()

    def alive(self, native: str) -> bool | None:
        """See `Runner`."""
        number, _, name = native.partition(":")
        jobs = self._jobs(number)
        if jobs is None:
            return None
        found = next((job for there, job in jobs.items() if _same(there, number)), None)
        return found is not None and found.name == name and found.state not in self._queue.ended

    def cancel(self, native: str) -> None:
        """See `Runner`."""
        alive = self.alive(native)
        if alive is None:
            raise RunnerError(f"{self._kind} does not answer; {native} is not cancelled")
        if alive:
            self._forget()
            _bounded([*self._queue.cancel, native.partition(":")[0]], self._timeout_s)

    def _jobs(self, number: str) -> dict[str, queues.Job] | None:
        """Jobs by number, of this user or that one; None if the scheduler does not answer."""
        asked = number if self._queue.one_by_one else ""
        when_s, jobs = self._answers.get(asked, (float("-inf"), None))
        if time.monotonic() - when_s > ASKED_S:
            jobs = self._ask([asked] if asked else [])
            self._answers[asked] = time.monotonic(), jobs
        return jobs

    def _forget(self) -> None:
        """Ask anew the next time, unless the scheduler was silent just now."""
        self._answers = {asked: (when_s, jobs) for asked, (when_s, jobs) in self._answers.items() if jobs is None}

    def _ask(self, numbers: list[str]) -> dict[str, queues.Job] | None:
        if self._queue.one_by_one and not numbers:
            return {}
        try:
            return self._queue.parse(_bounded([*self._queue.ask, *numbers], self._timeout_s))
        except RunnerError as error:
            return {} if any(word in str(error) for word in self._queue.unknown) else None
        except (ValueError, KeyError):
            return None


def _same(there: str, number: str) -> bool:
    """Whether two numbers are the same; PBS adds more or less of its server's name to them."""
    return there.partition(".")[0] == number.partition(".")[0]


def _submit(executor: str, directory: Path, resources: Resources, timeout_s: float) -> str:
    asked = {
        "executor": executor,
        "directory": str(Path(directory).resolve()),
        "command": [*COMMAND, str(Path(directory).resolve())],
        "resources": {**asdict(resources), "modules": list(resources.modules)},
    }
    told = _bounded([sys.executable, "-m", "bluesky_ptychonn.training.loop.submit"], timeout_s, json.dumps(asked))
    return str(json.loads(told.splitlines()[-1])["native"])


def _bounded(command: list[str], timeout_s: float, given: str = "") -> str:
    """Output of a command; one that takes longer is ended with everything it has started.

    Raises
    ------
    RunnerError
        If it fails, takes too long, or is not there.
    """
    named = "the submission" if command[0] == sys.executable else command[0]
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    except OSError as error:
        raise RunnerError(f"{command[0]} cannot be started: {error}") from error
    try:
        told, problems = process.communicate(given, timeout_s)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise RunnerError(f"{named} did not answer within {timeout_s:g} s") from None
    if process.returncode:
        lines = (problems or told).strip().splitlines() or [f"exit status {process.returncode}"]
        raise RunnerError(f"{named}: {lines[-1]}")
    return told


def _parsed(native: str) -> tuple[int, float, int]:
    try:
        pid, began_s, session = native.split(":")
        return int(pid), float(began_s), int(session)
    except ValueError as error:
        raise ValueError(f"native id {native!r} is none of the local runner") from error


def _runs(pid: int) -> bool:
    """Whether a process runs; one that only waits to be looked after does not."""
    import psutil

    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None

"""What is done to a loop under Slurm, each thing for a few seconds, and taken back."""

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from slurm_world import SlurmWorld
from whole_loop import WholeLoop

from bluesky_ptychonn.training.loop import jobs

DISK_MB = 256
OURS = ("scan-", "probe-", "residual-", "train-")
PREEMPTABLE = "train-"


def can_mount(folder: Path) -> bool:
    """Whether a file system may be mounted here; a container without rights may not."""
    done = subprocess.run(["mount", "-t", "tmpfs", "none", str(folder)], capture_output=True, check=False)
    if done.returncode == 0:
        _run("umount", str(folder))
    return done.returncode == 0


class Disks:
    """Disks of a loop's own: one with little space for its folder, and one for the store that can be made read-only."""

    def __init__(self, loop: WholeLoop) -> None:
        self._disk, self._store = loop.directory, loop.store
        _run("mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "none", str(self._disk))
        _run("mount", "--bind", str(self._store), str(self._store))

    @contextlib.contextmanager
    def full(self):
        """Within, not a byte more can be written into the loop's folder."""
        ballast = self._disk / ".ballast"
        try:
            with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
                while True:
                    file.write(bytes(1 << 16))
            yield
        finally:
            ballast.unlink()

    @contextlib.contextmanager
    def store_read_only(self):
        """Within, nothing can be written into the store; a file that is being written is waited for."""
        command = ["mount", "-o", "remount,ro,bind", str(self._store)]
        while subprocess.run(command, capture_output=True, check=False).returncode:
            time.sleep(0.1)
        try:
            yield
        finally:
            _run("mount", "-o", "remount,rw,bind", str(self._store))

    def close(self) -> None:
        """Take them away."""
        for folder in (self._store, self._disk):
            _run("umount", "--lazy", str(folder))


class Faults:
    """Faults by name.

    Parameters
    ----------
    loop : WholeLoop
    slurm : SlurmWorld
    disks : Disks, optional
        Without them those of disks are left out.
    rng : random.Random
    go_on : callable
        Lets so many seconds pass, in which scans come and a service that was killed is started again.
    """

    def __init__(
        self,
        loop: WholeLoop,
        slurm: SlurmWorld,
        disks: Disks | None,
        rng: random.Random,
        go_on: Callable[[float], None],
    ) -> None:
        self._loop, self._slurm, self._disks, self._rng, self._go_on = loop, slurm, disks, rng, go_on
        of_disks = {"disk full": self._full, "store read-only": self._read_only}
        self.all: dict[str, Callable[[], object]] = {
            "service killed": self._loop.kill_service,
            "controller stopped": self._stopped,
            "controller hung": self._hung,
            "controller amnesiac": self._amnesiac,
            "job cancelled": lambda: self._to_a_job("scancel"),
            "job requeued": lambda: self._to_a_job("scontrol", "requeue"),
            "training preempted": lambda: self._to_a_job("scancel", "--signal=USR1", of=PREEMPTABLE),
            "job killed": self._job_killed,
            "node daemon killed": self._node,
            "journal locked": self._locked,
            **(of_disks if disks else {}),
        }

    def _stopped(self) -> None:
        self._slurm.stop_controller()
        self._go_on(self._rng.uniform(1, 5))
        self._slurm.start_controller()
        self._slurm.wait_for_node()

    def _hung(self) -> None:
        with self._slurm.hung_controller():
            self._go_on(self._rng.uniform(2, 8))

    def _amnesiac(self) -> None:
        self._slurm.stop_controller(self._rng.choice([signal.SIGTERM, signal.SIGKILL]))
        self._slurm.start_controller(amnesiac=True)
        self._slurm.wait_for_node()

    def _node(self) -> None:
        self._slurm.stop_node(signal.SIGKILL)
        self._go_on(self._rng.uniform(0.5, 4))
        self._slurm.start_node()
        self._slurm.wait_for_node()

    def _full(self) -> None:
        assert self._disks is not None
        with self._disks.full():
            self._go_on(self._rng.uniform(1, 5))

    def _read_only(self) -> None:
        assert self._disks is not None
        with self._disks.store_read_only():
            self._go_on(self._rng.uniform(2, 6))

    def _locked(self) -> None:
        with contextlib.closing(sqlite3.connect(self._loop.journal.path, isolation_level=None)) as db:
            db.execute("PRAGMA busy_timeout = 5000")
            db.execute("BEGIN IMMEDIATE")
            self._go_on(self._rng.uniform(1, 4))
            db.execute("ROLLBACK")

    def _to_a_job(self, *command: str, of: str | tuple[str, ...] = OURS) -> None:
        """Do something to a job of the queue, and wait for one that is running first."""
        for _ in range(50):
            lines = self._slurm.client("squeue", "--noheader", "--states=R", "--format=%i %j").splitlines()
            numbers = [number for number, name in map(str.split, lines) if name.startswith(of)]
            if numbers:
                self._go_on(self._rng.uniform(0, 3))
                with contextlib.suppress(RuntimeError):  # it has ended meanwhile
                    self._slurm.client(*command, self._rng.choice(numbers))
                return
            self._go_on(0.2)

    def _job_killed(self) -> None:
        for _ in range(50):
            running = [
                attempt.pid
                for folder in (self._loop.directory / "jobs").glob("*")
                for attempt in jobs.attempts(folder)[-1:]
                if attempt.exit_status is None and folder.name in command_of(attempt.pid)
            ]
            if running:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._rng.choice(running), signal.SIGKILL)
                return
            self._go_on(0.2)


def command_of(pid: int) -> str:
    """Command line of a process; "" if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)

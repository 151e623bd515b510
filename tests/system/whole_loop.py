"""The whole loop for a test: a session that notes runs, the service, jobs, a corpus and a store, each a real process.

Scans are those of `tiny_loop`; the settings are a file, as a user's are.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from slurm_world import wait_until
from tiny_loop import TinyLoop, write_scan

from bluesky_ptychonn.io.journal import Journal
from bluesky_ptychonn.training.loop import jobs
from bluesky_ptychonn.training.loop.faults import SAID, VARIABLE

HERE = Path(__file__).parent
SETTINGS = """\
[loop]
enabled = true
journal = "local/journal.sqlite"
runner = "{runner}"
walltime_min = 10
launcher = "{launcher}"
sweeps = 8
train_minutes = {train_minutes}
poll_s = 0.2
suspend_min = {suspend_min}
mismatch = {mismatch}

[edge]
model = "store"

[learning]
gate_margin = 0.0
"""
UNDER_WAY = ("running", "received", "reconstructing", "labelled", "training")


class WholeLoop:
    """A loop in a folder.

    Parameters
    ----------
    folder : Path
    runner : {"local", "slurm"}
    environment : dict, optional
        For every process, such as that which names a Slurm.
    suspend_min, mismatch, train_minutes : float
        Of the settings.
    """

    def __init__(
        self,
        folder: Path,
        runner: str,
        environment: dict[str, str] | None = None,
        *,
        suspend_min: float = 60.0,
        mismatch: float = 0.1,
        train_minutes: float = 0.05,
    ) -> None:
        self.tiny = TinyLoop(folder)
        self.folder, self.directory, self.store = folder, self.tiny.directory, self.tiny.store
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
        self.settings, self.log = folder / "loop.toml", folder / "service.log"
        self.settings.write_text(
            SETTINGS.format(
                runner=runner,
                launcher="srun" if runner == "slurm" else "",
                suspend_min=suspend_min,
                mismatch=mismatch,
                train_minutes=train_minutes,
            )
        )
        self.journal = Journal(folder / "local/journal.sqlite")
        self.journal.open()
        self.service: subprocess.Popen | None = None
        self._session: subprocess.Popen | None = None
        self._scans = 0

    # the session

    def documents(self, seed: int, *, status: str = "success", **changes: Any) -> list[tuple[str, dict[str, Any]]]:
        """Start and stop document of one more scan, whose frames are in a file."""
        self._scans += 1
        uid = f"{self._scans:08x}-4a4b-4c4d-8e8f-{seed:012x}"
        source = write_scan(self.folder / f"scan{self._scans}.npz", seed, **changes)
        now_s = time.time()
        about = {"uid": uid, "time": now_s - 1, "scan_id": self._scans, "ptycho": {}, "source": source}
        stop = {"uid": f"stop-{uid}", "run_start": uid, "time": now_s, "exit_status": status}
        return [("start", about), ("stop", stop)]

    def note(self, name: str, doc: dict[str, Any]) -> dict[str, int]:
        """Let the session's trigger see a document; where all that it has seen went."""
        if self._session is None:
            command = [sys.executable, str(HERE / "loop_documents.py"), str(self.journal.path)]
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            self._session = subprocess.Popen(command, env=self.environment, **pipes)
        stdin, stdout = self._session.stdin, self._session.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps([name, doc]) + "\n")
        stdin.flush()
        return json.loads(stdout.readline())

    def scan(self, seed: int, **changes: Any) -> str:
        """Fly one scan, with all documents in order; its uid."""
        documents = self.documents(seed, **changes)
        for name, doc in documents:
            self.note(name, doc)
        return documents[0][1]["uid"]

    # the service

    def start_service(self, fault_points: Iterable[int] = ()) -> None:
        """Start it; at the first of these places to which it comes it kills itself."""
        wanted = ",".join(map(str, fault_points))
        environment = {**self.environment, **({VARIABLE: wanted} if wanted else {})}
        command = [sys.executable, str(HERE / "loop_service.py"), "run", "--settings", str(self.settings)]
        with open(self.log, "a") as log:
            self.service = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=self.folder)

    def kill_service(self) -> None:
        """End it at once, wherever it is."""
        if self.service is not None:
            self.service.kill()
            self.service.wait()

    def serves(self) -> bool:
        """Whether it runs; if it has ended in another way than by a kill, that is an error."""
        if self.service is None or self.service.poll() is None:
            return self.service is not None
        assert self.service.returncode == -signal.SIGKILL, self.log.read_text()[-3000:]
        return False

    def came_to(self) -> int | None:
        """Fault point at which a service that is dead has killed itself; None if another did."""
        _, said, number = self.log.read_text().rstrip().rpartition(SAID)
        return int(number) if said and number.isdigit() else None

    def told(self, *arguments: str) -> str:
        """What `bluesky-ptychonn loop` says."""
        command = [sys.executable, "-m", "bluesky_ptychonn.cli.main", "loop", *arguments, "--settings"]
        done = subprocess.run(
            [*command, str(self.settings)], env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def status(self) -> dict[str, Any]:
        """What `bluesky-ptychonn loop status --json` says."""
        return json.loads(self.told("status", "--json"))

    # how it stands

    def result(self, kind: str, key: str) -> dict[str, Any] | None:
        """The marker of a job."""
        return jobs.result(jobs.named_directory(self.directory, kind, key))

    def under_way(self) -> list[Any]:
        """Scans and trainings that are not finished."""
        scans = [row for row in self.journal.scans() if row.state in UNDER_WAY or row.job]
        training = self.journal.unfinished_training()
        return [*scans, *([] if training is None else [training])]

    def settle(self, timeout_s: float, *, step_s: float = 0.2) -> None:
        """Wait until nothing is under way."""
        try:
            wait_until(lambda: not self.under_way(), "", timeout_s, step_s)
        except TimeoutError:
            told = "\n".join(str(row) for row in self.under_way())
            raise TimeoutError(f"these wait for longer than {timeout_s:g} s:\n{told}") from None

    def close(self) -> None:
        """End what was started here; jobs end with their scheduler."""
        if self._session is not None:
            with contextlib.suppress(Exception):
                self._session.communicate(timeout=40)
            self._session.kill()
        self.kill_service()
        self.journal.close()

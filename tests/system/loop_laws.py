"""What must hold for a loop at every moment, and when everything is over."""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loop_faults import OURS, command_of
from slurm_world import SlurmWorld, wait_until
from whole_loop import WholeLoop

from bluesky_ptychonn.io.journal import Journal
from bluesky_ptychonn.io.model_store import VERSIONS, current_version, open_model, versions
from bluesky_ptychonn.training.learning.corpus import Corpus
from bluesky_ptychonn.training.loop import jobs
from bluesky_ptychonn.training.loop.handout import Job

EVERY_S = 0.1
ORPHAN_S = 15.0
"""For what a killed job has started to end."""
TRUTH_S = 40.0
"""For a status to become true after a scheduler has changed; the service asks it every second."""


class Watcher:
    """Looks again and again whether `CURRENT` names a whole model, and how many trainings run."""

    def __init__(self, loop: WholeLoop) -> None:
        self._loop, self.broken, self.looks = loop, [], 0
        self._several_since_s: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watcher")
        self._thread.start()

    def _watch(self) -> None:
        journal = Journal(self._loop.journal.path)
        while not self._stop.wait(EVERY_S):
            self.looks += 1
            try:
                open_model(self._loop.store / VERSIONS / current_version(self._loop.store))
                self._count_trainings()
                unfinished = journal.trainings(("queued", "running", "judged"))
                assert len(unfinished) <= 1, unfinished
            except Exception as error:
                self.broken.append(f"{type(error).__name__}: {error}")
                time.sleep(1)
        journal.close()

    def _count_trainings(self) -> None:
        names = running(self._loop.directory, "train-")
        assert len(names) <= 1, f"these train at the same time: {names}"
        learning = [line for line in commands() if "--rank" in line and str(self._loop.directory) in line]
        processes = [line for line in learning if not line.startswith("srun")]
        if len(processes) <= 1:
            self._several_since_s = None
            return
        now_s = time.monotonic()
        self._several_since_s = self._several_since_s or now_s
        assert now_s - self._several_since_s < ORPHAN_S, f"several processes learn: {processes}"

    def close(self) -> None:
        """Stop looking, and say what was broken."""
        self._stop.set()
        self._thread.join()
        assert not self.broken, self.broken
        assert self.looks > 10


def commands() -> list[str]:
    """Command lines of all processes."""
    return [command_of(int(path.name)) for path in Path("/proc").iterdir() if path.name.isdigit()]


def running(directory: Path, prefix: str) -> list[str]:
    """Names of the jobs that a process is working on now."""
    found = []
    for folder in (directory / "jobs").glob(f"{prefix}*"):
        last = jobs.attempts(folder)[-1:]
        if last and last[0].exit_status is None and str(folder) in command_of(last[0].pid):
            found.append(folder.name)
    return found


def check_status(loop: WholeLoop) -> dict[str, Any]:
    """`loop status --json` says what the journal says, and whether a service runs."""
    for _ in range(20):
        before, serves = _rows(loop), loop.serves()
        status = loop.status()
        if (_rows(loop), loop.serves()) == (before, serves):
            break
    else:
        raise AssertionError("the journal was never still for a second")
    scans, trainings = before
    assert status["service"] == serves
    assert [scan["uid"] for scan in status["scans"]] == [row.uid for row in scans]
    for told, row in zip([*status["scans"], *status["trainings"]], [*scans, *trainings], strict=True):
        assert all(told[name] == getattr(row, name) for name in told if name != "doing"), (told, row)
    return status


def _rows(loop: WholeLoop) -> tuple[list[Any], list[Any]]:
    return loop.journal.scans(), loop.journal.trainings()


def check_jobs_are_there(loop: WholeLoop, slurm: SlurmWorld, go_on: Callable[[float], object]) -> None:
    """A job that the status calls submitted is in the queue, or has just ended; one in the queue is known or done."""

    def wrong() -> list[str]:
        status = loop.status()
        queue = jobs_of(slurm)
        told = {job.native for row in status["scans"] + status["trainings"] if (job := _submitted(row)) is not None}
        missing = [native for native in told if native not in queue]
        unknown = [native for native in queue if native not in told and not _is_done(loop, native)]
        return missing + unknown

    end_s = time.monotonic() + TRUTH_S
    while disputed := wrong():
        assert time.monotonic() < end_s, f"status and queue do not agree on {disputed}: {loop.told('status')}"
        go_on(0.5)


def _submitted(row: dict[str, Any]) -> Job | None:
    job = Job.parse(row["job"]) if row["job"] else None
    return job if job is not None and job.phase == "submitted" else None


def _is_done(loop: WholeLoop, native: str) -> bool:
    return jobs.result(loop.directory / "jobs" / native.partition(":")[2]) is not None


def jobs_of(slurm: SlurmWorld) -> list[str]:
    """Native ids of the loop's jobs that wait or run."""
    lines = slurm.client("squeue", "--noheader", "--states=PD,R", "--format=%i:%j").splitlines()
    return [line for line in lines if line.partition(":")[2].startswith(OURS)]


def check_end(loop: WholeLoop, slurm: SlurmWorld, expected: dict[str, str]) -> None:
    """Everything about a loop in which nothing is under way any more.

    Parameters
    ----------
    loop : WholeLoop
    slurm : SlurmWorld
    expected : dict of str to str
        What each run was: ``good``, ``dark`` (not to be trusted) or ``aborted``.
    """
    status = check_status(loop)
    assert status["unfinished"] == 0, status
    wait_until(lambda: not jobs_of(slurm), "the queue to be empty", 60)
    shards = Corpus(loop.directory / "corpus").open()
    labels = Counter(shard.run for shard in shards)
    assert set(expected) == {scan["uid"] for scan in status["scans"]}
    for scan in status["scans"]:
        kind, uid = expected[scan["uid"]], scan["uid"]
        story = loop.told("show", uid)
        assert labels[uid] == (scan["trusted"] is True), story
        if kind == "aborted":
            assert (scan["state"], scan["trusted"]) == ("parked", None), story
        elif scan["state"] != "suspended":
            assert scan["trusted"] is (kind == "good"), story
            _check_marker(loop, scan)
    assert not set(labels) - set(expected), labels
    _check_versions(loop, status)


def _check_marker(loop: WholeLoop, scan: dict[str, Any]) -> None:
    """The row of a scan says what its marker says."""
    marker = loop.result("scan", scan["uid"])
    assert marker is not None, scan
    assert marker["ok"], marker
    for name in ("trusted", "mismatch", "ssim"):
        assert scan[name] == marker[name], (name, scan, marker)
    assert (marker["shard"] != "") == marker["trusted"], marker


def _check_versions(loop: WholeLoop, status: dict[str, Any]) -> None:
    """Each version was made by one job, and whoever says that a version came of it is right."""
    made: dict[str, str] = {}
    for name in versions(loop.store):
        made[name] = open_model(loop.store / VERSIONS / name).card.training.get("job", "")
    by_jobs = [name for name in made.values() if name]
    assert len(by_jobs) == len(set(by_jobs)), f"a job has published twice: {made}"
    for training in status["trainings"]:
        assert training["state"] in ("published", "refused", "parked"), training
        if training["state"] == "published":
            assert made[training["version"]] == f"train-{training['key']}", (training, made)
    told = {training["version"] for training in status["trainings"]}
    for scan in status["scans"]:
        version = scan["published_version"]
        assert not version or version in told or made[version] == f"probe-{scan['uid']}", (scan, made)
    for folder in (loop.directory / "jobs").glob("*"):
        check_attempts(folder)


def check_attempts(folder: Path) -> None:
    """No two attempts at a job were under way at a time, as far as their ends are known."""
    ends_s = 0.0
    for attempt in jobs.attempts(folder):
        assert attempt.started_s >= ends_s - 0.01, jobs.attempts(folder)
        with contextlib.suppress(TypeError):
            ends_s = max(ends_s, attempt.ended_s)

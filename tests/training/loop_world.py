"""A loop service with a real journal, a scripted scheduler and a clock of its own, all in one process."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from bluesky_ptychonn.io.journal import Journal
from bluesky_ptychonn.training.loop.faults import VARIABLE, Fault
from bluesky_ptychonn.training.loop.handout import Ending, NotTakenError
from bluesky_ptychonn.training.loop.patience import Patience
from bluesky_ptychonn.training.loop.policy import FINAL, Terms
from bluesky_ptychonn.training.loop.service import LoopService

T0 = 1.8e9
PATIENCE = Patience(job_s=1000.0, marker_s=10.0, cancel_s=60.0, again_s=5.0, ask_s=2.0)
SECONDS = {"scan": 60.0, "residual": 4.0, "probe": 20.0, "train": 300.0}


@dataclass
class FakeJob:
    kind: str
    key: str
    start: Mapping[str, Any]
    options: Mapping[str, Any]
    ends_s: float
    how: str = "ok"
    state: str = "alive"  # gone, marked


@dataclass
class FakeDesk:
    """A scheduler and a disk which do what a test says, and keep what breaks a law.

    ``how(kind, key, number)`` says how a submission goes: ``ok``, ``vanish`` (killed, no marker), ``hang`` (never
    ends), ``zombie`` (nor by being cancelled), ``forgotten`` (by the scheduler, after 10 s; it goes on), ``late``
    (marker 8 s after its end), ``too late`` (after 100 s), ``fail`` (marker with ok false), ``outage`` (such a one that
    says that it may pass), ``preempt``.
    """

    work: Callable[[str, str, Mapping[str, Any]], dict[str, Any]]
    how: Callable[[str, str, int], str] = lambda kind, key, number: "ok"
    now_s: float = T0
    jobs: dict[str, FakeJob] = field(default_factory=dict)
    markers: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    late: list[tuple[float, tuple[str, str], FakeJob]] = field(default_factory=list)
    natives: dict[tuple[str, str], str] = field(default_factory=dict)
    torn: set[tuple[str, str]] = field(default_factory=set)
    down: bool = False
    one_at_a_time: bool = False
    disk_gone: bool = False
    questions: int = 0
    broken: list[str] = field(default_factory=list)

    def _disk(self) -> None:
        if self.disk_gone:
            raise NotTakenError("the disk does not answer")

    def result(self, kind, key):
        self._disk()
        return None if (kind, key) in self.torn else self.markers.get((kind, key))

    def set_aside(self, kind, key):
        self._disk()
        self.markers.pop((kind, key), None)

    def submitted(self, kind, key):
        self._disk()
        return self.natives.get((kind, key), "")

    def ending(self, kind, key):
        native = self.natives.get((kind, key), "")
        return Ending("see its log", preempted=bool(native) and self.jobs[native].how == "preempt")

    def submit(self, kind, key, start, options):
        self._disk()
        if self.down:
            raise NotTakenError("the scheduler does not answer")
        alive = [job for job in self.jobs.values() if job.state == "alive"]
        if alive and self.one_at_a_time:
            raise NotTakenError("qsub: would exceed the limit of one job of each user")
        if any((job.kind, job.key) == (kind, key) for job in alive):
            self.broken.append(f"{kind} {key} was submitted while one is alive")
        if kind == "train" and any(job.kind == "train" for job in alive):
            self.broken.append("two trainings at a time")
        if (kind, key) in self.markers:
            self.broken.append(f"{kind} {key} was submitted though it is done")
        number = sum((job.kind, job.key) == (kind, key) for job in self.jobs.values())
        native = str(len(self.jobs) + 1)
        how = self.how(kind, key, number)
        self.jobs[native] = FakeJob(kind, key, dict(start), dict(options), self.now_s + SECONDS[kind], how)
        self.natives[kind, key] = native
        return native

    def alive(self, native):
        self.questions += 1
        job = self.jobs[native]
        if job.how == "forgotten" and self.now_s > job.ends_s - SECONDS[job.kind] + 10:
            return None if self.down else False
        return None if self.down else job.state == "alive"

    def sign_of_life(self, kind, key):
        self._disk()
        native = self.natives.get((kind, key), "")
        job = self.jobs[native] if native else None
        if job is None or job.how != "forgotten":
            return "left behind"
        return f"beat {self.now_s // 5}" if self.now_s < job.ends_s else ""

    def cancel(self, native):
        if not self.down and self.jobs[native].how != "zombie":
            self.jobs[native].state = "gone"

    def go_on(self, now_s: float) -> None:
        """End the jobs whose time has come, and show the markers that were late."""
        self.now_s = now_s
        for job in self.jobs.values():
            if job.state == "alive" and now_s >= job.ends_s and job.how not in ("hang", "zombie"):
                job.state = "gone"
                name = (job.kind, job.key)
                if job.how in ("fail", "outage"):
                    told = {"ok": False, "reason": "disk full", "transient": job.how == "outage"}
                    self.markers[name] = {"kind": job.kind, "key": job.key, **told}
                elif job.how not in ("vanish", "preempt"):
                    delay = {"late": 8.0, "too late": 100.0}.get(job.how, 0.0)
                    self.late.append((now_s + delay, name, job))
        for entry in [entry for entry in self.late if now_s >= entry[0]]:
            self.late.remove(entry)
            if self.markers.get(entry[1], {}).get("ok") is not True:  # a job whose marker is there does nothing
                found = self.work(*entry[1], entry[2].start)
                self.markers[entry[1]] = {"kind": entry[1][0], "key": entry[1][1], "ok": True, **found}

    def count(self, kind: str, key: str | None = None) -> int:
        """How often a job was submitted."""
        return sum(job.kind == kind and key in (None, job.key) for job in self.jobs.values())


class World:
    """Journal, service and desk, and the means to kill, restart and wait."""

    def __init__(self, path, work, *, terms: Terms | None = None, at_once: int = 2, how=None) -> None:
        self.path = path / "journal.sqlite"
        self.terms, self.at_once, self.now_s, self.set_by_s = terms or Terms(), at_once, T0, 0.0
        self.desk = FakeDesk(work)
        if how is not None:
            self.desk.how = how
        self.faults: list[int] = []
        self.hit: list[int] = []
        self.scans = 0
        self.restart()

    def restart(self) -> None:
        if hasattr(self, "journal"):
            self.journal.close()
        self.journal = Journal(self.path)
        self.service = LoopService(
            self.journal, self.desk, self.terms, PATIENCE, at_once=self.at_once, monotonic=lambda: self.now_s
        )

    def scan(self, *, status: str | None = "success", **start: Any) -> str:
        """Documents of one more scan; its uid."""
        self.scans += 1
        uid = f"{self.scans:08d}-{'0' * 23}"
        self.journal.note_start(
            {"uid": uid, "time": self.now_s, "scan_id": self.scans, "ptycho": {"model_version": "000001"}, **start}
        )
        if status is not None:
            self.stop(uid, status)
        return uid

    def stop(self, uid: str, status: str = "success") -> None:
        self.journal.note_stop({"run_start": uid, "time": self.now_s, "exit_status": status})

    def tick(self, seconds: float = 2.0) -> None:
        """Let time pass, and tick once; at a fault the service is killed and started again."""
        self.now_s += seconds
        self.desk.go_on(self.now_s)
        if self.faults:
            os.environ[VARIABLE] = f"raise:{self.faults[0]}"
        try:
            self.service.tick(self.now_s + self.set_by_s)
        except Fault:
            self.hit.append(self.faults.pop(0))
            self.restart()
        finally:
            os.environ.pop(VARIABLE, None)
        self.check()

    def check(self) -> None:
        """The laws that hold at every moment."""
        assert not self.desk.broken
        assert len(self.journal.trainings(("queued", "running", "judged"))) <= 1

    def settle(self, limit_s: float = 3e4, every_s: float = 4.0) -> None:
        """Tick until nothing is under way."""
        end_s = self.now_s + limit_s
        while self.open():
            assert self.now_s < end_s, f"these wait for ever: {self.open()}"
            self.tick(every_s)

    def open(self) -> list[Any]:
        rows = [row for row in self.journal.scans() if (row.state not in FINAL or row.job) and row.state != "running"]
        return rows + self.journal.trainings(("queued", "running", "judged"))

    def state(self, uid: str) -> str:
        return self.journal.scan(uid).state

    def key_of(self, kind: str, uid: str) -> str:
        """Key of the newest job of a kind for a scan."""
        return self.journal.trainings()[-1].key if kind == "train" else uid

    def told(self, uid: str) -> str:
        return " | ".join(line.sentence for line in self.journal.history(uid))


@dataclass
class Sample:
    """What a live model is to its beamline: which features it learned, and for which focus its probe is."""

    features: frozenset = frozenset({"gratings"})
    focus: float = 0.0
    version: int = 1
    corpus: dict[str, Any] = field(default_factory=dict)
    learned: bool = True

    def __call__(self, kind: str, key: str, start: Mapping[str, Any]) -> dict[str, Any]:
        """What a job would find."""
        if kind == "train":
            found = frozenset(scan["feature"] for scan in self.corpus.values())
            before = self._mismatch(found, self.focus)
            if not self.learned:
                return {"published": False, "version": "", "reason": "the mean gain is -0.2"}
            return self._publish(replace(self, features=self.features | found), before, found, self.focus)
        feature, focus = frozenset({start["feature"]}), start["focus"]
        residual = 0.1 + self._mismatch(feature, focus) / 2 + (0.2 if start.get("dark") else 0)
        if kind == "residual":
            return {"residual": residual, "live_version": f"{self.version:06d}"}
        mismatch = self._mismatch(feature, focus)
        if kind == "probe":
            if abs(focus - self.focus) < 0.05:
                return {"published": False, "version": "", "reason": "the mean gain is +0.001"}
            return self._publish(replace(self, focus=focus), mismatch, feature, focus)
        trusted = not start.get("dark") and not start.get("sparse")
        if trusted:
            assert key not in self.corpus, "labels twice"
            self.corpus[key] = dict(start)
        return {
            "trusted": trusted,
            "verdict": "" if trusted else "overlap 0.3 is too small",
            "shard": f"shard{key}" if trusted else "",
            "mismatch": mismatch if trusted else None,
            "ssim": 1 - mismatch if trusted else None,
            "residual": 0.05,
            "residual_live": residual,
            "probe": "probe.npy" if trusted else "",
            "live_version": f"{self.version:06d}",
        }

    def _mismatch(self, features: frozenset, focus: float) -> float:
        return 0.03 + 0.25 * len(features - self.features) + abs(focus - self.focus)

    def _publish(self, better: "Sample", before: float, features: frozenset, focus: float) -> dict[str, Any]:
        self.features, self.focus, self.version = better.features, better.focus, self.version + 1
        after = self._mismatch(features, focus)
        return {
            "published": True,
            "version": f"{self.version:06d}",
            "mismatch_before": before,
            "mismatch_after": after,
        }

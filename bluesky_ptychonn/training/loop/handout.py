"""One job of a scan or a training: handed out at least once, looked after, and given up when it has had its chances.

The marker that the job writes is the truth, whatever the scheduler says. Before a job is handed out the journal says
so, and whoever takes it writes its native id beside it; so a service that was killed in between finds the job again.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

from bluesky_ptychonn.training.loop import outcomes
from bluesky_ptychonn.training.loop.faults import fault
from bluesky_ptychonn.training.loop.patience import LONGEST_S, Patience, is_due
from bluesky_ptychonn.training.loop.policy import Decision, Terms
from bluesky_ptychonn.training.loop.transfer import TRANSFER
from bluesky_ptychonn.training.loop.work import Work

logger = logging.getLogger(__name__)

SCHEDULER = "scheduler"
"""Fact: how often in a row the scheduler took no job (``errors``), what it said, and when it is asked again."""
TAKEN = "taken"
SILENT_S = 86400.0
REFUSED_AT_MOST = 150
"""Refusals in a row, about a day of them, after which work that is offered is parked."""


class NotTakenError(RuntimeError):
    """No job could be handed out now: the scheduler, or the disk that the jobs share, does not answer."""


class Desk(Protocol):
    """Where jobs are handed out and their results come back; a job is named by its kind and key."""

    def result(self, kind: str, key: str) -> Mapping[str, Any] | None:
        """The marker; None if there is none, or a torn one."""
        ...

    def set_aside(self, kind: str, key: str) -> None:
        """Move the marker of a failed attempt away."""
        ...

    def submitted(self, kind: str, key: str) -> str:
        """Native id of the last submission; "" if there was none."""
        ...

    def submit(self, kind: str, key: str, start: Mapping[str, Any], options: Mapping[str, Any]) -> str:
        """Hand a job out; its native id. `NotTakenError` if nobody takes it."""
        ...

    def alive(self, native: str) -> bool | None:
        """Whether it waits or runs; None if the scheduler does not answer."""
        ...

    def sign_of_life(self, kind: str, key: str) -> str:
        """What a process that works on the job changes every few seconds; "" if there is none."""
        ...

    def cancel(self, native: str) -> None:
        """End it, if it can be reached."""
        ...

    def ending(self, kind: str, key: str) -> "Ending":
        """What the last attempt could tell of its end."""
        ...


class Ending(NamedTuple):
    """How a job ended that left no result: why, or where to read more, and whether it only had to make room."""

    reason: str
    preempted: bool = False


@dataclass(frozen=True)
class Job:
    """What the journal's column ``job`` says.

    Parameters
    ----------
    kind : str
        ``scan``, ``residual``, ``probe`` or ``train``.
    phase : str
        ``submitting`` (native is that of the submission before, if any), ``submitted``, ``gone`` (without a marker so
        far), ``cancelled``, or ``taken``: its result is in the row, and what follows of it is not decided yet.
    native : str
        What the scheduler calls it.

    Examples
    --------
    >>> Job.parse(str(Job("scan", "submitted", "1234")))
    Job(kind='scan', phase='submitted', native='1234')
    """

    kind: str
    phase: str
    native: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.phase} {self.native}".strip()

    @classmethod
    def parse(cls, text: str) -> "Job":
        """Read what `str` made."""
        kind, phase, *native = text.split(" ", 2)
        return cls(kind, phase, *native)


@dataclass(frozen=True)
class Seen:
    """What became of a job: its result, or why the attempt failed, or neither; idle if none is handed out.

    A failure is transient where the job said that it may pass by itself.
    """

    result: Mapping[str, Any] | None = None
    failure: str = ""
    transient: bool = False
    idle: bool = False


@dataclass
class HandOut:
    """Hands jobs out and looks after them; keeps in memory only what a restart may forget.

    Parameters
    ----------
    desk : Desk
    patience : Patience
    read_fact, write_fact : callable
        Facts of the journal.
    """

    desk: Desk
    patience: Patience
    read_fact: Callable[..., Any]
    write_fact: Callable[[str, Any], None]
    _asked_s: dict[str, float] = field(default_factory=dict)
    _signs: dict[str, str] = field(default_factory=dict)
    _silent_until_s: float = 0.0
    _silences: int = 0

    def look(self, work: Work, kind: str, now_s: float) -> Seen:
        """What became of the work's job, or of an earlier attempt whose marker came late."""
        job = Job.parse(work.job) if work.job else None
        if job is not None and job.phase == TAKEN:
            return Seen(idle=True)
        result = self.desk.result(kind, work.key)
        if result is not None and result.get("ok") is True:
            return Seen(result=result)
        if job is None:
            return Seen(idle=True)
        if result is not None:
            reason = str(result.get("reason") or "the job gave no reason")
            return Seen(failure=reason, transient=result.get("transient") is True)
        if job.phase == "submitting":
            return self._found_again(work, job, now_s)
        return self._alive_or_not(work, job, now_s)

    def _found_again(self, work: Work, job: Job, now_s: float) -> Seen:
        """The service ended while it handed this job out: take up what the scheduler got, if anything."""
        native = self.desk.submitted(job.kind, work.key)
        if native and native != job.native:
            work.amend(job=str(Job(job.kind, "submitted", native)), next_check_s=now_s + self.patience.job_s)
            return Seen()
        work.amend(job=None, next_check_s=0.0)
        return Seen()

    def _alive_or_not(self, work: Work, job: Job, now_s: float) -> Seen:
        alive = self._ask(job.native, now_s)
        if alive and job.native.startswith(TRANSFER) and (native := self.desk.submitted(job.kind, work.key)):
            work.amend(job=str(replace(job, native=native)), next_check_s=now_s + self.patience.job_s)
            return Seen()
        over_s = self._over_s(work, job, now_s)
        over = over_s >= 0
        if job.phase == "submitted" and over and alive:
            self.desk.cancel(job.native)
            work.amend(job=str(replace(job, phase="cancelled")), next_check_s=now_s + self.patience.cancel_s)
        elif job.phase == "submitted" and alive is False:
            self._signs[job.native] = self.desk.sign_of_life(job.kind, work.key)
            work.amend(job=str(replace(job, phase="gone")), next_check_s=now_s + self.patience.marker_s)
        elif job.phase == "gone" and alive:  # requeued by the scheduler
            work.amend(job=str(replace(job, phase="submitted")), next_check_s=now_s + self.patience.job_s)
        elif job.phase == "gone" and over and self._lives(work, job):  # forgotten by the scheduler
            work.amend(next_check_s=now_s + self.patience.marker_s)
        elif job.phase == "gone" and over:
            ending = self.desk.ending(job.kind, work.key)
            if not ending.preempted:
                return Seen(failure=f"the job ended without a result; {ending.reason}")
            work.amend(job=None, next_check_s=0.0)  # it goes on from its checkpoint, and no chance is used up
        elif job.phase == "cancelled" and (alive is False or (alive and over)):
            return Seen(failure=f"no result within {self.patience.job_s / 3600:.2g} h, so it was cancelled")
        elif over_s > SILENT_S:
            return Seen(failure="there is no result, and for a day nobody said whether the job runs")
        return Seen()

    def _lives(self, work: Work, job: Job) -> bool:
        """Whether a job that is gone from the queue was seen to live since it was looked at last."""
        before, now = self._signs.get(job.native), self.desk.sign_of_life(job.kind, work.key)
        self._signs[job.native] = now
        return now not in ("", before)

    def _over_s(self, work: Work, job: Job, now_s: float) -> float:
        """Since when a job has had its time, s; one that the clock, set back, would give more than that begins anew."""
        patience = {"submitted": self.patience.job_s, "gone": self.patience.marker_s}
        longest_s = patience.get(job.phase, self.patience.cancel_s)
        if work.next_check_s > now_s + longest_s:
            work.amend(next_check_s=now_s + longest_s)
            return -longest_s
        return now_s - work.next_check_s

    def _ask(self, native: str, now_s: float) -> bool | None:
        """Whether a job is alive; None if the scheduler is not asked now, or does not answer."""
        if now_s < self._silent_until_s <= now_s + LONGEST_S:
            return None
        if 0 <= now_s - self._asked_s.get(native, -1e9) < self.patience.ask_s:
            return None
        self._asked_s[native] = now_s
        alive = self.desk.alive(native)
        self._silences = self._silences + 1 if alive is None else 0
        self._silent_until_s = now_s + min(2.0 ** (self._silences - 1), 60) if alive is None else 0.0
        if alive is False:
            del self._asked_s[native]
        return alive

    def submit(
        self,
        work: Work,
        kind: str,
        to: str,
        sentence: str,
        now_s: float,
        *,
        facts: Mapping[str, Any] | None = None,
        columns: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> str:
        """Hand a job out, if the scheduler is to be asked now; the reason for giving the work up, or "".

        Parameters
        ----------
        work : Work
            Without a job, and due.
        kind, to, sentence : str
            Kind of job, state of the work with it, and why.
        now_s : float
        facts, columns : mapping, optional
            What changes with the state.
        options : mapping, optional
            For the job.
        """
        down = self.read_fact(SCHEDULER, {})
        if not is_due(down.get("again_s", 0.0), now_s, LONGEST_S):
            return ""
        result = self.desk.result(kind, work.key)
        if result is not None and result.get("ok") is True:  # it has just come; the next look takes it
            return ""
        if result is not None:  # of an attempt that failed
            self.desk.set_aside(kind, work.key)
            fault(10)
        job = Job(kind, "submitting", self.desk.submitted(kind, work.key))
        handed = {"job": str(job), "next_check_s": now_s + self.patience.job_s}
        if not work.move_once(to, sentence, facts=facts, columns={**(columns or {}), **handed}):
            return ""
        fault(2)
        try:
            native = self.desk.submit(kind, work.key, work.start, options or {})
        except NotTakenError as error:
            return self._not_taken(work, down, str(error), now_s)
        fault(3)
        if down:
            self.write_fact(SCHEDULER, {})
        work.amend(job=str(Job(kind, "submitted", native)))
        fault(4)
        return ""

    def after(self, work: Work, failed: Seen, terms: Terms, now_s: float) -> Decision:
        """What becomes of work whose job failed: ``again``, with the columns that say when, or ``parked``."""
        if not failed.transient:
            attempts = work.attempts + 1
            again_s = now_s + self.patience.before_attempt(attempts)
            return outcomes.after_failure(attempts, terms, failed.failure, again_s)
        since_s = now_s if work.outage_s is None else min(work.outage_s, now_s)
        again_s = now_s + self.patience.in_outage(now_s - since_s)
        return outcomes.after_outage(since_s, since_s + self.patience.outage_s, failed.failure, now_s, again_s)

    def _not_taken(self, work: Work, down: Mapping[str, Any], told: str, now_s: float) -> str:
        errors = int(down.get("errors", 0)) + 1
        again_s = now_s + min(self.patience.again_s * 2.0 ** min(errors - 1, 20), LONGEST_S)
        self.write_fact(SCHEDULER, {"errors": errors, "again_s": again_s, "told": told})
        work.amend(job=None, next_check_s=again_s)
        logger.warning("no job can be handed out (%d in a row): %s", errors, told)
        return f"nobody took the job, {errors} times in a row: {told}" if errors >= REFUSED_AT_MOST else ""

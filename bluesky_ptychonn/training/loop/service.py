"""The loop's service: one tick looks at everything that is not finished and does what is next, each time anew.

Nothing is kept in memory that matters: rows and facts of the journal say where each scan stands, markers in the jobs'
folders say what was done. A tick may be ended between any two statements (`faults`); the next one goes on from there.
"""

import logging
import time
from collections.abc import Callable

from bluesky_ptychonn.io.journal import Journal, JournalError
from bluesky_ptychonn.io.journal_rows import ScanRow, TrainingRow
from bluesky_ptychonn.training.loop import outcomes, policy
from bluesky_ptychonn.training.loop.faults import fault
from bluesky_ptychonn.training.loop.handout import SCHEDULER, TAKEN, Desk, HandOut, Job, NotTakenError, Seen
from bluesky_ptychonn.training.loop.patience import LONGEST_S, Patience, is_due
from bluesky_ptychonn.training.loop.policy import Decision, Standing, Terms
from bluesky_ptychonn.training.loop.trainings import Trainings
from bluesky_ptychonn.training.loop.work import Work

logger = logging.getLogger(__name__)

OPEN = ("running", "received", "reconstructing", "labelled", "parked")
"""States of scans at which a tick looks; a parked one may still get its stop document or its marker."""
KIND_IN = {"received": "residual", "reconstructing": "scan", "labelled": "probe", "parked": "scan"}
"""Kind of job that a scan has in a state."""
STATE_WITH = {"residual": "received", "scan": "reconstructing", "probe": "labelled"}
AT_REST = {"next_check_s": 0.0, "outage_s": None}
"""Columns of a scan that waits for nothing."""
JUMP_S = 30.0
"""Difference to the clock which is never set, from which on the other one was."""


class LoopService:
    """Does after each scan what the policy says.

    Parameters
    ----------
    journal : Journal
        One service at a time works on it, see `serving.only_one`.
    desk : Desk
        Where jobs are handed out.
    terms : Terms
    patience : Patience
    at_once : int
        Jobs of scans at the same time; the training has a place of its own.
    monotonic : callable
        Clock that is never set; for tests.
    """

    def __init__(
        self,
        journal: Journal,
        desk: Desk,
        terms: Terms,
        patience: Patience,
        *,
        at_once: int = 1,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._journal, self._desk, self._terms = journal, desk, terms
        self._jobs = HandOut(desk, patience, journal.fact, journal.set_fact)
        self._trainings = Trainings(journal, self._jobs, terms)
        self._at_once, self._monotonic = at_once, monotonic
        self._clocks: tuple[float, float] | None = None
        self._told: dict[str, str] = {}
        self._all: list[ScanRow] | None = None

    def tick(self, now_s: float) -> None:
        """Look at everything once.

        Parameters
        ----------
        now_s : float
            s since 1970.

        Raises
        ------
        JournalError
            If the journal cannot be used now; the next tick goes on where this one ended.
        """
        self._journal.absorb_spill()
        fault(1)
        self._follow_the_clock(now_s)
        try:  # first, so that scans without end do not keep it waiting where a scheduler takes one job at a time
            self._trainings.look(now_s, paused=standing_of(self._journal).paused)
        except NotTakenError as error:
            self._cannot_now("training", error)
        self._all = None
        for row in self._journal.scans(OPEN):
            try:
                self._look_at(row, now_s)
            except (JournalError, NotTakenError) as error:
                self._cannot_now(row.uid, error)
            except Exception as error:
                self._stumble(row, error, now_s)

    # scans

    def _look_at(self, row: ScanRow, now_s: float) -> None:
        work = Work(self._journal, row, self._forget)
        if row.state == "running":
            self._decide(work, row, now_s)
            return
        seen = self._jobs.look(work, KIND_IN[row.state], now_s)
        if seen.result is not None:
            self._take(work, row, seen)
        elif seen.failure:
            self._failed(work, row, seen, now_s)
        elif seen.idle and is_due(row.next_check_s, now_s, LONGEST_S):
            self._decide(work, row, now_s)

    def _take(self, work: Work, row: ScanRow, seen: Seen) -> None:
        """Write a job's result into the row; what follows of it is decided by the next tick."""
        result, kind = seen.result or {}, KIND_IN[row.state]
        if kind == "residual":
            decision = outcomes.after_residual(row, result)
        elif kind == "probe":
            decision = outcomes.after_probe(result)
        else:
            decision = outcomes.after_reconstruction(row, result, standing_of(self._journal))
        fault(5)
        job = None if kind == "scan" else str(Job(kind, TAKEN))
        self._move(work, decision, job)
        fault(6)

    def _decide(self, work: Work, row: ScanRow, now_s: float) -> None:
        standing = standing_of(self._journal)
        if self._all is None:
            self._all = self._journal.scans()
        decision = policy.decide(
            row, self._all, standing, self._terms, now_s, has_probe=row.state == "labelled" and self._has_probe(row)
        )
        if decision.what in STATE_WITH:
            self._start(work, row, decision, standing, now_s)
        elif decision.what != "wait":
            fault(7)
            self._move(work, decision, None)
            fault(8)

    def _has_probe(self, row: ScanRow) -> bool:
        """Whether a probe was refined that the gate has not seen."""
        if row.job:  # taken
            return False
        result = self._desk.result("scan", row.uid)
        return bool(result and result.get("probe"))

    def _start(self, work: Work, row: ScanRow, decision: Decision, standing: Standing, now_s: float) -> None:
        busy = [row for row in self._journal.scans(OPEN) if row.job and Job.parse(row.job).phase != TAKEN]
        if standing.paused or len(busy) >= self._at_once:
            return
        kind, to = decision.what, STATE_WITH[decision.what]
        afresh = {} if to == row.state else {"attempts": 0, "outage_s": None}
        told = decision.sentence if afresh or row.outage_s is None else row.sentence
        why = self._jobs.submit(
            work, kind, to, told, now_s, facts=decision.facts, columns=afresh, options=decision.options
        )
        if why:
            self._give_up(work, kind, why)

    def _failed(self, work: Work, row: ScanRow, seen: Seen, now_s: float) -> None:
        decision = self._jobs.after(work, seen, self._terms, now_s)
        if decision.what == "parked":
            self._give_up(work, KIND_IN[row.state], decision.sentence)
        else:
            work.move_once(row.state, decision.sentence, columns={"job": None, **decision.columns})
        fault(9)

    def _give_up(self, work: Work, kind: str, reason: str) -> None:
        """Park a scan; one that only lacks its probe's version goes on without."""
        if kind == "probe":
            taken = {"job": str(Job(kind, TAKEN)), **AT_REST}
            work.move("labelled", f"its probe was {reason}", columns=taken)
        else:
            work.move("parked", reason, columns={"job": None, **AT_REST})

    def _move(self, work: Work, decision: Decision, job: str | None) -> None:
        columns = {"job": job, **AT_REST, **decision.columns}
        if work.move(decision.what, decision.sentence, facts=decision.facts, columns=columns):
            logger.info("run %s: %s: %s", work.key[:8], decision.what, decision.sentence)
            self._told.pop(work.key, None)

    def _forget(self) -> None:
        """What was read of all scans is no longer so."""
        self._all = None

    # what goes wrong

    def _cannot_now(self, key: str, error: Exception) -> None:
        """A disk that does not answer now changes nothing."""
        if isinstance(error, JournalError):
            raise error
        if self._told.get(key) != str(error):
            self._told[key] = str(error)
            logger.warning("nothing can be done for %s now: %s", key[:8], error)

    def _stumble(self, row: ScanRow, error: Exception, now_s: float) -> None:
        """What no one foresaw is an attempt that failed, so that it cannot hold up the others, nor wait for ever."""
        reason = f"the service stumbled over it ({type(error).__name__}: {error})"
        if self._told.get(row.uid) != reason:
            self._told[row.uid] = reason
            logger.error("run %s: %s", row.uid[:8], reason, exc_info=error)
        if row.state not in STATE_WITH.values():
            return
        try:
            self._desk.set_aside(KIND_IN[row.state], row.uid)
        except NotTakenError as trouble:
            self._cannot_now(row.uid, trouble)
            return
        except ValueError:
            pass  # nothing can have that name
        self._failed(Work(self._journal, row, self._forget), row, Seen(failure=reason), now_s)

    def _follow_the_clock(self, now_s: float) -> None:
        """If the system's clock was set, set what was to happen with it."""
        before, self._clocks = self._clocks, (now_s, self._monotonic())
        if before is None:
            return
        jump_s = (now_s - before[0]) - (self._clocks[1] - before[1])
        if abs(jump_s) < JUMP_S:
            return
        logger.warning("the clock was set by %+.0f s; what is waited for is moved with it", jump_s)
        with self._journal.transaction():
            for row in self._journal.scans(OPEN):
                if times := _moved_by(jump_s, row):
                    self._journal.amend(row.uid, **times)
            training = self._journal.unfinished_training()
            if training is not None and (times := _moved_by(jump_s, training)):
                self._journal.amend_training(training.key, **times)
            until_s, down = self._journal.fact("suspended_until_s"), self._journal.fact(SCHEDULER)
            if until_s is not None:
                self._journal.set_fact("suspended_until_s", until_s + jump_s)
            if down:
                self._journal.set_fact(SCHEDULER, {**down, "again_s": down["again_s"] + jump_s})


def _moved_by(jump_s: float, row: ScanRow | TrainingRow) -> dict[str, float]:
    """Times of a row, as far as it has some, on a clock that was set."""
    times = {"next_check_s": row.next_check_s, "outage_s": row.outage_s}
    return {name: time_s + jump_s for name, time_s in times.items() if time_s}


def standing_of(journal: Journal) -> Standing:
    """What the journal remembers beside its rows."""
    return Standing(
        paused=bool(journal.fact("paused", False)),
        suspended_until_s=journal.fact("suspended_until_s"),
        reference=journal.fact("reference") or {},
        alarm=journal.fact("alarm") or {},
    )

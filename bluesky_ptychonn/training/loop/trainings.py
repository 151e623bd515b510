"""The one training that runs at a time, and the scans which it answers."""

from collections.abc import Callable, Mapping
from typing import Any

from bluesky_ptychonn.io.journal import Journal
from bluesky_ptychonn.io.journal_rows import ScanRow, TrainingRow
from bluesky_ptychonn.training.loop import outcomes
from bluesky_ptychonn.training.loop.faults import fault
from bluesky_ptychonn.training.loop.handout import HandOut, Seen
from bluesky_ptychonn.training.loop.patience import LONGEST_S, is_due
from bluesky_ptychonn.training.loop.policy import Decision, Terms
from bluesky_ptychonn.training.loop.work import Work

ANSWERS = "training_answers"
"""Fact: ``key`` of the last training and ``runs``, the scans that it answers."""


class Trainings:
    """Requests coalesced into one training at a time.

    Every scan in state ``training`` asks for one. Those that wait when its job is handed out are answered by it; those
    that come later, by the next one.

    Parameters
    ----------
    journal : Journal
    jobs : HandOut
    terms : Terms
    """

    def __init__(self, journal: Journal, jobs: HandOut, terms: Terms) -> None:
        self._journal, self._jobs, self._terms = journal, jobs, terms

    def look(self, now_s: float, *, paused: bool) -> None:
        """Request a training if a scan asks for it, hand its job out, take its result."""
        row = self._journal.unfinished_training() or self._request(now_s)
        if row is None:
            return
        work = Work(self._journal, row)
        seen = self._jobs.look(work, "train", now_s)
        if seen.result is not None:
            self._take(row, work, seen.result)
        elif seen.failure:
            self._failed(row, work, seen, now_s)
        elif seen.idle and not paused and is_due(row.next_check_s, now_s, LONGEST_S):
            self._start(row, work, now_s)

    def _request(self, now_s: float) -> TrainingRow | None:
        waiting = self._journal.scans("training")
        if not waiting:
            return None
        key = f"{waiting[0].uid[:8]}-{int(1000 * now_s)}"
        self._journal.set_fact(ANSWERS, {"key": key, "runs": [row.uid for row in waiting]})
        fault(11)
        self._journal.request_training(key, f"asked for by {_names(waiting)}", at_s=now_s)
        fault(12)
        return self._journal.unfinished_training()

    def _start(self, row: TrainingRow, work: Work, now_s: float) -> None:
        waiting = self._journal.scans("training")
        answers = {"key": row.key, "runs": [scan.uid for scan in waiting]}
        facts = {} if self._journal.fact(ANSWERS) == answers else {ANSWERS: answers}
        told = f"a training on the whole corpus, asked for by {_names(waiting)}"
        if row.outage_s is not None:
            told = row.sentence
        elif row.attempts:
            told += f"; attempt {row.attempts + 1} of {self._terms.attempts}"
        why = self._jobs.submit(work, "train", "running", told, now_s, facts=facts, options={"runs": answers["runs"]})
        if why:
            self._give_up(row, why)

    def _take(self, row: TrainingRow, work: Work, result: Mapping[str, Any]) -> None:
        fault(5)
        self._answer(row, lambda scan: outcomes.after_training(scan, result))
        version = str(result.get("version") or "") if result.get("published") else ""
        told = f"version {version} is live" if version else str(result.get("reason") or "the gate gave no reason")
        snapshot = result.get("snapshot")
        columns: dict[str, Any] = {"job": None, "version": version, "outage_s": None}
        if isinstance(snapshot, list):
            columns["snapshot"] = [str(name) for name in snapshot]
        work.move("published" if version else "refused", told, columns=columns)
        fault(15)

    def _failed(self, row: TrainingRow, work: Work, seen: Seen, now_s: float) -> None:
        """Try again later, or give up."""
        decision = self._jobs.after(work, seen, self._terms, now_s)
        if decision.what == "parked":
            self._give_up(row, decision.sentence)
        else:
            work.move("queued", decision.sentence, columns={"job": None, **decision.columns})
            fault(9)

    def _give_up(self, row: TrainingRow, reason: str) -> None:
        self._answer(row, lambda scan: outcomes.without_training(scan, f"the training was {reason}"))
        self._journal.move_training(row.key, "parked", reason, expect=row.state, job=None, outage_s=None)
        fault(15)

    def _answer(self, row: TrainingRow, decide: Callable[[ScanRow], Decision]) -> None:
        """Tell the scans that waited for this training how it ended."""
        answers = self._journal.fact(ANSWERS, {})
        for uid in answers.get("runs", ()) if answers.get("key") == row.key else ():
            scan = self._journal.scan(uid)
            if scan.state == "training":
                decision = decide(scan)
                self._journal.move(uid, decision.what, decision.sentence, expect="training", **decision.columns)
                fault(13)
        fault(14)


def _names(waiting: list[ScanRow]) -> str:
    """Which scans, for a sentence."""
    names = [str(row.scan_id or row.uid[:8]) for row in waiting]
    if not names:
        return "nobody any more"
    return f"scan {names[0]}" if len(names) == 1 else f"scans {', '.join(names[:-1])} and {names[-1]}"

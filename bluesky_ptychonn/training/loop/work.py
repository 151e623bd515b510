"""A scan or a training, as what jobs are handed out for."""

from collections.abc import Callable, Mapping
from typing import Any

from bluesky_ptychonn.io.journal import Journal
from bluesky_ptychonn.io.journal_rows import ScanRow, TrainingRow


class Work:
    """A row of the journal that may have a job.

    Parameters
    ----------
    journal : Journal
    row : ScanRow or TrainingRow
        As it was read; if somebody else moves it meanwhile, `move` does nothing.
    on_change : callable
        Called before it is changed.

    Attributes
    ----------
    key : str
        Uid of the scan, key of the training.
    start : dict
        Start document of the scan; empty for a training.
    job : str or None
    attempts : int
        How many failed so far.
    next_check_s : float
        With a job: when it has had its time; without one: before when none is handed out.
    outage_s : float or None
        Since when its job fails for something that may pass by itself.
    """

    def __init__(
        self, journal: Journal, row: ScanRow | TrainingRow, on_change: Callable[[], None] = lambda: None
    ) -> None:
        self._journal, self._on_change = journal, on_change
        self.job, self.attempts, self.next_check_s = row.job, row.attempts, row.next_check_s
        self.outage_s = row.outage_s
        self._state, self._sentence = row.state, row.sentence
        self.start: Mapping[str, Any] = {}
        if isinstance(row, ScanRow):
            self.key, self.start = row.uid, row.start
            self._move, self._amend = journal.move, journal.amend
        else:
            self.key = row.key
            self._move, self._amend = journal.move_training, journal.amend_training

    def amend(self, **columns: Any) -> None:
        """Set columns; nothing is told."""
        self._on_change()
        self._amend(self.key, **columns)

    def move(
        self,
        to: str,
        sentence: str,
        *,
        facts: Mapping[str, Any] | None = None,
        columns: Mapping[str, Any] | None = None,
    ) -> bool:
        """Put it into a state, say why, and set columns and facts; False, and nothing changes, if it was moved."""
        self._on_change()
        with self._journal.transaction():
            moved = self._move(self.key, to, sentence, expect=self._state, **(columns or {}))
            if moved:
                self._state, self._sentence = to, sentence
                for name, value in (facts or {}).items():
                    self._journal.set_fact(name, value)
        return moved

    def move_once(
        self, to: str, sentence: str, *, facts: Mapping[str, Any] | None = None, columns: Mapping[str, Any]
    ) -> bool:
        """As `move`, but what is said already is not said again."""
        if (to, sentence) == (self._state, self._sentence) and not facts:
            self.amend(**columns)
            return True
        return self.move(to, sentence, facts=facts, columns=columns)

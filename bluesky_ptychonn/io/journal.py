"""The journal: every scan and every training, where it stands and why; one SQLite file on a local disk.

Documents may come in any order and more than once; what is in the journal is the same. A row is never removed, and
every change of state leaves a line in its history. Several processes may write at once.
"""

import json
import math
import sqlite3
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from bluesky_ptychonn.io import spill
from bluesky_ptychonn.io.journal_database import Database, JournalError
from bluesky_ptychonn.io.journal_rows import (
    SCAN_COLUMNS,
    STATES,
    TRAINING_COLUMNS,
    TRAINING_STATES,
    UNFINISHED,
    HistoryLine,
    ScanRow,
    TrainingRow,
    scan_row,
    training_row,
)

__all__ = [
    "STATES",
    "TRAINING_STATES",
    "UNFINISHED",
    "HistoryLine",
    "Journal",
    "JournalError",
    "ScanRow",
    "TrainingRow",
]

FIXED = {"uid", "key", "state", "sentence"}
SCANS = f"SELECT {', '.join(SCAN_COLUMNS)} FROM scans"
TRAININGS = f"SELECT {', '.join(TRAINING_COLUMNS)} FROM trainings"


class Journal(Database):
    """Scans, trainings, their histories, and facts.

    Parameters
    ----------
    path : Path
        On a local disk, never on NFS or Lustre; file and folder are made if they are missing.
    timeout_s : float
        Patience with another process that is writing.

    Notes
    -----
    Every method raises `JournalError` if the file cannot be read or written; nothing has changed then.

    Examples
    --------
    >>> import tempfile
    >>> journal = Journal(Path(tempfile.mkdtemp()) / "journal.sqlite")
    >>> journal.note_stop({"run_start": "a1b2", "time": 12.0, "exit_status": "success"})
    >>> journal.note_start({"uid": "a1b2", "time": 10.0, "scan_id": 7, "ptycho": {}})
    >>> journal.move("a1b2", "suspended", "the last scan's mismatch was 0.04", expect="received")
    True
    >>> [line.new for line in journal.history("a1b2")], journal.scan("a1").exit_status
    (['running', 'received', 'suspended'], 'success')
    """

    def __init__(self, path: Path | str, *, timeout_s: float = 10.0) -> None:
        super().__init__(path, timeout_s=timeout_s)
        self.spill_path = spill.spill_path(self.path)

    # documents

    def note_start(self, start: Mapping[str, Any]) -> None:
        """Make a row of a run, unless there is one."""
        self.note([("start", start)])

    def note_stop(self, stop: Mapping[str, Any]) -> None:
        """Note that a run ended; one whose start is not known yet waits for it."""
        self.note([("stop", stop)])

    def note(self, documents: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        """Note start and stop documents, all in one transaction.

        Parameters
        ----------
        documents : iterable of (name, document)
            A start document needs its ``uid``, a stop document its ``run_start``.
        """
        with self.transaction() as db:
            for name, doc in documents:
                {"start": self._note_start, "stop": self._note_stop}[name](db, doc)

    def _note_start(self, db: sqlite3.Connection, start: Mapping[str, Any]) -> None:
        uid, started_s, scan_id, block = start["uid"], _seconds(start), _scan_id(start), start.get("ptycho")
        sentence = f"scan {scan_id} started" if scan_id else "started"
        version = _text(block, "model_version") if isinstance(block, Mapping) else ""
        done = db.execute(
            "INSERT OR IGNORE INTO scans (uid, scan_id, started_s, exit_status, start, state, sentence, live_version) "
            "VALUES (?, ?, ?, '', ?, 'running', ?, ?)",
            (uid, scan_id, started_s, spill.as_json(start), sentence, version),
        )
        if not done.rowcount:
            return
        self._tell(uid, started_s, "", "running", sentence)
        for (stop,) in db.execute("SELECT doc FROM early_stops WHERE uid = ?", (uid,)).fetchall():
            self._note_stop(db, json.loads(stop))
            db.execute("DELETE FROM early_stops WHERE uid = ?", (uid,))

    def _note_stop(self, db: sqlite3.Connection, stop: Mapping[str, Any]) -> None:
        uid, stopped_s, reason = stop["run_start"], _seconds(stop), _text(stop, "reason")
        status = _text(stop, "exit_status") or "unknown"
        found = db.execute("SELECT state, stopped_s FROM scans WHERE uid = ?", (uid,)).fetchone()
        if found is None:
            db.execute("INSERT OR IGNORE INTO early_stops VALUES (?, ?)", (uid, spill.as_json(stop)))
            return
        state, known_s = found
        if known_s is not None:
            return
        sentence = f"it ended: {status}" + (f" ({reason})" if reason else "")
        self._change("scans", uid, {"stopped_s": stopped_s, "exit_status": status})
        if state == "running":
            self._change("scans", uid, {"state": "received", "sentence": sentence})
        self._tell(uid, stopped_s, state, "received" if state == "running" else state, sentence)

    def absorb_spill(self) -> int:
        """Take over what was spilled; its files are removed only after the commit.

        Returns
        -------
        int
            How many documents there were.
        """
        files = spill.take(self.spill_path)
        if not files:
            return 0
        documents = spill.read(files)
        self.note(documents)
        for file in files:
            file.unlink(missing_ok=True)
        return len(documents)

    # scans

    def scans(self, state: str | Collection[str] | None = None) -> list[ScanRow]:
        """Rows of scans in these states (default: all), in the order in which they started."""
        states = STATES if state is None else (state,) if isinstance(state, str) else tuple(state)
        where = f"WHERE state IN ({', '.join('?' * len(states))})"
        return [scan_row(row) for row in self.read(f"{SCANS} {where} ORDER BY started_s, uid", *states)]

    def scan(self, uid: str) -> ScanRow:
        """Row of a scan, by its uid or the beginning of it.

        Raises
        ------
        ValueError
            If no scan, or more than one, has a uid that begins so.
        """
        found = self.read(f"{SCANS} WHERE uid = ?", uid) or self.read(
            f"{SCANS} WHERE substr(uid, 1, ?) = ? LIMIT 3", len(uid), uid
        )
        if not found:
            raise ValueError(f"the journal {self.path} has no scan {uid!r}; `bluesky-ptychonn loop status` lists them")
        if len(found) > 1:
            names = ", ".join(row[0] for row in found[:2])
            raise ValueError(f"{uid!r} is the beginning of several scans, such as {names}; give more of it")
        return scan_row(found[0])

    def move(
        self,
        uid: str,
        to: str,
        sentence: str,
        *,
        expect: str | Collection[str] | None = None,
        at_s: float | None = None,
        **columns: Any,
    ) -> bool:
        """Put a scan into a state, say why, and set columns; all in one transaction, with a line in its history.

        Parameters
        ----------
        uid : str
        to : str
            One of `STATES`; may be the one it is in.
        sentence : str
            Why, for `loop show`.
        expect : str or collection of str, optional
            The state, or states, in which it must be.
        at_s : float, optional
            Time of the line, s since 1970; default: now.
        **columns
            Of `ScanRow`.

        Returns
        -------
        bool
            False if it is in another state than expected; nothing has changed then.
        """
        _refuse("to", [to], STATES)
        _refuse("column", columns, set(SCAN_COLUMNS) - FIXED)
        return self._move("scans", uid, to, sentence, expect, at_s, columns)

    def amend(self, uid: str, **columns: Any) -> None:
        """Set columns of a scan and leave its state; nothing is told in its history."""
        _refuse("column", columns, set(SCAN_COLUMNS) - FIXED)
        self._change("scans", uid, columns)

    # trainings

    def request_training(
        self, key: str, sentence: str, *, snapshot: Collection[str] = (), at_s: float | None = None
    ) -> bool:
        """Queue a training, unless one is unfinished or has this key; whether it was queued."""
        at_s = time.time() if at_s is None else at_s
        with self.transaction() as db:
            try:
                db.execute(
                    "INSERT INTO trainings (key, state, sentence, requested_s, snapshot) VALUES (?, 'queued', ?, ?, ?)",
                    (key, sentence, at_s, json.dumps(list(snapshot))),
                )
            except sqlite3.IntegrityError:
                return False
            self._tell(key, at_s, "", "queued", sentence)
        return True

    def trainings(self, state: str | Collection[str] | None = None) -> list[TrainingRow]:
        """Rows of trainings in these states (default: all), in the order in which they were requested."""
        states = TRAINING_STATES if state is None else (state,) if isinstance(state, str) else tuple(state)
        where = f"WHERE state IN ({', '.join('?' * len(states))})"
        return [training_row(row) for row in self.read(f"{TRAININGS} {where} ORDER BY requested_s, key", *states)]

    def unfinished_training(self) -> TrainingRow | None:
        """The one training that is queued, running or being judged."""
        return next(iter(self.trainings(UNFINISHED)), None)

    def training(self, key: str) -> TrainingRow:
        """Row of a training; `ValueError` if there is none."""
        found = self.read(f"{TRAININGS} WHERE key = ?", key)
        if not found:
            raise ValueError(f"the journal {self.path} has no training {key!r}")
        return training_row(found[0])

    def move_training(
        self,
        key: str,
        to: str,
        sentence: str,
        *,
        expect: str | Collection[str] | None = None,
        at_s: float | None = None,
        **columns: Any,
    ) -> bool:
        """Like `move`; also False if it would be the second that is unfinished."""
        _refuse("to", [to], TRAINING_STATES)
        _refuse("column", columns, set(TRAINING_COLUMNS) - FIXED)
        with self.transaction():
            try:
                return self._move("trainings", key, to, sentence, expect, at_s, columns)
            except sqlite3.IntegrityError:
                return False

    def amend_training(self, key: str, **columns: Any) -> None:
        """Set columns of a training and leave its state; nothing is told in its history."""
        _refuse("column", columns, set(TRAINING_COLUMNS) - FIXED)
        self._change("trainings", key, columns)


def _refuse(what: str, values: Iterable[str], allowed: Collection[str]) -> None:
    wrong = sorted(set(values) - set(allowed))
    if wrong:
        raise ValueError(f"{what} = {', '.join(map(repr, wrong))}: allowed is one of {', '.join(sorted(allowed))}")


def _seconds(doc: Mapping[str, Any]) -> float:
    """Time of a document; 0 if it has none that can be."""
    try:
        time_s = float(doc.get("time") or 0)
    except (TypeError, ValueError, OverflowError):
        return 0.0
    return time_s if math.isfinite(time_s) else 0.0


def _scan_id(start: Mapping[str, Any]) -> int:
    found = start.get("scan_id")
    return found if isinstance(found, int) and abs(found) < 2**63 else 0


def _text(doc: Mapping[str, Any], key: str) -> str:
    """Text under a key, as UTF-8 can hold it; "" if there is none."""
    return str(doc.get(key) or "").encode("utf-8", "replace").decode().strip()

"""The SQLite file under the journal: opening, transactions, a move from state to state, history and facts."""

import contextlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from bluesky_ptychonn.io.journal_rows import FROM_VERSION_1, SCHEMA, SCHEMA_VERSION, HistoryLine, as_column


class JournalError(RuntimeError):
    """The journal cannot be read or written now; nothing of what was to be written is there."""


class Database:
    """One SQLite file in WAL mode, every commit through to the disk; a connection per thread.

    Parameters
    ----------
    path : Path
        On a local disk; file and folder are made if they are missing.
    timeout_s : float
        Patience with another process that is writing.
    """

    def __init__(self, path: Path | str, *, timeout_s: float) -> None:
        self.path, self._timeout_s = Path(path), timeout_s
        self._local = threading.local()
        self._opened: list[sqlite3.Connection] = []

    def open(self) -> None:
        """Open the file, or make it, now rather than at its first use."""
        self._connection()

    def close(self) -> None:
        """Close the connections of all threads; the next use opens anew."""
        self._local = threading.local()
        while self._opened:
            self._opened.pop().close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """What is written inside is written whole, or not at all; one inside another is part of it.

        Raises
        ------
        JournalError
            If another process writes for longer than ``timeout_s``, or the disk does not take it.
        """
        db = self._connection()
        if db.in_transaction:
            yield db
            return
        with self._told(), _rolled_back(db):
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")

    def read(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Rows of a query."""
        db = self._connection()
        with self._told():
            return db.execute(sql, values).fetchall()

    # rows which have a state, and a history

    def _move(
        self,
        table: str,
        key: str,
        to: str,
        sentence: str,
        expect: str | Collection[str] | None,
        at_s: float | None,
        columns: dict[str, Any],
    ) -> bool:
        id_column = {"scans": "uid", "trainings": "key"}[table]
        wanted = {expect} if isinstance(expect, str) else expect
        with self.transaction() as db:
            found = db.execute(f"SELECT state FROM {table} WHERE {id_column} = ?", (key,)).fetchone()
            if found is None:
                raise ValueError(f"the journal {self.path} has no {key!r} in {table}")
            if wanted is not None and found[0] not in wanted:
                return False
            self._change(table, key, {"state": to, "sentence": sentence, **columns})
            self._tell(key, time.time() if at_s is None else at_s, found[0], to, sentence)
        return True

    def _change(self, table: str, key: str, columns: dict[str, Any]) -> None:
        id_column = {"scans": "uid", "trainings": "key"}[table]
        with self.transaction() as db:
            done = db.execute(
                f"UPDATE {table} SET {', '.join(f'{name} = ?' for name in columns)} WHERE {id_column} = ?",
                (*map(as_column, columns.values()), key),
            )
            if not done.rowcount:
                raise ValueError(f"the journal {self.path} has no {key!r} in {table}")

    def _tell(self, key: str, time_s: float, old: str, new: str, sentence: str) -> None:
        with self.transaction() as db:
            db.execute(
                "INSERT INTO history (key, time_s, old, new, sentence) VALUES (?, ?, ?, ?, ?)",
                (key, time_s, old, new, sentence),
            )

    def remark(self, key: str, sentence: str, *, at_s: float | None = None) -> None:
        """Add a line to the history of a scan or a training which stays as it is.

        Raises
        ------
        ValueError
            If there is none.
        """
        sql = "SELECT state FROM scans WHERE uid = ? UNION ALL SELECT state FROM trainings WHERE key = ?"
        with self.transaction() as db:
            found = db.execute(sql, (key, key)).fetchone()
            if found is None:
                raise ValueError(f"the journal {self.path} has no {key!r}")
            self._tell(key, time.time() if at_s is None else at_s, found[0], found[0], sentence)

    def newest_version(self) -> str:
        """The latest version of the model store that came of a scan or a training; "" if none did."""
        every = "SELECT published_version AS v FROM scans UNION SELECT version FROM trainings"
        found = self.read(f"SELECT v FROM ({every}) ORDER BY length(v) DESC, v DESC LIMIT 1")
        return found[0][0] if found else ""

    def published_by(self, version: str) -> list[str]:
        """Scans and trainings that a version came of."""
        sql = "SELECT uid FROM scans WHERE published_version = ? UNION ALL SELECT key FROM trainings WHERE version = ?"
        return [row[0] for row in self.read(sql, version, version)]

    def history(self, key: str) -> list[HistoryLine]:
        """Every move of a scan or a training, oldest first."""
        sql = "SELECT time_s, old, new, sentence FROM history WHERE key = ? ORDER BY number"
        return [HistoryLine(*line) for line in self.read(sql, key)]

    # facts

    def fact(self, name: str, default: Any = None) -> Any:
        """A value that was kept under this name."""
        found = self.read("SELECT value FROM facts WHERE name = ?", name)
        return json.loads(found[0][0]) if found else default

    def set_fact(self, name: str, value: Any) -> None:
        """Keep a value which JSON can hold."""
        with self.transaction() as db:
            db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, json.dumps(value)))

    # the file

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise JournalError(
                f"the journal {self.path} cannot be used ({error}); it belongs on a local disk with some space, and no "
                "other program may keep it locked"
            ) from error

    def _connection(self) -> sqlite3.Connection:
        """This thread's connection to the file which has this name now, in this process."""
        db, identity = getattr(self._local, "held", (None, None))
        if db is not None and (db.in_transaction or identity == self._identity()):
            return db
        with self._told():
            db = self._open()
        self._local.held = (db, self._identity())
        self._opened.append(db)
        return db

    def _identity(self) -> tuple[int, ...] | None:
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return os.getpid(), found.st_dev, found.st_ino

    def _open(self) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise JournalError(f"the journal's folder {self.path.parent} cannot be made ({error.strerror})") from error
        deadline = time.monotonic() + self._timeout_s
        while True:
            db = sqlite3.connect(self.path, timeout=self._timeout_s, isolation_level=None, check_same_thread=False)
            try:
                return self._prepared(db)
            except sqlite3.OperationalError as error:
                db.close()
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.002)  # SQLite does not wait for one which changes the journal mode
            except BaseException:
                db.close()
                raise

    def _prepared(self, db: sqlite3.Connection) -> sqlite3.Connection:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        if _version(db) in (0, 1):
            with _rolled_back(db):
                db.execute("BEGIN IMMEDIATE")
                found = _version(db)  # another process may have changed it meanwhile
                for statement in {0: SCHEMA.strip().split(";\n"), 1: FROM_VERSION_1}.get(found, ()):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {max(found, SCHEMA_VERSION)}")
                db.execute("COMMIT")
        if _version(db) != SCHEMA_VERSION:
            raise JournalError(
                f"the journal {self.path} has version {_version(db)}, but this package reads {SCHEMA_VERSION}; "
                "use the package that wrote it, or name another file by loop.journal"
            )
        return db


def _version(db: sqlite3.Connection) -> int:
    return db.execute("PRAGMA user_version").fetchone()[0]


@contextlib.contextmanager
def _rolled_back(db: sqlite3.Connection) -> Iterator[None]:
    """Undo what is not committed at the end."""
    try:
        yield
    finally:
        if db.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                db.execute("ROLLBACK")

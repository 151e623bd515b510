"""What the journal holds: its tables, and a row of each as a dataclass."""

import json
import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

STATES = (
    "running",  # started, not stopped
    "received",  # stopped, nothing done yet
    "reconstructing",
    "labelled",  # reconstructed, its labels are in the corpus
    "validated",  # judged; nothing more to do for it now
    "training",
    "published",
    "suspended",  # not reconstructed, because the loop is suspended
    "parked",  # given up; the sentence says why
)
TRAINING_STATES = ("queued", "running", "judged", "published", "refused", "parked")
UNFINISHED = ("queued", "running", "judged")

SCHEMA_VERSION = 2
SCHEMA = f"""
CREATE TABLE scans (
    uid TEXT PRIMARY KEY, scan_id INTEGER NOT NULL, started_s REAL NOT NULL, stopped_s REAL, exit_status TEXT NOT NULL,
    start TEXT NOT NULL, state TEXT NOT NULL, sentence TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
    next_check_s REAL NOT NULL DEFAULT 0, job TEXT, mismatch REAL, ssim REAL, residual REAL, trusted INTEGER,
    live_version TEXT NOT NULL DEFAULT '', published_version TEXT NOT NULL DEFAULT '', outage_s REAL
) WITHOUT ROWID;
CREATE INDEX scans_by_state ON scans (state);
CREATE TABLE trainings (
    key TEXT PRIMARY KEY, state TEXT NOT NULL, sentence TEXT NOT NULL, requested_s REAL NOT NULL,
    snapshot TEXT NOT NULL DEFAULT '[]', job TEXT, version TEXT NOT NULL DEFAULT '',
    attempts INTEGER NOT NULL DEFAULT 0, next_check_s REAL NOT NULL DEFAULT 0, outage_s REAL
) WITHOUT ROWID;
CREATE UNIQUE INDEX one_training_at_a_time ON trainings ((1)) WHERE state IN {UNFINISHED};
CREATE TABLE history (
    number INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, time_s REAL NOT NULL, old TEXT NOT NULL,
    new TEXT NOT NULL, sentence TEXT NOT NULL
);
CREATE INDEX history_by_key ON history (key);
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE early_stops (uid TEXT PRIMARY KEY, doc TEXT NOT NULL) WITHOUT ROWID;
"""
FROM_VERSION_1 = ("ALTER TABLE scans ADD COLUMN outage_s REAL", "ALTER TABLE trainings ADD COLUMN outage_s REAL")
"""What makes a journal of version 1 one of version 2."""


@dataclass(frozen=True)
class ScanRow:
    """A scan and where its loop stands.

    Attributes
    ----------
    uid, scan_id : str, int
        Of the run; scan_id is 0 where the start document has none.
    started_s, stopped_s : float
        Times of its documents, s since 1970; stopped_s is None while it runs.
    exit_status : str
        Of its stop document; "" while it runs.
    start : dict
        Start document.
    state, sentence : str
        One of `STATES`, and why.
    attempts : int
        How often its job failed.
    next_check_s : float
        Not looked at before this time, s since 1970.
    job : str or None
        What the scheduler calls its job.
    mismatch, ssim, residual : float or None
        Of the final live image.
    trusted : bool or None
        Verdict on its reconstruction; None before there is one.
    live_version, published_version : str
        Model that was live in the scan, and the one that came of it; "" if none.
    outage_s : float or None
        Since when its job fails for something that may pass by itself, s since 1970; None if it does not.
    """

    uid: str
    scan_id: int
    started_s: float
    stopped_s: float | None
    exit_status: str
    start: dict[str, Any] = field(repr=False)
    state: str
    sentence: str
    attempts: int
    next_check_s: float
    job: str | None
    mismatch: float | None
    ssim: float | None
    residual: float | None
    trusted: bool | None
    live_version: str
    published_version: str
    outage_s: float | None = None


@dataclass(frozen=True)
class TrainingRow:
    """A training and where it stands; columns as in `ScanRow`.

    Attributes
    ----------
    state : str
        One of `TRAINING_STATES`; of all trainings at most one is `UNFINISHED`.
    snapshot : list of str
        Names of the corpus shards it learns from.
    version : str
        The model that came of it; "" if none.
    """

    key: str
    state: str
    sentence: str
    requested_s: float
    snapshot: list[str]
    job: str | None
    version: str
    attempts: int
    next_check_s: float
    outage_s: float | None = None


class HistoryLine(NamedTuple):
    """One decision: when, s since 1970, from which state ("" at first) to which, and why."""

    time_s: float
    old: str
    new: str
    sentence: str


LIVE_AGAIN = "of an earlier experiment is live again"
"""Said of a version, after its name."""


SCAN_COLUMNS = tuple(column.name for column in fields(ScanRow))
START, TRUSTED = SCAN_COLUMNS.index("start"), SCAN_COLUMNS.index("trusted")
TRAINING_COLUMNS = tuple(column.name for column in fields(TrainingRow))


def scan_row(values: tuple[Any, ...]) -> ScanRow:
    """A row of ``scans``, its columns in the order of `SCAN_COLUMNS`."""
    row = list(values)
    row[START] = json.loads(row[START])
    row[TRUSTED] = None if row[TRUSTED] is None else bool(row[TRUSTED])
    return ScanRow(*row)


def training_row(values: tuple[Any, ...]) -> TrainingRow:
    """A row of ``trainings``, its columns in the order of `TRAINING_COLUMNS`."""
    row = dict(zip(TRAINING_COLUMNS, values))
    return TrainingRow(**{**row, "snapshot": json.loads(row["snapshot"])})


def as_column(value: Any) -> Any:
    """A value as SQLite holds it; a number that is none (NaN) is no value.

    Examples
    --------
    >>> as_column(True), as_column(["a", "b"]), as_column(float("nan"))
    (1, '["a", "b"]', None)
    """
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, (list, tuple, dict)):
        return json.dumps(value)
    return str(value) if isinstance(value, Path) else value

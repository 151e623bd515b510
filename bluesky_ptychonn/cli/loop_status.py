"""What `loop status` and `loop show` say: rows of the journal for a reader."""

import shutil
import time
from collections.abc import Mapping, Sequence
from typing import Any

from bluesky_ptychonn.io.journal import Journal
from bluesky_ptychonn.io.journal_rows import SCAN_COLUMNS, TRAINING_COLUMNS, ScanRow, TrainingRow
from bluesky_ptychonn.training.loop.acknowledge import EDGE
from bluesky_ptychonn.training.loop.delivery import EDGE_STORE
from bluesky_ptychonn.training.loop.handout import SCHEDULER, Job
from bluesky_ptychonn.training.loop.policy import FINAL, Terms, clock
from bluesky_ptychonn.training.loop.service import standing_of
from bluesky_ptychonn.training.loop.serving import PULSE, PULSE_S, is_served
from bluesky_ptychonn.training.loop.transfer import TRANSFER

SCANS_SHOWN = 20
COLUMNS = ("scan", "run", "state", "mismatch", "SSIM", "residual", "live", "new", "why")
SILENT_S = 60.0
PHASES = {
    "submitting": "is being handed out",
    "gone": "is gone, its result is waited for",
    "cancelled": "is being cancelled",
    "taken": "is done",
}


def status_of(journal: Journal, terms: Terms, now_s: float) -> dict[str, Any]:
    """Everything that `status` tells, as values for JSON."""
    standing = standing_of(journal)
    pulse = journal.fact(PULSE) or {}
    served = is_served(journal.path)
    suspended = standing.is_suspended(now_s, terms)
    scans, trainings = journal.scans(), journal.trainings()
    return {
        "journal": str(journal.path),
        "service": served,
        "service_pid": pulse.get("pid") if served else None,
        "service_tick_s": pulse.get("tick_s") if served else None,
        "paused": standing.paused,
        "suspended": suspended,
        "suspended_until_s": standing.suspended_until_s,
        "scheduler": journal.fact(SCHEDULER) or {},
        "edge": journal.fact(EDGE) or {},
        "edge_store": journal.fact(EDGE_STORE) or {},
        "unfinished": sum(row.state not in FINAL or row.job is not None for row in scans),
        "scans": [_scan_values(row, now_s, standing.paused) for row in scans],
        "trainings": [_training_values(row, now_s, standing.paused) for row in trainings],
    }


def _scan_values(row: ScanRow, now_s: float, paused: bool) -> dict[str, Any]:
    names = [name for name in SCAN_COLUMNS if name not in ("start", "next_check_s")]
    return {**{name: getattr(row, name) for name in names}, "doing": doing(row, now_s, paused)}


def _training_values(row: TrainingRow, now_s: float, paused: bool) -> dict[str, Any]:
    names = [name for name in TRAINING_COLUMNS if name != "next_check_s"]
    return {**{name: getattr(row, name) for name in names}, "doing": doing(row, now_s, paused)}


def doing(row: ScanRow | TrainingRow, now_s: float, paused: bool) -> str:
    """What happens with a row now, beyond its state; "" if nothing does.

    Examples
    --------
    >>> doing(TrainingRow("t", "running", "", 0, [], "train submitted 17", "", 0, 0), 0, False)
    'train job 17'
    """
    if row.job:
        job = Job.parse(row.job)
        if job.native.startswith(TRANSFER) and job.phase == "submitted":
            return "transfers frames"
        named = f"{job.kind} job {job.native if job.phase != 'submitting' else ''}".strip()
        return f"{named} {PHASES[job.phase]}" if job.phase in PHASES else named
    if row.state not in ("received", "reconstructing", "labelled", "queued"):
        return ""
    if paused:
        return "waits: the loop is paused"
    return f"waits until {clock(row.next_check_s)}" if row.next_check_s > now_s else "waits for its turn"


def headline(status: Mapping[str, Any], now_s: float) -> list[str]:
    """How the loop stands, in lines for a terminal."""
    if not status["service"]:
        lines = ["no service works on this journal: start `bluesky-ptychonn loop run`"]
    else:
        tick_s = status["service_tick_s"]
        late_s = now_s - tick_s if tick_s else 0.0
        late = f", but its last tick was {late_s:.0f} s ago" if late_s > PULSE_S + SILENT_S else ""
        lines = [f"service: process {status['service_pid'] or 'unknown'}{late}"]
    if status["paused"]:
        lines.append("paused: no job is handed out until `bluesky-ptychonn loop resume`")
    if status["suspended"]:
        lines.append(f"suspended until {clock(status['suspended_until_s'])}: only residuals are looked at")
    elif status["suspended_until_s"] is not None:
        lines.append(f"the suspension ended at {clock(status['suspended_until_s'])}: the next scan is a check")
    else:
        lines.append("not suspended: every scan is reconstructed")
    if edge := status["edge"]:
        told = f"uses version {edge['version']}" if edge["version"] else "uses no model"
        late = now_s - edge["heard_s"] > PULSE_S + SILENT_S
        lines.append(f"edge: {'was last heard' if late else 'heard'} at {clock(edge['heard_s'])}, {told}")
    if copy := status["edge_store"]:
        had = f"has version {copy['version']} since {clock(copy['at_s'])}" if copy["version"] else "has no version yet"
        lines.append(f"the edge's store {copy['to']} {had}")
        if copy["told"]:
            lines[-1] += f"; IT GETS NO OTHER: {copy['told']}"
    failing = [row for row in status["scans"] + status["trainings"] if row["outage_s"] is not None]
    if failing:
        since, why = clock(min(row["outage_s"] for row in failing)), failing[-1]["sentence"]
        lines.append(f"IN TROUBLE since {since}: {len(failing)} of them cannot go on: {why}")
    down = status["scheduler"]
    if down:
        lines.append(
            f"NO JOB IS TAKEN, {down['errors']} times in a row: {down['told']}; again at {clock(down['again_s'])}"
        )
    return lines


def table_of(status: Mapping[str, Any], now_s: float, *, shown: int | None = SCANS_SHOWN) -> str:
    """The status for a terminal.

    Parameters
    ----------
    status : mapping
        See `status_of`.
    now_s : float
    shown : int, optional
        How many of the newest scans; all without it. Those that are not finished are always shown.
    """
    scans = status["scans"]
    newest = {scan["uid"] for scan in (scans if shown is None else scans[-shown:])}
    chosen = [scan for scan in scans if scan["uid"] in newest or scan["state"] not in FINAL]
    rows = [COLUMNS, *(_cells(scan) for scan in chosen)]
    lines = [*headline(status, now_s), "", *_aligned(rows)]
    if len(chosen) < len(scans):
        lines.append(f"{len(scans) - len(chosen)} earlier scans are not shown; --all shows them")
    for training in status["trainings"][-3:]:
        told = f"{training['sentence']}; {training['doing']}" if training["doing"] else training["sentence"]
        lines.append(f"training {training['key']}: {training['state']}: {told}")
    return "\n".join(lines)


def _cells(scan: Mapping[str, Any]) -> tuple[str, ...]:
    why = f"{scan['doing']}: {scan['sentence']}" if scan["doing"] else scan["sentence"]
    figures = (f"{scan[name]:.3f}" if scan[name] is not None else "" for name in ("mismatch", "ssim", "residual"))
    state = f"{scan['state']}, untrusted" if scan["trusted"] is False else scan["state"]
    number = str(scan["scan_id"] or "")
    return (number, scan["uid"][:8], state, *figures, scan["live_version"], scan["published_version"], why)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns under each other; the last one is cut where the terminal ends."""
    width = shutil.get_terminal_size((160, 24)).columns
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = []
    for row in rows:
        line = "  ".join([*(cell.ljust(size) for cell, size in zip(row, widths)), row[-1]]).rstrip()
        lines.append(line if len(line) <= width else line[: width - 1] + "…")
    return lines


def told_of(journal: Journal, row: ScanRow | TrainingRow, now_s: float) -> dict[str, Any]:
    """Everything about a scan or a training, and each decision, as values for JSON."""
    paused = standing_of(journal).paused
    is_scan = isinstance(row, ScanRow)
    values = _scan_values(row, now_s, paused) if is_scan else _training_values(row, now_s, paused)
    history = journal.history(row.uid if is_scan else row.key)
    return {**values, "history": [line._asdict() for line in history]}


def story_of(told: Mapping[str, Any]) -> str:
    """The same for a terminal: a line for each decision."""
    if "uid" in told:
        head = f"scan {told['scan_id'] or '(without a number)'}, run {told['uid']}: {told['state']}"
    else:
        head = f"training {told['key']}: {told['state']}"
    lines = [f"{head}{', ' * bool(told['doing'])}{told['doing']}"]
    figures = [f"{name} {told[name]:.4f}" for name in ("mismatch", "ssim", "residual") if told.get(name) is not None]
    if told.get("live_version"):
        figures.append(f"live version {told['live_version']}")
    if figures:
        lines.append("; ".join(figures))
    for line in told["history"]:
        moved = line["new"] if line["old"] in ("", line["new"]) else f"{line['old']} -> {line['new']}"
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(line["time_s"]))
        lines.append(f"{stamp}  {moved}: {line['sentence']}")
    return "\n".join(lines)

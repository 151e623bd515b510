"""The retrain trigger: how long a document waits for it, and what it costs the RunEngine.

First while the loop service, in a process of its own, works on the same journal and its scheduler hangs: no command of
Slurm's ever answers. Then while another process writes to the journal without a pause, and while one keeps it locked.
"""

import argparse
import contextlib
import itertools
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bluesky_ptychonn.io.journal import Journal

LOCKED_DOCUMENTS = 100
START_S = 30.0
TICK_S = 0.01
HANGING = """#!/bin/sh
echo "$0" >> "{asked}"
while [ -e "{asked}" ]; do sleep 0.2; done
"""
"""A command of the scheduler's; it ends when the folder of the benchmark is gone."""
WITHOUT, SUBSCRIBED, EVERYTHING = "without", "start and stop, as a session", "every document"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the case."""
    parser.add_argument("--documents", type=int, default=1000, help="stop documents; default: 1000")
    parser.add_argument(
        "--pause-ms", type=float, default=10.0, help="before each, as a disk at rest takes longer; default: 10 ms"
    )
    parser.add_argument("--events", type=int, default=200, help="of a run of the RunEngine; default: 200")
    parser.add_argument("--rounds", type=int, default=20, help="runs with and without, in turn; default: 20 of each")
    parser.add_argument(
        "--directory", type=Path, metavar="DIR", help="where the journal lies; default: a temporary one"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")


def run(options: argparse.Namespace) -> int:
    """Measure; 1 if a document is not in the journal at the end."""
    from bluesky_ptychonn.cli.bench_inference import processor
    from bluesky_ptychonn.cli.figures import conditions, refuse_unwritable, write_figures

    for name, low, high in (
        ("documents", 1, 100_000),
        ("pause_ms", 0, 1000),
        ("events", 1, 100_000),
        ("rounds", 1, 1000),
    ):
        if not low <= getattr(options, name) <= high:
            option = name.replace("_", "-")
            raise ValueError(f"--{option} {getattr(options, name):g}: allowed is {low} to {high}")
    if options.json:
        refuse_unwritable("--json", options.json)
    with tempfile.TemporaryDirectory(prefix="bench-trigger-", dir=options.directory) as place:
        directory, pause_s, few = Path(place), 1e-3 * options.pause_ms, min(options.documents, LOCKED_DOCUMENTS)
        measured_under = conditions(
            processor=processor(),
            pause_ms=options.pause_ms,
            events=options.events,
            rounds=options.rounds,
            fsync_ms_p50=_fsync_ms(directory, pause_s),
        )
        results = [
            accept(directory / "hangs" / "journal.sqlite", options.documents, pause_s, "scheduler hangs"),
            accept(directory / "busy" / "journal.sqlite", options.documents, pause_s, "journal busy"),
            accept(directory / "locked" / "journal.sqlite", few, pause_s, "journal locked"),
            *engine_rates(directory / "engine" / "journal.sqlite", options.events, options.rounds),
        ]
    print("\n".join(f"{name}: {value}" for name, value in measured_under.items()))
    for result in results:
        print("\n" + "\n".join(f"{name:28} {value}" for name, value in result.items()))
    if options.json:
        write_figures(options.json, "bench trigger", measured_under, results)
    return 0 if all(result["documents"] == result["rows"] for result in results[:3]) else 1


def accept(journal_file: Path, documents: int, pause_s: float, method: str) -> dict[str, Any]:
    """Figures of the acceptance of stop documents.

    Parameters
    ----------
    journal_file : Path
        The journal, which is made.
    documents : int
        Stop documents, each after its start document.
    pause_s : float
        Before each document.
    method : {"scheduler hangs", "journal busy", "journal locked"}
        What another process does meanwhile.
    """
    from bluesky_ptychonn.callbacks.retrain import RetrainTrigger

    journal, waits_ms = Journal(journal_file), {"start": np.empty(documents), "stop": np.empty(documents)}
    journal.open()
    trigger = RetrainTrigger(journal_file)
    uids = [str(uuid.uuid4()) for _ in range(documents)]
    meanwhile = {"scheduler hangs": _hanging_loop, "journal busy": _writer, "journal locked": _lock}[method]
    with meanwhile(journal_file) as told:
        for number, uid in enumerate(uids):
            for name, doc in _documents(uid, number).items():
                time.sleep(pause_s)
                begin = time.perf_counter()
                trigger(name, doc)
                waits_ms[name][number] = 1e3 * (time.perf_counter() - begin)
        more = told()
    trigger.close(10)
    counts = trigger.counts
    journal.absorb_spill()
    rows = sum(row.stopped_s is not None and row.uid in set(uids) for row in journal.scans())
    journal.close()
    return {
        "test": "trigger",
        "method": method,
        "documents": documents,
        "latency_ms_p50": _percentile(waits_ms["stop"], 50),
        "latency_ms_p99": _percentile(waits_ms["stop"], 99),
        "latency_ms_max": _percentile(waits_ms["stop"], 100),
        "start_latency_ms_p99": _percentile(waits_ms["start"], 99),
        "documents_journaled": counts["journaled"],
        "documents_spilled": counts["spilled"],
        "documents_held": counts["held"],
        "rows": rows,
        **more,
    }


def engine_rates(journal_file: Path, events: int, rounds: int) -> list[dict[str, Any]]:
    """Figures of a RunEngine with the trigger, subscribed in either way, and without; each the median of its runs."""
    from bluesky import RunEngine
    from bluesky import plan_stubs as bps
    from bluesky import preprocessors as bpp
    from ophyd import Signal

    from bluesky_ptychonn.callbacks.retrain import RetrainTrigger

    trigger, RE = RetrainTrigger(journal_file), RunEngine()
    device: Any = Signal(name="signal", value=0.0)
    subscriptions = {WITHOUT: (), SUBSCRIBED: ("start", "stop"), EVERYTHING: ("all",)}

    @bpp.run_decorator(md=_metadata())
    def plan():
        for _ in range(events):
            yield from bps.create()
            yield from bps.read(device)
            yield from bps.save()

    RE(plan())  # not counted: everything is imported and compiled
    seconds: dict[str, list[float]] = {method: [] for method in subscriptions}
    orders = itertools.cycle(itertools.permutations(subscriptions))
    for order in itertools.islice(orders, rounds):
        for method in order:
            tokens = [RE.subscribe(trigger, name) for name in subscriptions[method]]
            begin = time.perf_counter()
            RE(plan())
            seconds[method].append(time.perf_counter() - begin)
            for token in tokens:
                RE.unsubscribe(token)
    trigger.close(10)
    without = np.array(seconds[WITHOUT])
    return [
        {
            "test": "run engine",
            "method": method,
            "events_per_s": round(events / float(np.median(times)), 1),
            "rate_of_without": round(float(np.median(without / times)), 4),  # of the same round
            "run_ms": round(1e3 * float(np.median(times)), 2),
            "run_ms_more": round(1e3 * float(np.median(times - without)), 2),
            "run_ms_std": round(1e3 * float(np.std(times)), 2),
        }
        for method, times in seconds.items()
    ]


def _metadata() -> Mapping[str, Any]:
    from bluesky_ptychonn.core.request import ScanRequest

    request = ScanRequest(3.0, 3.0, 0.1, 1e-3, 2e-3, 10.0, center_um=(0.0, 0.0), probe_diameter_um=0.6)
    return {"plan_name": "spiral_ptycho_scan", **request.as_metadata()}


def _documents(uid: str, number: int) -> dict[str, dict[str, Any]]:
    start = {"uid": uid, "time": time.time(), "scan_id": number + 1, **_metadata()}
    stop = {"uid": str(uuid.uuid4()), "run_start": uid, "time": time.time(), "exit_status": "success", "num_events": {}}
    return {"start": start, "stop": stop}


def _percentile(values: np.ndarray, percent: float) -> float:
    return round(float(np.percentile(values, percent)), 3)


def _fsync_ms(directory: Path, pause_s: float) -> float:
    """Median time of a small append through to this disk, ms."""
    from bluesky_ptychonn.io.spill import append

    times = []
    for _ in range(50):
        time.sleep(pause_s)
        begin = time.perf_counter()
        append(directory / "disk.jsonl", ["x" * 2000])
        times.append(1e3 * (time.perf_counter() - begin))
    return _percentile(np.array(times), 50)


@contextlib.contextmanager
def _lock(journal_file: Path) -> Iterator[Callable[[], dict[str, Any]]]:
    other = sqlite3.connect(journal_file, isolation_level=None)
    try:
        other.execute("BEGIN EXCLUSIVE")
        yield dict
    finally:
        other.close()


@contextlib.contextmanager
def _writer(journal_file: Path) -> Iterator[Callable[[], dict[str, Any]]]:
    journal = Journal(journal_file)
    with _beside("write", journal_file, lambda: journal.fact("written"), dict(os.environ)):
        yield lambda: {"commits_meanwhile": journal.fact("written")}
    journal.close()


@contextlib.contextmanager
def _hanging_loop(journal_file: Path) -> Iterator[Callable[[], dict[str, Any]]]:
    """The loop service, when it waits for its scheduler."""
    commands, asked = journal_file.parent / "bin", journal_file.parent / "asked"
    commands.mkdir()
    for name in ("sbatch", "squeue", "scancel", "sinfo", "sacct"):
        (commands / name).write_text(HANGING.format(asked=asked))
        (commands / name).chmod(0o755)
    journal = Journal(journal_file)
    journal.note(_documents("the-first", 0).items())
    path = {**os.environ, "PATH": f"{commands}{os.pathsep}{os.environ.get('PATH', '')}"}
    try:
        with _beside("loop", journal_file, asked.exists, path):
            yield lambda: {"scheduler_asked": len(asked.read_text().splitlines())}
    finally:
        asked.unlink(missing_ok=True)
        journal.close()


@contextlib.contextmanager
def _beside(what: str, journal_file: Path, ready: Callable[[], Any], environment: dict[str, str]) -> Iterator[None]:
    """A process beside this one, from when it is at work until the end."""
    from bluesky_ptychonn.simulation.processes import signal_group

    command = [sys.executable, "-m", "bluesky_ptychonn.cli.bench_trigger", what, str(journal_file)]
    process = subprocess.Popen(command, start_new_session=True, env=environment)
    try:
        deadline = time.monotonic() + START_S
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"a process of the benchmark did not begin to work; try `{' '.join(command)}`")
            time.sleep(0.02)
        yield
    finally:
        signal_group(process.pid, signal.SIGKILL)
        process.wait()


def loop(journal_file: Path) -> None:
    """Be the loop service, under Slurm."""
    from bluesky_ptychonn.training.loop.desk import FolderDesk
    from bluesky_ptychonn.training.loop.patience import Patience
    from bluesky_ptychonn.training.loop.policy import Terms
    from bluesky_ptychonn.training.loop.runner import make_runner
    from bluesky_ptychonn.training.loop.service import LoopService

    desk = FolderDesk(journal_file.parent, make_runner("slurm"))
    service = LoopService(Journal(journal_file), desk, Terms(), Patience())
    while True:
        service.tick(time.time())
        time.sleep(TICK_S)


def write(journal_file: Path) -> None:
    """Commit without a pause, a few ms each, and move what is received."""
    journal = Journal(journal_file)
    for written in itertools.count(1):
        with journal.transaction():
            journal.set_fact("written", written)
            for row in journal.scans("received"):
                journal.move(row.uid, "suspended", "for the benchmark", expect="received")


if __name__ == "__main__":
    {"loop": loop, "write": write}[sys.argv[1]](Path(sys.argv[2]))

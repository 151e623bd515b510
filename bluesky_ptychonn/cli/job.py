"""One job of the loop, complete in its folder: what the service hands to this machine, to Slurm or to PBS.

    bluesky-ptychonn job loop/jobs/scan-5f3a0c1b

The folder's spec.json says what to do; result.json, written last, says what came of it. Started twice, at once or
later, the job is done once; killed at any moment, it goes on where it was. Told to make room (SIGUSR1, SIGTERM, or the
end of its walltime is near) it writes its checkpoint and ends with status 75.

Kinds, and their options beside ``store``, ``corpus``, ``engine`` (of the CPU), ``threads`` and ``seed``:

  scan      reconstruct, label into the corpus (once for each run), judge the live model, keep the refined probe
            method, sweeps, modes, holdout, batch, correct_positions, start_probe (file; default: the scan's own)
  residual  the label-free residual of the live model on a scan
            earlier (so many versions are compared first, and the best becomes the live one)
  probe     the refined probe beside the unchanged network as a new version, through the gate
            margin, probe (file), held_out (runs; default: the scan itself)
  train     learn from the corpus, make a model, and offer it to the gate
            snapshot (shards), runs (that asked for it), held_out (runs), share, margin, minutes or epochs, recipe,
            recipe_changes, network, configuration, warm, start (folder of a checkpoint), probe (file), name, ranks,
            launcher (srun, mpiexec, torchrun)

Exit status: 0 done, or done before, or done by another process now; 1 failed; 75 to be started again.
"""

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bluesky_ptychonn.cli.interruption import signals_noted
from bluesky_ptychonn.cli.job_run import JobRun, Preempted, plain
from bluesky_ptychonn.cli.job_source import may_pass
from bluesky_ptychonn.training.loop import jobs
from bluesky_ptychonn.training.loop.lease import held
from bluesky_ptychonn.training.loop.submit import WALLTIME

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
GRACE_S = 60.0
"""Before the end of its walltime a job ends by itself."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("directory", type=Path, metavar="JOBDIR", help="folder of the job")
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)  # one of several that learn


def run(options: argparse.Namespace) -> int:
    """Do the job of a folder."""
    directory = options.directory.resolve()
    spec = jobs.read_spec(directory)
    with _told_to_stop() as stopped:
        if options.rank:
            from bluesky_ptychonn.cli.job_learning import learn

            return learn(directory, stopped)
        if jobs.result(directory) is not None:
            print(f"{directory} is done")
            return 0
        with held(directory) as lease:
            if lease is None:
                print(f"{directory} is being worked on by another process")
                return 0
            if jobs.result(directory) is not None:
                return 0
            with _logged(directory / jobs.LOG):
                return _attempt(JobRun(directory, spec, stopped, lease))


def _attempt(job: JobRun) -> int:
    """One attempt at a job, with its beginning and end written down."""
    native = os.environ.get("SLURM_JOB_ID") or os.environ.get("PBS_JOBID") or ""
    attempt = jobs.begin_attempt(job.directory, native)
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} attempt {attempt.number} on {attempt.host}, process {attempt.pid}")
    status, reason = 1, ""
    try:
        values = _done(job)
        if job.lease.is_mine():
            jobs.write_result(job.directory, values)
            status, reason = (0, "") if values["ok"] else (1, values["reason"])
        else:
            reason = "another machine took the job over"
    except Preempted:
        status, reason = jobs.PREEMPTED, "told to make room"
    except OSError as error:  # not even the marker could be written
        reason = str(error)
    print(f"{time.strftime('%H:%M:%S')} ends with {status} {reason}", flush=True)
    with contextlib.suppress(OSError):
        jobs.end_attempt(job.directory, attempt, status, reason)
    return status


def _done(job: JobRun) -> dict[str, Any]:
    """The marker: what came of the job, or why nothing did."""
    from bluesky_ptychonn.cli import job_models, job_scan, job_training

    kinds = {
        "scan": job_scan.run_scan,
        "residual": job_scan.run_residual,
        "probe": job_models.run_probe,
        "train": job_training.run_train,
    }
    began_s = time.monotonic()
    about = {"kind": job.spec.kind, "key": job.spec.key}
    try:
        values = {**about, "ok": True, "reason": "", **kinds[job.spec.kind](job)}
    except Preempted:
        raise
    except Exception as error:
        import traceback

        traceback.print_exc()
        told = str(error) or f"it ended with {type(error).__name__}"
        values = {**about, "ok": False, "reason": told, "transient": may_pass(error)}
    return plain({**values, "seconds": round(time.monotonic() - began_s, 1)})


@contextlib.contextmanager
def _told_to_stop() -> Iterator[Callable[[], bool]]:
    """Whether the job was told to make room, or its walltime is nearly over."""
    walltime_s = float(os.environ.get(WALLTIME, "inf"))
    end_s = time.monotonic() + walltime_s - min(GRACE_S, walltime_s / 10)
    with signals_noted(SIGNALS) as got:
        yield lambda: bool(got) or time.monotonic() > end_s


@contextlib.contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Within, everything that is said goes into a log; on a terminal, to the terminal."""
    if sys.stdout.isatty():
        yield
        return
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(number) for number in (1, 2)]
    with open(path, "ab") as log:
        for number in (1, 2):
            os.dup2(log.fileno(), number)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, saved in zip((1, 2), kept, strict=True):
            os.dup2(saved, number)
            os.close(saved)

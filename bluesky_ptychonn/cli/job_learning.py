"""The learning inside a training's job: in its own process, or in several that a launcher starts and that share it."""

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bluesky_ptychonn.cli.job_run import JobRun, Preempted
from bluesky_ptychonn.training.loop.jobs import PREEMPTED

PLAN, LEARNED, TRAINING = "learning.json", "learned.json", "training"
LAUNCHERS = ("srun", "mpiexec", "torchrun")
GRACE_S = 60.0
"""For the processes to write their checkpoint."""
PR_SET_PDEATHSIG = 1


def learn_in(job: JobRun) -> dict[str, Any]:
    """Learn what the plan in the job's folder says, or go on with it; returns the last figures.

    Raises
    ------
    Preempted
        If it was told to make room; the checkpoint is written.
    RuntimeError
        If one of several processes fails.
    """
    ranks, launcher = int(job.option("ranks", 1)), str(job.option("launcher", ""))
    if launcher and launcher not in LAUNCHERS:
        raise ValueError(f"launcher = {launcher!r}; allowed is one of {', '.join(LAUNCHERS)}, or none")
    if ranks > 1 and not launcher:
        raise ValueError(f"ranks = {ranks} needs a launcher: {', '.join(LAUNCHERS)}")
    if not (job.directory / LEARNED).is_file():
        status = _launched(job, ranks, launcher) if launcher else learn(job.directory, job.stopped, alone=True)
        if not (job.directory / LEARNED).is_file():
            if status == PREEMPTED or job.stopped():
                raise Preempted
            raise RuntimeError(f"{launcher} ended with {status}; the log says more")
    return json.loads((job.directory / LEARNED).read_bytes())


def learn(directory: Path, stopped: Callable[[], bool], *, alone: bool = False) -> int:
    """Learn as one of the processes that share a training; the first one writes.

    Returns
    -------
    int
        0, or 75 if it was told to make room.
    """
    from bluesky_ptychonn.io.durable import replace_file
    from bluesky_ptychonn.training.learning.corpus import open_shard
    from bluesky_ptychonn.training.learning.ranks import Ranks, find_ranks
    from bluesky_ptychonn.training.learning.recipes import RECIPES
    from bluesky_ptychonn.training.learning.train import train

    plan = json.loads((directory / PLAN).read_bytes())
    ranks = Ranks() if alone else find_ranks(os.environ)
    told: list[bool] = []

    def stop() -> bool:
        told[:] = [True] if stopped() else told
        return bool(told)

    figures = train(
        directory / TRAINING,
        [open_shard(Path(folder)) for folder in plan["shards"]],
        recipe=replace(RECIPES[plan["recipe"]], **plan["recipe_changes"]),
        network=plan["network"],
        configuration=plan["configuration"],
        epochs=plan["epochs"],
        minutes=plan["minutes"],
        seed=plan["seed"],
        threads=plan["threads"],
        start=Path(plan["start"]) if plan["start"] else None,
        ranks=ranks,
        stop=stop,
    )
    done = figures["results"] and figures["results"][0]["step"] >= figures["conditions"]["steps"] > 0
    if not done:
        return PREEMPTED
    if ranks.first:
        replace_file(directory / LEARNED, json.dumps(figures["results"][0]).encode())
    return 0


def _launched(job: JobRun, ranks: int, launcher: str) -> int:
    """Start the processes, pass on what the job is told, and wait for them; returns the launcher's exit status."""
    command = [*_prefix(launcher, ranks), "-m", "bluesky_ptychonn.cli.main", "job", str(job.directory), "--rank"]
    environment = dict(os.environ)
    if launcher != "torchrun":
        environment |= {"MASTER_ADDR": _address(), "MASTER_PORT": str(_free_port())}
    job.say(f"{ranks} processes learn, started by {launcher}")
    process = subprocess.Popen(command, env=environment, preexec_fn=_end_with_parent())
    told_s = float("inf")
    try:
        while process.poll() is None:
            if job.stopped() and told_s == float("inf"):
                told_s = time.monotonic()
                process.send_signal(signal.SIGTERM if launcher == "torchrun" else signal.SIGUSR1)
            if time.monotonic() - told_s > GRACE_S:
                break
            time.sleep(0.1)
    finally:
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
    return process.wait()


def _prefix(launcher: str, ranks: int) -> list[str]:
    """How a launcher starts Python so many times."""
    if launcher == "srun":
        return ["srun", f"--ntasks={ranks}", "--kill-on-bad-exit=1", sys.executable]
    if launcher == "mpiexec":
        return ["mpiexec", "-n", str(ranks), sys.executable]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]


def _address() -> str:
    """Where the processes find the first one: here, because the job runs on the first of its machines."""
    nodes = int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))
    with contextlib.suppress(KeyError, OSError):
        nodes = max(nodes, len(set(Path(os.environ["PBS_NODEFILE"]).read_text().split())))
    return socket.gethostname() if nodes > 1 else "127.0.0.1"


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("", 0))
        return one.getsockname()[1]


def _end_with_parent() -> Callable[[], None] | None:
    """What a launcher does first: ask the system to end it if the job, which holds the folder, is killed."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

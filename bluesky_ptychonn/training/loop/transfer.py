"""Frames to the machine of the jobs, as a step before a job is handed out, in a process of its own.

The step is over when the run's record is there, see `io.run_record`: it names the copies and their hashes, and the job
reads them. A step that fails writes the job's marker with the reason, as the job itself would; so it is an attempt like
any other, and the next one goes on where it ended.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from bluesky_ptychonn.io.durable import replace_file
from bluesky_ptychonn.training.loop.jobs import named_directory, note_native, read_spec, record_path, submitted
from bluesky_ptychonn.training.loop.runner import Resources, Runner, RunnerError

TRANSFER = "transfer"
"""Beginning of the native id of a job whose frames are still on their way."""
STEP, LOG = "transfer.json", "transfer.txt"
COMMAND = (sys.executable, "-m", "bluesky_ptychonn.cli.job_send")


class SendingRunner:
    """A runner that has the frames sent before it hands a job to another one.

    Parameters
    ----------
    runner : Runner
        Takes the jobs whose frames have arrived.
    loop_directory : Path
    """

    def __init__(self, runner: Runner, loop_directory: Path) -> None:
        self._runner, self._loop_directory = runner, Path(loop_directory)
        self._steps: list[subprocess.Popen[bytes]] = []

    def submit(self, directory: Path, resources: Resources | None = None) -> str:
        """See `Runner`."""
        spec = read_spec(directory)
        if not spec.source or record_path(self._loop_directory, spec.key).exists():
            return self._runner.submit(directory, resources)
        step = _noted(directory)
        return step if step and _is_running(step) else self._begin(directory)

    def alive(self, native: str) -> bool | None:
        """See `Runner`; once the frames have arrived, this hands the job on."""
        if not native.startswith(TRANSFER):
            return self._runner.alive(native)
        if _is_running(native):
            return True
        kind, _, key = native.rsplit(":", 1)[1].partition("-")
        if not record_path(self._loop_directory, key).exists():
            return False
        directory = named_directory(self._loop_directory, kind, key)
        try:
            return self._runner.alive(submitted(directory) or self._runner.submit(directory))
        except RunnerError:
            return None

    def cancel(self, native: str) -> None:
        """See `Runner`."""
        if not native.startswith(TRANSFER):
            self._runner.cancel(native)
            return
        if _is_running(native):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(int(native.split(":")[1]), signal.SIGTERM)
            return
        kind, _, key = native.rsplit(":", 1)[1].partition("-")
        if job := submitted(named_directory(self._loop_directory, kind, key)):
            self._runner.cancel(job)

    def _begin(self, directory: Path) -> str:
        import psutil

        note_native(directory, "")  # an earlier job is not this one
        self._steps = [step for step in self._steps if step.poll() is None]
        with open(directory / LOG, "ab") as log:
            step = subprocess.Popen(
                [*COMMAND, str(directory)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._steps.append(step)
        native = f"{TRANSFER}:{step.pid}:{psutil.Process(step.pid).create_time():.2f}:{directory.name}"
        replace_file(directory / STEP, json.dumps({"native": native}).encode())
        return native


def was_last(directory: Path) -> bool:
    """Whether a transfer was begun after which no job was handed on."""
    return (directory / STEP).exists() and not submitted(directory)


def _noted(directory: Path) -> str:
    """Native id of the last step; "" if there was none."""
    try:
        return str(json.loads((directory / STEP).read_bytes())["native"])
    except (OSError, ValueError, KeyError):
        return ""


def _is_running(native: str) -> bool:
    """Whether the process of a step runs; another one with its number is not it."""
    import psutil

    _, pid, began_s, _ = native.split(":")
    try:
        process = psutil.Process(int(pid))
        return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - float(began_s)) < 0.1
    except psutil.NoSuchProcess:
        return False

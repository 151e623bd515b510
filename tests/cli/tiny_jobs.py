"""Run jobs of a tiny loop in this process: whole, up to a step, or told to make room."""

import os
import shutil
import threading
import time
from pathlib import Path

import pytest
from tiny_loop import TinyLoop

from bluesky_ptychonn.cli import job_run
from bluesky_ptychonn.cli.main import main
from bluesky_ptychonn.training.loop import jobs


class Kill(BaseException):
    """Stands for a kill in this process."""


def job(folder: Path) -> int:
    """Exit status of a job."""
    return main(["job", str(folder)])


def killed_at(folder: Path, step: str) -> None:
    """Run a job until it has reached a step."""

    def kill(*_):
        raise Kill

    with pytest.MonkeyPatch.context() as here:
        here.setenv("BLUESKY_PTYCHONN_FAULT", f"job:{step}")
        here.setattr(job_run.os, "kill", kill)
        with pytest.raises(Kill):
            job(folder)
    assert jobs.result(folder) is None


def told(folder: Path, number: int, when: str) -> int:
    """Exit status of a job that is sent a signal once a file of its folder is there, and half a second later."""

    def tell():
        end_s = time.monotonic() + 60
        while not (folder / when).exists() and time.monotonic() < end_s:
            time.sleep(0.01)
        time.sleep(0.5)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=tell)
    before = job_run.signal.signal(number, lambda *_: None)  # should it come too late
    thread.start()
    try:
        return job(folder)
    finally:
        thread.join()
        job_run.signal.signal(number, before)


def copy_of(loop: TinyLoop, folder: Path) -> TinyLoop:
    """The same loop in another folder; jobs that are done name scans in the first one, which are the same."""
    copied = TinyLoop.__new__(TinyLoop)
    copied.folder, copied.directory, copied.store = folder, folder / "loop", folder / "store"
    shutil.copytree(loop.folder, folder, dirs_exist_ok=True)
    return copied

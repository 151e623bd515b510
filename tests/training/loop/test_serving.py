"""The service as a process: alone on its journal, and not to be brought down by a tick."""

import os
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise

import pytest
from loop_world import T0, Sample, World

from bluesky_ptychonn.io.journal import Journal, JournalError
from bluesky_ptychonn.training.loop.faults import FAULTS, Fault, fault
from bluesky_ptychonn.training.loop.serving import PULSE, OtherServiceError, is_served, only_one, serve

HOLD = """
import sys, time
from pathlib import Path
from bluesky_ptychonn.training.loop.serving import only_one
with only_one(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that serves the journal."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "journal.sqlite")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_two_services_never_share_a_journal(tmp_path, other):
    journal = tmp_path / "journal.sqlite"
    assert is_served(journal)
    with pytest.raises(OtherServiceError, match=f"process {other.pid}"), only_one(journal):
        pass
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    assert not is_served(journal)
    with only_one(journal):
        assert is_served(journal)
    assert not is_served(journal)


def test_looking_whether_it_is_served_does_not_keep_a_service_from_starting(tmp_path):
    journal, stop = tmp_path / "journal.sqlite", threading.Event()
    with only_one(journal):
        pass

    def look():
        while not stop.is_set():
            is_served(journal)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _ in range(50):
            with only_one(journal):
                pass
    finally:
        stop.set()
        looking.join()


class Ticks:
    """A service whose ticks go as a test says."""

    def __init__(self, stop, *problems):
        self.stop, self.problems, self.times = stop, list(problems), []

    def tick(self, now_s):
        self.times.append(time.monotonic())
        problem = self.problems.pop(0)
        if not self.problems:
            self.stop.set()
        if problem is not None:
            raise problem


@pytest.mark.parametrize("problem", [JournalError("locked"), OSError("disk full"), KeyError("a mistake")])
def test_a_tick_that_fails_is_followed_by_another_one(tmp_path, problem, caplog):
    stop = threading.Event()
    service = Ticks(stop, problem, problem, None)
    serve(service, Journal(tmp_path / "journal.sqlite"), stop, poll_s=0.02)
    assert len(service.times) == 3
    waits = [later - earlier for earlier, later in pairwise(service.times)]
    assert waits[0] >= 0.04
    assert waits[1] >= 0.08
    assert [record.message for record in caplog.records] == [f"the loop waits: {problem}"], "told once"


def test_what_follows_a_tick_cannot_end_the_service(tmp_path, caplog):
    stop = threading.Event()
    service = Ticks(stop, None, None)

    def after():
        raise RuntimeError("no page")

    serve(service, Journal(tmp_path / "journal.sqlite"), stop, poll_s=0.01, after=after)
    assert len(service.times) == 2
    assert "no page" in caplog.text


def test_its_pulse_is_in_the_journal(tmp_path):
    world, stop, times = World(tmp_path, Sample()), threading.Event(), iter(range(0, 1000, 4))

    def clock():
        return T0 + next(times)

    ticked = []

    class Service:
        def tick(self, now_s):
            ticked.append(now_s)
            if len(ticked) == 12:
                stop.set()

    serve(Service(), world.journal, stop, poll_s=0.0, clock=clock)
    pulse = world.journal.fact(PULSE)
    assert pulse["pid"] == os.getpid()
    assert 0 <= ticked[-1] - pulse["tick_s"] <= 14


def test_a_kill_at_a_numbered_place_is_a_kill(monkeypatch):
    code = "from bluesky_ptychonn.training.loop.faults import fault\nfault(6)\nprint('alive', flush=True)\nfault(7)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "BLUESKY_PTYCHONN_FAULT": "3,7"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "alive\n")
    assert done.stderr.endswith("killed at fault point 7\n")
    monkeypatch.setenv("BLUESKY_PTYCHONN_FAULT", "raise:3")
    fault(2)
    with pytest.raises(Fault, match="does not know its name"):
        fault(3)
    assert list(FAULTS) == list(range(1, len(FAULTS) + 1))

"""The retrain trigger: a row per run, and whatever is down, the scan goes on and nothing is lost."""

import contextlib
import logging
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from bluesky import RunEngine
from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from ophyd import Signal

from bluesky_ptychonn.callbacks import retrain
from bluesky_ptychonn.callbacks.retrain import RetrainTrigger
from bluesky_ptychonn.config import write_settings
from bluesky_ptychonn.io.journal import Journal

pytestmark = pytest.mark.production_callbacks

SIGNAL = Signal(name="signal", value=1.0)
SLOW_S = 5.0
"""What no bounded wait takes, on a busy machine either."""


def start_of(uid, **more):
    return {"uid": uid, "time": 1.0, "scan_id": 1, "ptycho": {"schema_version": 1}, **more}


def stop_of(uid, **more):
    return {"run_start": uid, "uid": f"stop-{uid}", "time": 2.0, "exit_status": "success", **more}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "loop" / "journal.sqlite"


@pytest.fixture
def trigger(path):
    made = RetrainTrigger(path, patience_s=60)  # so that what was given is on the disk, on a busy machine too
    yield made
    made.close()


@pytest.fixture
def locked(path):
    """Another keeps the journal locked, until it is closed."""
    Journal(path).open()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    yield other
    other.close()


def a_run(events=2, **md):
    @bpp.run_decorator(md=md)
    def plan():
        for _ in range(events):
            yield from bps.create()
            yield from bps.read(SIGNAL)
            yield from bps.save()

    return plan()


@pytest.mark.parametrize("names", [("all",), ("start", "stop")])
def test_a_row_per_ptychography_run(trigger, path, names):
    RE = RunEngine()
    for name in names:
        RE.subscribe(trigger, name)
    (wanted,) = RE(a_run(ptycho={"step_um": 0.1}, sample_name="star"))
    RE(a_run())
    with pytest.raises(ZeroDivisionError):
        RE(bpp.run_wrapper(bpp.pchain(bps.null(), _fails()), md={"ptycho": {}}))
    done, failed = Journal(path).scans()
    assert (done.uid, done.state, done.exit_status, done.start["sample_name"]) == (
        wanted,
        "received",
        "success",
        "star",
    )
    assert (failed.state, failed.exit_status) == ("received", "fail")
    assert trigger.counts == {"journaled": 4, "spilled": 0, "held": 0}


def _fails():
    yield from bps.null()
    raise ZeroDivisionError


def test_a_document_is_on_the_disk_when_the_call_returns(trigger, path):
    """Read by another process: nothing is on its way any more."""
    trigger("start", start_of("a"))
    code = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('SELECT uid, state FROM scans').fetchall())"
    seen = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == "[('a', 'running')]"


def test_a_stop_whose_start_was_missed_waits_for_it(trigger, path):
    """As over 0MQ: the trigger does not know whether the run concerns it; the journal does, later."""
    trigger("stop", stop_of("a"))
    trigger("start", {"uid": "other", "time": 1.0})
    trigger("stop", stop_of("other"))
    journal = Journal(path)
    assert journal.scans() == []
    journal.note_start(start_of("a"))
    assert [(row.uid, row.state) for row in journal.scans()] == [("a", "received")]
    assert journal.read("SELECT uid FROM early_stops") == []


def test_an_odd_document_harms_neither_scan_nor_others(trigger, path, caplog):
    for name, doc in (("start", {}), ("start", {"uid": 7, "ptycho": {}}), ("stop", {"uid": "x"}), ("stop", None)):
        trigger(name, doc)
    trigger("start", start_of("a", odd={("tuple", 1): {3}, "array": np.arange(2), "path": Path("x"), "bad": "\ud800"}))
    assert [row.start["odd"]["array"] for row in Journal(path).scans()] == [[0, 1]]
    assert caplog.text.count("the scan is not affected") == 4


# what may be down


def test_a_locked_journal_is_spilled_and_told_once(trigger, path, locked, caplog):
    begin = time.monotonic()
    for uid in "abc":
        trigger("start", start_of(uid))
        trigger("stop", stop_of(uid))
    assert time.monotonic() - begin < SLOW_S
    assert trigger.close()
    assert trigger.counts == {"journaled": 0, "spilled": 6, "held": 0}
    (warning,) = [record.getMessage() for record in caplog.records if "database is locked" in record.getMessage()]
    assert f"the loop will read {path.with_suffix('.spill.jsonl')}" in warning

    locked.close()
    journal = Journal(path)
    assert journal.scans() == []
    assert journal.absorb_spill() == 6
    assert [row.state for row in journal.scans()] == ["received"] * 3


def test_a_journal_that_is_free_again_is_used_again_and_told(trigger, path, locked, caplog):
    caplog.set_level(logging.INFO)
    trigger("start", start_of("a"))
    _until(lambda: trigger.counts["spilled"] == 1)
    locked.close()
    trigger("stop", stop_of("a"))
    trigger("start", start_of("b"))
    _until(lambda: trigger.counts["journaled"] == 2)
    assert caplog.text.count("takes documents again") == 1
    Journal(path).absorb_spill()
    assert [(row.uid, row.state) for row in Journal(path).scans()] == [("a", "received"), ("b", "running")]


def test_trouble_that_comes_and_goes_is_told_once_and_again_after_some_quiet(trigger, path, monkeypatch, caplog):
    """As on a machine whose disk is busy: each document that is spilled is safe."""

    def trouble(uid):
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        before = trigger.counts["spilled"]
        trigger("start", start_of(uid))
        _until(lambda: trigger.counts["spilled"] > before)
        other.close()
        before = trigger.counts["journaled"]
        trigger("stop", stop_of(uid))
        _until(lambda: trigger.counts["journaled"] > before)

    trigger("start", start_of("a"))
    _until(lambda: trigger.counts["journaled"])
    trouble("b")
    trouble("c")
    assert caplog.text.count("database is locked") == 1
    monkeypatch.setattr(retrain, "QUIET_S", 0.0)
    trouble("d")
    assert caplog.text.count("database is locked") == 2


def test_a_disk_that_hangs_delays_one_document_and_only_so_long(path, monkeypatch, caplog):
    release, note = threading.Event(), Journal.note

    def hangs(self, documents):
        assert release.wait(60)
        note(self, documents)

    monkeypatch.setattr(Journal, "note", hangs)
    trigger, waits_s = RetrainTrigger(path, patience_s=1.0), []
    for number in range(10):
        begin = time.monotonic()
        trigger("start", start_of(f"u{number}"))
        waits_s.append(time.monotonic() - begin)
    assert 1.0 <= waits_s[0] < 1.0 + SLOW_S
    assert sum(waits_s[1:]) < 1.0  # nine that are not waited for take less than one that is
    assert trigger.counts["held"] == 10
    assert caplog.text.count("does not answer within 1000 ms") == 1
    release.set()
    assert trigger.close(30)
    assert len(Journal(path).scans()) == 10


def test_what_no_disk_takes_is_kept_and_written_at_the_next_document(tmp_path, caplog):
    folder = tmp_path / "loop"
    folder.write_text("a file where the folder should be")
    trigger = RetrainTrigger(folder / "journal.sqlite")
    trigger("start", start_of("a"))
    trigger("stop", stop_of("a"))
    _until(lambda: trigger.counts["held"] == 2)
    folder.unlink()
    trigger("start", start_of("b"))
    _until(lambda: trigger.counts["held"] == 0)
    assert [(row.uid, row.state) for row in Journal(folder / "journal.sqlite").scans()] == [
        ("a", "received"),
        ("b", "running"),
    ]
    assert caplog.text.count("is kept in memory") == 1
    trigger.close()


@pytest.mark.parametrize("how", ["by itself", "at the end"])
def test_what_is_kept_is_tried_again_without_another_document(tmp_path, monkeypatch, how):
    monkeypatch.setattr(retrain, "RETRY_S", 0.05 if how == "by itself" else 3600.0)
    folder = tmp_path / "loop"
    folder.write_text("")
    trigger = RetrainTrigger(folder / "journal.sqlite")
    trigger("start", start_of("a"))
    _until(lambda: trigger.counts["held"] == 1)
    folder.unlink()
    if how == "at the end":
        assert trigger.close(30)
    _until(lambda: trigger.counts["held"] == 0)
    assert len(Journal(folder / "journal.sqlite").scans()) == 1
    trigger.close()


def test_what_is_lost_at_the_end_is_told(tmp_path, caplog):
    (tmp_path / "loop").write_text("")
    trigger = RetrainTrigger(tmp_path / "loop" / "journal.sqlite")
    trigger("start", start_of("a"))
    assert not trigger.close(30)
    assert "1 documents could not be written" in caplog.text


def test_a_closed_trigger_works_when_a_document_comes(trigger, path):
    assert trigger.close(30)
    trigger("start", start_of("a"))
    assert trigger.close(30)
    assert len(Journal(path).scans()) == 1


def test_a_torn_spill_loses_nothing(trigger, path, locked, caplog):
    """The disk is full in the middle of a line; when there is room, all of it is written again."""
    for uid in ("a", "b"):
        trigger("start", start_of(uid))
    _until(lambda: trigger.counts["spilled"] == 2)
    spill, limits = path.with_suffix(".spill.jsonl"), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (spill.stat().st_size + 40, limits[1]))
    try:
        trigger("start", start_of("c"))
        _until(lambda: trigger.counts["held"] == 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not spill.read_text().endswith("\n")
    trigger("start", start_of("d"))
    _until(lambda: trigger.counts["held"] == 0)
    locked.close()
    journal = Journal(path)
    journal.absorb_spill()
    assert sorted(row.uid for row in journal.scans()) == ["a", "b", "c", "d"]
    assert "lines are torn" in caplog.text


@contextlib.contextmanager
def small_disk(size):
    """A file system of its own, of so many bytes."""
    folder = Path(tempfile.mkdtemp())
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "ptychonn", str(folder)], capture_output=True, check=False
    )
    try:
        if mounted.returncode:
            pytest.skip(f"no file system can be mounted: {mounted.stderr.decode().strip()}")
        yield folder
    finally:
        if not mounted.returncode:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        folder.rmdir()


@pytest.mark.skipif(not shutil.which("mount"), reason="no mount")
def test_a_full_disk_loses_nothing(caplog):
    with small_disk("256k") as disk:
        trigger, uids = RetrainTrigger(disk / "journal.sqlite"), [f"u{number}" for number in range(30)]
        trigger("start", start_of("before"))
        with (disk / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
            while True:
                filler.write(b"x" * 512)
        for uid in uids:
            trigger("start", start_of(uid, filler=4000 * "x"))
            trigger("stop", stop_of(uid))
        _until(lambda: trigger.counts["held"] >= 58)  # some may still have found a free page
        assert caplog.text.count("is kept in memory") == 1
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        (disk / "filler").unlink()
        trigger("start", start_of("after"))
        assert trigger.close(30)
        journal = Journal(disk / "journal.sqlite")
        journal.absorb_spill()
        assert {row.uid for row in journal.scans("received")} == set(uids)
        assert {row.uid for row in journal.scans("running")} == {"before", "after"}
        journal.close()


READ_ONLY = """
import os, sys
from bluesky_ptychonn.callbacks.retrain import RetrainTrigger
from bluesky_ptychonn.config import write_settings
if os.getuid() == 0:
    os.setuid(65534)  # to root no folder is closed
trigger = RetrainTrigger(sys.argv[1] + "/loop/journal.sqlite")
trigger("start", {"uid": "a", "time": 1.0, "ptycho": {}})
while trigger.counts["held"] != 1:
    pass
print("held", flush=True)
sys.stdin.readline()
trigger("stop", {"run_start": "a", "time": 2.0, "exit_status": "success"})
print(trigger.close(30), flush=True)
"""


def test_a_folder_that_may_not_be_written(tmp_path):
    folder = Path(tempfile.mkdtemp(dir="/tmp"))  # those of pytest are closed to others
    try:
        folder.chmod(0o555)
        with _child(READ_ONLY, folder) as child:
            assert child.stdout.readline().strip() == "held"
            folder.chmod(0o777)
            said, warned = child.communicate("go\n", timeout=60)
        assert said.strip() == "True"
        assert "Permission denied" in warned
        assert [(row.uid, row.state) for row in Journal(folder / "loop" / "journal.sqlite").scans()] == [
            ("a", "received")
        ]
    finally:
        shutil.rmtree(folder)


ACCEPT = """
import sys
from bluesky_ptychonn.callbacks.retrain import RetrainTrigger
from bluesky_ptychonn.config import write_settings
trigger = RetrainTrigger(sys.argv[1], patience_s=60)
for number in range(10**6):
    trigger("start", {"uid": f"u{number}", "time": 1.0, "ptycho": {"filler": "x" * 2000}})
    trigger("stop", {"run_start": f"u{number}", "time": 2.0, "exit_status": "success"})
    print(f"u{number}", flush=True)
"""


@pytest.mark.parametrize("seed", range(4))
def test_a_kill_loses_no_run_that_was_accepted(path, seed, request):
    """With the journal free, and locked: then from the spill."""
    if seed % 2:
        request.getfixturevalue("locked")
    with _child(ACCEPT, path) as child:
        said = [child.stdout.readline().strip() for _ in range(random.Random(seed).randrange(1, 30))]
        child.send_signal(signal.SIGKILL)
        said += child.stdout.read().split()
    if seed % 2:
        request.getfixturevalue("locked").close()
    journal = Journal(path)
    absorbed = journal.absorb_spill()
    assert (absorbed > 0) == bool(seed % 2)
    assert set(said) <= {row.uid for row in journal.scans("received")}


EXIT = """
import os, sys
from bluesky_ptychonn.callbacks.retrain import RetrainTrigger
from bluesky_ptychonn.config import write_settings
open(sys.argv[1], "w").close()
trigger = RetrainTrigger(sys.argv[1] + "/journal.sqlite")
trigger("start", {"uid": "a", "time": 1.0, "ptycho": {}})
while trigger.counts["held"] != 1:
    pass
os.unlink(sys.argv[1])
"""


def test_what_is_kept_is_written_when_python_ends(tmp_path):
    subprocess.run([sys.executable, "-c", EXIT, str(tmp_path / "loop")], check=True, timeout=60)
    assert len(Journal(tmp_path / "loop" / "journal.sqlite").scans()) == 1


SUBSCRIBE = """
import sys
from bluesky_ptychonn.cli.main import main
sys.exit(main(["loop", "listen", *sys.argv[1:]]))
"""


def test_in_another_process_over_0mq(path):
    pytest.importorskip("zmq", reason="pyzmq is not installed")
    from bluesky.callbacks.zmq import Proxy, Publisher

    uids: list[str] = []
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # names of sockets are short
        into, out_of = f"ipc://{folder}/in", f"ipc://{folder}/out"
        threading.Thread(target=Proxy(into, out_of).start, daemon=True).start()
        publisher, journal, RE = Publisher(into), Journal(path), RunEngine()
        RE.subscribe(publisher)
        settings = Path(folder, "here.toml")
        write_settings({"loop": {"journal": str(path)}}, settings)
        with _child(SUBSCRIBE, out_of, "--settings", settings) as child:

            def noted():  # what is published before the dispatcher is connected, nobody sees
                uids.extend(RE(a_run(ptycho={"step_um": 0.1})))
                return journal.scans("received")

            _until(noted)
            (last,) = RE(a_run(ptycho={}))
            (other,) = RE(a_run())
            _until(lambda: any(row.uid == last for row in journal.scans("received")))
            child.send_signal(signal.SIGTERM)
            assert child.wait(20) == 0
        publisher.close()
    assert other not in {row.uid for row in journal.scans()} <= {*uids, last}


def _until(true, timeout_s=30.0):
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@contextlib.contextmanager
def _child(code, *arguments):
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        yield process
    finally:
        process.kill()
        if process.stdout and not process.stdout.closed:
            process.communicate()

"""The loop with machines that do not share a disk: frames sent before a job, versions sent to the edge's own store."""

import hashlib
import json
import os
import shutil
import signal
import sys
import time

import pytest

pytest.importorskip("psij")
from loop_world import PATIENCE
from ssh_world import HOST, sshd, why_not

from bluesky_ptychonn.cli.loop_status import doing
from bluesky_ptychonn.cli.main import main
from bluesky_ptychonn.config import write_settings
from bluesky_ptychonn.core.model_card import ModelCard
from bluesky_ptychonn.io import store_copy
from bluesky_ptychonn.io.journal import Journal
from bluesky_ptychonn.io.model_store import current_version, open_model, publish, rollback, versions
from bluesky_ptychonn.io.rsync import TransferError
from bluesky_ptychonn.io.run_record import read_record
from bluesky_ptychonn.training.loop import jobs, runner
from bluesky_ptychonn.training.loop.delivery import EDGE_STORE, Delivery
from bluesky_ptychonn.training.loop.desk import FolderDesk
from bluesky_ptychonn.training.loop.policy import Terms
from bluesky_ptychonn.training.loop.runner import make_runner
from bluesky_ptychonn.training.loop.service import LoopService
from bluesky_ptychonn.training.loop.transfer import SendingRunner

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(120),
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "-"),
]

UID = "5f3a0c1b-7d11"
JOB = """
import sys
from pathlib import Path
from bluesky_ptychonn.training.loop.jobs import write_result
write_result(Path(sys.argv[1]), {"ok": True, "trusted": False, "verdict": "of a test"})
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with sshd(tmp_path_factory.mktemp("ssh") / "sshd") as running:
        yield running


class Loop:
    """A service with real jobs of this machine, of which the frames are sent first."""

    def __init__(self, folder, server):
        self.folder, self.there = folder, folder / "there"
        self.scan = folder / "scan.npz"
        self.scan.write_bytes(os.urandom(100_000))
        self.settings = folder / "here.toml"
        loop = {"transfer": "rsync", "transfer_to": f"{HOST}:{self.there}", "ssh_config": str(server.config)}
        write_settings({"loop": loop}, self.settings)
        self.journal = Journal(folder / "journal.sqlite")
        start = {"uid": UID, "time": time.time(), "scan_id": 1, "ptycho": {}, "source": {"file": str(self.scan)}}
        self.journal.note_start(start)
        self.journal.note_stop({"run_start": UID, "time": time.time(), "exit_status": "success"})
        self.record = jobs.record_path(folder / "loop", UID)
        self.job = jobs.named_directory(folder / "loop", "scan", UID)
        self.start()

    def start(self):
        """Start the service, or start it again: it has nothing in memory then."""
        self.runner = SendingRunner(make_runner("local"), self.folder / "loop")
        desk = FolderDesk(self.folder / "loop", self.runner, settings_file=str(self.settings))
        self.service = LoopService(self.journal, desk, Terms(attempts=3), PATIENCE)
        self.ahead_s = 0.0

    def row(self):
        return self.journal.scan(UID)

    def until(self, true, faster=1.0, timeout_s=60):
        """Tick until it is so; the clock may run faster."""
        deadline = time.monotonic() + timeout_s
        while not true():
            assert time.monotonic() < deadline, self.journal.history(UID)
            began_s = time.monotonic()
            self.service.tick(time.time() + self.ahead_s)
            assert time.monotonic() - began_s < 15  # no tick waits for a transfer
            time.sleep(0.1)
            self.ahead_s += 0.1 * (faster - 1)


@pytest.fixture
def loop(tmp_path, server, monkeypatch):
    monkeypatch.setattr(runner, "COMMAND", (sys.executable, "-c", JOB))
    return Loop(tmp_path, server)


def test_frames_are_sent_before_the_job_by_a_process_that_outlives_the_service(loop, server, tmp_path, monkeypatch):
    slow, real = tmp_path / "bin/rsync", shutil.which("rsync")
    slow.parent.mkdir()
    slow.write_text(f'#!/bin/sh\nwhile [ ! -e {tmp_path}/go ]; do sleep 0.05; done\nexec {real} "$@"\n')
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}:{os.environ['PATH']}")
    loop.until(lambda: (loop.job / "transfer.json").exists())
    assert doing(loop.row(), time.time(), False) == "transfers frames"
    loop.start()
    loop.service.tick(time.time())
    assert jobs.submitted(loop.job) == ""
    assert not loop.record.exists()
    monkeypatch.setattr(runner, "COMMAND", (sys.executable, "-c", f"import time; time.sleep(3)\n{JOB}"))
    (tmp_path / "go").touch()
    loop.until(lambda: jobs.submitted(loop.job))
    loop.until(lambda: doing(loop.row(), time.time(), False) == f"scan job {jobs.submitted(loop.job)}")
    loop.until(lambda: loop.row().state == "validated")
    sent = loop.there / UID / "000-scan.npz"
    assert read_record(loop.record) == {"file": str(sent), "sha256": {str(sent): sha256(loop.scan)}}
    assert sha256(sent) == sha256(loop.scan)
    assert jobs.submitted(loop.job)
    assert len(loop.journal.history(UID)) < 6  # no attempt failed


def test_a_host_that_is_another_is_an_attempt_with_its_reason(loop, server):
    server.know("user")
    try:
        loop.until(lambda: loop.row().attempts == 1)
        assert "its frames cannot be sent: nothing is sent to there: its host key" in loop.row().sentence
        assert jobs.submitted(loop.job) == ""
    finally:
        server.know("host")
    assert not loop.there.exists()
    loop.until(lambda: loop.row().state == "validated", faster=20)


@pytest.mark.soak
def test_a_transfer_that_is_killed_is_an_attempt_and_the_next_one_goes_on(loop):
    loop.until(lambda: (loop.job / "transfer.json").exists())
    native = json.loads((loop.job / "transfer.json").read_text())["native"]
    os.killpg(int(native.split(":")[1]), signal.SIGKILL)
    loop.until(lambda: loop.row().attempts == 1, faster=20)
    told = f"the transfer of its frames was ended before it was done; see {loop.job / 'transfer.txt'}"
    assert told in loop.row().sentence
    loop.until(lambda: loop.row().state == "validated", faster=20)


@pytest.mark.soak
def test_a_transfer_is_cancelled_with_all_it_has_started(loop, tmp_path, monkeypatch):
    hung = tmp_path / "bin/rsync"
    hung.parent.mkdir()
    hung.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 60\n")
    hung.chmod(0o755)
    monkeypatch.setenv("PATH", f"{hung.parent}:{os.environ['PATH']}")
    loop.until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    native = json.loads((loop.job / "transfer.json").read_text())["native"]
    loop.runner.cancel(native)
    deadline = time.monotonic() + 20
    while loop.runner.alive(native) or is_running(int((tmp_path / "pid").read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert loop.runner.alive(native) is False


# the edge's own store


def model():
    """A version of which nobody opens an engine."""
    files = {"model.onnx": os.urandom(3000), "golden.npz": b"golden"}
    return ModelCard("m", "none", dict.fromkeys(files, 64 * "0"), 16, 8, 0.01, 10.0), files


def test_the_edges_store_follows_and_its_current_version_is_always_whole(server, tmp_path, monkeypatch):
    store, there = tmp_path / "store", tmp_path / "there"
    journal = Journal(tmp_path / "journal.sqlite")
    delivery = Delivery(journal, store, f"{HOST}:{there}", server.config)
    assert delivery.look()  # nothing is live
    publish(store, *model())
    assert delivery.look()
    assert (current_version(there), journal.fact(EDGE_STORE)["version"]) == ("000001", "000001")
    assert open_model(there).card == open_model(store).card

    publish(store, *model())
    sent = []
    real = store_copy.send

    def cut(files, *arguments, **how):
        if "CURRENT" in files:
            raise TransferError("cut off")
        sent.append(sorted(files))
        real(files, *arguments, **how)

    with monkeypatch.context() as patched:
        patched.setattr(store_copy, "send", cut)
        assert not delivery.look()
    assert current_version(there) == "000001"
    assert versions(there) == ["000001", "000002"]
    assert journal.fact(EDGE_STORE) | {"at_s": 0} == {
        "to": f"{HOST}:{there}",
        "version": "000001",
        "at_s": 0,
        "told": "cut off",
    }
    assert delivery.look()
    assert (current_version(there), journal.fact(EDGE_STORE)["told"]) == ("000002", "")
    rollback(store)
    assert delivery.look()
    assert current_version(there) == "000001"
    server.know("")
    try:
        publish(store, *model())
        assert not delivery.look()
    finally:
        server.know("host")
    assert "host key" in journal.fact(EDGE_STORE)["told"]
    assert open_model(there).directory.name == "000001"
    harmed = store / "versions/000003/model.onnx"
    harmed.write_bytes(b"x")
    assert not delivery.look()
    assert "copy the version anew" in journal.fact(EDGE_STORE)["told"]
    assert versions(there) == ["000001", "000002"]


def test_a_look_once_delivers_before_it_ends(server, tmp_path, capsys):
    store, there, settings = tmp_path / "store", tmp_path / "there", tmp_path / "here.toml"
    loop = {"edge_store": f"{HOST}:{there}", "ssh_config": str(server.config)}
    write_settings({"edge": {"model": str(store)}, "loop": loop}, settings)
    publish(store, *model())
    assert main(["loop", "run", "--once", "--settings", str(settings)]) == 0
    assert current_version(there) == "000001"
    assert main(["loop", "status", "--settings", str(settings)]) == 0
    assert f"the edge's store {HOST}:{there} has version 000001" in capsys.readouterr().out
    publish(store, *model())
    server.know("user")
    try:
        assert main(["loop", "run", "--once", "--settings", str(settings)]) == 1
    finally:
        server.know("host")
    assert current_version(there) == "000001"


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def is_running(pid):
    import psutil

    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE

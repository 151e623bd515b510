import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from bluesky_ptychonn.training.loop import lease as module
from bluesky_ptychonn.training.loop.lease import held, sign_of_life

HOLD = """
import sys, time
from pathlib import Path
from bluesky_ptychonn.training.loop.lease import held
with held(Path(sys.argv[1])) as lease:
    print("holds" if lease else "refused", flush=True)
    time.sleep(60 if lease else 0)
"""
QUICK = {"beat_s": 0.05, "watched_s": 0.5}


def test_one_process_holds_a_folder_and_a_kill_lets_it_go(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "holds\n"
        began_s = time.monotonic()
        with held(tmp_path) as lease:
            assert lease is None
        assert time.monotonic() - began_s < 1
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        with held(tmp_path) as lease:
            assert lease.is_mine()
        assert not (tmp_path / "lease.json").exists()
    finally:
        process.kill()
        process.wait(10)


def test_a_holder_gives_signs_of_life_until_it_is_killed(tmp_path):
    assert sign_of_life(tmp_path) == ""
    with held(tmp_path, **QUICK):
        first = sign_of_life(tmp_path)
        end_s = time.monotonic() + 10
        while sign_of_life(tmp_path) == first and time.monotonic() < end_s:
            time.sleep(0.01)
        assert sign_of_life(tmp_path) not in ("", first)
    assert sign_of_life(tmp_path) == ""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "holds\n"
    finally:
        process.kill()
        process.wait(10)
    left = sign_of_life(tmp_path)
    time.sleep(0.2)
    assert sign_of_life(tmp_path) == left != ""


def test_a_holder_on_another_machine_that_lives_is_respected(tmp_path):
    stop = threading.Event()

    def beat():
        number = 0
        while not stop.wait(0.05):
            number += 1
            part = tmp_path / "part"
            part.write_text(json.dumps({"host": "elsewhere", "name": "theirs", "beat": number}))
            os.replace(part, tmp_path / "lease.json")

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        wait_for(tmp_path / "lease.json")
        with held(tmp_path, **QUICK) as lease:
            assert lease is None
    finally:
        stop.set()
        thread.join()
    assert json.loads((tmp_path / "lease.json").read_text())["name"] == "theirs"


def wait_for(path):
    end_s = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def test_a_silent_machine_is_succeeded_and_finds_out(tmp_path):
    theirs = {"host": "elsewhere", "name": "theirs", "beat": 7}
    (tmp_path / "lease.json").write_text(json.dumps(theirs))
    before = module.Lease(tmp_path / "lease.json", "theirs")
    assert before.is_mine()
    with held(tmp_path, **QUICK) as lease:
        assert lease.is_mine()
        assert not before.is_mine()


def test_a_lease_left_on_this_machine_or_a_torn_one_is_nothing(tmp_path):
    for text in (json.dumps({"host": module.socket.gethostname(), "name": "dead"}), "{", "[]"):
        (tmp_path / "lease.json").write_text(text)
        began_s = time.monotonic()
        with held(tmp_path) as lease:
            assert lease is not None
        assert time.monotonic() - began_s < 1


def test_the_holder_gives_signs_of_life(tmp_path):
    with held(tmp_path, **QUICK):
        path = tmp_path / "lease.json"
        end_s = time.monotonic() + 20
        while json.loads(path.read_text())["beat"] < 2:
            assert time.monotonic() < end_s
            time.sleep(0.01)


def test_a_holder_who_was_succeeded_leaves_the_others_lease_alone(tmp_path):
    with held(tmp_path, beat_s=60) as lease:
        (tmp_path / "lease.json").write_text(json.dumps({"host": "elsewhere", "name": "theirs"}))
        assert not lease.is_mine()
    assert json.loads((tmp_path / "lease.json").read_text())["name"] == "theirs"


def test_a_file_system_without_locks_has_leases_only(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(module.fcntl, "flock", refuse)
    with held(tmp_path) as lease:
        assert lease.is_mine()

    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(module.fcntl, "flock", broken)
    with pytest.raises(OSError, match="Input/output"), held(tmp_path):
        pass

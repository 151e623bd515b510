"""Frames and models to another machine: a real rsync over a real sshd on loopback."""

import hashlib
import os
import shutil
import signal
import threading
import time

import psutil
import pytest
from ssh_world import HOST, sshd, why_not

from bluesky_ptychonn.io import rsync
from bluesky_ptychonn.io.rsync import TransferError, send

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(120),
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "-"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with sshd(tmp_path_factory.mktemp("ssh") / "sshd") as running:
        yield running


@pytest.fixture
def there(server, tmp_path):
    """Copies files to a folder, and says where that is."""
    folder = tmp_path / "far away"
    folder.mkdir()

    def copy(timeout_s=60.0, **files):
        send(
            {name.replace("__", "/"): path for name, path in files.items()},
            f"{HOST}:{folder}",
            ssh_config=server.config,
            timeout_s=timeout_s,
        )

    copy.folder = folder
    return copy


@pytest.fixture
def frames(tmp_path, rng):
    path = tmp_path / "it's a file.h5"
    path.write_bytes(rng.bytes(200_000))
    return path


def test_files_arrive_with_their_content_and_are_not_sent_twice(there, frames):
    (frames.parent / "folder").mkdir()
    (frames.parent / "folder/b").write_text("b")
    there(run__a=frames, run__more=frames.parent / "folder")
    arrived = there.folder / "run/a"
    assert arrived.read_bytes() == frames.read_bytes()
    assert (there.folder / "run/more/b").read_text() == "b"
    inode = arrived.stat().st_ino
    there(run__a=frames)
    assert arrived.stat().st_ino == inode
    changed = bytearray(arrived.read_bytes())
    changed[1000] ^= 1
    times = arrived.stat()
    arrived.write_bytes(changed)
    os.utime(arrived, ns=(times.st_atime_ns, times.st_mtime_ns))  # only its hash tells
    there(run__a=frames)
    assert arrived.read_bytes() == frames.read_bytes()


@pytest.mark.parametrize("key", ["", "user"])
def test_a_host_whose_key_is_unknown_or_another_gets_nothing(server, there, frames, key):
    server.know(key)
    try:
        with pytest.raises(TransferError, match="nothing is sent to there: its host key is not the one in the known"):
            there(a=frames)
    finally:
        server.know("host")
    assert list(there.folder.iterdir()) == []


def test_what_cannot_be_is_told(server, there, frames, monkeypatch):
    shutil.rmtree(there.folder)
    there.folder.write_text("no folder")
    with pytest.raises(TransferError, match="not everything got to there:"):
        there(a=frames)
    server.folder.joinpath("authorized").rename(server.folder / "away")
    try:
        with pytest.raises(TransferError, match="Permission denied"):
            there(a=frames)
    finally:
        server.folder.joinpath("away").rename(server.folder / "authorized")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(TransferError, match="there is no rsync on this machine"):
        there(a=frames)


def test_cut_off_in_the_middle_it_goes_on(server, there, tmp_path, monkeypatch, rng):
    big = tmp_path / "big.h5"
    big.write_bytes(rng.bytes(12_000_000))
    real, slow = shutil.which("rsync"), tmp_path / "rsync"
    slow.write_text(f'#!/bin/sh\nexec {real} --bwlimit=4000 "$@"\n')
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def cut():
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if any(path.stat().st_size > 2_000_000 for path in there.folder.rglob(".big.h5.*")):
                ours = [one for one in psutil.Process().children(recursive=True) if one.name() == "ssh"]
                for one in ours:
                    os.kill(one.pid, signal.SIGKILL)
                return
            time.sleep(0.01)

    thread = threading.Thread(target=cut)
    thread.start()
    with pytest.raises(TransferError, match="not everything got to there"):
        there(**{"run__big.h5": big})
    thread.join()
    assert not (there.folder / "run/big.h5").exists()
    deadline = time.monotonic() + 10
    partial = there.folder / "run" / rsync.PARTIAL / "big.h5"
    while not partial.exists():  # the other side notices a little later
        assert time.monotonic() < deadline
        time.sleep(0.05)
    kept = partial.stat().st_size
    assert 1_000_000 < kept < 12_000_000
    slow.write_text(f'#!/bin/sh\n{real} --stats "$@" | tee -a {tmp_path}/said\n')
    there(**{"run__big.h5": big})
    assert (
        hashlib.sha256((there.folder / "run/big.h5").read_bytes()).digest() == hashlib.sha256(big.read_bytes()).digest()
    )
    said = (tmp_path / "said").read_text()
    literal = int(
        next(line for line in said.splitlines() if line.startswith("Literal data")).split()[2].replace(",", "")
    )
    assert literal <= 12_000_000 - kept + 100_000
    assert not partial.exists()


def test_a_machine_that_falls_silent_is_not_waited_for(server, there, frames):
    pids = []

    def stop():
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not pids:
            for one in server_children(server):
                os.kill(one.pid, signal.SIGSTOP)
                pids.append(one.pid)
            time.sleep(0.005)

    thread = threading.Thread(target=stop)
    thread.start()
    try:
        began_s = time.monotonic()
        with pytest.raises(TransferError, match="within 2 s; the next attempt goes on"):
            there(timeout_s=2.0, a=frames)
        assert time.monotonic() - began_s < 6
    finally:
        thread.join()
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def server_children(server):
    return psutil.Process(server.process.pid).children(recursive=True)

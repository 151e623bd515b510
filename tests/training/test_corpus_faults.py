"""The corpus while it is written: killed writers, full disks, several at once."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from labelled_scan import assert_equal, make_scan

from bluesky_ptychonn.training.learning.corpus import ARRAYS, Corpus

HEAD = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from labelled_scan import make_scan
from bluesky_ptychonn.training.learning.corpus import Corpus
"""


def start(script: str, *arguments) -> subprocess.Popen:
    command = [sys.executable, "-c", HEAD + script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


KILLED = """
import os, signal, sys
left, fsync = int(sys.argv[2]), os.fsync

def killing_fsync(descriptor):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(descriptor)

os.fsync = killing_fsync
Corpus(sys.argv[1]).add(make_scan(2))
"""
COMPLETE = len(ARRAYS) + 3
"""Writes through to the disk of one shard: the arrays, the manifest, its folder, and the folder of shards."""


def test_a_kill_at_any_moment_leaves_no_half_shard(tmp_path):
    """The last write through comes after the rename: what is there is whole by then."""
    (earlier,) = [Corpus(tmp_path / "before").add(make_scan(1))]
    killed = []
    for moment in range(1, COMPLETE + 2):
        corpus = Corpus(tmp_path / str(moment))
        shutil.copytree(tmp_path / "before", corpus.directory)
        killed.append((corpus, moment, start(KILLED, corpus.directory, moment)))
    for corpus, moment, process in killed:
        _, told = process.communicate(timeout=100)
        assert process.returncode == (-signal.SIGKILL if moment <= COMPLETE else 0), told
        added = 1 if moment >= COMPLETE else 0
        assert len(corpus.names()) == 1 + added
        leftovers = list((corpus.directory / "shards").glob(".part-*"))
        assert len(leftovers) == 1 - added

        shard = corpus.add(make_scan(2))
        assert corpus.names() == sorted([earlier.name, shard.name])
        for whole in corpus.open():
            whole.verify()
        assert_equal(shard, make_scan(2))


FULL = """
import resource, sys
scan, limit = make_scan(2, frames=50), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    Corpus(sys.argv[1]).add(scan)
except OSError:
    sys.exit("refused")
"""


@pytest.mark.parametrize("limit", [60, 1000, 40_000])  # the least: while the header is written, the most: in labels
def test_a_full_disk_leaves_the_corpus_as_it_was(tmp_path, limit):
    corpus = Corpus(tmp_path)
    name = corpus.add(make_scan(1)).name
    process = start(FULL, tmp_path, limit)
    _, told = process.communicate(timeout=100)
    assert (process.returncode, told.strip()) == (1, "refused")
    assert os.listdir(tmp_path / "shards") == [name]
    corpus.add(make_scan(2, frames=50)).verify()


MANY = """
import pathlib, sys, time
directory = pathlib.Path(sys.argv[1])
(directory / sys.argv[2]).touch()
deadline = time.monotonic() + 60
while len(list(directory.glob("ready*"))) < 2 and time.monotonic() < deadline:
    time.sleep(0.001)
for seed in range(12):
    Corpus(directory).add(make_scan(seed))
"""


def test_two_processes_add_the_same_scans_at_once(tmp_path):
    both = [start(MANY, tmp_path, name) for name in ("ready1", "ready2")]
    for process in both:
        _, told = process.communicate(timeout=100)
        assert process.returncode == 0, told
    corpus = Corpus(tmp_path)
    assert len(corpus.names()) == 12
    for shard in corpus.open():
        shard.verify()
    assert not list((tmp_path / "shards").glob(".part-*"))


def test_another_process_is_faster_by_a_moment(tmp_path, monkeypatch):
    """Between the look whether the shard is there and the rename, another process puts it there."""
    corpus, rename = Corpus(tmp_path), os.rename

    def late(part, target):
        monkeypatch.setattr(os, "rename", rename)
        corpus.add(make_scan(1))
        rename(part, target)

    monkeypatch.setattr(os, "rename", late)
    shard = corpus.add(make_scan(1))
    shard.verify()
    assert os.listdir(tmp_path / "shards") == [shard.name]

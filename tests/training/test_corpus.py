"""The corpus: what is in it is whole, whatever happened while it was written or since."""

import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bluesky_ptychonn.training.learning import corpus as corpus_module
from bluesky_ptychonn.training.learning.corpus import ARRAYS, Corpus, CorpusError, LabelledScan, snapshot_sha256

N = 16


def make_scan(seed, frames=5, seen=True):
    rng = np.random.default_rng(seed)
    return LabelledScan(
        patterns=rng.integers(0, 65536, (frames, N, N), np.uint16),
        labels=rng.standard_normal((frames, 2, N, N)).astype(np.float16),
        probe=(rng.standard_normal((N, N)) + 1j).astype(np.complex64),
        seen=rng.integers(0, 256, (frames, N, N), np.uint8) if seen else None,
        about={"run": f"run {seed}", "photons_per_frame": 1000.5, "removed": {"phase_rad": 0.1}},
    )


HEAD = f"""
import numpy as np
from bluesky_ptychonn.training.learning.corpus import Corpus, LabelledScan

N = {N}
{inspect.getsource(make_scan)}
"""


def start(script: str, *arguments) -> subprocess.Popen:
    command = [sys.executable, "-c", HEAD + script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def assert_equal(shard, scan):
    for name in ARRAYS:
        stored, given = getattr(shard, name), getattr(scan, name)
        assert (stored is None) == (given is None)
        if given is not None:
            assert stored.dtype == given.dtype
            np.testing.assert_array_equal(stored, given)


@pytest.mark.parametrize("seen", [True, False])
def test_what_goes_in_comes_out(tmp_path, seen):
    scan = make_scan(1, seen=seen)
    added = Corpus(tmp_path / "new" / "corpus").add(scan)
    (opened,) = Corpus(tmp_path / "new" / "corpus").open()
    assert opened.name == added.name
    assert_equal(opened, scan)
    assert (opened.frames, opened.run, opened.manifest["frame_px"]) == (5, "run 1", N)
    assert opened.manifest["about"] == scan.about
    opened.verify()
    with pytest.raises(ValueError, match="read-only"):
        opened.labels[0] = 0


def test_arrays_of_any_layout_are_the_same_scan(tmp_path):
    """The name depends on what the arrays hold, not on how they lie in memory."""
    scan = make_scan(1)
    columns_first = [np.asfortranarray(getattr(scan, name)) for name in ARRAYS]
    turned = LabelledScan(*columns_first, scan.about)
    assert Corpus(tmp_path).add(turned).name == Corpus(tmp_path).add(scan).name


def test_the_same_scan_twice_is_one_shard(tmp_path):
    corpus = Corpus(tmp_path)
    first = corpus.add(make_scan(1))
    before = {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in first.directory.iterdir()}
    again = corpus.add(make_scan(1))
    assert corpus.names() == [first.name] == [again.name]
    assert before == {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in first.directory.iterdir()}
    assert os.listdir(tmp_path / "shards") == [first.name]


def test_other_scans_are_other_shards(tmp_path):
    corpus, scan = Corpus(tmp_path), make_scan(1)
    others = [make_scan(2), make_scan(1, seen=False), make_scan(1, frames=4)]
    for name in ARRAYS:
        changed = getattr(scan, name).copy()
        changed.flat[-1] = 1 if changed.flat[-1] != 1 else 2
        others.append(LabelledScan(**{**vars(scan), name: changed}))
    others.append(LabelledScan(**{**vars(scan), "about": {**scan.about, "run": "another"}}))
    names = [corpus.add(each).name for each in (scan, *others)]
    assert len(set(names)) == len(names)
    assert corpus.names() == sorted(names)


def test_a_snapshot_is_the_shards_whatever_their_order(tmp_path):
    corpus = Corpus(tmp_path)
    names = [corpus.add(make_scan(seed)).name for seed in range(4)]
    assert [shard.name for shard in corpus.open(names[::-1])] == names[::-1]
    assert snapshot_sha256(names) == snapshot_sha256(names[::-1]) == snapshot_sha256(corpus.names())
    hashes = {snapshot_sha256(some) for some in (names, names[:3], names[1:], [])}
    assert len(hashes) == 4
    with pytest.raises(CorpusError, match="no shard 0123"):
        corpus.open([names[0], "0123"])


def change_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize(
    ("harm", "message"), [(change_byte, "was changed"), (cut, "cut short"), (Path.unlink, "is missing")]
)
def test_harmed_arrays_are_found(tmp_path, name, harm, message):
    corpus = Corpus(tmp_path)
    sound, harmed = corpus.add(make_scan(1)), corpus.add(make_scan(2))
    harm(harmed.directory / f"{name}.npy")
    for shard in corpus.open():
        if shard.name == sound.name:
            shard.verify()
        else:
            with pytest.raises(CorpusError, match=rf"{harmed.name}: {name}.npy .*{message}.*add the scan anew"):
                shard.verify()


def rewrite_run(manifest: Path) -> None:
    manifest.write_text(manifest.read_text().replace("run 1", "run 3"))


@pytest.mark.parametrize(
    ("harm", "message"),
    [(rewrite_run, "manifest was changed"), (cut, "manifest was changed"), (Path.unlink, "no shard .* No such file")],
)
def test_harmed_manifests_are_found_at_once(tmp_path, harm, message):
    corpus = Corpus(tmp_path)
    shard = corpus.add(make_scan(1))
    harm(shard.directory / "manifest.json")
    with pytest.raises(CorpusError, match=message):
        corpus.open()
    with pytest.raises(CorpusError, match=message):
        shard.verify()


def test_a_shard_under_another_name_is_refused(tmp_path):
    shard = Corpus(tmp_path).add(make_scan(1))
    shard.directory.rename(shard.directory.with_name("0" * 16))
    with pytest.raises(CorpusError, match="manifest was changed"):
        Corpus(tmp_path).open()


def test_a_later_schema_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_module, "SCHEMA", 2)
    with monkeypatch.context() as later:
        later.setattr(corpus_module, "_check_name", lambda _: {})
        Corpus(tmp_path).add(make_scan(1))
    monkeypatch.setattr(corpus_module, "SCHEMA", 1)
    with pytest.raises(CorpusError, match="schema 2; this version reads 1"):
        Corpus(tmp_path).open()


def test_what_is_no_shard_is_passed_over(tmp_path):
    corpus = Corpus(tmp_path)
    assert corpus.names() == []
    name = corpus.add(make_scan(1)).name
    (tmp_path / "shards" / ".part-xyz").mkdir()
    (tmp_path / "shards" / "notes.txt").write_text("mine")
    assert corpus.names() == [name]


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


REFUSED = [
    (
        {"labels": np.zeros((5, 2, N, N - 1), np.float16)},
        r"labels has shape \(5, 2, 16, 15\); .* \(5, 2, 16, 16\)",
    ),
    ({"probe": np.ones((1, N, N), np.complex64)}, r"probe has shape \(1, 16, 16\)"),
    ({"seen": np.ones((4, N, N), np.uint8)}, r"seen has shape \(4, 16, 16\)"),
    ({"patterns": np.zeros((5, N, N), np.float32)}, "5 patterns of float32; .* unsigned counts"),
    ({"patterns": np.zeros((5, N, N), np.int16)}, "5 patterns of int16"),
    ({"probe": np.zeros((N, N), np.complex64)}, "the probe is dark"),
    ({"probe": np.full((N, N), np.nan, np.complex64)}, "not finite"),
    ({"labels": np.full((5, 2, N, N), np.inf, np.float16)}, "not finite"),
    ({name: getattr(make_scan(1), name)[:0] for name in ("patterns", "labels", "seen")}, "0 patterns"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_what_cannot_be_learned_from_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        LabelledScan(**{**vars(make_scan(1)), **change})


def test_what_is_not_plain_in_the_manifest_leaves_the_corpus_as_it_was(tmp_path):
    scan = make_scan(1)
    with pytest.raises(TypeError, match="float32"):
        Corpus(tmp_path).add(LabelledScan(**{**vars(scan), "about": {"run": np.float32(1)}}))
    assert os.listdir(tmp_path / "shards") == []


def test_a_simulated_scan_is_the_same_alone_and_in_a_row(tmp_path):
    from bluesky_ptychonn.training.learning.simulated import add_simulated

    row = [shard.name for shard in add_simulated(Corpus(tmp_path / "row"), range(3), 2, seed=5)]
    (alone,) = add_simulated(Corpus(tmp_path / "alone"), range(1, 2), 2, seed=5)
    assert alone.name == row[1]
    assert (alone.run, alone.frames, len(set(row))) == ("simulated-5-1", 2, 3)
    (other,) = add_simulated(Corpus(tmp_path / "alone"), range(1, 2), 2, seed=6)
    assert other.name not in row
    assert json.loads((alone.directory / "manifest.json").read_text())["about"]["photons_per_frame"] > 0

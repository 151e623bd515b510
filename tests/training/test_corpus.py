"""The corpus: what is in it is whole, whatever happened to it since it was written."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from labelled_scan import N, assert_equal, make_scan

from bluesky_ptychonn.training.learning import corpus as corpus_module
from bluesky_ptychonn.training.learning.corpus import ARRAYS, Corpus, CorpusError, LabelledScan, snapshot_sha256


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

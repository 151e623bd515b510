"""The command `corpus`: simulated and reconstructed scans in, harmed ones found."""

import json
import os
import re
import time
from dataclasses import replace

import numpy as np
import pytest
from reconstruct_scan import GEOMETRY, KNOWN, PIXEL_UM, PROBE

from bluesky_ptychonn.cli.main import main
from bluesky_ptychonn.core.optics import with_counts
from bluesky_ptychonn.core.reconstruction import Reconstruction, RetrievalReport
from bluesky_ptychonn.core.recorded_run import RecordedRun
from bluesky_ptychonn.io.reconstruction_files import write_reconstruction
from bluesky_ptychonn.io.scan_files import read_scan_file
from bluesky_ptychonn.training.learning import simulated as simulated_module
from bluesky_ptychonn.training.learning.corpus import Corpus, LabelledScan, snapshot_sha256
from bluesky_ptychonn.training.retrieval.field import light_on
from bluesky_ptychonn.training.retrieval.problem import Sweep

TRUSTED = RetrievalReport(True, "it fits", 0.002, 0.0021, 0.02, 0.0019, 0.4, 14.5, 0.95, 0.8, 1e6)


@pytest.fixture
def here(simulated, tmp_path, monkeypatch):
    """A folder with scan.npz and good.cxi, its reconstruction: the truth, as if phase retrieval had found it."""
    arrays, object_ = simulated
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BLUESKY_PTYCHONN_SETTINGS", "")
    np.savez("scan.npz", **arrays)
    scan = read_scan_file(tmp_path / "scan.npz")
    last = Sweep(object_, with_counts(PROBE, 1e6)[None], scan.positions_px)
    rows = np.arange(len(scan.patterns))
    good = Reconstruction(
        object_=object_,
        probe=last.probe,
        positions_px=last.positions_px,
        origin_px=(0.0, 0.0),
        pixel_size_um=PIXEL_UM,
        coverage=light_on(last),
        trigger_index=rows,
        held_out=rows % 20 == 10,
        errors=np.array([0.002]),
        errors_heldout=np.array([0.0021]),
        settings={"method": "poisson", "sweeps": 60, "orientation": "identity"},
        provenance=scan.provenance,
        report=TRUSTED,
    )
    write_reconstruction(tmp_path / "good.cxi", good)
    return tmp_path, scan, good


@pytest.fixture
def few_pixels(monkeypatch):
    """Make simulated scans small, so that they are quick, and count them."""
    made = []

    def simulate(rng, frames, **_):
        made.append(frames)
        patterns = rng.integers(0, 9, (frames, 8, 8), np.uint16)
        return LabelledScan(patterns, np.ones((frames, 2, 8, 8), np.float16), np.ones((8, 8), np.complex64))

    monkeypatch.setattr(simulated_module, "simulate_scan", simulate)
    monkeypatch.setattr(simulated_module, "GEOMETRY", replace(GEOMETRY, frame_px=8))
    return made


def corpus(*arguments):
    return main(["corpus", *map(str, arguments)])


def test_simulated_scans_are_added_once(here, few_pixels, capsys):
    assert corpus("simulate", "c", "--scans", 3, "--frames", 2, "--seed", 7) == 0
    assert "3 scans of 2 frames added, 0 were there" in capsys.readouterr().out
    before = Corpus("c").names()
    assert {shard.run for shard in Corpus("c").open()} == {f"simulated-7-{number}" for number in range(3)}

    assert corpus("simulate", "c", "--scans", 5, "--frames", 2, "--seed", 7) == 0
    assert len(few_pixels) == 5
    assert "2 scans of 2 frames added, 3 were there" in capsys.readouterr().out
    assert set(before) < set(Corpus("c").names())
    assert corpus("simulate", "c", "--scans", 2, "--frames", 2, "--seed", 8) == 0
    assert len(Corpus("c").names()) == len(few_pixels) == 7

    assert corpus("simulate", "c", "--scans", 2, "--frames", 3, "--seed", 8) == 1
    assert re.search(r"simulated-8-\d is in c with 2 frames; give --frames 2, or another", capsys.readouterr().err)
    assert len(few_pixels) == 7


def test_an_interrupted_simulation_goes_on(here, few_pixels, monkeypatch, capsys):
    simulate = simulated_module.simulate_scan

    def interrupted(rng, frames, **_):
        if len(few_pixels) == 2:
            raise KeyboardInterrupt
        return simulate(rng, frames)

    with monkeypatch.context() as patched:
        patched.setattr(simulated_module, "simulate_scan", interrupted)
        patched.setattr("bluesky_ptychonn.cli.interruption.ignore_signals", lambda: None)
        assert corpus("simulate", "c", "--scans", 4, "--frames", 2) == 130
    assert len(Corpus("c").names()) == 2
    assert corpus("simulate", "c", "--scans", 4, "--frames", 2) == 0
    assert (len(few_pixels), len(Corpus("c").names())) == (4, 4)


def test_a_reconstructed_scan_is_added_once(here, capsys):
    _, scan, _ = here
    assert corpus("add", "c", "good.cxi", "scan.npz", "--network-pixel-nm", 1e3 * PIXEL_UM) == 0
    told = capsys.readouterr().out
    assert re.search(rf"added; {len(scan.patterns)} frames of .* photons, without 0 that have no place", told)
    assert "removed: the background's phase of" in told
    (shard,) = Corpus("c").open()
    shard.verify()
    np.testing.assert_array_equal(shard.patterns, scan.patterns)
    about = shard.manifest["about"]
    assert (about["run"], about["file"], about["energy_kev"]) == (scan.provenance["sha256"], "scan.npz", 10.0)

    assert corpus("add", "c", "good.cxi", "scan.npz") == 0
    assert f"{shard.name}: was there" in capsys.readouterr().out
    assert Corpus("c").names() == [shard.name]


def test_other_labels_of_the_same_scan_are_refused(here, capsys):
    folder, _, good = here
    assert corpus("add", "c", "good.cxi", "scan.npz") == 0
    (name,) = Corpus("c").names()
    moved = replace(good, positions_px=good.positions_px + 0.02)
    write_reconstruction(folder / "other.cxi", moved)
    assert corpus("add", "c", "other.cxi", "scan.npz") == 1
    assert f"in c already, labelled by another reconstruction; remove c/shards/{name}" in capsys.readouterr().err
    assert Corpus("c").names() == [name]


def test_a_run_is_cut_and_turned_as_for_its_reconstruction(here, monkeypatch):
    """The reconstruction was made with another orientation than the run's own, and of larger frames."""
    folder, scan, good = here
    frames = np.pad(scan.patterns, ((0, 0), (8, 8), (8, 8)))
    frames = np.roll(frames[:, ::-1], 1, axis=1)
    block = {**KNOWN, "crop_px": 80, "beam_center_px": [40.0, 40.0], "orientation": "identity"}
    start = {"uid": "5f3a0c1b-0000", "ptycho": block}
    rows = np.arange(len(frames))
    run = RecordedRun(frames, scan.positions_px * PIXEL_UM, rows, rows, 0, "", start)
    monkeypatch.setattr("bluesky_ptychonn.cli.catalog.open_catalog", lambda settings: {-1: run})
    monkeypatch.setattr("bluesky_ptychonn.io.runs.read_run", lambda run: run)
    (folder / "here.toml").write_text('[catalog]\nuri = "http://here"\n[probe]\nfile = "absent.npy"\n')
    settings = {**good.settings, "orientation": "flip_y"}
    turned = replace(good, settings=settings, provenance={"run_uid": "5f3a0c1b-0000"})
    write_reconstruction(folder / "run.cxi", turned)
    assert corpus("add", "c", "run.cxi", "-1", "--settings", "here.toml", "--orientation", "auto") == 0
    (shard,) = Corpus("c").open()
    assert shard.run == "5f3a0c1b-0000"
    np.testing.assert_array_equal(shard.patterns, scan.patterns)


REFUSED = [
    ({}, ["scan.npz", "good.cxi"], r"scan.npz was not written as a reconstruction"),
    ({}, ["absent.cxi", "scan.npz"], r"absent.cxi cannot be read"),
    ({}, ["good.cxi", "good.cxi"], r"good.cxi is a reconstruction, not a scan"),
    ({}, ["good.cxi", "other.npz"], r"the scan has sha256 = .*; give the scan it is of"),
    ({}, ["good.cxi", "scan.npz", "--orientation", "flip_x"], r"--orientation flip_x: .* made with identity; leave"),
    ({}, ["good.cxi", "scan.npz", "--crop-px", "48"], r"--crop-px 48: .* made with 64; leave it out"),
    ({}, ["good.cxi", "scan.npz", "--beam-center-px", "28", "32"], r"does not explain these patterns"),
    ({}, ["good.cxi", "scan.npz", "--network-pixel-nm", "12"], r"the network of 12 nm; at most 2 %"),
    ({}, ["good.cxi", "scan.npz", "--network-pixel-nm", "0"], r"--network-pixel-nm 0 nm: it must be positive"),
    ({"report": None}, ["changed.cxi", "scan.npz"], r"no verdict; judge it first"),
    ({"report": replace(TRUSTED, trusted=False)}, ["changed.cxi", "absent.npz"], r"not trusted, .*: it fits"),
]


@pytest.mark.parametrize(("changes", "arguments", "message"), REFUSED)
def test_refused_and_nothing_added(here, simulated, changes, arguments, message, capsys):
    folder, _, good = here
    write_reconstruction(folder / "changed.cxi", replace(good, **changes))
    np.savez("other.npz", **{**simulated[0], "energy_kev": 10.001})
    assert corpus("add", "c", *arguments) == 1
    told = capsys.readouterr().err
    assert re.search(message, told), told
    assert Corpus("c").names() == []


def test_patterns_of_two_sizes_make_no_corpus(here, few_pixels, capsys):
    assert corpus("simulate", "c", "--scans", 1, "--frames", 1) == 0
    assert corpus("add", "c", "good.cxi", "scan.npz") == 1
    assert "c holds patterns of 8 px, these have 64 px; choose another corpus" in capsys.readouterr().err
    assert len(Corpus("c").names()) == 1


@pytest.mark.parametrize("option", ["scans", "frames"])
def test_no_scans_are_no_simulation(here, option, capsys):
    assert corpus("simulate", "c", f"--{option}", 0) == 1
    assert f"--{option} 0: it must be at least 1" in capsys.readouterr().err


def test_the_list_tells_what_is_there(here, few_pixels, capsys):
    folder, scan, _ = here
    corpus("simulate", "small", "--scans", 2, "--frames", 3)
    corpus("add", "c", "good.cxi", "scan.npz")
    (labelled,) = Corpus("c").open()
    os.rename(labelled.directory, folder / "small" / "shards" / labelled.name)
    capsys.readouterr()
    assert corpus("list", "small", "--json", "list.json") == 0
    told = capsys.readouterr().out
    names, frames = Corpus("small").names(), len(scan.patterns)
    assert [line.split()[0] for line in told.splitlines()[1:-1]] == names
    assert re.search(rf"{labelled.name} +scan.npz +reconstruction +{frames} +9\.\de\+05 +\d\.\d", told)
    assert re.search(r"simulated-0-1 +simulation +3 ", told)
    assert f"3 shards, {6 + frames} frames" in told
    assert told.rstrip().endswith(f"snapshot {snapshot_sha256(names)}")

    written = json.loads((folder / "list.json").read_text())
    assert written["command"] == "corpus list"
    assert written["conditions"]["snapshot_sha256"] == snapshot_sha256(names)
    row = next(row for row in written["results"] if row["name"] == labelled.name)
    assert (row["run"], row["frames"]) == (scan.provenance["sha256"], frames)
    assert row["bytes"] > scan.patterns.nbytes + 4 * scan.patterns.size


def test_verify_finds_all_that_is_harmed(here, few_pixels, capsys):
    corpus("simulate", "c", "--scans", 4, "--frames", 2)
    capsys.readouterr()
    assert corpus("verify", "c") == 0
    assert f"4 of 4 shards are whole; snapshot {snapshot_sha256(Corpus('c').names())}" in capsys.readouterr().out

    first, second, third, fourth = Corpus("c").open()
    (first.directory / "patterns.npy").unlink()
    (second.directory / "manifest.json").write_text("{}")
    data = bytearray((fourth.directory / "probe.npy").read_bytes())
    data[-1] ^= 128
    (fourth.directory / "probe.npy").write_bytes(data)
    assert corpus("verify", "c") == 1
    told = capsys.readouterr()
    assert "1 of 4 shards are whole" in told.out
    assert f"{first.name}: patterns.npy is missing" in told.err
    assert f"{second.name}: its manifest was changed" in told.err
    assert f"{fourth.name}: probe.npy was changed" in told.err
    assert third.name not in told.err

    assert corpus("verify", "c", third.name) == 0
    assert corpus("verify", "c", third.name, "0123") == 1
    assert "no shard 0123" in capsys.readouterr().err
    assert corpus("list", "c") == 1
    told = capsys.readouterr()
    assert "3 shards" in told.out
    assert f"{second.name}: its manifest was changed" in told.err
    assert corpus("simulate", "c", "--scans", 5, "--frames", 2) == 1
    assert "remove the folder and add the scan anew" in capsys.readouterr().err


@pytest.mark.parametrize("action", ["list", "verify"])
def test_a_folder_without_shards_is_told(here, action, capsys):
    assert corpus(action, "nowhere") == 1
    assert "nowhere holds no shards; `bluesky-ptychonn corpus --help`" in capsys.readouterr().err


def test_what_killed_writers_left_goes_after_a_day(here, few_pixels):
    folder, _, _ = here
    old, young = (folder / "c" / "shards" / name for name in (".part-old", ".part-young"))
    for part in (old, young):
        part.mkdir(parents=True)
        (part / "patterns.npy").write_bytes(b"half")
    os.utime(old, times=(time.time() - 25 * 3600,) * 2)
    os.utime(young, times=(time.time() - 23 * 3600,) * 2)
    assert corpus("simulate", "c", "--scans", 1, "--frames", 1) == 0
    assert young.exists()
    assert not old.exists()


def test_a_full_disk_is_told_with_a_remedy(here, few_pixels, monkeypatch, capsys):
    corpus("simulate", "c", "--scans", 1, "--frames", 1)
    names = Corpus("c").names()
    monkeypatch.setattr("numpy.lib.format.write_array", _full)
    assert corpus("simulate", "c", "--scans", 2, "--frames", 1) == 1
    assert "c cannot be written: 96 requested and 12 written; free some space" in capsys.readouterr().err
    assert Corpus("c").names() == names == os.listdir("c/shards")


def _full(*_, **__):
    raise OSError("96 requested and 12 written")


def test_the_help_teaches(capsys):
    for arguments, texts in (
        ([], ("corpus simulate corpus --scans 200", "scan_reconstruction.cxi scan.npz", "trusted", "hash")),
        (["add"], ("RECONSTRUCTION", "RUN|FILE", "over 2 %")),
        (["verify"], ("every byte",)),
    ):
        with pytest.raises(SystemExit):
            corpus(*arguments, "--help")
        told = capsys.readouterr().out
        for text in texts:
            assert text in told

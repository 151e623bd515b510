"""The bench of phase retrieval: what it measures is right, however long it takes."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

from bluesky_ptychonn.cli import bench_retrieval
from bluesky_ptychonn.cli.bench_retrieval import COLUMNS, MOMENTS_S, Clock, simulate
from bluesky_ptychonn.cli.main import main
from bluesky_ptychonn.core.optics import Geometry, zone_plate_probe
from bluesky_ptychonn.training.retrieval import ptychi_engine

TINY = ["bench", "phase-retrieval", "--points", "100", "--seconds", "0.1"]


@pytest.fixture(scope="module")
def tiny():
    return simulate(100, 1e6, "etched")


@pytest.fixture
def run(tiny, monkeypatch, tmp_path):
    """Runs the case on the tiny scan; gives the figures it wrote."""
    monkeypatch.setattr(bench_retrieval, "simulate", lambda *_: tiny)

    def results(*arguments):
        case = [part for part in TINY if "--source" not in arguments or part not in ("--points", "100")]
        assert main([*case, *arguments, "--json", str(tmp_path / "f.json")]) == 0
        written = json.loads((tmp_path / "f.json").read_text())
        assert written["command"] == "bench phase-retrieval"
        return written["results"]

    return results


def test_the_default_scan_is_the_documented_one():
    assert (bench_retrieval.POINTS, bench_retrieval.STARTS_UM["defocus11"]) == (960, pytest.approx(188.7))
    from bluesky_ptychonn.core.scan import fermat_spiral

    assert len(fermat_spiral(2.72, 2.72, 0.0877)) == 960


def test_truth_itself_is_perfect_but_for_a_constant(tiny):
    _, truth = tiny
    part = truth.object_[10:240, 12:240]
    likeness, frequency = truth.compare(part * np.exp(2.5j), (10.0, 12.0))
    assert (likeness.ssim, frequency) == (pytest.approx(1), 0.5)
    assert (likeness.removed, likeness.data_range, likeness.region) == (("constant",), 0.6, "96:134,96:132")
    ramp = np.exp(0.02j * np.arange(part.shape[1]))
    assert truth.compare(part * ramp, (10.0, 12.0))[0].ssim < 0.9
    assert truth.compare(np.roll(part, 2, axis=0), (10.0, 12.0))[0].ssim < 0.9


def test_one_table_from_one_run(run, capsys):
    results = run("--methods", "poisson", "epie")
    assert [(row["probe_start"], row["method"]) for row in results] == [
        (start, method) for start in ("defocus11", "exact") for method in ("poisson", "epie")
    ]
    for row in results:
        assert set(COLUMNS) | {f"ssim_at_{by_s}s" for by_s in MOMENTS_S} < set(row)
        assert row["skipped"] is None
        assert 0 < row["seconds_per_sweep"] <= row["seconds_total"]
        assert 0 < row["error"] < 0.1
        assert 0 < row["error_heldout"] < 0.1
        assert row["overlap_ratio"] == pytest.approx(0.877, abs=0.01)
        assert row["sweeps"] >= 2
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 1 + len(results)
    assert table[0].split() == list(COLUMNS)


def test_what_cannot_run_is_skipped_with_its_reason(run, monkeypatch, capsys):
    monkeypatch.setattr(ptychi_engine, "why_not", lambda: "pty-chi is not installed")
    results = run("--methods", "ptychi-lsqml")
    assert [row["skipped"] for row in results] == ["pty-chi is not installed"] * 2
    assert [row["ssim"] for row in results] == [None, None]
    assert "skipped: pty-chi is not installed" in capsys.readouterr().out


def test_all_methods_and_the_one_asked_for_first(run, monkeypatch):
    monkeypatch.setattr(bench_retrieval, "measure", lambda *given, **_: {"method": given[2], "skipped": None})
    assert [row["method"] for row in run()][:5] == ["poisson", "batched", "epie", "rpie", "ptychi-lsqml"]


def test_a_recorded_scan_with_more_modes(tiny, run, tmp_path):
    scan, _ = tiny
    probe, mask = zone_plate_probe(Geometry(), defocus_um=170.0), np.zeros((128, 128), bool)
    mask[:2] = True
    patterns, positions_px = scan.patterns, scan.positions_px
    np.savez(tmp_path / "star.npz", patterns=patterns, positions_px=positions_px, probe=probe, mask=mask)
    results = run("--source", str(tmp_path / "star.npz"), "--modes", "1", "2")
    assert [(row["method"], row["modes"]) for row in results] == [("poisson", 1), ("poisson", 2), ("epie", 1)]
    for row in results:
        assert (row["test"], row["probe_start"]) == ("phase-retrieval star", "file")
        assert row["masked_fraction"] == pytest.approx(2 / 128)
        assert 0 < row["error"] < 0.1
        assert 0 < row["error_heldout"] < 0.1
        assert "ssim" not in row


def test_comparing_takes_no_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(bench_retrieval.time, "monotonic", lambda: now[0])
    likeness = iter([0.5, 0.86, 0.9])

    def score(_):
        now[0] += 100
        return next(likeness)

    clock = Clock(score)
    for duration_s in (4.0, 5.0, 2.0):
        now[0] += duration_s
        clock.note(SimpleNamespace(object_=None))
    assert clock.times_s == [4.0, 9.0, 11.0]
    assert clock.ssim_figures() == {
        "seconds_to_ssim_085": 9.0,
        "ssim_at_10s": 0.86,
        "ssim_at_20s": 0.9,
        "ssim_at_50s": 0.9,
        "ssim_at_100s": 0.9,
    }


def test_ctrl_c_ends_the_run(run, monkeypatch, tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Clock, "note", interrupt)
    monkeypatch.setattr("bluesky_ptychonn.cli.interruption.ignore_signals", lambda: None)
    assert main([*TINY, "--methods", "poisson", "--json", str(tmp_path / "f.json")]) == 130
    assert not (tmp_path / "f.json").exists()


def test_ctrl_c_keeps_finished_rows(tiny, monkeypatch, tmp_path):
    def measure(_scan, _probe, method, **_):
        if method == "epie":
            raise KeyboardInterrupt
        return {"method": method, "skipped": None}

    monkeypatch.setattr(bench_retrieval, "simulate", lambda *_: tiny)
    monkeypatch.setattr(bench_retrieval, "measure", measure)
    monkeypatch.setattr("bluesky_ptychonn.cli.interruption.ignore_signals", lambda: None)
    assert main([*TINY, "--methods", "poisson", "epie", "--json", str(tmp_path / "f.json")]) == 130
    assert [row["method"] for row in json.loads((tmp_path / "f.json").read_text())["results"]] == ["poisson"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "magic"], r"--methods magic: allowed are batched, poisson"),
        (["--points", "10"], r"--points 10 is outside 100 to 10000 positions"),
        (["--photons", "nan"], r"--photons nan is outside 1 to 1e\+09 photons per frame"),
        (["--seconds", "0"], r"--seconds 0 is outside 0.1 to 86400 s for each method"),
        (["--modes", "2"], r"--modes 2: the simulated scan has one; give --source FILE"),
        (["--modes", "0"], r"--modes 0: at least 1 is needed"),
        (["--source", "x.npz", "--photons", "1e6"], r"--photons is for the simulated scan; leave it out, or --source"),
        (["--json", "."], r"--json \. is a folder"),
        (["--source", "missing.npz"], r"--source missing.npz cannot be read"),
    ],
)
def test_refused(arguments, message, capsys):
    assert main(["bench", "phase-retrieval", *arguments]) == 1
    told = capsys.readouterr().err
    assert re.search(message, told), told

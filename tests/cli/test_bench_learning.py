"""The bench of learning: tables, figures and pictures are well formed, and what they say is what was measured."""

import json

import numpy as np
import pytest

from bluesky_ptychonn.cli import learning_star
from bluesky_ptychonn.cli.bench_learning import KEYS
from bluesky_ptychonn.cli.learning_cases import BARS, TEN_COUNTS_PHOTONS, WRONG_PROBES, Asked, Case, Effort, cases_of
from bluesky_ptychonn.cli.learning_images import Image, Laboratory
from bluesky_ptychonn.cli.learning_tables import crossings, table
from bluesky_ptychonn.cli.main import main
from bluesky_ptychonn.engines.lift import LiftEngine

PICTURES = (
    *("etched_dose", "etched_dose_images", "etched_overlap", "etched_overlap_images"),
    *("letters_points", "letters_points_images", "wrong_probe"),
)


def test_quick_run_without_a_model(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("PTYCHONN_DATA", raising=False)
    files = ["--output", str(tmp_path / "pictures"), "--json", str(tmp_path / "f.json")]
    assert main(["bench", "learning", "--quick", "--engine", "lift", *files]) == 0
    written = json.loads((tmp_path / "f.json").read_text())
    assert written["command"] == "bench learning"
    assert set(written["conditions"]["test_sets"]) == {"letters", "etched"}
    results = written["results"]
    assert all(tuple(result) == KEYS for result in results)
    first, star = results[0], results[-1]
    assert [first[key] for key in ("test", "model", "engine", "method", "points")] == [
        "letters",
        "lift",
        "lift",
        "lift",
        49,
    ]
    assert (first["removed"], first["data_range"], first["region"]) == ("constant (median)", 0.6, "140:320,140:320")
    assert {result["removed"] for result in results if result["method"] == "epie"} == {"constant (median)"}
    assert (star["test"], star["ssim"]) == ("star", None)
    assert "PTYCHONN_DATA names no folder" in star["skipped"]
    assert {result["method"] for result in results[:-1]} == {"lift", "epie", "poisson"}
    for result in results[:-1]:
        assert result["skipped"] is None
        assert -1 < result["ssim"] < 1
        assert 0 < result["mae_rad"] < 2
        assert (result["sweeps"] is None) == (result["method"] == "lift")
        assert (result["ssim_to_reference"] is None) == (result["part"] != "overlap")
        assert (result["uncovered_fraction"] > 0) == (result["overlap_ratio"] < 0.1)
    said = capsys.readouterr().out
    assert "etched against overlap" in said
    assert "left out, because no light came there: " in said
    for name in PICTURES:
        assert (tmp_path / "pictures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"{name}.png" in said


def test_every_bar_is_asked_for_once_per_model():
    cases = cases_of(["net", "lift"], Effort())
    assert cases[0] == Case("points", Asked("letters", points=960), "net", 960)
    for bar in BARS:
        own = [case for case in cases if (case.part, case.at) == bar and case.method == "net"]
        assert len(own) == (2 if bar[0] == "probe" else 1), bar
    assert len(cases) == len(set(cases))


def test_wrong_probes_are_as_wrong_as_they_say():
    assert WRONG_PROBES["exact"] == {"defocus_um": 170.0}
    assert WRONG_PROBES["defocus +10%"]["defocus_um"] == pytest.approx(187)
    assert WRONG_PROBES["defocus -20%"]["defocus_um"] == pytest.approx(136)
    assert WRONG_PROBES["astigmatic 10%"] == {"defocus_um": 170.0, "astigmatism_um": pytest.approx(17)}


def test_ten_counts():
    laboratory = Laboratory({}, Effort())
    scan, covered, figures = laboratory._scan(Asked("etched", overlap_ratio=0.88, photons=TEN_COUNTS_PHOTONS))
    assert figures["counts_max"] == 10
    assert scan.points == 1026
    assert covered[laboratory.region].all()


def test_a_wrong_probe_is_given_to_the_engine_alone():
    """The same frames, whatever is assumed; the loss is that against the exact probe."""

    class Remembering(LiftEngine):
        probes: list[np.ndarray] = []

        def set_probe(self, probe):
            self.probes.append(probe)
            super().set_probe(probe)

    engine = Remembering()
    laboratory, asked = Laboratory({"lift": engine}, Effort()), Asked("letters", points=25)
    exact, wrong = (
        laboratory.figures(Case("probe", asked, "lift", probe, probe)) for probe in ("exact", "defocus +20%")
    )
    assert exact["ssim_loss"] == 0
    assert wrong["ssim_loss"] == exact["ssim"] - wrong["ssim"]
    assert len(engine.probes) == 2
    assert np.linalg.norm(engine.probes[0] - engine.probes[1]) > 0.1 * np.linalg.norm(engine.probes[0])


def test_low_counts_scaled_up_are_those_of_a_high_dose():
    """The same photons, told to the engine as a hundred times as many: the same picture of a lift, which is linear."""

    class Remembering(LiftEngine):
        counts: list[float] = []

        def infer(self, patterns):
            self.counts.append(float(patterns.sum(axis=(1, 2), dtype=np.int64).mean()))
            return super().infer(patterns)

    laboratory = Laboratory({"lift": Remembering()}, Effort())
    asked = Asked("etched", overlap_ratio=0.3, photons=1e4)
    plain, scaled = (laboratory.figures(Case("dose", asked, name, 1e4)) for name in ("lift", "lift, counts scaled up"))
    counts = Remembering.counts
    assert np.mean(counts[: len(counts) // 2]) == pytest.approx(1e4, rel=0.1)
    assert np.mean(counts[len(counts) // 2 :]) == pytest.approx(1e6, rel=0.1)
    assert (plain["method"], scaled["method"]) == ("lift", "lift, counts scaled up")
    assert scaled["model"] == "lift, counts scaled up"
    doses = [case for case in cases_of(["net", "lift"], Effort()) if case.method == "net, counts scaled up"]
    assert [case.at for case in doses] == [1e5, 1e4, TEN_COUNTS_PHOTONS]


def test_truth_itself_is_perfect_and_a_constant_is_open_only_to_phase_retrieval():
    laboratory = Laboratory({}, Effort())
    truth = laboratory.test_sets["letters"].phase_rad
    everywhere = np.ones(truth.shape, bool)
    retrieved = Image(truth + 0.4, everywhere, {}, absolute=False, sweeps=9, seconds=0.0)
    assert laboratory._compare(retrieved, truth).ssim == pytest.approx(1)
    shown = Image(truth + 0.4, everywhere, {}, absolute=True, sweeps=None, seconds=0.0)
    assert laboratory._compare(shown, truth).ssim < 0.5
    assert laboratory._compare(shown, truth, mean=True).ssim == pytest.approx(1)
    deep = Image(1.15 * truth, everywhere, {}, absolute=True, sweeps=None, seconds=0.0)
    assert laboratory._compare(deep, truth).ssim > 0.95
    assert laboratory._compare(deep, truth, mean=True).ssim < 0.6


def test_tables_and_crossings():
    rows = [
        {"test": "etched", "part": "overlap", "at": at, "points": 9, "model": model, "method": method, "ssim": ssim}
        | {"ssim_to_reference": ssim / 2}
        for at, values in ((0.88, (0.9, 0.95)), (0.0, (0.8, 0.3)))
        for (model, method), ssim in zip((("net", "network"), (None, "epie")), values, strict=True)
    ]
    assert crossings(rows) == ["net is liker to the truth than epie at overlap 0"]
    lines = table("overlap", rows).splitlines()
    assert lines[2].split() == ["net", "0.900", "0.450", "0.800", "0.400"]
    assert lines[4].split() == ["required", "0.94", "0.85"]


def test_star(real_data):
    steps = []
    rows, pictures = learning_star.star_figures(real_data / learning_star.FILE, {"lift": LiftEngine()}, 1, steps.append)
    assert [(row["model"], row["at"]) for row in rows] == [("lift", "refined"), ("lift", "file")]
    assert all(row["correlation"] > 0.7 for row in rows)
    assert {row["removed"] for row in rows} == {"constant+ramp+shift"}
    assert {picture.shape for picture in pictures.values()} == {(280, 280)}
    assert len(steps) == 3
    slope = np.polyfit(np.arange(280), pictures["reconstruction"].mean(axis=0), 1)[0]
    assert abs(280 * slope) < 0.05  # a ramp which both share is no likeness


def test_without_data_the_star_is_skipped(tmp_path, monkeypatch):
    monkeypatch.setenv("PTYCHONN_DATA", str(tmp_path))
    assert learning_star.find_star() == f"PTYCHONN_DATA={tmp_path} holds no siemens_star_128.npz"


def test_refused(tmp_path, capsys):
    assert main(["bench", "learning", "--quick", "--engine", "lift", "--json", str(tmp_path)]) == 1
    assert "is a folder" in capsys.readouterr().err
    assert main(["bench", "learning", "--engine", "lift", "--model", "x", "--output", str(tmp_path / "p")]) == 1
    assert "--engine lift runs without any model" in capsys.readouterr().err
    assert main(["bench", "learning", "--model", str(tmp_path), "--output", str(tmp_path / "p")]) == 1
    assert "no model in" in capsys.readouterr().err

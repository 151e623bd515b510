"""Small runs of the benches that train."""

import json

import pytest

pytest.importorskip("torch")

from small_corpus import TINY, small_corpus, small_recipe

from bluesky_ptychonn.cli import bench_training, bench_tuning
from bluesky_ptychonn.cli.main import main
from bluesky_ptychonn.training.learning.corpus import Corpus
from bluesky_ptychonn.training.learning.train import train


@pytest.mark.soak
def test_sizes_of_the_corpus_are_judged_by_scans_none_of_them_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_training, "FRAMES", 4)
    monkeypatch.setattr(bench_training, "JUDGED", 3)
    learned = []

    def spy(out, shards, **options):
        learned.append({shard.run for shard in shards})
        return train(out, shards, configuration=TINY, **options)

    monkeypatch.setattr("bluesky_ptychonn.training.learning.train.train", spy)
    few = ["--pairs", "8", "16", "--curve-pairs", "8", "--contestants", "ptychonn-lift/robust"]
    short = ["--minutes", "0.03", "--pair-minutes", "0.03"]
    out, figures = tmp_path / "bench", tmp_path / "f.json"
    assert main(["bench", "training", *few, *short, "--output", str(out), "--json", str(figures)]) == 0
    runs = [f"one-beamline-{bench_training.SEED}-{number}" for number in range(3)]
    assert not set(runs) & set().union(*learned)
    assert set(runs) <= {shard.run for shard in Corpus(out / "corpus").open()}
    curve, small, large = json.loads(figures.read_text())["results"]
    assert (curve["model"], curve["method"]) == ("ptychonn-lift", "robust")
    assert small["training_pairs"] < large["training_pairs"]
    assert small["mae_of_nothing_rad"] == large["mae_of_nothing_rad"]  # the same scans judge both
    assert all(result["mae_letters_rad"] > 0 for result in (curve, small, large))
    for name in ("error_against_computing.png", "error_against_pairs.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.soak
def test_a_new_sample_is_learned_from_one_area_and_judged_on_another(tmp_path, monkeypatch):
    for name, value in {"FRAMES": 80, "SIDE_PX": 400, "AREA_PX": 60, "JUDGED_PX": 40, "SWEEPS": 12}.items():
        monkeypatch.setattr(bench_tuning, name, value)
    train(tmp_path / "t", small_corpus(tmp_path / "c"), recipe=small_recipe(), configuration=TINY, epochs=1)
    arguments = ["--minutes", "0.05", "--seeds", "1", "--threads", "1", "--output", str(tmp_path / "out")]
    assert main(["bench", "tuning", str(tmp_path / "t"), *arguments, "--json", str(tmp_path / "f.json")]) == 0
    (result,) = json.loads((tmp_path / "f.json").read_text())["results"]
    assert result["training_pairs"] <= 80
    assert result["ssim"] != result["ssim_before"]
    assert {-1 < result[name] < 1 for name in ("ssim", "ssim_before", "ssim_etched", "ssim_etched_before")} == {True}

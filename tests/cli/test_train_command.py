"""The command `train`, as a user types it: from nothing to a model that an engine opens."""

import json

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("openvino")

from bluesky_ptychonn.cli.main import main
from bluesky_ptychonn.engines.registry import open_engine
from bluesky_ptychonn.training.learning import stream
from bluesky_ptychonn.training.learning import train as train_module
from bluesky_ptychonn.training.learning.export import simulated_scans


@pytest.fixture(autouse=True)
def few_scans(tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "FIRST_SCANS", 3)
    monkeypatch.setattr(stream, "HELD_OUT_SCANS", 1)
    monkeypatch.setattr(train_module, "TIMED_STEPS", (1, 3))
    monkeypatch.chdir(tmp_path)


def test_from_simulation_to_a_model(tmp_path, capsys):
    learn = ["train", "t", "--simulate", "1", "--minutes", "0.05", "--photons", "1e5"]
    assert main([*learn, "--seed", "4"]) == 0
    figures = json.loads((tmp_path / "t" / "figures.json").read_text())
    conditions = figures["conditions"]
    assert conditions["pairs"] >= 120
    assert conditions["recipe"]["augmentation"]["thinning"] == 0, "a network for one dose learns from that dose"
    assert (tmp_path / "t" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert main(["train", "t", "--export", "m", "--name", "mine"]) == 0
    engine = open_engine("openvino", tmp_path / "m")
    assert (engine.card.version, engine.patch_px) == ("mine-1", 64)
    scan = simulated_scans(3, 1, 128)[0]
    engine.set_probe(scan.probe)
    assert np.isfinite(engine.infer(scan.patterns[:4])).all()
    assert "error" in capsys.readouterr().out


def test_a_packaged_model_is_learned_on_from(tmp_path):
    """One epoch on two frames: the network and what it knows are the starter's."""
    from bluesky_ptychonn.training.learning.checkpoint import trained_network

    assert main(["corpus", "simulate", "c", "--scans", "2", "--frames", "2"]) == 0
    assert main(["train", "t", "--corpus", "c", "--start", "starter", "--recipe", "tune", "--epochs", "1"]) == 0
    (before, _), (after, about) = trained_network(tmp_path / "t" / "start"), trained_network(tmp_path / "t")
    assert about["network"] == "ptychonn-lift"
    weights = before.state_dict()
    near = [float((value - weights[name]).abs().max()) for name, value in after.state_dict().items()]
    assert 0 < max(near) < 0.1


@pytest.mark.parametrize("source", [[], ["--simulate", "1", "--corpus", "c"]])
def test_one_source_is_needed(source, capsys):
    assert main(["train", "t", *source]) == 1
    assert "either --corpus DIR" in capsys.readouterr().err


def test_a_corpus_has_its_own_doses(capsys):
    assert main(["train", "t", "--corpus", "c", "--photons", "1e4"]) == 1
    assert "--photons is for --simulate" in capsys.readouterr().err

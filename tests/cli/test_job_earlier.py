"""At the beginning of an experiment the best of the earlier versions goes live, by the residual alone."""

import hashlib

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
from simulated_scan import GEOMETRY, simulate
from tiny_jobs import job, killed_at
from tiny_models import write_candidate

from bluesky_ptychonn.io.model_store import VERSIONS, current_version, open_model, publish, set_current
from bluesky_ptychonn.training.loop import jobs
from bluesky_ptychonn.training.loop.jobs import JobSpec, prepare

GAINS = {"000001": 1.0, "000002": 0.0, "000003": -1.0, "000004": 0.0}  # of the lift: good, nothing, wrong, nothing


@pytest.fixture
def store(tmp_path):
    for number, gain in enumerate(GAINS.values()):
        model = open_model(write_candidate(tmp_path / f"model{number}", gain))
        publish(
            tmp_path / "store", model.card, {name: (model.directory / name).read_bytes() for name in model.card.files}
        )
    return tmp_path / "store"


@pytest.fixture
def folder(tmp_path, store):
    scan, _ = simulate(1, width_um=0.5)
    known = {name: getattr(GEOMETRY, name) for name in ("energy_kev", "distance_m", "detector_pixel_um")}
    places_um, file = scan.positions_px * GEOMETRY.pixel_size_um, tmp_path / "scan.npz"
    np.savez(file, patterns=scan.patterns, positions_um=places_um, probe=scan.probe, **known)
    source = {"file": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    options = {"store": str(store), "engine": "onnxruntime", "threads": 1, "earlier": 8}
    return prepare(tmp_path / "loop", JobSpec("residual", "a", source=source, options=options))


def test_the_best_goes_live_again(store, folder):
    assert current_version(store) == "000004"
    assert job(folder) == 0
    found = jobs.result(folder)
    assert current_version(store) == found["live_version"] == found["earlier"] == "000001"
    assert found["replaced"] == "000004"
    assert set(found["residuals"]) == set(GAINS)
    assert found["residual"] == pytest.approx(found["residuals"]["000001"], rel=1e-6)
    assert found["residuals"]["000001"] < 0.95 * found["residuals"]["000004"] < found["residuals"]["000003"]
    assert found["earlier_told"].startswith("version 000001 of an earlier experiment is live again: on the first ")


def test_a_live_one_that_is_the_best_stays(store, folder):
    set_current(store, "000001")
    assert job(folder) == 0
    found = jobs.result(folder)
    assert (current_version(store), found["earlier"]) == ("000001", "")
    assert "none of 3 earlier versions is better than 000001" in found["earlier_told"]


def test_one_that_is_harmed_is_left_aside(store, folder):
    (store / VERSIONS / "000001/model.onnx").write_bytes(b"")
    assert job(folder) == 0
    found = jobs.result(folder)
    assert (current_version(store), found["residuals"]["000001"]) == ("000004", None)


def test_what_an_attempt_that_was_killed_found_holds(store, folder):
    killed_at(folder, "compared")
    assert current_version(store) == "000004"
    assert job(folder) == 0
    assert current_version(store) == jobs.result(folder)["earlier"] == "000001"


def test_a_version_that_went_live_meanwhile_is_not_replaced(store, folder):
    killed_at(folder, "compared")
    set_current(store, "000002")
    assert job(folder) == 0
    assert current_version(store) == jobs.result(folder)["live_version"] == "000002"


def test_with_one_version_there_is_nothing_to_compare(tmp_path, folder, store):
    for name in list(GAINS)[:3]:
        (store / VERSIONS / name).rename(tmp_path / name)
    assert job(folder) == 0
    assert "there is no earlier version" in jobs.result(folder)["earlier_told"]

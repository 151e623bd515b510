"""The bench of engines: its figures are well formed, and what cannot be measured says why."""

import contextlib
import json
import sys

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from bluesky_ptychonn.cli import bench_inference
from bluesky_ptychonn.cli.main import main
from bluesky_ptychonn.core.protocols import EngineUnavailable

KEYS = {
    *("test", "model", "engine", "batch", "dtype", "preparation_included"),
    *("us_per_frame_mean", "us_per_frame_std", "fps", "skipped"),
}


@pytest.fixture
def bench(tmp_path):
    def run(*arguments):
        out = tmp_path / "figures.json"
        code = main(["bench", "inference", "--runs", "2", *map(str, arguments), "--json", str(out)])
        return code, json.loads(out.read_text()) if out.exists() else None

    return run


def test_figures_of_the_starter(bench, capsys):
    code, figures = bench("--engine", "onnxruntime", "--networks", "ptychonn-lift", "--batches", "1,3")
    assert code == 0
    assert figures["command"] == "bench inference"
    assert {"processor", "gpus", "libraries", "threads", "cores", "load_1min"} <= figures["conditions"].keys()
    results = figures["results"]
    assert [set(result) for result in results] == 4 * [KEYS]
    assert [(result["batch"], result["preparation_included"]) for result in results] == [
        *((1, True), (1, False)),
        *((3, True), (3, False)),
    ]
    for result in results:
        assert (result["test"], result["model"], result["engine"]) == ("inference", "ptychonn-lift", "onnxruntime")
        assert (result["dtype"], result["skipped"]) == ("fp32", None)
        assert result["fps"] == pytest.approx(1e6 / result["us_per_frame_mean"], rel=1e-3)
        assert result["us_per_frame_std"] >= 0
    told = capsys.readouterr().out
    assert "ptychonn-lift, engine onnxruntime, fp32" in told
    assert len([line for line in told.splitlines() if line.split()[:1] in (["1"], ["3"])]) == 2


def test_a_network_of_the_paper(bench, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(bench_inference, "FRAME_PX", 64)
    code, figures = bench("--engine", "onnxruntime", "--networks", "ptychonn2", "--batches", "2")
    assert code == 0
    assert [result["model"] for result in figures["results"]] == ["ptychonn2", "ptychonn2"]


def test_models_by_name_and_folder(bench):
    models = ["starter", bench_inference.PACKAGED["starter"]]
    code, figures = bench("--engine", "onnxruntime", "--batches", "1", "--model", *models)
    assert code == 0
    assert [result["model"] for result in figures["results"][::2]] == [str(model) for model in models]


def test_an_engine_that_does_not_open_is_skipped_with_its_reason(bench, monkeypatch, capsys):
    from bluesky_ptychonn.engines import registry

    opened = registry.open_engine

    def open_(name, *arguments, **options):
        if name == "torch":
            raise EngineUnavailable("no GPU here")
        return opened(name, *arguments, **options)

    monkeypatch.setattr(registry, "open_engine", open_)
    code, figures = bench("--engine", "torch", "onnxruntime", "--model", "starter", "--batches", "1,2")
    assert code == 0
    first, *others = figures["results"]
    assert (first["engine"], first["skipped"], first["us_per_frame_mean"]) == ("torch", "no GPU here", None)
    assert set(first) == KEYS
    assert {result["engine"] for result in others} == {"onnxruntime"}
    assert "starter, engine torch: skipped: no GPU here" in capsys.readouterr().out
    assert bench("--engine", "torch", "--model", "starter")[0] == 1


def test_untrained_networks_need_torch(bench, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    code, figures = bench("--engine", "onnxruntime", "--networks", "ptychonn", "ptychonn-lift", "--batches", "1")
    assert code == 0
    assert figures["results"][0]["skipped"].startswith("torch is needed to make the untrained network")
    assert figures["results"][1]["us_per_frame_mean"] > 0
    assert "pip install 'bluesky-ptychonn[training]'" in capsys.readouterr().out


def test_an_engine_without_networks_of_its_own_gives_null():
    class Engine:
        def infer(self, given):
            assert given is patterns

    patterns = np.ones((4, 16, 16), np.uint16)
    whole, alone = bench_inference.measure(Engine(), patterns, 3)
    assert whole.shape == (3,)
    assert alone is None
    assert "-" in bench_inference._row(4, bench_inference._figures(whole, True), bench_inference._figures(alone, False))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--runs", "1"], "--runs 1: allowed is 2 to 100000"),
        (["--threads", "0"], "--threads 0: allowed is 1 to 1024"),
        (["--batches", "1,two"], "give sizes of 1 to 65536 patterns"),
        (["--engine", "lift"], "invalid choice"),
    ],
)
def test_bad_options_are_named(capsys, arguments, message):
    with contextlib.suppress(SystemExit):
        assert main(["bench", "inference", *arguments]) == 1
    assert message in capsys.readouterr().err

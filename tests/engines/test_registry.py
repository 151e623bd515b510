"""Which engine is opened, and why others are not."""

import functools
import json
import logging
import shutil
import sys
from types import SimpleNamespace
from typing import get_args

import pytest

from bluesky_ptychonn.config import EdgeSettings
from bluesky_ptychonn.core.protocols import EngineMismatch, EngineUnavailable, GraphUnsupported
from bluesky_ptychonn.engines import registry
from bluesky_ptychonn.engines.registry import AUTO, NAMES, STARTER, open_engine

MODULES = {
    "tensorrt": ("tensorrt", "TensorRtEngine"),
    "torch": ("torch_cuda", "TorchEngine"),
    "openvino": ("openvino", "OpenVinoEngine"),
    "onnxruntime": ("onnx_runtime", "OnnxRuntimeEngine"),
}


@pytest.fixture
def machine(monkeypatch):
    """Makes engines which open, or fail with an exception; returns the names that were tried."""

    def make(**outcomes):
        tried = []
        monkeypatch.setattr(registry.ctypes, "CDLL", lambda _: None)

        def open_(name, _, *options):
            tried.append((name, options))
            if name in outcomes:
                raise outcomes[name]
            return SimpleNamespace(name=name)

        for name, (module, cls) in MODULES.items():
            engine = SimpleNamespace(**{cls: functools.partial(open_, name)})
            monkeypatch.setitem(sys.modules, f"bluesky_ptychonn.engines.{module}", engine)
        return tried

    return make


def test_auto_takes_the_first_that_opens_and_says_why_others_do_not(machine, caplog):
    tried = machine(tensorrt=ImportError("No module named 'tensorrt'"), torch=EngineUnavailable("no GPU"))
    with caplog.at_level(logging.INFO, "bluesky_ptychonn"):
        assert open_engine("auto", max_batch=4, threads=2).name == "openvino"
    assert tried == [("tensorrt", (4,)), ("torch", (4,)), ("openvino", (4, 2))]
    assert caplog.messages == [
        "engine auto: not tensorrt: No module named 'tensorrt'",
        "engine auto: not torch: no GPU",
        "engine auto: openvino",
    ]


def test_auto_passes_over_an_engine_that_cannot_compute_the_graph(machine):
    machine(tensorrt=ImportError("none"), torch=GraphUnsupported("8 bits"))
    assert open_engine("auto").name == "openvino"


def test_auto_stops_at_a_harmed_model(machine):
    """What misses its golden pair in one engine is not to be shown by another."""
    tried = machine(tensorrt=ImportError("none"), torch=EngineMismatch("misses its golden patches"))
    with pytest.raises(EngineMismatch, match="golden"):
        open_engine("auto")
    assert [name for name, _ in tried] == ["tensorrt", "torch"]


def test_a_harmed_file_is_found_before_any_engine_is_tried(machine, tmp_path):
    tried = machine()
    folder = shutil.copytree(STARTER, tmp_path / "m")
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**card, "files": {**card["files"], "model.onnx": 64 * "0"}}))
    with pytest.raises(EngineMismatch, match="SHA-256"):
        open_engine("auto", folder)
    assert not tried


def test_auto_where_nothing_opens(machine):
    machine(**{name: ImportError(f"no {name}") for name in AUTO})
    with pytest.raises(
        EngineUnavailable, match=r"no engine fits .*tensorrt: no tensorrt; torch: no torch; openvino: no"
    ):
        open_engine("auto")


def test_torch_without_a_driver_is_refused_before_torch_is_imported(monkeypatch):
    def missing(_):
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(registry.ctypes, "CDLL", missing)
    monkeypatch.setitem(sys.modules, "bluesky_ptychonn.engines.torch_cuda", None)
    with pytest.raises(
        EngineUnavailable, match=r"driver cannot be loaded: libcuda.*use engine openvino or onnxruntime"
    ):
        open_engine("torch")


def test_settings_and_registry_know_the_same_names():
    assert get_args(EdgeSettings.model_fields["engine"].annotation) == NAMES

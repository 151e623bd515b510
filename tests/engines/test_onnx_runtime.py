import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from bluesky_ptychonn.core.protocols import EngineMismatch
from bluesky_ptychonn.engines.onnx_runtime import OnnxRuntimeEngine
from bluesky_ptychonn.engines.registry import STARTER
from bluesky_ptychonn.io.model_store import StoredModel, open_model


@pytest.mark.parametrize("threads", [1, 2])
def test_equals_the_reference_at_every_dose(open_on, seen_at_doses, threads):
    engine = open_on("onnxruntime", threads=threads)
    assert engine.dtype == "fp32"
    for patterns, probe, wanted in (*seen_at_doses, seen_at_doses[0]):
        engine.set_probe(probe)
        for count in (7, 1, 3):
            np.testing.assert_allclose(engine.infer(patterns[:count]), wanted[:count], atol=1e-5)


def test_openvino_gives_the_same_but_for_its_precision(open_on, seen_at_doses):
    engines = [open_on(name) for name in ("onnxruntime", "openvino")]
    for patterns, probe, _ in seen_at_doses:
        found = []
        for engine in engines:
            engine.set_probe(probe)
            found.append(engine.infer(patterns.astype(np.uint16)))
        assert np.sqrt(np.mean((found[0] - found[1]) ** 2)) < 0.005


def test_networks_alone_leave_what_comes_after_as_it_was(open_on, seen_at_doses):
    engine = open_on("onnxruntime", max_batch=4)
    patterns, probe, wanted = seen_at_doses[1]
    engine.set_probe(probe)
    engine.run_networks()
    np.testing.assert_allclose(engine.infer(patterns[:4]), wanted[:4], atol=1e-5)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"no network", r"model\.onnx cannot be compiled"),
        ((STARTER / "refine.onnx").read_bytes(), r"takes \[\?,5,64,64\]; its card says \[8, 3, 64, 64\]"),
    ],
)
def test_graphs_that_do_not_fit_their_card(tmp_path, data, message):
    model = open_model(STARTER)
    for path in STARTER.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(EngineMismatch, match=message):
        OnnxRuntimeEngine(StoredModel(model.card, tmp_path))

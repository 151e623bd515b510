"""The engine of torch: eager on the CPU, and on a GPU, where there is one, as CUDA graphs."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

import torch

from bluesky_ptychonn.core.protocols import EngineUnavailable, GraphUnsupported
from bluesky_ptychonn.engines import torch_cuda
from bluesky_ptychonn.engines.registry import STARTER
from bluesky_ptychonn.engines.torch_cuda import TorchEngine
from bluesky_ptychonn.io.model_store import open_model

PLACES = ("torch", "torch cuda")
ATOL_RAD = 0.02 if torch.cuda.is_available() else 1e-5
"""Of single precision; CUDA convolves it in TF32."""


@pytest.fixture(scope="module", params=PLACES)
def exact(request, open_on):
    return open_on(request.param, dtype="fp32")


def test_equals_the_reference_at_every_dose(exact, seen_at_doses):
    """Each probe replaces the one before; batches of any size are padded and cut, masked pixels carry nothing."""
    for patterns, probe, wanted in (*seen_at_doses, seen_at_doses[0]):
        exact.set_probe(probe)
        for count in (7, 1, 3):
            np.testing.assert_allclose(exact.infer(patterns[:count]), wanted[:count], atol=ATOL_RAD)


def counted_in(dtype, patterns, times=1):
    """Patterns of uint16 in another type, with its own value for "no data"."""
    other = times * patterns.astype(np.uint64)
    other[patterns == 65535] = np.iinfo(np.dtype(dtype).newbyteorder("=")).max
    return other.astype(dtype)


def test_counts_of_every_type(exact, seen_at_doses, open_on):
    """The largest value of the type says "no data"; more than 16 bits are counted, too."""
    patterns, probe, wanted = seen_at_doses[1]
    exact.set_probe(probe)
    assert patterns[patterns < 65535].max() < 255
    for dtype in (np.uint8, np.uint32, np.uint64, ">u2"):
        np.testing.assert_allclose(exact.infer(counted_in(dtype, patterns)), wanted, atol=ATOL_RAD)
    with pytest.raises(ValueError, match="asks for unsigned counts"):
        exact.infer(patterns.astype(np.int32))
    bright = counted_in(np.uint32, patterns, 4000)
    assert bright[bright < 2**32 - 1].max() > 65535
    reference = open_on("onnxruntime")
    for engine in (exact, reference):
        engine.set_probe(np.float32(4000**0.5) * probe)
    np.testing.assert_allclose(exact.infer(bright), reference.infer(bright), atol=ATOL_RAD)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("place", PLACES)
def test_half_precision_changes_little(open_on, seen_at_doses, place, dtype):
    engine = open_on(place, dtype=dtype)
    assert engine.dtype == dtype
    for patterns, probe, wanted in seen_at_doses:
        engine.set_probe(probe)
        assert np.sqrt(np.mean((engine.infer(patterns) - wanted) ** 2)) < 0.005


@pytest.mark.parametrize("place", PLACES)
def test_batches_that_are_no_power_of_two(open_on, seen_at_doses, place):
    engine = open_on(place, max_batch=6, dtype="fp32")
    patterns, probe, wanted = seen_at_doses[1]
    engine.set_probe(probe)
    for count in range(1, 7):
        np.testing.assert_allclose(engine.infer(patterns[:count]), wanted[:count], atol=ATOL_RAD)
    engine.run_networks()
    np.testing.assert_allclose(engine.infer(patterns[:2]), wanted[:2], atol=ATOL_RAD)
    with pytest.raises(ValueError, match="batch of 7"):
        engine.infer(patterns)


def test_nothing_is_captured_anew_for_a_probe_or_a_size_that_was_seen(monkeypatch, open_on, seen_at_doses):
    """All sizes of 16 bits are captured when the engine is opened, those of 32 bits when they come."""
    captured = []

    def spy(self, work):
        captured.append(work)
        return work

    monkeypatch.setattr(torch_cuda._Batches, "_captured", spy)
    engine = open_on("torch", dtype="fp32")
    assert len(captured) == 4
    for patterns, probe, _ in seen_at_doses:
        engine.set_probe(probe)
        for count in range(1, 8):
            engine.infer(patterns[:count])
    assert len(captured) == 4
    for _ in range(2):
        np.testing.assert_allclose(
            engine.infer(counted_in(np.uint32, patterns[:3])), seen_at_doses[-1][2][:3], atol=ATOL_RAD
        )
    assert len(captured) == 5


def test_probes_that_do_not_fit(exact, seen_at_doses):
    patterns, probe, wanted = seen_at_doses[0]
    exact.set_probe(probe)
    for other, message in (
        (np.ones((64, 64)), r"takes \(128, 128\)"),
        (0 * probe, "power"),
        (probe * np.nan, "finite"),
    ):
        with pytest.raises(ValueError, match=message):
            exact.set_probe(other)
    np.testing.assert_allclose(exact.infer(patterns), wanted, atol=ATOL_RAD)  # the one before stays


def test_weights_in_half_precision(open_on):
    """The golden pair of the large model holds."""
    assert open_on("torch", STARTER.with_name("large"), max_batch=4, dtype="fp32").dtype == "fp32"


def test_no_gpu_is_said(monkeypatch):
    model = open_model(STARTER)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for built, message in ((None, "built without CUDA"), ("13.0", "finds no NVIDIA driver or device")):
        monkeypatch.setattr(torch.version, "cuda", built)
        with pytest.raises(EngineUnavailable, match=f"{message}; use engine openvino or onnxruntime"):
            TorchEngine(model)


def test_a_gpu_that_torch_was_not_built_for_is_said(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no kernel image is available for execution on the device\nCompile with more")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", fail)
    with pytest.raises(EngineUnavailable, match=r"cuda does not compute: no kernel image is available .* device; use"):
        TorchEngine(open_model(STARTER))


def test_too_little_memory_is_said(monkeypatch):
    def fail(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB.")

    monkeypatch.setattr(torch_cuda, "_Batches", fail)
    with pytest.raises(EngineUnavailable, match=r"too little memory left for batches of 64: .* make the batch smaller"):
        TorchEngine(open_model(STARTER), 64, device="cpu")


def test_unknown_type():
    with pytest.raises(ValueError, match="choose one of fp16, bf16, fp32"):
        TorchEngine(open_model(STARTER), dtype="int4", device="cpu")


def test_eight_bits_are_for_other_engines(tmp_path, open_on):
    from bluesky_ptychonn.training.learning.export import simulated_scans, write_model
    from bluesky_ptychonn.training.learning.graphs import Chain, eight_bit_graphs

    chain = Chain("lift", [(STARTER / "model.onnx").read_bytes()], 64)
    small = Chain("lift", eight_bit_graphs(chain, simulated_scans(1, 2, 128)), 64)
    write_model(tmp_path, small, frame_px=128, name="small", version="1", pixel_size_um=None, energy_kev=None)
    with pytest.raises(
        GraphUnsupported, match=r"model\.onnx computes in 8 bits, .* use engine openvino or onnxruntime"
    ):
        open_on("torch", tmp_path)
    assert [open_on(name, tmp_path).dtype for name in ("openvino", "onnxruntime")] == ["int8", "int8"]

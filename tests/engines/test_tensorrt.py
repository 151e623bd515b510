"""The TensorRT engine on fakes of TensorRT 8.5, 10 and 11 and of a CUDA device: see `fake_tensorrt`, `fake_cuda`."""

import gc
import hashlib
import sys
import threading

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

from fake_cuda import CudaError, FakeDevice, cuda_python, pycuda
from fake_tensorrt import fake_tensorrt
from small_models import UNIT, H, N, counts_model, lift_model, patterns_of, rms

from bluesky_ptychonn.core.optics import Geometry, with_counts, zone_plate_probe
from bluesky_ptychonn.core.protocols import Engine, EngineMismatch, EngineUnavailable, GraphUnsupported
from bluesky_ptychonn.engines.registry import STARTER, open_engine
from bluesky_ptychonn.engines.tensorrt import TensorRtEngine
from bluesky_ptychonn.engines.whole_graph import NETWORKS
from bluesky_ptychonn.io.model_store import open_model, read_card, sha256_of, write_card

VERSIONS = ("8.5.2", "10.3.0", "11.1.0")
MODULES = ("tensorrt", "cuda", "cuda.bindings", "cuda.bindings.runtime", "cuda.cudart", "pycuda", "pycuda.driver")


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Put a TensorRT and a device in place of what is installed; give both."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def set_up(version="10.3.0", library=cuda_python, name="NVIDIA Fake", fault="", **options):
        device = FakeDevice(name, fault)
        trt = fake_tensorrt(version, device, **options)
        found = {"tensorrt": trt, **library(device)}
        for module in MODULES:
            monkeypatch.setitem(sys.modules, module, found.get(module))
        return trt, device

    return set_up


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """A small model and its chain."""
    folder = tmp_path_factory.mktemp("small")
    chain = lift_model(folder / "m")
    return open_model(folder / "m"), chain


@pytest.fixture(params=VERSIONS)
def version(request):
    return request.param


def test_starter_gives_the_phase_of_openvino(machine, version):
    """Half precision here, bfloat16 in OpenVINO where the processor has it."""
    pytest.importorskip("openvino")
    machine(version)
    engine, other = TensorRtEngine(open_model(STARTER), max_batch=4), open_engine("openvino")
    assert isinstance(engine, Engine)
    patterns, probe = patterns_of(4, 1e5, unit=zone_plate_probe(Geometry()))
    for one in (engine, other):
        one.set_probe(probe)
    for frames in (1, 3, 4):
        found = engine.infer(patterns[:frames])
        assert (found.shape, found.dtype) == ((frames, 64, 64), np.float32)
        assert rms(found - other.infer(patterns[:frames])) < 5e-3


@pytest.mark.parametrize("library", [cuda_python, pycuda])
def test_every_length_through_one_slot_or_two(machine, small, version, library):
    """The last batch may be a partial one; a result stays what it was when the next comes."""
    machine(version, library)
    model, chain = small
    patterns, probe = patterns_of(7)
    wanted, kept = chain.phase(patterns, probe), []
    for device_batch in (2, 7):
        engine = TensorRtEngine(model, 7, "fp32", device_batch=device_batch)
        engine.set_probe(probe)
        kept += [(frames, engine.infer(patterns[-frames:])) for frames in range(1, 8)]
    for frames, found in kept:
        assert rms(found - wanted[-frames:]) < 1e-6


def test_counts_of_every_width(machine, small):
    machine()
    model, chain = small
    patterns, probe = patterns_of(2, counts=1e3)
    engine = TensorRtEngine(model, precision="fp32")
    engine.set_probe(probe)
    for kind in (np.uint8, np.uint16, np.uint32, np.uint64):
        as_wide = np.where(patterns == 65535, kind(np.iinfo(kind).max), patterns.astype(kind))
        assert rms(engine.infer(as_wide) - chain.phase(patterns, probe)) < 1e-6


def test_a_new_probe_keeps_engine_graphs_and_addresses(machine, small, version):
    trt, device = machine(version)
    model, chain = small
    engine = TensorRtEngine(model, 4, "fp32")
    patterns, probe = patterns_of(3)
    engine.set_probe(probe)
    first = engine.infer(patterns)
    addresses = trt.addresses
    other = np.conj(with_counts(UNIT, 3e5))
    engine.set_probe(other)
    second = engine.infer(patterns)
    assert rms(second - chain.phase(patterns, other)) < 1e-6
    assert rms(second - first) > 1e-3
    assert trt.addresses == addresses
    assert (trt.done["builds"], trt.done["contexts"], device.done["graphs"]) == (1, 3, 3)


def test_a_batch_is_one_launch(machine, small, version):
    """Both copies are part of the recorded graph, one each way."""
    _, device = machine(version)
    engine = TensorRtEngine(small[0], 4)
    engine.set_probe(patterns_of(1)[1])
    assert device.done["captured copies"] == 2 * device.done["graphs"] == 6
    before = device.done.copy()
    engine.infer(patterns_of(3)[0])
    assert device.done - before == {"launches": 1}


def test_pycuda_enqueues_each_batch_in_any_thread(machine, small):
    _, device = machine(library=pycuda)
    model, chain = small
    engine, (patterns, probe), found = TensorRtEngine(model, 4, "fp32"), patterns_of(3), []

    def work():
        engine.set_probe(probe)
        found.append(engine.infer(patterns))

    worker = threading.Thread(target=work)
    worker.start()
    worker.join()
    assert rms(found[0] - chain.phase(patterns, probe)) < 1e-6
    assert not device.done["graphs"]


def test_without_a_graph_where_capture_fails(machine, small, caplog):
    machine()
    runtime = sys.modules["cuda.bindings.runtime"]
    runtime.cudaStreamBeginCapture = lambda *_: (CudaError.cudaErrorStreamCaptureUnsupported,)
    model, chain = small
    engine, (patterns, probe) = TensorRtEngine(model, 2, "fp32"), patterns_of(2)
    engine.set_probe(probe)
    assert rms(engine.infer(patterns) - chain.phase(patterns, probe)) < 1e-6
    assert "no CUDA graph, each batch is enqueued anew: cudaStreamBeginCapture failed" in caplog.text


def test_the_graph_alone_can_be_run(machine, small):
    trt, _ = machine()
    engine = TensorRtEngine(small[0], 5, device_batch=2)
    engine.run_networks()
    before = trt.done["runs"]
    engine.run_networks()
    assert trt.done["runs"] == before + 3


@pytest.mark.parametrize("batch", [None, 3])
def test_models_of_counts(machine, tmp_path, version, batch):
    """In TF32 if nothing is said; a batch that is fixed in the graph is padded or divided."""
    trt, _ = machine(version)
    chain = counts_model(tmp_path / "m", 1, batch, reference_counts=1e4)
    engine, (patterns, probe) = TensorRtEngine(open_model(tmp_path / "m"), 5), patterns_of(5)
    assert engine.dtype == "tf32"
    assert trt.built.flags == {"TF32"}
    engine.set_probe(probe)
    for frames in (1, 3, 5):
        assert rms(engine.infer(patterns[:frames]) - chain.phase(patterns[:frames], probe)) < 1e-6


def test_half_precision_before_strong_types_is_a_flag(machine, small):
    """The preparation is pinned to single precision, the networks are not."""
    trt, _ = machine("8.5.2")
    TensorRtEngine(small[0])
    assert trt.built.flags == {"FP16", "TF32", "OBEY_PRECISION_CONSTRAINTS"}
    pinned = {True: [], False: []}
    for layer in trt.built.network.layers:
        if layer.type != trt.LayerType.CONSTANT and layer.get_output(0).dtype == trt.float32:
            whole = (layer.precision, *vars(layer).get("pinned", {}).values())
            pinned[layer.name.startswith(NETWORKS)].append(whole == ("float32",) * (1 + layer.num_outputs))
    assert all(pinned[False])
    assert len(pinned[False]) > 50
    assert not any(pinned[True])


@pytest.mark.parametrize("version", ["10.3.0", "11.1.0"])
def test_half_precision_is_the_type_of_the_networks(machine, small, version):
    trt, _ = machine(version)
    TensorRtEngine(small[0])
    assert trt.built.network.typed
    assert trt.built.flags == {"TF32"}
    kinds = {layer.get_output(0).dtype for layer in trt.built.network.layers if layer.type == trt.LayerType.CONVOLUTION}
    assert kinds == {"float16"}


@pytest.mark.parametrize(("precision", "flags"), [("tf32", {"TF32"}), ("fp32", set())])
def test_single_precision_with_and_without_tf32(machine, small, version, precision, flags):
    trt, _ = machine(version)
    TensorRtEngine(small[0], precision=precision)
    assert trt.built.flags == flags
    assert not any(layer.get_output(0).dtype == "float16" for layer in trt.built.network.layers)


def test_an_engine_is_built_once(machine, small, tmp_path):
    """For each model, device, version, precision and batch."""
    other = lift_model(tmp_path / "other", seed=1)
    assert other.graphs != small[1].graphs
    base = {"model": small[0], "max_batch": 2, "precision": "fp32"}
    for changed, machinery, builds in (
        ({}, {}, 1),
        ({}, {}, 0),
        ({"model": open_model(tmp_path / "other")}, {}, 1),
        ({"precision": "tf32"}, {}, 1),
        ({"max_batch": 3}, {}, 1),
        ({"device_batch": 2, "max_batch": 8}, {}, 0),
        ({}, {"name": "Another"}, 1),
        ({}, {"version": "10.4.0"}, 1),
        ({}, {}, 0),
    ):
        trt, _ = machine(**machinery)
        TensorRtEngine(**{**base, **changed})
        assert trt.done["builds"] == builds, (changed, machinery)
    kept = sorted(path.name for path in (tmp_path / "cache" / "bluesky_ptychonn" / "tensorrt").iterdir())
    assert len(kept) == 6
    assert sum(name.startswith(small[0].card.sha256[:16]) for name in kept) == 5
    assert sum(name.endswith("-NVIDIA_Fake_8.7_16_SM-10.3.0-fp32-2.engine") for name in kept) == 2
    TensorRtEngine(**base, cache_dir=tmp_path / "elsewhere")
    assert [path.suffix for path in (tmp_path / "elsewhere").iterdir()] == [".engine"]


@pytest.mark.parametrize("harm", ["cut", "changed", "empty", "foreign"])
def test_a_kept_engine_that_is_harmed_is_built_anew(machine, small, tmp_path, caplog, harm):
    trt, _ = machine()
    model, chain = small
    TensorRtEngine(model, 2, "fp32", cache_dir=tmp_path / "c")
    (path,) = (tmp_path / "c").iterdir()
    whole = path.read_bytes()
    if harm == "foreign":
        plan = b"of another library" + whole[50:]
        path.write_bytes(hashlib.sha256(plan).digest() + plan)
    else:
        path.write_bytes({"cut": whole[:-100], "changed": whole[:-1] + b"!", "empty": b""}[harm])
    engine, (patterns, probe) = TensorRtEngine(model, 2, "fp32", cache_dir=tmp_path / "c"), patterns_of(2)
    assert trt.done["builds"] == 2
    assert "it is built anew" in caplog.text
    engine.set_probe(probe)
    assert rms(engine.infer(patterns) - chain.phase(patterns, probe)) < 1e-6
    assert path.read_bytes() == whole


def test_no_place_to_keep_an_engine(machine, small, tmp_path, caplog):
    trt, _ = machine()
    (tmp_path / "file").write_text("no folder")
    TensorRtEngine(small[0], 2, cache_dir=tmp_path / "file")
    assert trt.done["builds"] == 1
    assert "the engine is not kept" in caplog.text


@pytest.mark.parametrize(
    ("machinery", "error", "message"),
    [
        ({"version": "8.4.1"}, EngineUnavailable, r"TensorRT 8\.4\.1 is too old, its tensors have no names; 8\.5"),
        (
            {"builder": "none"},
            EngineUnavailable,
            r"cannot use NVIDIA Fake \(8\.7, 16 SM\) \(CUDA initialization failure",
        ),
        (
            {"builder": "type error"},
            EngineUnavailable,
            r"factory function returned nullptr\); the driver is for CUDA 12\.6",
        ),
        (
            {"builder": "fails"},
            EngineUnavailable,
            r"cannot build model 1 in fp16 on NVIDIA Fake.*\(no implementation\)",
        ),
        ({"unread": True}, EngineUnavailable, r"does not read what it has built \(the plan has another magic tag\)"),
        (
            {"refused": ("Sin",)},
            GraphUnsupported,
            r"model 1: TensorRT 10\.3\.0 does not take its graph: In node sin\d+: no",
        ),
        (
            {"fault": "driver"},
            EngineUnavailable,
            r"no CUDA device can be used \(cuda-python: .*InsufficientDriver \(35\)",
        ),
        ({"library": pycuda, "fault": "device"}, EngineUnavailable, r"pycuda: cuInit failed: no CUDA-capable device"),
        (
            {"library": lambda _: {}},
            ImportError,
            r"no library for CUDA can be imported .*install cuda-python .*or pycuda",
        ),
    ],
)
def test_what_does_not_fit_is_said(machine, small, machinery, error, message):
    machine(**machinery)
    with pytest.raises(error, match=message):
        TensorRtEngine(small[0])


@pytest.mark.parametrize("library", [cuda_python, pycuda])
def test_too_little_memory_on_the_device(machine, small, library):
    _, device = machine(library=library)
    device.free_bytes = 1 << 16
    with pytest.raises(EngineUnavailable, match=r"batches of 8 do not fit on NVIDIA Fake .*[mM]emory"):
        TensorRtEngine(small[0])


def test_no_tensorrt(machine, small, monkeypatch):
    machine()
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(ImportError, match=r"TensorRT cannot be imported .* On a Jetson it comes with JetPack"):
        TensorRtEngine(small[0])


def test_another_network_behind_the_same_golden_pair(machine, tmp_path):
    machine()
    lift_model(tmp_path)
    with np.load(tmp_path / "golden.npz") as golden:
        parts = dict(golden)
    np.savez_compressed(tmp_path / "golden.npz", **{**parts, "patches_rad": parts["patches_rad"] + 0.1})
    card = read_card(tmp_path)
    card.files["golden.npz"] = sha256_of((tmp_path / "golden.npz").read_bytes())
    write_card(tmp_path, card)
    with pytest.raises(EngineMismatch, match=r"misses its golden patches by 0\.100 rad .* in engine tensorrt"):
        TensorRtEngine(open_model(tmp_path))


def test_wrong_use_is_refused(machine, small):
    machine()
    with pytest.raises(ValueError, match="precision = 'int8' is unknown; choose one of fp16, tf32, fp32"):
        TensorRtEngine(small[0], precision="int8")
    engine, (patterns, probe) = TensorRtEngine(small[0], 4), patterns_of(5)
    with pytest.raises(RuntimeError, match="set_probe first"):
        engine.infer(patterns[:1])
    with pytest.raises(ValueError, match=r"takes \(64, 64\)"):
        engine.set_probe(np.ones((8, 8), np.complex64))
    engine.set_probe(probe)
    for wrong, message in (
        (patterns, "batch of 5"),
        (patterns[:0], "batch of 0"),
        (patterns[:2, :H], "asks for"),
        (patterns[:2].astype(np.float32), "unsigned counts"),
    ):
        with pytest.raises(ValueError, match=message):
            engine.infer(wrong)
    assert engine.infer(patterns[:4]).shape == (4, H, H)
    assert engine.frame_px == N


def test_all_memory_is_given_back(machine, small):
    _, device = machine()
    engine = TensorRtEngine(small[0], 4, device_batch=2)
    assert device.memory
    assert len(device.streams) == 2
    del engine
    gc.collect()
    assert not any((device.memory, device.pinned, device.streams, device.graphs))

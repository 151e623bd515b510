import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bluesky_ptychonn.core.lift import lift
from bluesky_ptychonn.core.optics import Geometry, intensities, with_counts, zone_plate_probe
from bluesky_ptychonn.core.protocols import Engine, EngineMismatch, EngineUnavailable
from bluesky_ptychonn.engines.offline import stitch_scan
from bluesky_ptychonn.engines.registry import AUTO, PACKAGED, STARTER, open_engine
from bluesky_ptychonn.io.model_store import open_model, sha256_of

GEOMETRY = Geometry()
UNIT = zone_plate_probe(GEOMETRY)
PROBE = with_counts(UNIT, 1e6)


@pytest.fixture(scope="module", params=(*AUTO, "lift"))
def engine(request):
    try:
        return open_engine(request.param)
    except (ImportError, EngineUnavailable) as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def ring():
    """A ring 0.5 rad deep, seen at 81 positions 90 nm apart."""
    y, x = np.mgrid[:300, :300] - 150
    object_ = np.exp(-0.5j * (abs(np.hypot(y, x) - 30) < 10))
    centres_px = np.stack(np.mgrid[:9, :9], axis=-1).reshape(-1, 2) * 8 - 32
    patterns = np.random.default_rng(8).poisson(intensities(object_, PROBE, centres_px + 150)).astype(np.uint16)
    return np.angle(object_), centres_px, patterns


def test_keeps_the_protocol(engine, ring):
    assert isinstance(engine, Engine)
    engine.set_probe(PROBE)
    for size in (1, 3, engine.max_batch):
        patches = engine.infer(ring[2][:size])
        assert patches.shape == (size, engine.patch_px, engine.patch_px)
        assert patches.dtype == np.float32


def test_batching_does_not_matter_and_results_are_kept(engine, ring):
    engine.set_probe(PROBE)
    together = engine.infer(ring[2][:8])
    copy = together.copy()
    alone = np.concatenate([engine.infer(pattern[None]) for pattern in ring[2][:8]])
    np.testing.assert_allclose(together, alone, atol=1e-3)
    np.testing.assert_array_equal(together, copy)  # a later batch does not overwrite an earlier result


def test_scale_of_counts_and_probe_cancels(engine, ring):
    """Exactly in the lift; a network is told how much light there is, and nine times as much adds little at 1e6."""
    engine.set_probe(PROBE)
    once = engine.infer(ring[2][:8])
    engine.set_probe(with_counts(UNIT, 9e6))
    change = engine.infer(9 * ring[2][:8].astype(np.uint32)) - once
    if engine.name == "lift":
        assert np.abs(change).max() < 1e-3
    else:
        edge = (len(PROBE) - engine.patch_px) // 2
        weight = np.abs(PROBE[edge:-edge, edge:-edge]) ** 2
        assert np.average((change**2).mean(axis=0), weights=weight) ** 0.5 < 0.05


def test_live_image_resembles_the_sample(engine, ring):
    phase, centres_px, patterns = ring
    pixel_um = GEOMETRY.pixel_size_um
    image, coverage, canvas = stitch_scan(engine, patterns, centres_px * pixel_um, UNIT, pixel_um)
    low = 150 + np.rint(np.array(canvas.origin_um) / pixel_um).astype(int)
    truth = phase[low[0] : low[0] + canvas.shape[0], low[1] : low[1] + canvas.shape[1]]
    seen = coverage > 0.2 * coverage.max()
    likeness = np.corrcoef(image[seen], truth[seen])[0, 1]
    assert likeness > (0.6 if engine.name == "lift" else 0.9)


def test_lift_engine_is_the_lift(ring):
    engine = open_engine("lift")
    engine.set_probe(PROBE)
    np.testing.assert_allclose(engine.infer(ring[2][:2]), lift(ring[2][:2], PROBE)[:, 1, 16:112, 16:112], atol=1e-5)


def test_wrong_use_is_refused(engine, ring):
    with pytest.raises(ValueError, match="takes \\(128, 128\\)"):
        engine.set_probe(np.ones((64, 64), np.complex64))
    engine.set_probe(PROBE)
    for patterns, message in ((ring[2][:9], "batch of 9"), (ring[2][:0], "batch of 0"), (ring[2][:2, :64], "asks for")):
        with pytest.raises(ValueError, match=message):
            engine.infer(patterns)


def test_no_probe_yet():
    with pytest.raises(RuntimeError, match="set_probe first"):
        open_engine("lift").infer(np.zeros((1, 128, 128), np.uint16))


def test_unknown_engine():
    with pytest.raises(ValueError, match="choose one of auto, tensorrt, torch, openvino, onnxruntime, lift"):
        open_engine("warp")
    with pytest.raises(ValueError, match="max_batch = 0"):
        open_engine("lift", max_batch=0)


def changed_starter(folder, files=None, **values):
    """Copy of the starter model with other contents, and hashes that fit them."""
    shutil.copytree(STARTER, folder)
    card = json.loads((folder / "card.json").read_text())
    for name, data in (files or {}).items():
        (folder / name).write_bytes(data)
        card["files"][name] = sha256_of(data)
    (folder / "card.json").write_text(json.dumps({**card, **values}))
    return folder


def test_starter_is_small_and_says_how_it_was_made():
    model = open_model(STARTER)
    assert sum(path.stat().st_size for path in STARTER.iterdir()) < 3e6
    assert model.card.training["command"] == "train"
    assert model.card.training["results"][0]["mae_rad"] < model.card.training["results"][0]["mae_of_nothing_rad"]
    assert model.card.corpus == model.card.training["conditions"]["snapshot"]


@pytest.mark.parametrize("name", PACKAGED)
def test_models_of_the_package_are_found_by_name(name):
    pytest.importorskip("openvino")
    engine = open_engine("openvino", Path(name))
    assert engine.card is not None
    assert (engine.card.name, engine.frame_px, engine.patch_px) == (name, 128, 64)


def test_every_file_of_the_starter_is_guarded(tmp_path):
    """Both graphs have a hash, and both make the name of the model."""
    model = open_model(STARTER)
    assert set(model.card.files) == {path.name for path in STARTER.iterdir()} - {"card.json"}
    values = model.card.to_dict()
    other = {**values, "files": {**values["files"], model.card.refine_file: 64 * "0"}}
    assert type(model.card).from_dict(other).sha256 != model.card.sha256
    del other["files"][model.card.refine_file]
    with pytest.raises(ValueError, match=r"refine_file = 'refine\.onnx' has no hash"):
        type(model.card).from_dict(other)


def test_other_network_behind_the_same_golden_pair(tmp_path):
    """A file that is whole but not what the card means: the patches betray it."""
    pytest.importorskip("openvino")
    with np.load(STARTER / "golden.npz") as golden:
        parts = dict(golden)
    np.savez_compressed(tmp_path / "g.npz", **{**parts, "patches_rad": -parts["patches_rad"]})
    folder = changed_starter(tmp_path / "m", {"golden.npz": (tmp_path / "g.npz").read_bytes()})
    with pytest.raises(EngineMismatch, match="misses its golden patches by"):
        open_engine("openvino", folder)


@pytest.mark.parametrize(
    ("files", "values", "message"),
    [
        ({"model.onnx": b"no network"}, {}, "cannot be compiled"),
        ({"refine.onnx": b"no network"}, {}, r"refine\.onnx cannot be compiled"),
        ({}, {"patch_px": 48}, r"model\.onnx takes"),
        ({}, {"frame_px": 256}, "golden pair does not fit"),
        ({}, {"graph_file": "refine.onnx"}, r"refine\.onnx takes .* its card says \[8, 3, "),
        ({}, {"refine_file": ""}, "misses its golden patches"),
        ({}, {"preparation": "counts"}, "a model of counts has one graph"),
        ({}, {"schema": 1}, "this version reads 2"),
    ],
)
def test_models_that_do_not_fit_their_card(tmp_path, files, values, message):
    pytest.importorskip("openvino")
    with pytest.raises(EngineMismatch, match=message):
        open_engine("openvino", changed_starter(tmp_path / "m", files, **values))


SIGNALLED = """
import gc, signal, sys
from bluesky_ptychonn.engines.registry import PACKAGED, open_engine

first = open_engine("openvino")
second = open_engine("openvino")
del first
gc.collect()
del second
gc.collect()

def leave(number, _):
    raise SystemExit(7)

signal.signal(signal.SIGTERM, leave)
signal.raise_signal(signal.SIGTERM)
"""


def test_a_signal_after_a_swap_of_engines_is_handled():
    """The older engine ends first, as in a swap; what a handler then runs on must still be there."""
    pytest.importorskip("openvino")
    done = subprocess.run([sys.executable, "-c", SIGNALLED], capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stderr

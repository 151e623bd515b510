"""Engines on whatever this machine has, and what they must equal."""

import numpy as np
import pytest

from bluesky_ptychonn.core.optics import Geometry, intensities, with_counts, zone_plate_probe
from bluesky_ptychonn.core.protocols import EngineUnavailable
from bluesky_ptychonn.engines.registry import STARTER
from bluesky_ptychonn.io.model_store import open_model

DOSES = (1e3, 1e5, 1e7)


@pytest.fixture(scope="session")
def open_on():
    """Opens a model in an engine by its name; "torch" is torch on the CPU, step by step, "torch cuda" on a GPU."""

    def open_(name, folder=STARTER, max_batch=8, **options):
        if name == "openvino":
            pytest.importorskip("openvino")
            from bluesky_ptychonn.engines.openvino import OpenVinoEngine as Engine
        elif name == "onnxruntime":
            pytest.importorskip("onnxruntime")
            from bluesky_ptychonn.engines.onnx_runtime import OnnxRuntimeEngine as Engine
        else:
            pytest.importorskip("torch")
            pytest.importorskip("onnx")
            from bluesky_ptychonn.engines.torch_cuda import TorchEngine as Engine

            options["device"] = "cpu" if name == "torch" else "cuda"
        try:
            return Engine(open_model(folder), max_batch, **options)
        except EngineUnavailable as error:
            pytest.skip(str(error))

    return open_


@pytest.fixture(scope="session")
def seen_at_doses():
    """Patterns of seven views with masked pixels, their probe, and the phase by the reference chain of the starter."""
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    from bluesky_ptychonn.training.learning.graphs import Chain

    chain = Chain("lift", [(STARTER / name).read_bytes() for name in ("model.onnx", "refine.onnx")], 64)
    rng, cases = np.random.default_rng(3), []
    y, x = np.mgrid[:300, :300] - 150
    object_ = np.exp(-0.5j * (abs(np.hypot(y, x) - 30) < 10))
    for k, dose in enumerate(DOSES):
        probe = with_counts(zone_plate_probe(Geometry(), defocus_um=150.0 + 20 * k), dose)
        expected = intensities(object_, probe, rng.integers(110, 190, (7, 2)))
        patterns = rng.poisson(expected).astype(np.uint16)
        patterns[:, 40:44] = patterns[2, 50:80, 50:80] = 65535
        cases.append((patterns, probe, chain.phase(patterns, probe)))
    return cases

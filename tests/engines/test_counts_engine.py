"""The engine in front of networks of counts, those of the paper."""

import io
import warnings

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

import torch

from bluesky_ptychonn.core.optics import Geometry, far_field, with_counts, zone_plate_probe
from bluesky_ptychonn.core.protocols import EngineMismatch
from bluesky_ptychonn.training.learning.export import write_model
from bluesky_ptychonn.training.learning.graphs import Chain

NAMES = ("openvino", "onnxruntime", "torch", "torch cuda")
N = 64
ATOL_RAD = 0.02 if torch.cuda.is_available() else 1e-4
"""CUDA convolves in TF32."""
UNIT = zone_plate_probe(Geometry(frame_px=N))


class Tiny(torch.nn.Module):
    """Some function of counts whose scale and place matter, in one of the shapes a network may give."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.kernel = torch.nn.Conv2d(1, max(channels, 1), 3, padding=1)

    def forward(self, counts):
        phase = 3 * torch.tanh(0.02 * self.kernel(counts))
        return phase if self.channels else phase[:, 0]


def tiny_model(folder, channels, batch, reference_counts=None):
    """Model of a `Tiny`, its batch fixed, or open where it is None."""
    torch.manual_seed(channels)
    network, buffer = Tiny(channels).eval(), io.BytesIO()
    axes = None if batch else {"given": {0: "batch"}, "found": {0: "batch"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            network,
            (torch.zeros(batch or 2, 1, N, N),),
            buffer,
            dynamo=False,
            input_names=["given"],
            output_names=["found"],
            dynamic_axes=axes,
        )
    chain = Chain("counts", [buffer.getvalue()], N, reference_counts)
    card = {"name": "tiny", "version": "1", "pixel_size_um": None, "energy_kev": None}
    write_model(folder, chain, frame_px=N, reference_counts=reference_counts, **card)
    return network


def some_patterns(frames, counts=1e5, seed=0):
    patterns = np.random.default_rng(seed).poisson(np.abs(far_field(with_counts(UNIT, counts))) ** 2, (frames, N, N))
    patterns = patterns.astype(np.uint16)
    patterns[:, 20:22] = 65535
    return patterns


def by_torch(network, patterns, scale=1.0):
    counts = np.where(patterns == 65535, 0, patterns * scale).astype(np.float32)
    with torch.no_grad():
        found = network(torch.from_numpy(counts)[:, None]).numpy()
    return found if found.ndim == 3 else found[:, -1]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [0, 1, 2])
@pytest.mark.parametrize("batch", [None, 8, 1])
@pytest.mark.parametrize("max_batch", [3, 8, 20])
def test_every_shape_and_any_batch(tmp_path, open_on, name, channels, batch, max_batch):
    """Short batches are padded, long ones divided; pixels without data count as dark."""
    network = tiny_model(tmp_path, channels, batch)
    engine = open_on(name, tmp_path, max_batch)
    engine.set_probe(with_counts(UNIT, 1e5))
    patterns = some_patterns(20)
    for size in {1, 2, max_batch}:
        np.testing.assert_allclose(engine.infer(patterns[:size]), by_torch(network, patterns[:size]), atol=ATOL_RAD)


@pytest.mark.parametrize("name", NAMES)
def test_counts_are_scaled_to_those_of_the_training(tmp_path, open_on, name):
    network = tiny_model(tmp_path, 1, None, reference_counts=1e4)
    engine = open_on(name, tmp_path)
    patterns = some_patterns(8, counts=4e5)
    engine.set_probe(with_counts(UNIT, 4e5))
    np.testing.assert_allclose(engine.infer(patterns), by_torch(network, patterns, 1e4 / 4e5), atol=ATOL_RAD)
    assert np.abs(by_torch(network, patterns) - by_torch(network, patterns, 1e4 / 4e5)).max() > 0.5
    as_wide = np.where(patterns == 65535, np.uint32(2**32 - 1), patterns)
    np.testing.assert_allclose(engine.infer(as_wide), engine.infer(patterns), atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_wrong_use_is_refused(tmp_path, open_on, name):
    tiny_model(tmp_path, 1, 8)
    engine = open_on(name, tmp_path, 4)
    with pytest.raises(RuntimeError, match="set_probe first"):
        engine.infer(some_patterns(1))
    for probe, message in ((np.ones((32, 32)), "takes \\(64, 64\\)"), (np.zeros((N, N)), "power")):
        with pytest.raises(ValueError, match=message):
            engine.set_probe(probe.astype(np.complex64))
    engine.set_probe(UNIT)
    for patterns in (some_patterns(5), some_patterns(0), some_patterns(2)[:, :32], some_patterns(2).astype(float)):
        with pytest.raises(ValueError, match=r"batch of|asks for"):
            engine.infer(patterns)


@pytest.mark.parametrize("name", NAMES)
def test_graph_of_another_size_than_its_card(tmp_path, open_on, name):
    tiny_model(tmp_path, 1, 8)
    text = (tmp_path / "card.json").read_text()
    (tmp_path / "card.json").write_text(
        text.replace('"frame_px": 64', '"frame_px": 32').replace('"patch_px": 64', '"patch_px": 32')
    )
    with pytest.raises(EngineMismatch, match=r"model 1: model\.onnx takes"):
        open_on(name, tmp_path)

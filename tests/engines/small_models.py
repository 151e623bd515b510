"""Models that are quick to compute, and patterns for them."""

import numpy as np
import torch

from bluesky_ptychonn.core.optics import Geometry, intensities, with_counts, zone_plate_probe
from bluesky_ptychonn.training.learning.export import write_model
from bluesky_ptychonn.training.learning.graphs import Chain, onnx_graph

N, H = 64, 32
UNIT = zone_plate_probe(Geometry(frame_px=N))
CARD = {"version": "1", "pixel_size_um": None, "energy_kev": None}


class Small(torch.nn.Module):
    """Some bounded function of its input, with the operators whose constants have rules of their own."""

    def __init__(self, channels, found=2, scale=1.0):
        super().__init__()
        self.inner = torch.nn.Conv2d(channels, 4, 3, padding=1)
        self.outer = torch.nn.Conv2d(4, max(found, 1), 3, padding=1)
        self.found, self.scale = found, scale

    def forward(self, given):
        seen = torch.nn.functional.interpolate(self.inner((self.scale * given).clamp(-4, 4)), scale_factor=2)
        found = 0.6 * torch.tanh(self.outer(torch.nn.functional.max_pool2d(seen, 2)))
        return found if self.found else found[:, 0]


def lift_chain(seed=0, refined=True):
    """Chain of "lift" with one or two networks."""
    torch.manual_seed(seed)
    chain = Chain("lift", [], H)
    for channels in (3, 5)[: 1 + refined]:
        chain = chain.longer_by(onnx_graph(Small(channels).eval(), chain.inputs(*patterns_of(2))[-1]))
    return chain


def lift_model(folder, seed=0, refined=True):
    """Write a model of "lift" (N = 64, h = 32 px); return its chain."""
    chain = lift_chain(seed, refined)
    write_model(folder, chain, frame_px=N, name="small", **CARD)
    return chain


def counts_model(folder, found=1, batch=None, reference_counts=None):
    """Write a model of counts whose output has ``found`` channels, or no axis for them; return its chain."""
    torch.manual_seed(found)
    example = np.ones((batch or 2, 1, N, N), np.float32)
    graph = onnx_graph(Small(1, found, scale=0.02).eval(), example)
    if batch:
        graph = with_fixed_batch(graph, batch)
    chain = Chain("counts", [graph], N, reference_counts)
    write_model(folder, chain, frame_px=N, reference_counts=reference_counts, name="small", **CARD)
    return chain


def with_fixed_batch(graph, batch):
    import onnx

    model = onnx.load_from_string(graph)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    return model.SerializeToString()


def patterns_of(frames, counts=1e5, seed=0, unit=UNIT):
    """Patterns (B, n, n) of a ring with masked pixels, and their probe."""
    rng, n = np.random.default_rng(seed), len(unit)
    y, x = np.mgrid[: 2 * n, : 2 * n] - n
    object_ = np.exp(-0.5j * (abs(np.hypot(y, x) - n / 4) < n / 12))
    probe = with_counts(unit, counts)
    patterns = rng.poisson(intensities(object_, probe, rng.integers(-n // 8, n // 8, (frames, 2)) + n))
    patterns = patterns.astype(np.uint16)
    patterns[:, n // 3] = patterns[:, n // 2, n // 2] = 65535
    return patterns, probe


def rms(difference):
    return float(np.sqrt(np.mean(np.square(difference))))

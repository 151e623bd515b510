"""Graphs: networks as ONNX, in single precision and in 8 bits, run by ONNX Runtime behind the reference preparation."""

import io
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from bluesky_ptychonn.core.frames import no_data
from bluesky_ptychonn.core.lift import lift
from bluesky_ptychonn.core.projection import light, project
from bluesky_ptychonn.training.learning.networks import LiftNetwork

OPSET = 17

GRAPH_TOLERANCE = 1e-3
"""Largest difference between a graph and the network it was made of."""

FRAMES_OF_A_SCAN = 8
"""Frames of each scan from which the ranges of 8 bits are found."""


class Patterns(Protocol):
    """Diffraction patterns with their probe: a `LabelledScan`, or a `Shard` of a corpus."""

    @property
    def patterns(self) -> np.ndarray:
        """(B, n, n) unsigned counts."""
        ...

    @property
    def probe(self) -> np.ndarray:
        """(n, n) complex64."""
        ...


class Chain:
    """The graphs of a model in ONNX Runtime, behind the reference preparation: what every engine must equal.

    Parameters
    ----------
    preparation : {"lift", "counts"}
    graphs : sequence of bytes
        ONNX, in the order of the steps.
    patch_px : int
        Side of the patches.
    reference_counts : float, optional
        Of a model of counts, see `core.model_card.ModelCard`.
    """

    def __init__(
        self, preparation: str, graphs: Sequence[bytes], patch_px: int, reference_counts: float | None = None
    ) -> None:
        self.preparation, self.graphs, self.patch_px = preparation, list(graphs), patch_px
        self.reference_counts = reference_counts
        self._sessions = [open_session(graph) for graph in graphs]

    def longer_by(self, graph: bytes) -> "Chain":
        """The chain with one more step."""
        return Chain(self.preparation, [*self.graphs, graph], self.patch_px, self.reference_counts)

    def inputs(self, patterns: np.ndarray, probe: np.ndarray) -> list[np.ndarray]:
        """What each graph is given, and, of "lift", what a next one would be."""
        return self._run(np.asarray(patterns), np.asarray(probe))[0]

    def phase(self, patterns: np.ndarray, probe: np.ndarray) -> np.ndarray:
        """Patches (B, h, h) float32, rad, of patterns (B, N, N) and their probe (N, N)."""
        return self._run(np.asarray(patterns), np.asarray(probe))[1]

    def _run(self, patterns: np.ndarray, probe: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        frames, h = len(patterns), self.patch_px
        if self.preparation == "counts":
            scale = self.reference_counts / np.sum(np.abs(probe) ** 2) if self.reference_counts else 1
            counts = np.where(patterns != no_data(patterns.dtype), patterns * scale, 0).astype(np.float32)[:, None]
            given = run(self._sessions[0], counts) if self._sessions else counts
            return [counts], given.reshape(frames, -1, h, h)[:, -1]
        edge = (probe.shape[-1] - h) // 2
        centre = (..., slice(edge, edge + h), slice(edge, edge + h))
        bright = np.repeat(light(probe, h)[None, None], frames, axis=0)
        inputs = [np.concatenate([lift(patterns, probe)[centre], bright], axis=1)]
        estimate = np.zeros((frames, 2, h, h), np.float32)
        for session in self._sessions:
            estimate = estimate + run(session, inputs[-1])
            inputs.append(np.concatenate([project(patterns, probe, estimate), estimate, bright], axis=1))
        return inputs, estimate[:, 1]


def open_session(graph: bytes) -> Any:
    """Open a graph in ONNX Runtime, on one core."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def run(session: Any, values: np.ndarray) -> np.ndarray:
    """Run a graph on (B, C, h, h); where its batch is fixed, in parts, the last one filled up with zeros."""
    wanted = session.get_inputs()[0]
    size = wanted.shape[0] if isinstance(wanted.shape[0], int) else len(values)
    parts = []
    for first in range(0, len(values), size):
        part = values[first : first + size]
        padded = np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), part.dtype)])
        parts.append(session.run(None, {wanted.name: padded})[0][: len(part)])
    return np.concatenate(parts)


def parts_of(network: nn.Module) -> list[nn.Module]:
    """The parts of a network that become graphs, see `core.model_card.ModelCard`."""
    if not isinstance(network, LiftNetwork):
        return [_OfCounts(network)]
    return [part for part in (network.first, network.refine) if part is not None]


class _OfCounts(nn.Module):
    """A network of counts alone: (B, 1, N, N) to (B, 2, N, N) log amplitude and phase."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, counts: torch.Tensor) -> torch.Tensor:
        patterns = counts[:, 0]
        return self.network(patterns, patterns >= 0, patterns)[-1]


def onnx_graph(part: nn.Module, example: np.ndarray) -> bytes:
    """Return a network as ONNX for any batch, compared with torch on an example (B, C, h, h).

    Raises
    ------
    RuntimeError
        If it differs by more than `GRAPH_TOLERANCE`.
    """
    buffer, given = io.BytesIO(), torch.from_numpy(example)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", DeprecationWarning)  # the newer exporter needs a package more
        torch.onnx.export(
            part.eval(),
            (given,),
            buffer,  # pyright: ignore[reportArgumentType]
            dynamo=False,
            opset_version=OPSET,
            input_names=["given"],
            output_names=["found"],
            dynamic_axes={"given": {0: "batch"}, "found": {0: "batch"}},
        )
        wanted = part(given).numpy()
    graph = buffer.getvalue()
    difference = float(np.abs(run(open_session(graph), example) - wanted).max())
    if not difference <= GRAPH_TOLERANCE:
        raise RuntimeError(f"the graph differs from the network by {difference:.2g}; allowed is {GRAPH_TOLERANCE}")
    return graph


def with_half_weights(graph: bytes) -> bytes:
    """Store the weights of a graph in half precision: half the size, computed with as before."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load_from_string(graph)
    casts, weights = [], list(model.graph.initializer)
    del model.graph.initializer[:]
    for weight in weights:
        if weight.data_type == TensorProto.FLOAT:
            name, half = weight.name, f"{weight.name}.half"
            weight = numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), half)
            casts.append(helper.make_node("Cast", [half], [name], to=TensorProto.FLOAT))
        model.graph.initializer.append(weight)
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def eight_bit_graphs(chain: Chain, scans: Iterable[Patterns]) -> list[bytes]:
    """Quantise the graphs of a chain to 8 bits, their ranges taken from scans.

    The first and the last convolution of each graph keep their precision.
    """
    inputs = [chain.inputs(scan.patterns[:FRAMES_OF_A_SCAN], scan.probe) for scan in scans]
    return [_eight_bit(graph, [of[step] for of in inputs]) for step, graph in enumerate(chain.graphs)]


def _eight_bit(graph: bytes, inputs: list[np.ndarray]) -> bytes:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Inputs(CalibrationDataReader):
        def __init__(self) -> None:
            self._left = iter(inputs)

        def get_next(self) -> dict:
            values = next(self._left, None)
            return {} if values is None else {"given": values}

    convolutions = [node.name for node in onnx.load_from_string(graph).graph.node if node.op_type == "Conv"]
    with tempfile.TemporaryDirectory() as folder:
        full, known, small = (Path(folder, f"{name}.onnx") for name in ("full", "known", "small"))
        full.write_bytes(graph)
        quant_pre_process(full, known, skip_optimization=True, skip_symbolic_shape=True)
        quantize_static(
            known,
            small,
            Inputs(),
            quant_format=QuantFormat.QDQ,
            nodes_to_exclude=[convolutions[0], convolutions[-1]],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return small.read_bytes()


def change_of(chain: Chain, other: Chain, scans: Iterable[Patterns]) -> float:
    """Probe-weighted root mean square difference between the phases of two chains, rad."""
    squares, frames = 0.0, 0
    for scan in scans:
        edge = (scan.probe.shape[-1] - chain.patch_px) // 2
        centre = slice(edge, edge + chain.patch_px)
        weight = np.abs(scan.probe[centre, centre]).astype(np.float64) ** 2
        difference = chain.phase(scan.patterns, scan.probe) - other.phase(scan.patterns, scan.probe)
        squares += float(np.sum(weight / weight.sum() * difference**2))
        frames += len(difference)
    return (squares / frames) ** 0.5

"""A model and its preparation as one ONNX graph, for engines which leave all of it to a device.

The graph takes patterns as they come from the detector and everything that depends on the probe, computed once per
probe by `probe_inputs`; it gives the phase. Of "lift" it holds the lift, the first network, the projection and the
refining network. Every Fourier transform is a product with DFT matrices from both sides, real and imaginary parts
apart, because ONNX has no transform that TensorRT takes, and a matrix product needs no kernel of ours: the graph is
the same for every version and is tested on a CPU. Only the rows and columns of the patch enter. With N = ``frame_px``
and h = ``patch_px`` a transform takes 4 N h (N + h) multiplications, 6.3 million at 128 and 64 px, and a refined model
has three of them: 18.9 million per frame beside 42 million in the networks of `starter` and 437 million in those of
`large`. FFTs would take a twentieth, but the products run on the same units as the convolutions.

Patterns are float32, `NO_DATA` where a pixel has no data: exact up to 2^24 counts, and the graph needs no other type.
Half precision would halve the copy, but ends at 65504 counts; TensorRT has no 16-bit integers.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from bluesky_ptychonn.core.lift import inverse_probe, unit_phase
from bluesky_ptychonn.core.model_card import ModelCard
from bluesky_ptychonn.core.optics import far_field
from bluesky_ptychonn.core.projection import ONE_COUNT, light
from bluesky_ptychonn.core.protocols import EngineMismatch
from bluesky_ptychonn.core.transmission import LARGEST_LOG
from bluesky_ptychonn.engines.onnx_networks import compute_in_half, read_network, shapes_of
from bluesky_ptychonn.engines.steps import Wanted, counts_of_probe, first_wanted, refine_wanted, refuse_batches
from bluesky_ptychonn.io.model_store import StoredModel

PATTERNS, PHASE = "patterns", "phase"
"""Names of the input that changes with each batch, and of the output."""

NO_DATA = -1.0
"""Counts of a pixel without data."""

NETWORKS = ("first/", "refine/")
"""What the names of a network's nodes begin with; all others belong to the preparation."""

OPSET, IR_VERSION = 17, 8

Planes = tuple[str, str]
"""Names of real and imaginary part, (B, n, n) each."""


@dataclass(frozen=True)
class WholeGraph:
    """The graph of a model, from patterns to phase.

    Parameters
    ----------
    data : bytes
        ONNX. Inputs are `PATTERNS` (B, N, N) and the arrays of `probe_inputs`, the output is `PHASE` (B, h, h), all of
        them float32.
    batch : int or None
        Where a network's batch is fixed, that of the graph.
    """

    data: bytes
    batch: int | None


def probe_inputs(card: ModelCard, probe: np.ndarray) -> dict[str, np.ndarray]:
    """Compute what the graph of a model needs to know of a probe.

    Parameters
    ----------
    card : ModelCard
    probe : (N, N) complex64
        Scaled to the counts per frame.

    Returns
    -------
    dict of str to array
        float32, by the names of the graph's inputs.

    Raises
    ------
    ValueError
        If the probe has another shape, is dark or not finite.
    """
    counts = counts_of_probe(probe, card.frame_px)
    probe = np.asarray(probe, np.complex64)
    if card.preparation == "counts":
        scale = 1.0 if card.reference_counts is None else card.reference_counts / counts
        return {"scale": np.full((1, 1, 1), scale, np.float32)}
    edge = (card.frame_px - card.patch_px) // 2
    centre = slice(edge, edge + card.patch_px)
    far = far_field(probe)
    planes = {"unit": unit_phase(far), "inverse": inverse_probe(probe)[centre, centre]}
    if card.refine_file:
        planes |= {"far": far, "probe": probe[centre, centre]}
    inputs = {"amplitude": np.abs(far), "light": light(probe, card.patch_px)}
    for name, plane in planes.items():
        inputs |= {f"{name}_re": np.real(plane), f"{name}_im": np.imag(plane)}
    return {name: np.ascontiguousarray(values[None], np.float32) for name, values in inputs.items()}


def whole_graph(model: StoredModel, half: bool = False) -> WholeGraph:
    """Compose the graph of a model.

    Parameters
    ----------
    model : StoredModel
    half : bool
        Networks compute in half precision; the preparation, whose numbers are counts, stays in single precision.

    Raises
    ------
    EngineMismatch
        If a network has other shapes than its card.
    """
    card = model.card
    n, h = card.frame_px, card.patch_px
    composer = _Composer(model, half)
    (composer.counts if card.preparation == "counts" else composer.lift)()
    batch = composer.batch if composer.batch is not None else "batch"
    inputs = {PATTERNS: (batch, n, n)}
    inputs |= {name: values.shape for name, values in probe_inputs(card, np.ones((n, n), np.complex64)).items()}
    whole = helper.make_graph(
        composer.nodes,
        card.name,
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(PHASE, TensorProto.FLOAT, (batch, h, h))],
        composer.constants,
    )
    composed = helper.make_model(whole, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    try:
        onnx.checker.check_model(composed, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise EngineMismatch(f"model {card.version} does not fit its card: {str(error).strip()[-300:]}") from error
    return WholeGraph(composed.SerializeToString(deterministic=True), composer.batch)


def _dft(frame_px: int, patch_px: int) -> np.ndarray:
    """Matrix (N, h) complex from the centre of the field to the detector, orthonormal, both centred on pixel N/2."""
    detector = np.arange(frame_px) - frame_px // 2
    patch = np.arange(patch_px) - patch_px // 2
    return np.exp(-2j * np.pi * np.outer(detector, patch) / frame_px) / np.sqrt(frame_px)


class _Composer:
    """Nodes and constants of a graph under construction."""

    def __init__(self, model: StoredModel, half: bool) -> None:
        self._model, self._half = model, half
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.batch: int | None = None

    def counts(self) -> None:
        """From patterns to the phase by a network of counts."""
        n = self._model.card.frame_px
        scaled = self._add("Mul", self._add("Relu", PATTERNS), "scale")
        found, channels = self._network(NETWORKS[0], first_wanted(self._model.card, 1), self._stacked([scaled], n))
        self._add("Identity", self._unstacked(found, channels, n)[-1], name=PHASE)

    def lift(self) -> None:
        """From patterns to the phase by the lift, a first guess and, where the model has it, its refinement."""
        card = self._model.card
        self._to_detector = _dft(card.frame_px, card.patch_px)
        self._counts = self._add("Relu", PATTERNS)
        self._missing = self._add("Less", PATTERNS, self._constant(np.float32(0)))
        change = self._where_measured(self._add("Sub", self._add("Sqrt", self._counts), "amplitude"))
        lifted = self._asked_of_probe(self._scaled(("unit_re", "unit_im"), change))
        bright = self._add("Expand", "light", self._add("Shape", lifted[0]))
        guess = self._estimate(NETWORKS[0], first_wanted(card, 1), [*lifted, bright])
        phase = guess[1]
        if card.refine_file:
            planes = [*self._projected(guess), *guess, bright]
            refined = self._estimate(NETWORKS[1], refine_wanted(card, 1), planes)
            phase = self._add("Add", phase, refined[1])
        self._add("Identity", phase, name=PHASE)

    def _projected(self, guess: Planes) -> Planes:
        """What the patterns ask to change in a guess of log amplitude and phase, see `core.projection`."""
        one, largest = self._constant(np.float32(1)), np.float32(LARGEST_LOG)
        log = self._add("Clip", guess[0], self._constant(-largest), self._constant(largest))
        amplitude = self._add("Exp", log)
        t_re, t_im = (self._add("Mul", amplitude, self._add(part, guess[1])) for part in ("Cos", "Sin"))
        scattered = self._product(("probe_re", "probe_im"), (self._add("Sub", t_re, one), t_im))
        moved = self._transformed(scattered, self._to_detector)
        far = self._add("Add", "far_re", moved[0]), self._add("Add", "far_im", moved[1])
        modelled = self._add("Add", *(self._add("Mul", part, part) for part in far))
        count = self._constant(np.float32(ONE_COUNT))
        ratio = self._add("Div", self._add("Add", self._counts, count), self._add("Add", modelled, count))
        factor = self._where_measured(self._add("Sub", self._add("Sqrt", ratio), one))
        return self._product(self._asked_of_probe(self._scaled(far, factor)), (t_re, self._add("Neg", t_im)))

    def _where_measured(self, values: str) -> str:
        return self._add("Where", self._missing, self._constant(np.float32(0)), values)

    def _asked_of_probe(self, far: Planes) -> Planes:
        """Change on the detector, back in the patch and divided by the probe."""
        near = self._transformed(far, self._to_detector.conj().T)
        return self._product(near, ("inverse_re", "inverse_im"))

    def _transformed(self, planes: Planes, matrix: np.ndarray) -> Planes:
        """Planes (B, k, k) to M x M^T (B, m, m), M being ``matrix`` (m, k): two products of real matrices."""
        re, im = np.real(matrix).astype(np.float32), np.imag(matrix).astype(np.float32)
        rows, columns = np.block([[re.T, im.T], [-im.T, re.T]]), np.concatenate([re, im])
        once = self._add("MatMul", self._add("Concat", *planes, axis=2), self._constant(rows))
        twice = self._add("MatMul", self._constant(columns), once)
        (rr, ri), (ir, ii) = (self._split(part, 2, axis=2) for part in self._split(twice, 2, axis=1))
        return self._add("Sub", rr, ii), self._add("Add", ri, ir)

    def _scaled(self, planes: Planes, factor: str) -> Planes:
        return self._add("Mul", planes[0], factor), self._add("Mul", planes[1], factor)

    def _product(self, a: Planes, b: Planes) -> Planes:
        """Product of complex numbers."""
        (rr, ii), (ri, ir) = (
            tuple(self._add("Mul", x, y) for x, y in zip(a, order, strict=True)) for order in (b, b[::-1])
        )
        return self._add("Sub", rr, ii), self._add("Add", ri, ir)

    def _estimate(self, prefix: str, wanted: Wanted, planes: list[str]) -> Planes:
        """Log amplitude and phase by a network."""
        found, channels = self._network(prefix, wanted, self._stacked(planes, wanted.side_px))
        log_amplitude, phase = self._unstacked(found, channels, wanted.side_px)
        return log_amplitude, phase

    def _network(self, prefix: str, wanted: Wanted, given: str) -> tuple[str, int]:
        """Take in a network of the model; return its output and how many channels that has."""
        who = f"model {self._model.card.version}: {wanted.file}"
        network = read_network(self._model.directory / wanted.file, who)
        takes, gives = shapes_of(network)
        wanted.refuse_input(who, takes)
        wanted.refuse_output(who, (wanted.batch, *gives[1:]), wanted.batch)
        if takes[0] is not None:
            refuse_batches(self._model.card, self.batch or takes[0], takes[0])
            self.batch = takes[0]
        kind = TensorProto.FLOAT
        if self._half:
            compute_in_half(network)
            kind = TensorProto.FLOAT16
        graph = compose.add_prefix(network, prefix).graph
        self.constants.extend(graph.initializer)
        self.nodes.append(helper.make_node("Cast", [given], [graph.input[0].name], f"{prefix}in", to=kind))
        self.nodes.extend(graph.node)
        out = f"{prefix}out"
        self.nodes.append(helper.make_node("Cast", [graph.output[0].name], [out], out, to=TensorProto.FLOAT))
        return out, 1 if len(gives) == 3 else gives[1] or 0

    def _stacked(self, planes: list[str], side_px: int) -> str:
        """Planes (B, n, n) as channels (B, C, n, n)."""
        rows = self._add("Concat", *planes, axis=1)
        return self._add("Reshape", rows, self._constant(np.array([0, len(planes), side_px, side_px])))

    def _unstacked(self, channels: str, count: int, side_px: int) -> list[str]:
        """Channels (B, C, n, n) as planes (B, n, n)."""
        rows = self._add("Reshape", channels, self._constant(np.array([0, count * side_px, side_px])))
        return self._split(rows, count, axis=1)

    def _add(self, operator: str, *inputs: str, axis: int | None = None, name: str = "") -> str:
        """Add a node with one output; return its name."""
        name = name or f"{operator.lower()}{len(self.nodes)}"
        attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
        self.nodes.append(helper.make_node(operator, inputs, [name], name, **attributes))
        return name

    def _split(self, whole: str, count: int, axis: int) -> list[str]:
        """Add a node that divides an array into equal parts; return their names."""
        name = f"split{len(self.nodes)}"
        parts = [f"{name}_{k}" for k in range(count)]
        self.nodes.append(helper.make_node("Split", [whole], parts, name, axis=axis))
        return parts

    def _constant(self, values: np.ndarray | np.float32) -> str:
        """Add a constant; return its name."""
        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

"""Turn a checkpoint into a model that engines open: graphs, a golden pair and a card."""

import io
import logging
import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from bluesky_ptychonn.core.lift import lift
from bluesky_ptychonn.core.model_card import ModelCard
from bluesky_ptychonn.core.optics import Geometry, intensities, with_counts, zone_plate_probe
from bluesky_ptychonn.core.projection import light, project
from bluesky_ptychonn.io.model_store import sha256_of, write_card
from bluesky_ptychonn.training.learning.checkpoint import trained_network
from bluesky_ptychonn.training.learning.networks import LiftNetwork
from bluesky_ptychonn.training.learning.objects import random_object
from bluesky_ptychonn.training.learning.patch_network import STRIDE
from bluesky_ptychonn.training.learning.simulated import DOSES, detect, simulate_scan

logger = logging.getLogger(__name__)

OPSET = 17
GRAPH, REFINE, GOLDEN = "model.onnx", "refine.onnx", "golden.npz"

GRAPH_TOLERANCE = 1e-3
"""Largest difference between a graph and the network it was made of."""

EIGHT_BIT_TOLERANCE_RAD = 0.03
"""Probe-weighted root mean square by which 8 bits may change the phase of held-out simulated scans."""

CALIBRATION_SEED, HELD_OUT_SEED = 20231, 20232
CALIBRATION_SCANS = 40
HELD_OUT_SCANS = 10
FRAMES_OF_A_SCAN = 8

GOLDEN_FRAMES = 4
GOLDEN_COUNTS = 1e6


class Patterns(Protocol):
    """Diffraction patterns (B, n, n) with their probe (n, n): a `LabelledScan`, or a `Shard` of a corpus."""

    @property
    def patterns(self) -> np.ndarray: ...

    @property
    def probe(self) -> Any: ...


def export(
    checkpoint_dir: Path,
    out: Path,
    *,
    name: str,
    version: str,
    patch_px: int | None = None,
    eight_bit: bool | None = None,
    calibration: Sequence[Patterns] | None = None,
    pixel_size_um: float | None = None,
    energy_kev: float | None = None,
) -> ModelCard:
    """Write graphs, golden pair and card of the network that a training keeps.

    Parameters
    ----------
    checkpoint_dir : Path
        Folder of the training.
    out : Path
        Folder of the model, made if absent.
    name, version : str
        For the card.
    patch_px : int, optional
        Side of the patches, px, as trained by default. Smaller ones cost less: a multiple of 16, `ptychonn-lift` only.
    eight_bit : bool, optional
        Quantise to 8 bits; by default where that costs next to nothing, for `ptychonn-lift`. Where it changes the
        phase of simulated scans by more than `EIGHT_BIT_TOLERANCE_RAD`, single precision stays, with a warning.
    calibration : sequence of LabelledScan or Shard, optional
        To find the ranges of the 8 bits on; simulated scans of all doses by default.
    pixel_size_um, energy_kev : float, optional
        Of the corpus; None for simulated scans, which stand for any.

    Returns
    -------
    ModelCard
        Its ``training["export"]`` says what the 8 bits changed.

    Raises
    ------
    ValueError
        If the patches cannot be had.
    RuntimeError
        If a graph does not do what the network does.
    """
    network, state = trained_network(checkpoint_dir)
    trained_px, preparation = int(network.patch_px), str(network.preparation)  # pyright: ignore[reportArgumentType]
    patch_px = patch_px or trained_px
    least_px = STRIDE if isinstance(network, LiftNetwork) else trained_px
    if not least_px <= patch_px <= trained_px or patch_px % STRIDE:
        raise ValueError(
            f"patch_px = {patch_px} px; {state['network']} takes multiples of {STRIDE} px from {least_px} to "
            f"{trained_px} px"
        )
    frame_px = patch_px if preparation == "counts" else Geometry().frame_px
    held_out = simulated(HELD_OUT_SEED, HELD_OUT_SCANS, frame_px)
    modules = graphs_of(network)
    chain = Chain(preparation, [], patch_px)
    for module in modules:
        example = chain.inputs(held_out[0].patterns[:3], held_out[0].probe)[len(chain.graphs)]
        chain = Chain(preparation, [*chain.graphs, onnx_graph(module, example)], patch_px)
    about: dict[str, Any] = {"eight_bit": False}
    if preparation == "lift" if eight_bit is None else eight_bit:
        scans = simulated(CALIBRATION_SEED, CALIBRATION_SCANS, frame_px) if calibration is None else calibration
        small = Chain(preparation, eight_bit_graphs(chain, scans), patch_px)
        change_rad = change_of(chain, small, held_out)
        about = {"eight_bit": change_rad <= EIGHT_BIT_TOLERANCE_RAD, "eight_bit_change_rad": round(change_rad, 5)}
        if about["eight_bit"]:
            chain = small
        else:
            logger.warning(
                "8 bits change the phase by %.4f rad, allowed is %g rad: the model keeps single precision",
                change_rad,
                EIGHT_BIT_TOLERANCE_RAD,
            )
    figures = state["figures"]
    return write_model(
        out,
        chain,
        frame_px=frame_px,
        name=name,
        version=version,
        pixel_size_um=pixel_size_um,
        energy_kev=energy_kev,
        reference_counts=float(np.sqrt(DOSES[0] * DOSES[1])) if preparation == "lift" else None,
        corpus=figures["conditions"]["snapshot"],
        training={**figures, "export": about},
    )


class Chain:
    """The graphs of a model in ONNX Runtime, behind the reference lift and projection: what every engine must equal.

    Parameters
    ----------
    preparation : {"lift", "counts"}
    graphs : sequence of bytes
        ONNX, in the order of the steps.
    patch_px : int
    reference_counts : float, optional
        Of a model of counts, see `core.model_card.ModelCard`.
    """

    def __init__(
        self, preparation: str, graphs: Sequence[bytes], patch_px: int, reference_counts: float | None = None
    ) -> None:
        self.preparation, self.graphs, self.patch_px = preparation, list(graphs), patch_px
        self._reference_counts = reference_counts
        self._sessions = [session(graph) for graph in graphs]

    def inputs(self, patterns: np.ndarray, probe: np.ndarray) -> list[np.ndarray]:
        """What each graph is given, and what one more graph would be given."""
        return self._run(patterns, np.asarray(probe))[0]

    def phase(self, patterns: np.ndarray, probe: np.ndarray) -> np.ndarray:
        """Patches (B, h, h) float32, rad."""
        return self._run(patterns, np.asarray(probe))[1]

    def _run(self, patterns: np.ndarray, probe: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        if self.preparation == "counts":
            scale = self._reference_counts / np.sum(np.abs(probe) ** 2) if self._reference_counts else 1
            valid = patterns != np.iinfo(patterns.dtype).max
            counts = np.where(valid, patterns * scale, 0).astype(np.float32)[:, None]
            given = run(self._sessions[0], counts) if self._sessions else counts
            return [counts], given.reshape(len(patterns), -1, *given.shape[-2:])[:, -1]
        edge = (probe.shape[-1] - self.patch_px) // 2
        centre = (..., slice(edge, edge + self.patch_px), slice(edge, edge + self.patch_px))
        bright = np.repeat(light(probe, self.patch_px)[None, None], len(patterns), axis=0)
        inputs = [np.concatenate([lift(patterns, probe)[centre], bright], axis=1)]
        estimate = np.zeros((len(patterns), 2, self.patch_px, self.patch_px), np.float32)
        for step in self._sessions:
            estimate = estimate + run(step, inputs[-1])
            inputs.append(np.concatenate([project(patterns, probe, estimate), estimate, bright], axis=1))
        return inputs, estimate[:, 1]


def session(graph: bytes) -> Any:
    """Open a graph in ONNX Runtime, on one core."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def run(opened: Any, values: np.ndarray) -> np.ndarray:
    """Run a graph on (B, C, h, h); where its batch is fixed, in parts, the last one filled up with zeros."""
    wanted = opened.get_inputs()[0]
    size = wanted.shape[0] if isinstance(wanted.shape[0], int) else len(values)
    parts = []
    for first in range(0, len(values), size):
        part = values[first : first + size]
        padded = np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), part.dtype)])
        parts.append(opened.run(None, {wanted.name: padded})[0][: len(part)])
    return np.concatenate(parts)


def simulated(seed: int, scans: int, frame_px: int) -> list[Patterns]:
    """Simulated scans, their doses spread over `DOSES`."""
    geometry, low, high = Geometry(frame_px=frame_px), *np.log10(DOSES)
    doses = 10 ** np.linspace(low, high, scans)
    return [
        simulate_scan(np.random.default_rng([seed, k]), FRAMES_OF_A_SCAN, counts=float(dose), geometry=geometry)
        for k, dose in enumerate(doses)
    ]


def graphs_of(network: nn.Module) -> list[nn.Module]:
    """The parts of a network that become graphs, see `core.model_card.ModelCard`."""
    if isinstance(network, LiftNetwork):
        return [network.first] + ([network.refine] if network.refine is not None else [])
    return [OfCounts(network)]


class OfCounts(nn.Module):
    """A network of counts alone: (B, 1, N, N) to (B, 2, N, N) log amplitude and phase."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, counts: torch.Tensor) -> torch.Tensor:
        patterns = counts[:, 0]
        return self.network(patterns, patterns >= 0, patterns)[-1]


def onnx_graph(module: nn.Module, example: np.ndarray, *, dynamic: bool = True) -> bytes:
    """Return a network as ONNX, compared with torch on an example (B, C, h, h), whose batch stays open if dynamic."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", DeprecationWarning)  # the newer exporter needs a package more
        torch.onnx.export(
            module.eval(),
            (torch.from_numpy(example),),
            buffer,  # pyright: ignore[reportArgumentType]
            dynamo=False,
            opset_version=OPSET,
            input_names=["given"],
            output_names=["found"],
            dynamic_axes={"given": {0: "batch"}, "found": {0: "batch"}} if dynamic else None,
        )
        wanted = module(torch.from_numpy(example)).numpy()
    graph = buffer.getvalue()
    difference = float(np.abs(run(session(graph), example) - wanted).max())
    if not difference <= GRAPH_TOLERANCE:
        raise RuntimeError(f"the graph differs from the network by {difference:.2g}; allowed is {GRAPH_TOLERANCE}")
    return graph


def eight_bit_graphs(chain: Chain, scans: Iterable[Patterns]) -> list[bytes]:
    """Quantise the graphs of a chain to 8 bits, their ranges taken from scans.

    The first and the last convolution of each graph keep their precision.
    """
    inputs = [chain.inputs(np.asarray(s.patterns[:FRAMES_OF_A_SCAN]), s.probe) for s in scans]
    return [_eight_bit(graph, [of[k] for of in inputs]) for k, graph in enumerate(chain.graphs)]


def _eight_bit(graph: bytes, inputs: list[np.ndarray]) -> bytes:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    opened = onnx.load_from_string(graph)
    given = opened.graph.input[0].name

    class Inputs(CalibrationDataReader):
        def __init__(self) -> None:
            self._left = iter(inputs)

        def get_next(self) -> dict:
            values = next(self._left, None)
            return {} if values is None else {given: values}

    convolutions = [node.name for node in opened.graph.node if node.op_type == "Conv"]
    with tempfile.TemporaryDirectory() as folder:
        full, small = Path(folder, "full.onnx"), Path(folder, "small.onnx")
        full.write_bytes(graph)
        quantize_static(
            full,
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
    squares = weights = 0.0
    for scan in scans:
        probe = np.asarray(scan.probe)
        edge = (probe.shape[-1] - chain.patch_px) // 2
        weight = np.abs(probe[edge : edge + chain.patch_px, edge : edge + chain.patch_px]) ** 2
        weight = weight / weight.sum()
        difference = chain.phase(scan.patterns, probe) - other.phase(scan.patterns, probe)
        squares += float(np.sum(weight * difference**2))
        weights += len(difference)
    return (squares / weights) ** 0.5


def write_model(out: Path, chain: Chain, *, frame_px: int, **card: Any) -> ModelCard:
    """Write the graphs of a chain, the golden pair they make, and the card, whose other fields are ``card``."""
    files = {**dict(zip((GRAPH, REFINE), chain.graphs)), GOLDEN: golden_pair(chain, frame_px)}
    written = ModelCard(
        files={file: sha256_of(data) for file, data in files.items()},
        frame_px=frame_px,
        patch_px=chain.patch_px,
        preparation=chain.preparation,
        graph_file=GRAPH,
        refine_file=REFINE if REFINE in files else "",
        golden_file=GOLDEN,
        **card,
    )
    out.mkdir(parents=True, exist_ok=True)
    for file, data in files.items():
        (out / file).write_bytes(data)
    write_card(out, written)
    return written


def golden_pair(chain: Chain, frame_px: int) -> bytes:
    """Return simulated patterns, their probe and the patches that a chain makes of them, as NPZ."""
    rng = np.random.default_rng(7)
    probe = with_counts(zone_plate_probe(Geometry(frame_px=frame_px)), GOLDEN_COUNTS)
    object_ = random_object(rng, 2 * frame_px)
    centres_px = rng.integers(frame_px // 2, frame_px, (GOLDEN_FRAMES, 2))
    patterns = detect(rng, intensities(object_, probe, centres_px))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, patterns=patterns, probe=probe, patches_rad=chain.phase(patterns, probe))
    return buffer.getvalue()

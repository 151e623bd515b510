"""Turn a checkpoint into a model that engines open: graphs, a golden pair and a card."""

import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bluesky_ptychonn.core.model_card import ModelCard
from bluesky_ptychonn.core.optics import Geometry, intensities, with_counts, zone_plate_probe
from bluesky_ptychonn.io.durable import write_through
from bluesky_ptychonn.io.model_store import sha256_of, write_card
from bluesky_ptychonn.training.learning.checkpoint import trained_network
from bluesky_ptychonn.training.learning.graphs import (
    FRAMES_OF_A_SCAN,
    Chain,
    Patterns,
    change_of,
    eight_bit_graphs,
    onnx_graph,
    parts_of,
    with_half_weights,
)
from bluesky_ptychonn.training.learning.networks import LiftNetwork
from bluesky_ptychonn.training.learning.objects import random_object
from bluesky_ptychonn.training.learning.patch_network import STRIDE
from bluesky_ptychonn.training.learning.simulated import DOSES, GEOMETRY, detect, simulate_scan

logger = logging.getLogger(__name__)

GRAPH, REFINE, GOLDEN = "model.onnx", "refine.onnx", "golden.npz"

EIGHT_BIT_TOLERANCE_RAD = 0.01
"""Probe-weighted root mean square by which 8 bits may change the phase of held-out simulated scans."""

CALIBRATION_SEED, HELD_OUT_SEED = 20231, 20232
CALIBRATION_SCANS, HELD_OUT_SCANS = 40, 10

SMALL_PX = 64
"""Side of patterns below which the cone of a usual zone plate leaves them."""

GOLDEN_FRAMES = 4
GOLDEN_COUNTS = 1e6


def export(
    checkpoint_dir: Path,
    out: Path,
    *,
    name: str,
    version: str,
    frame_px: int | None = None,
    patch_px: int | None = None,
    eight_bit: bool = False,
    half_weights: bool = False,
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
    frame_px : int, optional
        Side of the patterns that it learned from; that of simulated scans without it. `ptychonn-lift` only.
    patch_px : int, optional
        Side of the patches, px, as trained by default. Smaller ones cost less: a multiple of 16, `ptychonn-lift` only.
    eight_bit : bool
        Quantise to 8 bits. Where that changes the phase of simulated scans by more than `EIGHT_BIT_TOLERANCE_RAD`,
        single precision stays, with a warning. A processor that knows bfloat16 runs single precision as fast.
    half_weights : bool
        Store weights in half precision, for large networks; they are computed with as before.
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
    lifts, trained_px = isinstance(network, LiftNetwork), int(network.patch_px)  # pyright: ignore[reportArgumentType]
    patch_px, least_px = patch_px or trained_px, STRIDE if lifts else trained_px
    if not least_px <= patch_px <= trained_px or patch_px % STRIDE:
        raise ValueError(
            f"patch_px = {patch_px} px; {state['network']} takes multiples of {STRIDE} px from {least_px} to "
            f"{trained_px} px"
        )
    frame_px = (frame_px or GEOMETRY.frame_px) if lifts else patch_px
    if patch_px > frame_px:
        raise ValueError(f"patch_px = {patch_px} px; allowed are at most the frame_px = {frame_px} px of the patterns")
    held_out = simulated_scans(HELD_OUT_SEED, HELD_OUT_SCANS, frame_px)
    chain = Chain("lift" if lifts else "counts", [], patch_px)
    for part in parts_of(network):
        example = chain.inputs(held_out[0].patterns[:3], held_out[0].probe)[-1]
        graph = onnx_graph(part, example)
        chain = chain.longer_by(with_half_weights(graph) if half_weights else graph)
    about: dict[str, Any] = {"eight_bit": False, "half_weights": half_weights}
    if eight_bit:
        scans = simulated_scans(CALIBRATION_SEED, CALIBRATION_SCANS, frame_px) if calibration is None else calibration
        chain, about = _quantised(chain, scans, held_out)
    figures = state["figures"]
    return write_model(
        out,
        chain,
        frame_px=frame_px,
        name=name,
        version=version,
        pixel_size_um=pixel_size_um,
        energy_kev=energy_kev,
        reference_counts=float(np.sqrt(DOSES[0] * DOSES[1])) if lifts else None,
        corpus=figures["conditions"]["snapshot"],
        training={**figures, "export": about},
    )


def _quantised(chain: Chain, scans: Sequence[Patterns], held_out: Sequence[Patterns]) -> tuple[Chain, dict[str, Any]]:
    """The chain in 8 bits and the change that made, or the chain itself where that is too much."""
    small = Chain(chain.preparation, eight_bit_graphs(chain, scans), chain.patch_px)
    change_rad = change_of(chain, small, held_out)
    kept = change_rad <= EIGHT_BIT_TOLERANCE_RAD
    if not kept:
        logger.warning(
            "8 bits change the phase by %.4f rad, allowed is %g rad: the model keeps single precision",
            change_rad,
            EIGHT_BIT_TOLERANCE_RAD,
        )
    return small if kept else chain, {"eight_bit": kept, "eight_bit_change_rad": round(change_rad, 5)}


def simulated_scans(seed: int, scans: int, frame_px: int) -> list[Patterns]:
    """Simulated scans, their doses spread over `DOSES`."""
    geometry, (low, high) = Geometry(frame_px=frame_px), np.log10(DOSES)
    probes = (lambda _, geometry: 2 * (_usual_probe(geometry),)) if frame_px < SMALL_PX else None
    given = {"geometry": geometry, "probes": probes}
    return [
        simulate_scan(np.random.default_rng([seed, k]), FRAMES_OF_A_SCAN, counts=float(dose), **given)
        for k, dose in enumerate(10 ** np.linspace(low, high, scans))
    ]


def _usual_probe(geometry: Geometry) -> np.ndarray:
    """Probe of a zone plate, on small patterns of one with wider zones."""
    return zone_plate_probe(geometry, outermost_zone_nm=30.0 * max(1.0, SMALL_PX / geometry.frame_px))


def write_model(out: Path, chain: Chain, *, frame_px: int, **card: Any) -> ModelCard:
    """Write the graphs of a chain, the golden pair they make, and the card, whose other fields are ``card``."""
    graphs = dict(zip((GRAPH, REFINE), chain.graphs))
    files = {**graphs, GOLDEN: golden_pair(chain, frame_px)}
    written = ModelCard(
        files={file: sha256_of(data) for file, data in files.items()},
        frame_px=frame_px,
        patch_px=chain.patch_px,
        preparation=chain.preparation,
        graph_file=GRAPH,
        refine_file=REFINE if REFINE in graphs else "",
        golden_file=GOLDEN,
        **card,
    )
    out.mkdir(parents=True, exist_ok=True)
    for file, data in files.items():
        write_through(out / file, data)
    write_card(out, written)
    return written


def golden_pair(chain: Chain, frame_px: int) -> bytes:
    """Return simulated patterns, their probe and the patches that a chain makes of them, as NPZ."""
    rng = np.random.default_rng(7)
    probe = with_counts(_usual_probe(Geometry(frame_px=frame_px)), GOLDEN_COUNTS)
    object_ = random_object(rng, 2 * frame_px)
    centres_px = rng.integers(frame_px // 2, frame_px, (GOLDEN_FRAMES, 2))
    patterns = detect(rng, intensities(object_, probe, centres_px))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, patterns=patterns, probe=probe, patches_rad=chain.phase(patterns, probe))
    return buffer.getvalue()

"""Models of a few hundred bytes, as export writes them, and reconstructions that are the truth."""

import io
from functools import cache
from pathlib import Path

import numpy as np
from simulated_scan import GEOMETRY, Truth

from bluesky_ptychonn.core.lift import lift
from bluesky_ptychonn.core.model_card import ModelCard
from bluesky_ptychonn.core.optics import intensities, with_counts, zone_plate_probe
from bluesky_ptychonn.core.reconstruction import Reconstruction
from bluesky_ptychonn.core.scan_data import ScanData
from bluesky_ptychonn.io.model_store import sha256_of, write_card
from bluesky_ptychonn.training.retrieval.field import light_on
from bluesky_ptychonn.training.retrieval.problem import Sweep

PATCH_PX = 48


def write_candidate(folder: Path, gain: float, **card) -> Path:
    """A model whose phase is the imaginary part of the lift times a gain, which may be NaN or wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {"model.onnx": gain_graph(gain), "golden.npz": golden_pair(gain)}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    values = {"name": "tiny", "version": "tiny-1", "frame_px": GEOMETRY.frame_px, "patch_px": PATCH_PX}
    hashes = {name: sha256_of(data) for name, data in files.items()}
    write_card(folder, ModelCard(**{**values, "pixel_size_um": None, "energy_kev": None, "files": hashes, **card}))
    return folder


def gain_graph(gain: float) -> bytes:
    """ONNX of (B, 3, h, h), of which channel 1 is the phase: (B, 2, h, h)."""
    from onnx import TensorProto, helper

    shape = ["batch", 3, PATCH_PX, PATCH_PX], ["batch", 2, PATCH_PX, PATCH_PX]
    constants = {"from": [1], "to": [2], "axis": [1]}
    graph = helper.make_graph(
        [
            helper.make_node("Slice", ["lifted", "from", "to", "axis"], ["imaginary"]),
            helper.make_node("Mul", ["imaginary", "gain"], ["phase"]),
            helper.make_node("Mul", ["imaginary", "none"], ["log_amplitude"]),
            helper.make_node("Concat", ["log_amplitude", "phase"], ["object"], axis=1),
        ],
        "gain",
        [helper.make_tensor_value_info("lifted", TensorProto.FLOAT, shape[0])],
        [helper.make_tensor_value_info("object", TensorProto.FLOAT, shape[1])],
        [
            *(helper.make_tensor(name, TensorProto.INT64, [1], value) for name, value in constants.items()),
            helper.make_tensor("gain", TensorProto.FLOAT, [1], [gain]),
            helper.make_tensor("none", TensorProto.FLOAT, [1], [0.0]),
        ],
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()


@cache
def _golden_lift() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    probe = with_counts(zone_plate_probe(GEOMETRY, defocus_um=75.0), 1e5)
    side = 2 * GEOMETRY.frame_px
    object_ = np.exp(0.3j * rng.random((side, side)))
    patterns = rng.poisson(intensities(object_, probe, np.full((2, 2), side / 2))).astype(np.uint16)
    edge = (GEOMETRY.frame_px - PATCH_PX) // 2
    return patterns, probe, lift(patterns, probe)[:, 1, edge:-edge, edge:-edge]


def golden_pair(gain: float) -> bytes:
    """Patterns, probe and what the gain makes of them, as NPZ."""
    patterns, probe, phase = _golden_lift()
    buffer = io.BytesIO()
    np.savez(buffer, patterns=patterns, probe=probe, patches_rad=np.float32(gain) * phase)
    return buffer.getvalue()


def true_reconstruction(scan: ScanData, truth: Truth, **changes) -> Reconstruction:
    """What phase retrieval would give at its very best: the simulated object on its own pixels."""
    probe = scan.probe[None]
    held_out = np.zeros(len(scan.patterns), bool)
    values = {
        "object_": truth.object_,
        "probe": probe,
        "positions_px": truth.positions_px,
        "origin_px": tuple((scan.positions_px - truth.positions_px)[0].tolist()),
        "pixel_size_um": scan.pixel_size_um,
        "coverage": light_on(Sweep(truth.object_, with_counts(probe, 1e6), truth.positions_px)),
        "trigger_index": scan.trigger_index,
        "held_out": held_out,
        "errors": np.array([0.01]),
        "errors_heldout": np.array([0.01]),
        "provenance": scan.provenance,
    }
    return Reconstruction(**{**values, **changes})

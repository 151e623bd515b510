"""Take in a network that others trained and published: PtychoNN 2.0 as weights, or any network of counts as ONNX."""

import pickle
from pathlib import Path

import numpy as np
import torch

from bluesky_ptychonn.core.model_card import ModelCard
from bluesky_ptychonn.io.model_store import sha256_of
from bluesky_ptychonn.training.learning.export import simulated_scans, write_model
from bluesky_ptychonn.training.learning.graphs import Chain, onnx_graph, open_session, parts_of
from bluesky_ptychonn.training.learning.reference_networks import PtychoNN2

NAME = "published"
WRAPPED = "module."
"""Prefix of the names in weights that were saved from a network shared among GPUs."""


def import_published(weights: Path, out: Path, *, version: str, reference_counts: float | None = None) -> ModelCard:
    """Make a model of published weights or of a published graph.

    Parameters
    ----------
    weights : Path
        State dict of PtychoNN 2.0 (``.pth``, ``.pt``), of which no code is run, or a graph (``.onnx``) from
        (B, 1, N, N) float32 counts to phase (rad), see `core.model_card.ModelCard`, whose batch is fixed or open: it is
        kept unchanged.
    out : Path
        Folder of the model, made if absent.
    version : str
        For the card.
    reference_counts : float, optional
        Photons per frame it was trained with, to which an engine scales those of a run; without it the network sees
        counts as they are.

    Returns
    -------
    ModelCard

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is something else.
    """
    data = Path(weights).read_bytes()
    graph = data if weights.suffix == ".onnx" else _graph_of_state(weights)
    frame_px = _frame_px(graph, weights.name)
    return write_model(
        out,
        Chain("counts", [graph], frame_px, reference_counts),
        frame_px=frame_px,
        name=NAME,
        version=version,
        pixel_size_um=None,
        energy_kev=None,
        reference_counts=reference_counts,
        training={"command": "import", "conditions": {"file": weights.name, "sha256": sha256_of(data)}, "results": []},
    )


def _graph_of_state(weights: Path) -> bytes:
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{weights.name} holds no state dict that can be read without running its code; save "
            f"network.state_dict(), or export the network as ONNX: {str(error).splitlines()[0][:200]}"
        ) from error
    network = PtychoNN2()
    wanted = {name: tuple(values.shape) for name, values in network.state_dict().items()}
    if not isinstance(state, dict) or not all(isinstance(values, torch.Tensor) for values in state.values()):
        raise ValueError(f"{weights.name} holds no state dict; save network.state_dict()")
    state = {str(name).removeprefix(WRAPPED): values for name, values in state.items()}
    found = {name: tuple(values.shape) for name, values in state.items()}
    if found != wanted:
        other = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
        raise ValueError(
            f"{weights.name} is no PtychoNN 2.0: {other[0]} is {found.get(other[0], 'missing')} where "
            f"{wanted.get(other[0], 'nothing')} should be, and {len(other) - 1} more differ"
        )
    network.load_state_dict(state)
    scan = simulated_scans(seed=0, scans=1, frame_px=network.patch_px)[0]
    example = Chain("counts", [], network.patch_px).inputs(scan.patterns[:2], scan.probe)[0]
    return onnx_graph(parts_of(network)[0], example)


def _frame_px(graph: bytes, name: str) -> int:
    """Side of the patterns of a graph of counts, whose shapes are checked."""
    try:
        session = open_session(graph)
    except Exception as error:  # ONNX Runtime has its own for each kind of fault
        raise ValueError(f"{name} is no graph that ONNX Runtime opens: {str(error)[:200]}") from error
    given, found = session.get_inputs(), session.get_outputs()
    shape = given[0].shape
    n = shape[-1] if len(shape) == 4 else None
    if len(given) != 1 or not isinstance(n, int) or shape[1:] != [1, n, n] or given[0].type != "tensor(float)":
        raise ValueError(f"{name} takes {[(i.type, i.shape) for i in given]}; one float32 (B, 1, N, N) is wanted")
    batch = shape[0] if isinstance(shape[0], int) else 1
    results = session.run(None, {given[0].name: np.zeros((batch, 1, n, n), np.float32)})
    if len(found) != 1 or results[0].shape not in [(batch, *c, n, n) for c in ((), (1,), (2,))]:
        shapes = [result.shape for result in results]
        raise ValueError(f"{name} gives {shapes}; one (B, N, N), (B, 1, N, N) or (B, 2, N, N) is wanted")
    return n

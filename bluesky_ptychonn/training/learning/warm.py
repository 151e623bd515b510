"""Learn on from a model: its graphs become a network again, so that no checkpoint has to be kept beside a version."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bluesky_ptychonn.io.model_store import StoredModel
from bluesky_ptychonn.training.learning.checkpoint import CHECKPOINT, write_checkpoint
from bluesky_ptychonn.training.learning.graphs import parts_of
from bluesky_ptychonn.training.learning.networks import build_network

HALF = ".half"
"""Ending of the names of weights that are stored in half precision."""


def start_from(model: StoredModel, out: Path) -> None:
    """Write a checkpoint from which `train` can start, of a model that this package trained.

    Parameters
    ----------
    model : StoredModel
    out : Path
        Folder for it, made if absent; a checkpoint that is there stays.

    Raises
    ------
    ValueError
        If the network is unknown, or its weights are in 8 bits.
    """
    if (out / CHECKPOINT).exists():
        return
    network, about = network_of(model)
    out.mkdir(parents=True, exist_ok=True)
    write_checkpoint(out, {**about, "kept": network.state_dict(), "figures": {}})


def network_of(model: StoredModel) -> tuple[nn.Module, dict[str, Any]]:
    """Build the network of a model with its weights; also its name and what built it, ``network``, ``configuration``.

    Raises
    ------
    ValueError
        If the network is unknown, or its weights are in 8 bits.
    """
    card = model.card
    conditions = card.training.get("conditions", {})
    about = {name: conditions.get(name) for name in ("network", "configuration")}
    if not all(about.values()):
        raise ValueError(
            f"the card of {card.name} {card.version} names no network; only those of `train` are learned on"
        )
    network = build_network(about["network"], about["configuration"])
    files = [name for name in (card.graph_file, card.refine_file) if name]
    parts = parts_of(network)
    if len(parts) != len(files):
        raise ValueError(f"{card.name} {card.version} has {len(files)} graphs, its network {len(parts)} parts")
    for part, name in zip(parts, files, strict=True):
        weights = _weights(model.directory / name)
        wanted = part.state_dict()
        missing = sorted(wanted.keys() - weights.keys())
        if missing:
            raise ValueError(
                f"{name} of {card.name} {card.version} holds no weights {missing[0]!r}: it is in 8 bits, or another "
                "network; learn on from its training"
            )
        part.load_state_dict({key: torch.from_numpy(weights[key].astype(np.float32)) for key in wanted})
    return network.eval(), about


def _weights(path: Path) -> dict[str, np.ndarray]:
    """Weights in a graph by the names that torch has for them."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    return {weight.name.removesuffix(HALF): numpy_helper.to_array(weight) for weight in graph.initializer}

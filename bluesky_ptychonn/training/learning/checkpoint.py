"""The state of a training on disk: enough to go on with the same result, and to build the network again."""

import io
from pathlib import Path
from typing import Any

import torch

from bluesky_ptychonn.io.durable import replace_file
from bluesky_ptychonn.training.learning.networks import build_network

CHECKPOINT = "checkpoint.pt"


def write_checkpoint(out: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint of a training in one step."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    replace_file(out / CHECKPOINT, buffer.getbuffer())


def read_checkpoint(out: Path) -> dict[str, Any]:
    """Read the checkpoint of a training; no code in it is run.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    path = out if out.is_file() else out / CHECKPOINT
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint in {out}; give the folder of a training")
    return torch.load(path, map_location="cpu", weights_only=True)


def trained_network(out: Path) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Build the network that a training keeps, with its weights, and return the checkpoint beside it."""
    state = read_checkpoint(out)
    network = build_network(state["network"], state["configuration"])
    network.load_state_dict(state["kept"])
    return network.eval(), state

"""A network under training as an engine, to judge it before it is exported."""

import numpy as np
import torch

from bluesky_ptychonn.core.frames import no_data
from bluesky_ptychonn.core.model_card import ModelCard


class NetworkEngine:
    """Any network of the registry behind the `core.protocols.Engine` protocol, computed by torch in fp32.

    Parameters
    ----------
    network : torch.nn.Module
        From `networks.build_network` or `checkpoint.trained_network`.
    frame_px : int
        Side of the diffraction patterns.
    max_batch : int
    """

    name = "network"
    guess = None
    card: ModelCard | None = None

    def __init__(self, network: torch.nn.Module, frame_px: int = 128, max_batch: int = 32) -> None:
        self._network = network.eval()
        self._probe: torch.Tensor | None = None
        self.frame_px, self.max_batch = frame_px, max_batch
        self.patch_px = int(network.patch_px)  # pyright: ignore[reportArgumentType]

    def set_probe(self, probe: np.ndarray) -> None:
        """Take a new probe (N, N), scaled to the counts per frame."""
        if np.shape(probe) != (self.frame_px, self.frame_px):
            raise ValueError(f"the probe has shape {np.shape(probe)} px; this engine takes {self.frame_px} px a side")
        self._probe = torch.from_numpy(np.array(probe, np.complex64))

    def infer(self, patterns: np.ndarray) -> np.ndarray:
        """Patterns (B, N, N) to phase (B, h, h) float32, rad."""
        if self._probe is None:
            raise RuntimeError("the engine has no probe yet; call set_probe first")
        valid = patterns != no_data(patterns.dtype)
        counts = torch.from_numpy(np.where(valid, patterns, 0).astype(np.float32))
        with torch.no_grad():
            estimates = self._network(counts, torch.from_numpy(valid), self._probe.expand(len(patterns), -1, -1))
        return np.ascontiguousarray(estimates[-1][:, 1].numpy())

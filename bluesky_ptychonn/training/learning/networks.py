"""Networks by name, all trained and exported through one interface.

A network is a module with the attributes `preparation` (what its engine does to patterns, see `core.model_card`),
`patch_px` (side of its patches) and `configuration` (what builds it again), and::

    network(patterns, valid, probe) -> [(B, 2, h, h), ...]

patterns (B, N, N) float counts, ``valid`` (B, N, N) bool and probes (B, N, N) complex64 to estimates of log amplitude
and phase (rad); the last one is the best, those before it are steps on the way which a loss may also teach.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from bluesky_ptychonn.engines import torch_physics as physics
from bluesky_ptychonn.training.learning.patch_network import PatchNetwork
from bluesky_ptychonn.training.learning.reference_networks import PtychoNN, PtychoNN2


class LiftNetwork(nn.Module):
    """``ptychonn-lift``: a first guess from the lift, and a correction from the projection of that guess.

    The first network sees the lift, the second one the guess and what the pattern, through the forward model, asks to
    change in it: an unrolled reconstruction of two steps, each with a learned prior. Both see how much light fell on
    each pixel, so that they know what to trust, at any dose. The probe enters through these three images only.

    Parameters
    ----------
    patch_px : int
        Side of the patch, a multiple of 16.
    first, refine : tuple of int
        Channels of the two networks at 1/4, 1/8 and 1/16 of the resolution; without the second one the guess stands.

    References
    ----------
    Monga, Li and Eldar, "Algorithm unrolling", IEEE Signal Process. Mag. 38, 18 (2021).
    """

    preparation = "lift"

    def __init__(self, patch_px: int = 64, first=(32, 32, 64), refine=(32, 64, 96)) -> None:
        super().__init__()
        self.patch_px = patch_px
        self.configuration = {"patch_px": patch_px, "first": list(first), "refine": list(refine or ())}
        self.first = PatchNetwork(3, 2, tuple(first))
        self.refine = PatchNetwork(5, 2, tuple(refine)) if refine else None

    def forward(self, patterns: torch.Tensor, valid: torch.Tensor, probe: torch.Tensor) -> list[torch.Tensor]:
        """Guess, and corrected guess."""
        with torch.no_grad():
            light = physics.light(probe, self.patch_px)
            lifted = physics.lift(patterns, valid, probe, self.patch_px)
        guess = self.first(torch.cat([lifted, light], dim=1)).float()
        if self.refine is None:
            return [guess]
        with torch.no_grad():
            asked = physics.project(patterns, valid, probe, guess)
        return [guess, guess + self.refine(torch.cat([asked, guess, light], dim=1)).float()]


class LargeLiftNetwork(LiftNetwork):
    """``ptychonn-lift-large``: the same with ten times the multiplications, to see what a larger network would gain."""

    def __init__(self, patch_px: int = 64, first=(112, 160, 224), refine=(120, 224, 320)) -> None:
        super().__init__(patch_px, first, refine)


NETWORKS: dict[str, type[nn.Module]] = {
    "ptychonn": PtychoNN,
    "ptychonn2": PtychoNN2,
    "ptychonn-lift": LiftNetwork,
    "ptychonn-lift-large": LargeLiftNetwork,
}


def build_network(name: str, configuration: Mapping[str, Any] | None = None) -> nn.Module:
    """Build an untrained network.

    Parameters
    ----------
    name : {"ptychonn", "ptychonn2", "ptychonn-lift", "ptychonn-lift-large"}
    configuration : mapping, optional
        Arguments of its class; the defaults without it.

    Raises
    ------
    ValueError
        If the name is unknown.

    Examples
    --------
    >>> sum(values.numel() for values in build_network("ptychonn2").parameters())
    733921
    """
    if name not in NETWORKS:
        raise ValueError(f"network = {name!r} is unknown; choose one of {', '.join(NETWORKS)}")
    return NETWORKS[name](**(configuration or {}))


def multiplications(network: nn.Module, frame_px: int = 128) -> float:
    """Multiply-accumulates of all convolutions for one frame, millions."""
    total = 0

    def count(module, _, output) -> None:
        nonlocal total
        total += output[0].numel() * module.weight[0].numel()

    handles = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, nn.Conv2d)]
    shape = (1, frame_px, frame_px)
    with torch.no_grad():
        network(torch.ones(shape), torch.ones(shape, dtype=torch.bool), torch.ones(shape, dtype=torch.complex64))
    for handle in handles:
        handle.remove()
    return total / 1e6

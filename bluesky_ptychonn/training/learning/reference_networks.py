"""The paper's networks, so that published weights load and comparisons are fair.

References
----------
Cherukara et al., Appl. Phys. Lett. 117, 044103 (2020): PtychoNN.
Babu et al., Nat. Commun. 14, 7059 (2023): PtychoNN 2.0, phase only, 733,921 parameters.
"""

import math
from itertools import pairwise

import torch
from torch import nn

SMALLEST_AMPLITUDE = 1e-3


class _OfCounts(nn.Module):
    """A network whose encoder sees the counts of the whole frame.

    Parameters
    ----------
    frame_px : int
        Side of patterns and patches, a multiple of 16.
    channels : int
        Of the first block.
    """

    preparation = "counts"

    def __init__(self, frame_px: int, channels: int) -> None:
        super().__init__()
        self.patch_px = frame_px
        self.configuration = {"frame_px": frame_px, "channels": channels}
        self.encoder = encoder(channels)


class PtychoNN2(_OfCounts):
    """``ptychonn2``: counts to phase; encoder and one decoder of four blocks, no skips, no normalisation.

    The names of its parameters are those of the published state dict.
    """

    def __init__(self, frame_px: int = 128, channels: int = 16) -> None:
        super().__init__(frame_px, channels)
        self.decoder2 = decoder(channels, nn.Tanh())

    def phase_of(self, counts: torch.Tensor) -> torch.Tensor:
        """(B, 1, N, N) counts to (B, 1, N, N) phase, rad."""
        return math.pi * self.decoder2(self.encoder(counts))

    def forward(self, patterns: torch.Tensor, valid: torch.Tensor, probe: torch.Tensor) -> list[torch.Tensor]:
        """Amplitude 1, and phase; the probe is not looked at."""
        phase = self.phase_of(torch.where(valid, patterns, 0)[:, None])
        return [torch.cat([torch.zeros_like(phase), phase], dim=1)]


class PtychoNN(_OfCounts):
    """``ptychonn``: counts to amplitude and phase, with a decoder for each; about 4.7 M parameters."""

    def __init__(self, frame_px: int = 128, channels: int = 32) -> None:
        super().__init__(frame_px, channels)
        self.decoder1 = decoder(channels, nn.Sigmoid())
        self.decoder2 = decoder(channels, nn.Tanh())

    def amplitude_and_phase_of(self, counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, 1, N, N) counts to amplitude and phase (rad), both (B, 1, N, N)."""
        code = self.encoder(counts)
        return self.decoder1(code), math.pi * self.decoder2(code)

    def forward(self, patterns: torch.Tensor, valid: torch.Tensor, probe: torch.Tensor) -> list[torch.Tensor]:
        """Log amplitude and phase; the probe is not looked at."""
        amplitude, phase = self.amplitude_and_phase_of(torch.where(valid, patterns, 0)[:, None])
        return [torch.cat([amplitude.clamp_min(SMALLEST_AMPLITUDE).log(), phase], dim=1)]


def encoder(channels: int) -> nn.Sequential:
    """Four blocks, each of two convolutions and a pooling, of 1, 2, 4 and 8 times the channels."""
    widths = (1, channels, 2 * channels, 4 * channels, 8 * channels)
    blocks = [block(a, b, nn.MaxPool2d(2)) for a, b in pairwise(widths)]
    return nn.Sequential(*[layer for layers in blocks for layer in layers])


def decoder(channels: int, last: nn.Module) -> nn.Sequential:
    """Four blocks, each of two convolutions and a doubling, and one convolution to a single channel."""
    widths = (8 * channels, 8 * channels, 4 * channels, 2 * channels, channels)
    up = [block(a, b, nn.Upsample(scale_factor=2, mode="bilinear")) for a, b in pairwise(widths)]
    return nn.Sequential(
        *[layer for layers in up for layer in layers], nn.Conv2d(channels, 1, kernel_size=3, padding=1), last
    )


def block(channels_in: int, channels_out: int, scale: nn.Module) -> list[nn.Module]:
    """Convolution, ReLU, convolution, ReLU, and a change of size."""
    return [
        nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(channels_out, channels_out, kernel_size=3, padding=1),
        nn.ReLU(),
        scale,
    ]

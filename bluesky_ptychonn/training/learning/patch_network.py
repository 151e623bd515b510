"""The image-to-image network inside ``ptychonn-lift``: small enough for a CPU at kHz rates."""

import torch
from torch import nn

STRIDE = 16
"""Sides of patches are multiples of this, px."""
LARGEST = 4.0
"""Input values are cut here: a few photons under the rim of a probe make lifts of any size, which mean nothing."""


def _convolution(channels_in: int, channels_out: int, kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2)


class _Pair(nn.Module):
    """Two convolutions; the second one sees the first through a ReLU, and is added to it.

    The way past the ReLU keeps a network alive: behind one that shuts on every pixel, as large steps early in a
    training may bring about, nothing would learn any more.
    """

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.first = _convolution(channels_in, channels)
        self.second = _convolution(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return x + self.second(torch.relu(x))


class PatchNetwork(nn.Module):
    """Three-level encoder and decoder on quarter resolution.

    Pixel-unshuffle by 4 makes 16 channels of each, so that no convolution runs at full resolution; two poolings,
    nearest upsampling, added skips, and pixel-shuffle by 4 at the end.

    Parameters
    ----------
    channels_in, channels_out : int
    widths : tuple of int
        Channels at 1/4, 1/8 and 1/16 of the resolution.

    Examples
    --------
    >>> tuple(PatchNetwork(2, 1, (8, 16, 32))(torch.zeros(3, 2, 96, 96)).shape)
    (3, 1, 96, 96)
    """

    def __init__(self, channels_in: int, channels_out: int, widths: tuple[int, int, int]) -> None:
        super().__init__()
        fine, middle, coarse = widths
        self.unshuffle, self.shuffle = nn.PixelUnshuffle(4), nn.PixelShuffle(4)
        self.down0, self.down1, self.down2 = _Pair(16 * channels_in, fine), _Pair(fine, middle), _Pair(middle, coarse)
        self.pool = nn.MaxPool2d(2)
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.narrow1, self.narrow0 = _convolution(coarse, middle, 1), _convolution(middle, fine, 1)
        self.up1, self.up0 = _Pair(middle, middle), _Pair(fine, fine)
        self.head = _convolution(fine, 16 * channels_out)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, channels_in, h, w) to (B, channels_out, h, w)."""
        fine = self.down0(self.unshuffle(images.clamp(-LARGEST, LARGEST)))
        middle = self.down1(self.pool(fine))
        coarse = self.down2(self.pool(middle))
        middle = self.up1(middle + self.up(self.narrow1(coarse)))
        fine = self.up0(fine + self.up(self.narrow0(middle)))
        return self.shuffle(self.head(fine))

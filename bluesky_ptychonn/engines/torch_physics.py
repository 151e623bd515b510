"""The lift and the projection on torch, batched; `core.lift` and `core.projection` are the reference.

The signs that centre an FFT of even sides cancel in pairs: what is left of them is one sign at the probe's wave before
the first FFT, and one at the inverse probe after the last one.
"""

from typing import NamedTuple

import torch

from bluesky_ptychonn.core.lift import DARK, REGULARISATION
from bluesky_ptychonn.core.projection import LIGHT_DECADES, ONE_COUNT
from bluesky_ptychonn.core.transmission import LARGEST_LOG


class LiftFactors(NamedTuple):
    """What the lift takes of probes (B, N, N)."""

    amplitude: torch.Tensor
    """(B, N, N) of their far fields."""
    unit: torch.Tensor
    """(B, N, N) complex, phase factors of the far fields, with signs; 0 where the probes are dark."""
    inverse: torch.Tensor
    """(B, h, h) complex, what divides by the probes, with signs."""


class ProjectFactors(NamedTuple):
    """What the projection takes of probes (B, N, N)."""

    wave: torch.Tensor
    """(B, N, N) complex, the probes with signs."""
    inverse: torch.Tensor
    """(B, h, h) complex, what divides by the probes, with signs."""


def lift_factors(probe: torch.Tensor, patch_px: int) -> LiftFactors:
    """Factors of the lift of patches (h, h) with probes (B, N, N)."""
    far = torch.fft.fft2(probe * _sign(probe), norm="ortho")
    intensity = _squared(far)
    amplitude = intensity.sqrt()
    power = intensity.sum((-2, -1), keepdim=True)
    floor = DARK * torch.sqrt((intensity**2).sum((-2, -1), keepdim=True) / power)
    unit = torch.where(amplitude > floor, far / torch.maximum(amplitude, floor), 0)
    return LiftFactors(amplitude, unit, _inverse_probe(probe, patch_px))


def project_factors(probe: torch.Tensor, patch_px: int) -> ProjectFactors:
    """Factors of the projection of patches (h, h) with probes (B, N, N)."""
    return ProjectFactors(probe * _sign(probe), _inverse_probe(probe, patch_px))


def lift_by(patterns: torch.Tensor, valid: torch.Tensor, factors: LiftFactors) -> torch.Tensor:
    """Central (B, 2, h, h) of the lift of patterns (B, N, N), valid where they are data."""
    change = torch.where(valid, patterns.sqrt() - factors.amplitude, 0)
    field = torch.fft.ifft2(change * factors.unit, norm="ortho")
    return _parts(centre(field, factors.inverse.shape[-1]) * factors.inverse)


def project_by(
    patterns: torch.Tensor, valid: torch.Tensor, factors: ProjectFactors, estimate: torch.Tensor
) -> torch.Tensor:
    """Change (B, 2, h, h) that the patterns ask of an estimate (B, 2, h, h) of log amplitude and phase."""
    inside, far = _modelled(factors.wave, estimate)
    ratio = torch.sqrt((patterns + ONE_COUNT) / (_squared(far) + ONE_COUNT))
    field = torch.fft.ifft2(far * torch.where(valid, ratio - 1, 0), norm="ortho")
    return _parts(centre(field, estimate.shape[-1]) * factors.inverse * inside.conj())


def lift(patterns: torch.Tensor, valid: torch.Tensor, probe: torch.Tensor, patch_px: int) -> torch.Tensor:
    """Central (B, 2, h, h) of the lift of patterns (B, N, N) with probes (B, N, N)."""
    return lift_by(patterns, valid, lift_factors(probe, patch_px))


def project(patterns: torch.Tensor, valid: torch.Tensor, probe: torch.Tensor, estimate: torch.Tensor) -> torch.Tensor:
    """Change (B, 2, h, h) that the patterns ask of an estimate (B, 2, h, h) of log amplitude and phase."""
    return project_by(patterns, valid, project_factors(probe, estimate.shape[-1]), estimate)


def misfit(patterns: torch.Tensor, valid: torch.Tensor, probe: torch.Tensor, estimate: torch.Tensor) -> torch.Tensor:
    """Misfit (B,) of amplitudes, one count added to both sides, per measured count: a loss that needs no label."""
    _, far = _modelled(probe * _sign(probe), estimate)
    difference = torch.sqrt(patterns + ONE_COUNT) - torch.sqrt(_squared(far) + ONE_COUNT)
    counts = torch.where(valid, patterns, 0).sum((-2, -1)).clamp_min(1)
    return torch.where(valid, difference**2, 0).sum((-2, -1)) / counts


def far_field(wave: torch.Tensor) -> torch.Tensor:
    """Centred orthonormal FFT over the last two axes, of even sides."""
    sign = _sign(wave)
    return torch.fft.fft2(wave * sign, norm="ortho") * (sign if sum(wave.shape[-2:]) % 4 == 0 else -sign)


def light(probe: torch.Tensor, patch_px: int) -> torch.Tensor:
    """Central (B, 1, h, h) of `core.projection.light` of probes (B, N, N)."""
    return torch.log10(1 + centre(_squared(probe), patch_px))[:, None] / LIGHT_DECADES


def centre(images: torch.Tensor, side_px: int) -> torch.Tensor:
    """Central square of the last two axes."""
    edge = (images.shape[-1] - side_px) // 2
    return images[..., edge : edge + side_px, edge : edge + side_px]


def _modelled(wave: torch.Tensor, estimate: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Transmission of the patch, around which it is 1, and, but for signs, the far field behind it."""
    edge = (wave.shape[-1] - estimate.shape[-1]) // 2
    log_amplitude = estimate[:, 0].clamp(-float(LARGEST_LOG), float(LARGEST_LOG))
    inside = torch.polar(torch.exp(log_amplitude), estimate[:, 1])
    around = torch.nn.functional.pad(torch.view_as_real(inside - 1), (0, 0, edge, edge, edge, edge))
    return inside, torch.fft.fft2(wave * (torch.view_as_complex(around) + 1), norm="ortho")


def _inverse_probe(probe: torch.Tensor, patch_px: int) -> torch.Tensor:
    intensity = _squared(probe)
    eps = REGULARISATION * (intensity**2).sum((-2, -1), keepdim=True) / intensity.sum((-2, -1), keepdim=True)
    return centre(probe.conj() / (intensity + eps) * _sign(probe), patch_px)


def _sign(wave: torch.Tensor) -> torch.Tensor:
    height, width = wave.shape[-2:]
    rows, columns = (torch.arange(side, device=wave.device) for side in (height, width))
    return (1 - 2 * ((rows[:, None] + columns) % 2)).to(torch.float32)


def _squared(wave: torch.Tensor) -> torch.Tensor:
    parts = torch.view_as_real(wave)
    return (parts * parts).sum(-1)


def _parts(wave: torch.Tensor) -> torch.Tensor:
    return torch.stack([wave.real, wave.imag], dim=1)

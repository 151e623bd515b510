"""The lift and the projection on torch, batched; `core.lift` and `core.projection` are the reference."""

import torch

from bluesky_ptychonn.core.lift import DARK, REGULARISATION
from bluesky_ptychonn.core.projection import LARGEST_LOG, LIGHT_DECADES, ONE_COUNT


def far_field(wave: torch.Tensor) -> torch.Tensor:
    """Centred orthonormal FFT over the last two axes, of even sides."""
    sign = _sign(wave)
    return torch.fft.fft2(wave * sign, norm="ortho") * _outer(wave, sign)


def near_field(wave: torch.Tensor) -> torch.Tensor:
    """Inverse of `far_field`."""
    sign = _sign(wave)
    return torch.fft.ifft2(wave * sign, norm="ortho") * _outer(wave, sign)


def _sign(wave: torch.Tensor) -> torch.Tensor:
    height, width = wave.shape[-2:]
    rows, columns = (torch.arange(side, device=wave.device) for side in (height, width))
    return (1 - 2 * ((rows[:, None] + columns) % 2)).to(torch.float32)


def _outer(wave: torch.Tensor, sign: torch.Tensor) -> torch.Tensor:
    return sign if sum(wave.shape[-2:]) % 4 == 0 else -sign


def inverse_probe(probe: torch.Tensor) -> torch.Tensor:
    """conj(P) / (|P|^2 + eps) of probes (..., N, N)."""
    intensity = _squared(probe)
    eps = REGULARISATION * (intensity**2).sum((-2, -1), keepdim=True) / intensity.sum((-2, -1), keepdim=True)
    return probe.conj() / (intensity + eps)


def lift(patterns: torch.Tensor, valid: torch.Tensor, probe: torch.Tensor, patch_px: int) -> torch.Tensor:
    """Central (B, 2, h, h) of the lift of patterns (B, N, N) with probes (B, N, N)."""
    far = far_field(probe)
    intensity = _squared(far)
    amplitude = intensity.sqrt()
    power = intensity.sum((-2, -1), keepdim=True)
    floor = DARK * torch.sqrt((intensity**2).sum((-2, -1), keepdim=True) / power)
    unit = torch.where(amplitude > floor, far / torch.maximum(amplitude, floor), 0)
    change = torch.where(valid, patterns.sqrt() - amplitude, 0)
    return _parts(centre(inverse_probe(probe) * near_field(change * unit), patch_px))


def project(patterns: torch.Tensor, valid: torch.Tensor, probe: torch.Tensor, estimate: torch.Tensor) -> torch.Tensor:
    """Change (B, 2, h, h) that the patterns ask of an estimate (B, 2, h, h) of log amplitude and phase."""
    inside, far = _modelled(probe, estimate)
    ratio = torch.sqrt((patterns + ONE_COUNT) / (_squared(far) + ONE_COUNT))
    change = near_field(far * torch.where(valid, ratio - 1, 0))
    return _parts(centre(inverse_probe(probe) * change, estimate.shape[-1]) * inside.conj())


def misfit(patterns: torch.Tensor, valid: torch.Tensor, probe: torch.Tensor, estimate: torch.Tensor) -> torch.Tensor:
    """Misfit (B,) of amplitudes, one count added to both sides, per measured count: a loss that needs no label."""
    _, far = _modelled(probe, estimate)
    difference = torch.sqrt(patterns + ONE_COUNT) - torch.sqrt(_squared(far) + ONE_COUNT)
    counts = torch.where(valid, patterns, 0).sum((-2, -1)).clamp_min(1)
    return torch.where(valid, difference**2, 0).sum((-2, -1)) / counts


def _modelled(probe: torch.Tensor, estimate: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Transmission of the patch, and far field of the probe behind it; around the patch the object is 1."""
    edge = (probe.shape[-1] - estimate.shape[-1]) // 2
    log_amplitude = estimate[:, 0].clamp(-float(LARGEST_LOG), float(LARGEST_LOG))
    inside = torch.polar(torch.exp(log_amplitude), estimate[:, 1])
    around = torch.nn.functional.pad(torch.view_as_real(inside - 1), (0, 0, edge, edge, edge, edge))
    return inside, far_field(probe * (torch.view_as_complex(around) + 1))


def light(probe: torch.Tensor, patch_px: int) -> torch.Tensor:
    """Central (B, 1, h, h) of `core.projection.light` of probes (B, N, N)."""
    return torch.log10(1 + centre(_squared(probe), patch_px))[:, None] / LIGHT_DECADES


def centre(images: torch.Tensor, side_px: int) -> torch.Tensor:
    """Central square of the last two axes."""
    edge = (images.shape[-1] - side_px) // 2
    return images[..., edge : edge + side_px, edge : edge + side_px]


def _squared(wave: torch.Tensor) -> torch.Tensor:
    parts = torch.view_as_real(wave)
    return (parts * parts).sum(-1)


def _parts(wave: torch.Tensor) -> torch.Tensor:
    return torch.stack([wave.real, wave.imag], dim=1)

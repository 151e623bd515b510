"""Small simulated scans whose truth is known, whole or spoiled."""

from dataclasses import dataclass

import numpy as np

from bluesky_ptychonn.core.frames import orient_patterns
from bluesky_ptychonn.core.metrics import compare_phase
from bluesky_ptychonn.core.optics import Geometry, intensities, with_counts, zone_plate_probe
from bluesky_ptychonn.core.reconstruction import Reconstruction
from bluesky_ptychonn.core.scan import fermat_spiral
from bluesky_ptychonn.core.scan_data import ScanData
from bluesky_ptychonn.simulation.sample import make_sample

GEOMETRY = Geometry(frame_px=64, distance_m=0.45)
DEFOCUS_UM = 75.0
NO_DATA = np.iinfo(np.uint16).max


@dataclass(frozen=True)
class Truth:
    object_: np.ndarray
    positions_px: np.ndarray


def simulate(
    seed: int = 0,
    *,
    kind: str = "etched",
    geometry: Geometry = GEOMETRY,
    width_um: float = 0.9,
    step_um: float = 0.07,
    photons: float = 1e6,
    defocus_um: float = DEFOCUS_UM,
    start_defocus: float = 1.0,
    second_mode: float = 0.0,
    misplaced_px: float = 0.0,
    drift_px: float = 0.0,
    blur_px: float = 0.0,
    scale: float = 1.0,
    orientation: str = "identity",
    rows_shifted: int = 0,
    stale: float = 0.0,
    saturated_at: int | None = None,
    gap: bool = False,
) -> tuple[ScanData, Truth]:
    """Fly a zone plate's probe over a sample, count photons, and spoil what is asked for."""
    rng = np.random.default_rng(seed)
    n, pixel_um = geometry.frame_px, geometry.pixel_size_um
    given_px = fermat_spiral(width_um, width_um, step_um) / pixel_um
    side_px = int(np.ptp(given_px, axis=0).max() + n + 40 + 6 * misplaced_px + drift_px + blur_px)
    object_ = make_sample(kind, field_um=side_px * pixel_um, pixel_size_um=pixel_um, seed=seed)
    given_px += len(object_) / 2
    true_px = given_px + rng.normal(0, misplaced_px, given_px.shape) if misplaced_px else given_px
    true_px = true_px + np.linspace(-0.5, 0.5, len(given_px))[:, None] * drift_px
    probe = with_counts(zone_plate_probe(geometry, defocus_um=defocus_um), photons)
    places = [true_px + [0, part * blur_px] for part in (np.linspace(-0.5, 0.5, 5) if blur_px else [0.0])]
    expected = np.mean([intensities(object_, probe, at) for at in places], axis=0)
    if second_mode:
        tilted = probe * (np.arange(n) - n / 2)[:, None]
        other = intensities(object_, with_counts(tilted, photons), true_px)
        expected = (1 - second_mode) * expected + second_mode * other
    patterns = rng.poisson(expected).astype(np.uint16)
    if saturated_at:
        patterns = np.minimum(patterns, saturated_at).astype(np.uint16)
    if gap:
        patterns[:, :, n // 5 * 4 : n // 5 * 4 + 2] = NO_DATA
    patterns = np.roll(orient_patterns(patterns, orientation), rows_shifted, axis=0)
    for row in 1 + np.flatnonzero(rng.random(len(patterns) - 1) < stale):
        patterns[row] = patterns[row - 1]
    start = zone_plate_probe(geometry, defocus_um=defocus_um * start_defocus)
    return ScanData(patterns, given_px * scale, pixel_size_um=pixel_um, probe=start), Truth(object_, true_px)


def ssim(reconstruction: Reconstruction, truth: Truth, *, remove=("constant",)) -> float:
    """Likeness to the truth, of the phase between the outermost positions."""
    low, high = (int(edge) for edge in (truth.positions_px.min(), truth.positions_px.max()))
    top, left = (int(part) for part in reconstruction.origin_px)
    seen = reconstruction.object_[low - top : high - top, low - left : high - left]
    true = truth.object_[low:high, low:high]
    turned = seen * np.exp(-1j * np.angle(np.vdot(true, seen)))
    return compare_phase(np.angle(turned), np.angle(true), data_range=0.6, remove=remove).ssim

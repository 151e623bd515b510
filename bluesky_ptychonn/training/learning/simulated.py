"""Simulated scans to learn from: random objects under random, imperfectly known probes at random doses."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from scipy import ndimage

from bluesky_ptychonn.core.optics import (
    Geometry,
    far_field,
    intensities,
    measured_probe,
    near_field,
    with_counts,
    zone_plate_probe,
)
from bluesky_ptychonn.training.learning.corpus import Corpus, LabelledScan, Shard
from bluesky_ptychonn.training.learning.objects import random_object

GEOMETRY = Geometry()
"""10 keV, 0.9 m, 75 um pixels; in pixels, all that a network sees, the probes stand for many others."""

Probes = Callable[[np.random.Generator, Geometry], tuple[np.ndarray, np.ndarray]]

DOSES = (1e3, 1e7)
"""Least and most photons per frame."""


def simulate_scan(
    rng: np.random.Generator,
    frames: int,
    *,
    counts: float | None = None,
    probes: Probes | None = None,
    geometry: Geometry = GEOMETRY,
) -> LabelledScan:
    """Simulate one scan: object, probe, dose, motion, coherence, detector, and the probe as a run would measure it.

    Parameters
    ----------
    rng : numpy.random.Generator
    frames : int
    counts : float, optional
        Photons per frame; within `DOSES` by default, one scan of four below 1e5.
    probes : callable, optional
        Draws the probe that the edge is told, and the true one; `any_beamline` by default.
    geometry : Geometry
    """
    n = geometry.frame_px
    side_px = 2 * n + 64
    object_ = random_object(rng, side_px)
    assumed, true = (probes or any_beamline)(rng, geometry)
    if counts is None:
        low, high = np.log10(DOSES)
        counts = float(10 ** (low + (high - low) * np.sqrt(rng.random())))
    true = with_counts(true, counts)
    centres_px = rng.integers(n // 2 + 6, side_px - n // 2 - 6, (frames, 2))
    jitter_px = rng.uniform(0, 0.4) * rng.standard_normal((frames, 2)) * (rng.random() < 0.2)
    expected = blurred_intensities(rng, object_, true, centres_px + jitter_px.clip(-2, 2))
    if rng.random() < 0.2:  # the coherence function of a source of some size narrows each pattern's autocorrelation
        expected = ndimage.gaussian_filter(expected, (0, *rng.uniform(0.2, 0.6, 2)), mode="wrap")
    patterns = detect(rng, expected)
    measured = measured_probe(assumed, patterns[: rng.integers(8, 65)])
    log_object = np.stack([np.log(np.abs(object_)), np.angle(object_)])
    half = n // 2
    labels = np.stack([log_object[:, y - half : y + half, x - half : x + half] for y, x in centres_px])
    return LabelledScan(
        patterns, labels.astype(np.float16), measured, about={"kind": "simulation", "photons_per_frame": round(counts)}
    )


def any_beamline(rng: np.random.Generator, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Draw a probe that some beamline may have, and how it truly is, (N, N) complex64 each."""
    assumed = random_probe(rng, geometry)
    return assumed, imperfect(rng, assumed)


def random_probe(rng: np.random.Generator, geometry: Geometry) -> np.ndarray:
    """Probe of a random zone plate on either side of its focus, (N, N) complex64 of unit power."""
    zone_nm = rng.uniform(26, 50)
    width_um = rng.uniform(0.4, 0.95)
    defocus_um = width_um * zone_nm * 1e-3 / geometry.wavelength_um * rng.choice([-1, 1])
    stop_um = rng.uniform(0.2, 0.5) * 160.0
    astigmatism_um = abs(defocus_um) * rng.uniform(0, 0.3) * (rng.random() < 0.5)
    return zone_plate_probe(
        geometry,
        outermost_zone_nm=zone_nm,
        central_stop_um=stop_um,
        defocus_um=defocus_um,
        astigmatism_um=astigmatism_um,
        astigmatism_angle_rad=rng.uniform(0, np.pi),
    )


def imperfect(rng: np.random.Generator, probe: np.ndarray) -> np.ndarray:
    """The probe as it truly is, when ``probe`` is what the edge was told.

    In two scans of five they have the same shape. Else the true one is defocused and aberrated by up to 4 rad at the
    edge of the cone, mostly far less, and its cone is mottled. In half of all scans it lies some tenth of a pixel off
    the centre of the pattern.
    """
    n = probe.shape[-1]
    y, x = (np.mgrid[:n, :n] - n / 2) / (n / 2)
    true = far_field(probe)
    if rng.random() < 0.6:
        radius2 = y**2 + x**2  # about 0.15 at the edge of the cone
        severity = rng.random() ** 2
        phase = rng.uniform(-27, 27) * severity * radius2 + rng.normal(0, 15) * severity * radius2**2
        for form, strength in ((y * x, 3), (y**2 - x**2, 3), (radius2 * y, 6), (radius2 * x, 6)):
            phase = phase + rng.normal(0, strength) * severity * form
        mottle = ndimage.gaussian_filter(rng.standard_normal((n, n)), 1.5, mode="wrap")
        true = true * np.clip(1 + 0.3 * rng.random() * mottle / mottle.std(), 0.2, 2) * np.exp(1j * phase)
    off_px = rng.normal(0, 0.1, 2) * (rng.random() < 0.5)
    turn = np.exp(1j * np.pi * (off_px[0] * y + off_px[1] * x))
    return with_counts(near_field(true) * turn, float(np.sum(np.abs(probe) ** 2, dtype=np.float64)))


def blurred_intensities(
    rng: np.random.Generator, object_: np.ndarray, probe: np.ndarray, centres_px: np.ndarray
) -> np.ndarray:
    """Patterns of a stage that stands still or, in one scan of four, moves up to 8 px during each exposure."""
    if rng.random() > 0.25:
        return intensities(object_, probe, centres_px)
    length_px, steps = rng.uniform(2, 8), 4
    angle = rng.uniform(0, 2 * np.pi, len(centres_px))
    direction = np.stack([np.sin(angle), np.cos(angle)], axis=1)
    along = np.linspace(-0.5, 0.5, steps) * length_px
    moved = (np.rint(centres_px + part * direction) for part in along)
    return np.stack([intensities(object_, probe, centres) for centres in moved]).mean(axis=0)


def detect(rng: np.random.Generator, expected: np.ndarray) -> np.ndarray:
    """Photon counts (uint16) of expected intensities; in half of the scans with a module gap and dead pixels masked."""
    bright = expected > 10  # there a rounded normal distribution will do
    counts = np.empty_like(expected)
    counts[~bright] = rng.poisson(expected[~bright])
    mean = expected[bright]
    counts[bright] = mean + np.sqrt(mean) * rng.standard_normal(mean.size, np.float32)
    patterns = np.rint(np.clip(counts, 0, 65534)).astype(np.uint16)
    if rng.random() < 0.5:
        n = expected.shape[-1]
        if rng.random() < 0.6:
            start, width = rng.integers(8, n - 8), rng.integers(1, 6)
            view = patterns if rng.random() < 0.5 else patterns.swapaxes(1, 2)
            view[:, start : start + width] = 65535
        dead = rng.integers(0, n, (2, rng.integers(0, 25)))
        patterns[:, dead[0], dead[1]] = 65535
    return patterns


def add_simulated(corpus: Corpus, scans: range, frames: int, seed: int) -> Iterator[Shard]:
    """Add simulated scans to a corpus, one after another; each is the same for the same seed and number."""
    for number in scans:
        scan = simulate_scan(np.random.default_rng([seed, number]), frames)
        yield corpus.add(replace(scan, about={**scan.about, "run": f"simulated-{seed}-{number}"}))

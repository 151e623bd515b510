"""Frozen samples to test models and phase retrieval with, and scans of them; never trained on.

They are drawn once (`draw_test_sets`) and kept as files, so that figures of different times and machines compare.
"""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import ndtri

from bluesky_ptychonn.core.frames import no_data
from bluesky_ptychonn.core.optics import intensities, probe_diameter_um, with_counts
from bluesky_ptychonn.core.scan import GOLDEN_ANGLE_RAD, fermat_spiral
from bluesky_ptychonn.core.scan_data import ScanData

FOLDER = Path(__file__).parents[1] / "test_sets"
SHA256 = {
    "letters": "aaa4a2f5fe8bad4b6a99aea9fe53b2cc0e23a130d85a4c3714b02d8f4385e2fd",
    "etched": "6a3209ff4cd76c89e8f92b9d9cdae8cb5861d198c90c377184d9ff1dba4b0726",
}
"""Of the files; a file with another hash is another test."""

FIELD_UM = 2.74
"""Side of the scanned field."""
BATCH = 32
MANY_PHOTONS = 12.0
"""Expected counts from which on a smooth formula gives Poisson quantiles, wrong by a count in 1 of 100 pixels."""


@dataclass(frozen=True)
class TestSet:
    """A frozen sample.

    Attributes
    ----------
    name : str
    object_ : (H, H) complex64
        Transmission: phase from 0 to -0.6 rad, amplitude from 1 down to 0.9.
    pixel_size_um : float
    sha256 : str
        Of the file it was read from.
    """

    __test__ = False  # no test case, whatever pytest thinks of the name

    name: str
    object_: np.ndarray
    pixel_size_um: float
    sha256: str

    @property
    def phase_rad(self) -> np.ndarray:
        """The truth, (H, H) float32."""
        return np.angle(self.object_)


@dataclass(frozen=True)
class TestScan:
    """A scan of a test set.

    Attributes
    ----------
    patterns : (N, n, n) unsigned integer
        Counts; uint16 unless they are too many.
    positions_um : (N, 2) float64
        Probe centres (y, x) from the middle of the sample's pixel (0, 0), along a short route.
    pixel_size_um, step_um, photons_per_frame : float
    overlap_ratio : float
        1 - step / probe diameter, as it is.
    """

    __test__ = False

    patterns: np.ndarray
    positions_um: np.ndarray
    pixel_size_um: float
    step_um: float
    overlap_ratio: float
    photons_per_frame: float

    @property
    def points(self) -> int:
        """How many frames."""
        return len(self.patterns)

    def for_retrieval(self) -> ScanData:
        """The same for phase retrieval, without a probe; positions in pixels of the sample."""
        return ScanData(self.patterns, self.positions_um / self.pixel_size_um, pixel_size_um=self.pixel_size_um)


def load_test_set(name: str, folder: Path = FOLDER) -> TestSet:
    """Read a frozen sample.

    Parameters
    ----------
    name : {"letters", "etched"}
        Bold capitals and digits 26 to 54 px high, or single-level bars, discs and polygons of 0.2 to 0.4 um.
    folder : Path

    Raises
    ------
    ValueError
        If the name is unknown, or the file is not the frozen one.

    Examples
    --------
    >>> load_test_set("letters").object_.shape
    (460, 460)
    """
    if name not in SHA256:
        raise ValueError(f"test set {name!r} is unknown; choose one of {', '.join(SHA256)}")
    file = (folder / f"{name}.npz").read_bytes()
    found = hashlib.sha256(file).hexdigest()
    if found != SHA256[name]:
        raise ValueError(
            f"{folder / name}.npz has SHA-256 {found[:12]}..., the frozen test set {SHA256[name][:12]}...; figures of "
            "a changed file compare with no others; install the package anew"
        )
    with np.load(io.BytesIO(file), allow_pickle=False) as held:
        depth = held["depth"].astype(np.float64) / 255
        object_ = (1 - held["absorbed"] * depth) * np.exp(1j * held["deepest_rad"] * depth)
        return TestSet(name, object_.astype(np.complex64), float(held["pixel_size_um"]), found)


def scan_of(
    test_set: TestSet,
    probe: np.ndarray,
    *,
    points: int | None = None,
    overlap_ratio: float | None = None,
    photons: float = 1e6,
    seed: int = 0,
) -> TestScan:
    """Scan a test set over `FIELD_UM` along a Fermat spiral.

    Frames are the same on each machine, to rounding: each pixel of each frame has its own random number, and counts are
    that quantile of the Poisson distribution, so that they follow the expected intensity smoothly.

    Parameters
    ----------
    test_set : TestSet
    probe : (n, n) complex
        Illumination of any power; its diameter sets the step for an overlap.
    points : int, optional
        How many frames, exactly.
    overlap_ratio : float, optional
        Instead of points: 1 - step / probe diameter; less than 1.
    photons : float
        Per frame in vacuum.
    seed : int
        Of the photon noise.

    Raises
    ------
    ValueError
        If not exactly one of points and overlap_ratio is given, or one is impossible.

    Examples
    --------
    >>> from bluesky_ptychonn.core.optics import Geometry, zone_plate_probe
    >>> scan = scan_of(load_test_set("etched"), zone_plate_probe(Geometry()), points=49)
    >>> scan.points, round(scan.overlap_ratio, 2)
    (49, 0.45)
    """
    diameter_um = probe_diameter_um(probe, test_set.pixel_size_um)
    step_um = _step_um(points, overlap_ratio, diameter_um)
    middle_um = len(test_set.object_) // 2 * test_set.pixel_size_um
    positions_um = fermat_spiral(FIELD_UM, FIELD_UM, step_um) + middle_um
    scaled, rng = with_counts(probe, photons), np.random.default_rng(seed)
    patterns = np.empty((len(positions_um), *probe.shape), np.uint32)
    for first in range(0, len(positions_um), BATCH):
        batch = slice(first, first + BATCH)
        patterns[batch] = poisson(
            intensities(test_set.object_, scaled, positions_um[batch] / test_set.pixel_size_um), rng
        )
    if patterns.max() < no_data(np.uint16):
        patterns = patterns.astype(np.uint16)
    return TestScan(patterns, positions_um, test_set.pixel_size_um, step_um, 1 - step_um / diameter_um, float(photons))


def poisson(expected: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Photon counts (uint32) of expected intensities, one random number for each pixel.

    References
    ----------
    Cornish and Fisher, Rev. Int. Stat. Inst. 5, 307 (1938): quantiles from the cumulants.

    Examples
    --------
    >>> counts = poisson(np.full(10_000, 4.0), np.random.default_rng(0))
    >>> bool(abs(counts.mean() - 4) < 0.1 and abs(counts.var() - 4) < 0.2)
    True
    """
    expected = np.asarray(expected, np.float64)
    quantile = rng.random(expected.shape)
    counts = np.zeros(expected.shape, np.uint32)
    many = expected >= MANY_PHOTONS
    mean, z = expected[many], ndtri(quantile[many])
    root = np.sqrt(mean)
    counts[many] = np.maximum(np.ceil(mean + root * z + (z**2 - 1) / 6 - (z**3 - z) / (72 * root) - 0.5), 0)
    left = np.flatnonzero(~many)
    mean = expected.ravel()[left]
    chance = np.exp(-mean)
    missing, count = quantile.ravel()[left] - chance, 0
    while (above := missing > 0).any():
        count += 1
        left, mean = left[above], mean[above]
        chance = chance[above] * mean / count
        counts.ravel()[left] = count
        missing = np.where(chance > 1e-18, missing[above] - chance, 0)
    return counts


def _step_um(points: int | None, overlap_ratio: float | None, diameter_um: float) -> float:
    if (points is None) == (overlap_ratio is None):
        raise ValueError(f"points = {points} and overlap_ratio = {overlap_ratio}; give one of them")
    if overlap_ratio is not None:
        if not overlap_ratio < 1:
            raise ValueError(f"overlap_ratio = {overlap_ratio}; it must be less than 1")
        return (1 - overlap_ratio) * diameter_um
    if points is None or points < 1:
        raise ValueError(f"points = {points}; it must be at least 1")
    n = np.arange(2 * points + 16)
    r, angle = np.sqrt(n / np.pi), n * GOLDEN_ANGLE_RAD  # the spiral of step 1
    reach = np.sort(np.maximum(np.abs(r * np.sin(angle)), np.abs(r * np.cos(angle))))
    return float(FIELD_UM / (reach[points - 1] + reach[points]))

"""How `bench learning` measures: one image for each scan, method and assumed probe, and its likeness to the truth."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from bluesky_ptychonn.cli.learning_cases import (
    DEFOCUS_UM,
    MANY_POINTS,
    NAMES,
    PHOTONS,
    REFERENCE_PHOTONS,
    RETRIEVAL,
    UPSCALED,
    WRONG_PROBES,
    Asked,
    Case,
    Effort,
)
from bluesky_ptychonn.core.metrics import PhaseComparison, Removal, compare_phase
from bluesky_ptychonn.core.optics import Geometry, zone_plate_probe
from bluesky_ptychonn.core.protocols import Engine
from bluesky_ptychonn.core.stitch import Canvas
from bluesky_ptychonn.engines.offline import stitch_scan
from bluesky_ptychonn.simulation.test_sets import TestScan, TestSet, load_test_set, scan_of

REGION_PX = 180
"""Side of the square in the middle of the field that is compared."""
DATA_RANGE_RAD = 0.6
SEEN = 0.02
"""Light, in units of the probe's brightest pixel, from which on a pixel counts as covered."""
SEED = 0


@dataclass(frozen=True)
class Image:
    """A phase image in the pixels of its test set.

    Attributes
    ----------
    phase_rad : (H, H) float
        NaN where nothing was seen.
    covered : (H, H) bool
        Where there was light, whatever the method made of it.
    scan : mapping
        Figures of the scan.
    absolute : bool
        Whether its zero means the empty beam; else a constant is open.
    sweeps : int or None
    seconds : float
    """

    phase_rad: np.ndarray
    covered: np.ndarray
    scan: Mapping[str, Any]
    absolute: bool
    sweeps: int | None
    seconds: float


class Laboratory:
    """Makes the images, each once, and compares them.

    Parameters
    ----------
    engines : mapping of str to Engine
    effort : Effort
    """

    def __init__(self, engines: Mapping[str, Engine], effort: Effort) -> None:
        self._engines, self._effort = engines, effort
        self._probe = zone_plate_probe(Geometry(), defocus_um=DEFOCUS_UM)
        self.test_sets = {name: load_test_set(name) for name in ("letters", "etched")}
        self.image = lru_cache(maxsize=None)(self._image)
        self._scan = lru_cache(maxsize=2)(self._simulate)

    def figures(self, case: Case) -> dict[str, Any]:
        """Flat figures of a case."""
        image = self.image(case.asked, case.method, case.assumed)
        likeness = self._compare(image, self.truth(case.asked).phase_rad)
        valid = image.covered & np.isfinite(image.phase_rad)
        figures = {
            **image.scan,
            "test": case.asked.test,
            "part": case.part,
            "at": case.at,
            **self._named(case.method),
            "probe_start": case.assumed,
            **likeness.as_figures(),
            "removed": "" if image.absolute else "constant (median)",
            "ssim_mean_removed": self._compare(image, self.truth(case.asked).phase_rad, mean=True).ssim,
            "uncovered_fraction": float(1 - np.mean(valid[self.region])),
            "reference": "truth",
            "sweeps": image.sweeps,
            "seconds_total": image.seconds,
        }
        if case.part == "overlap":
            reference = self.image(self.reference_asked, "poisson")
            figures["ssim_to_reference"] = self._compare(image, reference.phase_rad).ssim
            figures["reference"] = f"truth; {told(reference)}"
        if case.part == "probe":
            exact = self.image(case.asked, case.method, "exact")
            figures["ssim_loss"] = self._compare(exact, self.truth(case.asked).phase_rad).ssim - likeness.ssim
        return figures

    def gallery(self, cases: Sequence[Case]) -> list[list[tuple[str, np.ndarray]]]:
        """Images (title, phase in the compared square) of the first, middle and last scan: truth, then each method."""
        scans = list(dict.fromkeys(case.asked for case in cases))
        rows = []
        for asked in dict.fromkeys(scans[k] for k in (0, len(scans) // 2, -1)):
            truth = self.truth(asked).phase_rad
            row = []
            for case in (case for case in cases if case.asked == asked):
                image = self.image(case.asked, case.method, case.assumed)
                shown = np.where(image.covered, image.phase_rad, np.nan)[self.region]
                row.append(
                    (f"{NAMES.get(case.method, case.method)}\nSSIM {self._compare(image, truth).ssim:.3f}", shown)
                )
                scan = image.scan
            title = f"truth; {scan['points']} points, overlap {scan['overlap_ratio']:.2f}\n{asked.photons:.0e} photons"
            rows.append([(title, truth[self.region]), *row])
        return rows

    def truth(self, asked: Asked) -> TestSet:
        """What was scanned."""
        return self.test_sets[asked.test]

    @property
    def region(self) -> tuple[slice, slice]:
        """The square that is compared."""
        first = (len(self.test_sets["etched"].object_) - REGION_PX) // 2
        return slice(first, first + REGION_PX), slice(first, first + REGION_PX)

    @property
    def reference_asked(self) -> Asked:
        """The dense scan at high dose."""
        return Asked("etched", overlap_ratio=self._effort.overlaps[0], photons=REFERENCE_PHOTONS)

    def _compare(self, image: Image, reference_rad: np.ndarray, *, mean: bool = False) -> PhaseComparison:
        """Likeness of an image as it is, without the median where a constant is open, or without the mean."""
        valid = image.covered & np.isfinite(image.phase_rad)
        phase_rad = image.phase_rad
        remove: tuple[Removal, ...] = ("constant",) if mean else ()
        if not (mean or image.absolute):
            phase_rad = phase_rad - np.median((phase_rad - reference_rad)[self.region][valid[self.region]])
        return compare_phase(
            phase_rad, reference_rad, remove=remove, data_range=DATA_RANGE_RAD, region=self.region, valid=valid
        )

    def _named(self, method: str) -> dict[str, Any]:
        engine = self._engine(method)
        if engine is None:
            return {"model": None, "engine": None, "method": method}
        kind = "network" if engine.card else engine.name
        return {"model": method, "engine": engine.name, "method": kind + UPSCALED * method.endswith(UPSCALED)}

    def _engine(self, method: str) -> Engine | None:
        return self._engines.get(method.removesuffix(UPSCALED))

    def _simulate(self, asked: Asked) -> tuple[TestScan, np.ndarray, dict[str, Any]]:
        """Scan, where there was light, and figures of the scan."""
        scan = scan_of(
            self.truth(asked),
            self._probe,
            points=asked.points,
            overlap_ratio=asked.overlap_ratio,
            photons=asked.photons,
            seed=SEED,
        )
        figures = {
            "points": scan.points,
            "overlap_ratio": scan.overlap_ratio,
            "step_um": scan.step_um,
            "photons_per_frame": scan.photons_per_frame,
            "counts_max": int(scan.patterns.max()),
        }
        return scan, light_of(scan, self._probe, self.truth(asked).object_.shape) >= SEEN, figures

    def _image(self, asked: Asked, method: str, assumed: str = "exact") -> Image:
        scan, covered, figures = self._scan(asked)
        probe = zone_plate_probe(Geometry(), **WRONG_PROBES[assumed])
        begin_s = time.monotonic()
        if method in RETRIEVAL:
            dense, sparse = self._effort.sweeps[method]
            sweeps = dense if scan.points > MANY_POINTS else sparse
            if asked == self.reference_asked:
                sweeps = self._effort.reference_sweeps
            phase_rad = reconstructed(scan, method, sweeps, probe, self.truth(asked), covered, self.region)
            return Image(phase_rad, covered, figures, False, sweeps, time.monotonic() - begin_s)
        engine = self._engines[method.removesuffix(UPSCALED)]
        if method.endswith(UPSCALED):
            scaled = np.rint(scan.patterns * (PHOTONS / asked.photons))
            scan = replace(scan, patterns=scaled.clip(0, 65534).astype(np.uint16))
        phase_rad = stitched(engine, scan, probe, covered.shape)
        return Image(phase_rad, covered, figures, engine.card is not None, None, time.monotonic() - begin_s)


def light_of(scan: TestScan, probe: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Light that each pixel of a sample received (H, W), in units of the probe's brightest pixel."""
    intensity = np.abs(probe) ** 2
    n = len(intensity)
    light = np.zeros(shape)
    for y, x in np.rint(scan.positions_um / scan.pixel_size_um).astype(int) - n // 2:
        light[y : y + n, x : x + n] += intensity
    return light / intensity.max()


def stitched(engine: Engine, scan: TestScan, probe: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """What a live run would show, told of a probe of any power (its counts and mottle come from the frames)."""
    canvas = Canvas((shape[0], shape[1]), (0.0, 0.0), scan.pixel_size_um)
    return stitch_scan(engine, scan.patterns, scan.positions_um, probe, scan.pixel_size_um, canvas)[0]


def reconstructed(
    scan: TestScan,
    method: str,
    sweeps: int,
    probe: np.ndarray,
    truth: TestSet,
    covered: np.ndarray,
    region: tuple[slice, slice],
) -> np.ndarray:
    """Phase by phase retrieval from all frames, turned so that it does not wrap; NaN outside of its field."""
    from bluesky_ptychonn.training.retrieval.reconstruct import reconstruct

    result = reconstruct(scan.for_retrieval(), method=method, sweeps=sweeps, probe=probe, holdout_every=0, seed=SEED)
    found = np.full(truth.object_.shape, np.nan, np.complex64)
    low = np.array(result.origin_px, int)
    first, last = np.maximum(low, 0), np.minimum(low + result.object_.shape, found.shape)
    (top, left), (bottom, right) = first - low, last - low
    found[first[0] : last[0], first[1] : last[1]] = result.object_[top:bottom, left:right]
    alike = np.where(covered, found * truth.object_.conj(), 0)[region]
    return np.angle(found * np.exp(-1j * np.angle(np.nansum(alike))))


def told(image: Image) -> str:
    """Where a reconstruction comes from."""
    scan = image.scan
    return f"poisson, {scan['photons_per_frame']:.0e} photons, {scan['points']} points, {image.sweeps} sweeps"

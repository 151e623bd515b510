"""How good a model is on a scan: against a reconstruction, and, without any, against the patterns themselves."""

from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from bluesky_ptychonn.core.frames import no_data
from bluesky_ptychonn.core.optics import PROBE_FRAMES, far_field, intensities, measured_probe
from bluesky_ptychonn.core.protocols import Engine, EngineMismatch
from bluesky_ptychonn.core.reconstruction import Reconstruction
from bluesky_ptychonn.core.scan_data import ScanData
from bluesky_ptychonn.core.stitch import Canvas
from bluesky_ptychonn.engines.offline import stitch_scan
from bluesky_ptychonn.training.learning.likeness import likeness

SAME = 0.02
"""Relative difference of pixel sizes and energies up to which they are the same."""
CHUNK_PX = 1 << 21
"""Pixels of patterns that are modelled at once."""


@dataclass(frozen=True)
class Validation:
    """A model on one scan.

    Parameters
    ----------
    engine, model : str
        Name of the engine, name and version of its model; no model is "".
    frames : int
    residual : float
        sum (modelled - measured amplitude)^2 / sum of counts, the object being the stitched phase with amplitude 1. It
        asks no reconstruction. What no model can explain, noise, absorption and a wrong probe, is in it.
    residual_blank : float
        The same for a flat object: what there was to explain.
    ssim, mae_rad, correlation, data_range : float, optional
        `core.metrics.compare_phase` with the reconstruction on its well covered field, see `likeness`; these and what
        follows are None where there is no reconstruction.
    frc_cycles_per_px : float, optional
        Frequency at which the ring correlation with the reconstruction falls below 0.5; 0.5 if it never does.
    removed, region : str, optional
        What was removed; rows and columns compared, pixels of the reconstruction.
    image : (H, W) float
        Stitched phase, rad: that region without what was removed, or all of it, NaN where nothing was seen.
    reference : (H, W) float, optional
        Phase of the reconstruction in that region without mean and ramp, rad.
    """

    engine: str
    model: str
    frames: int
    residual: float
    residual_blank: float
    ssim: float | None = None
    mae_rad: float | None = None
    correlation: float | None = None
    frc_cycles_per_px: float | None = None
    removed: str | None = None
    data_range: float | None = None
    region: str | None = None
    image: np.ndarray = field(default_factory=lambda: np.empty((0, 0)), repr=False, compare=False)
    reference: np.ndarray | None = field(default=None, repr=False, compare=False)

    @property
    def mismatch(self) -> float | None:
        """1 - SSIM; None where there is no reconstruction."""
        return None if self.ssim is None else 1 - self.ssim

    def as_figures(self) -> dict[str, Any]:
        """Flat keys for a figures file."""
        flat = {item.name: getattr(self, item.name) for item in fields(self) if item.compare}
        return {**flat, "mismatch": self.mismatch}


def validate(
    engine: Engine,
    scan: ScanData,
    reconstruction: Reconstruction | None = None,
    *,
    probe: np.ndarray | None = None,
) -> Validation:
    """Stitch a scan with a model and say how good the image is.

    Frames lie where the reconstruction has them, else where the scan has them, on the pixels of the reconstruction.
    Everything is in object pixels, so that a scan whose pixel size is not known can be validated too.

    Parameters
    ----------
    engine : Engine
        Keeps the probe of this scan.
    scan : ScanData
        With a probe, unless there is a reconstruction, whose brightest mode then serves.
    reconstruction : Reconstruction, optional
        Of this scan, cut and oriented in the same way.
    probe : (n, n) or (M, n, n) complex, optional
        Illumination or its modes for the residual, scaled to the counts per frame; by default the probe that the engine
        is given, `core.optics.measured_probe`.

    Raises
    ------
    EngineMismatch
        If the model is not for such a scan, or gives values that are not finite.
    ValueError
        If the scan has no probe, the reconstruction is of another scan, or their common field is too small to compare.
    """
    start = _starting_probe(scan, reconstruction)
    _refuse_other_model(engine, scan)
    if reconstruction is None:
        places_px, shape = scan.positions_px, (0, 0)
    else:
        _refuse_other_scan(scan, reconstruction)
        places_px, shape = _places_px(scan, reconstruction), reconstruction.object_.shape
    n = scan.patterns.shape[-1]
    room = Canvas.covering(places_px, 1.0, n + 2)
    low, high = np.floor(room.origin_um), np.ceil(np.add(room.origin_um, room.shape))
    if reconstruction is not None:
        low, high = np.minimum(low, 0), np.maximum(high, shape)
    rows, columns = (high - low).astype(int)
    canvas = Canvas((int(rows), int(columns)), (float(low[0]), float(low[1])), 1.0)
    phase, coverage, _ = stitch_scan(engine, scan.patterns, places_px, start, 1.0, canvas)
    if not np.isfinite(phase[coverage > 0]).all():
        raise EngineMismatch(f"{_named(engine)} gives patches that are not finite; train or export it anew")
    asked = measured_probe(start, scan.patterns[:PROBE_FRAMES]) if probe is None else np.asarray(probe)
    judged = {
        "engine": engine.name,
        "model": "" if engine.card is None else f"{engine.card.name} {engine.card.version}",
        "frames": len(scan.patterns),
        "residual": residual_of(phase, scan.patterns, places_px - low, asked),
        "residual_blank": residual_of(None, scan.patterns, places_px, asked),
    }
    if reconstruction is None:
        return Validation(**judged, image=phase)
    top, left = (-low).astype(int)
    inside = slice(top, top + shape[0]), slice(left, left + shape[1])
    return Validation(**judged, **likeness(phase[inside], coverage[inside], reconstruction))


def as_used(scan: ScanData, engine: Engine, probe: np.ndarray | None) -> ScanData:
    """The scan with the probe that a model brings, if any, instead of its own: as the edge uses that model."""
    fits = engine.frame_px == scan.patterns.shape[-1]  # where it does not, `validate` says so
    return replace(scan, probe=probe) if fits and probe is not None else scan


def residual_of(phase: np.ndarray | None, patterns: np.ndarray, centres_px: np.ndarray, probe: np.ndarray) -> float:
    """How much of the measured amplitudes a phase image leaves unexplained.

    Parameters
    ----------
    phase : (H, W) float, optional
        rad; NaN where nothing was seen is taken for the mean phase, so that a constant changes nothing. A flat object
        without it.
    patterns : (N, n, n) unsigned integer
        Counts; pixels without data, the largest value of the type, carry nothing.
    centres_px : (N, 2) float
        Probe centres (y, x), pixels of ``phase``, which holds the field of each.
    probe : (n, n) or (M, n, n) complex
        Illumination or its incoherent modes, scaled to the counts per frame.

    Returns
    -------
    float
        sum (modelled - measured amplitude)^2 / sum of counts.

    Raises
    ------
    ValueError
        If a field leaves the image.
    """
    modes = probe[None] if probe.ndim == 2 else probe
    n = patterns.shape[-1]
    missing = no_data(patterns.dtype)
    object_ = None
    if phase is not None:
        object_ = np.exp(1j * np.where(np.isfinite(phase), phase, np.nanmean(phase))).astype(np.complex64)
    flat = np.sum(np.abs(far_field(modes)) ** 2, axis=0)
    misfit = counts = 0.0
    step = max(1, CHUNK_PX // n**2)
    for first in range(0, len(patterns), step):
        chunk = patterns[first : first + step]
        modelled = flat
        if object_ is not None:
            modelled = sum(intensities(object_, mode, centres_px[first : first + step]) for mode in modes)
        valid = chunk != missing
        measured = np.where(valid, chunk, 0).astype(np.float32)
        misfit += float(np.sum((np.sqrt(modelled) - np.sqrt(measured)) ** 2, where=valid, dtype=np.float64))
        counts += float(measured.sum(dtype=np.float64))
    return misfit / max(counts, 1.0)


def _starting_probe(scan: ScanData, reconstruction: Reconstruction | None) -> np.ndarray:
    probe = scan.probe if scan.probe is not None or reconstruction is None else reconstruction.probe
    if probe is None:
        raise ValueError("the scan has no probe, which every engine needs; give one, or a reconstruction of the scan")
    return probe if probe.ndim == 2 else probe[0]


def _named(engine: Engine) -> str:
    return f"engine {engine.name!r}" if engine.card is None else f"model {engine.card.version}"


def _refuse_other_model(engine: Engine, scan: ScanData) -> None:
    n = scan.patterns.shape[-1]
    if engine.frame_px != n:
        raise EngineMismatch(
            f"{_named(engine)} takes patterns of {engine.frame_px} px, the scan has {n} px; cut it to that side, "
            "or use another model"
        )
    energy_kev = scan.geometry and scan.geometry.energy_kev
    for name, unit, here in (("pixel_size_um", "um", scan.pixel_size_um), ("energy_kev", "keV", energy_kev)):
        there = getattr(engine.card, name, None)
        if here and there and abs(here - there) > SAME * there:
            raise EngineMismatch(
                f"{name} = {here:.5g} {unit} of the scan differs by more than {SAME:.0%} from {there:.5g} {unit} of "
                f"{_named(engine)}; use a model trained for it"
            )


def _refuse_other_scan(scan: ScanData, reconstruction: Reconstruction) -> None:
    if not is_of(reconstruction, scan):
        whose = reconstruction.provenance.get("file") or reconstruction.provenance.get("run_uid")
        raise ValueError(f"the reconstruction is of another scan, {whose}; give the one of this scan")
    n, other = scan.patterns.shape[-1], reconstruction.probe.shape[-1]
    if n != other:
        raise ValueError(f"patterns of {n} px, but a reconstruction of {other} px; cut the scan to {other} px")
    here, there = scan.pixel_size_um, reconstruction.pixel_size_um
    if here and there and abs(here - there) > SAME * there:
        raise ValueError(
            f"the scan has pixels of {1e3 * here:.4g} nm, its reconstruction of {1e3 * there:.4g} nm; at most "
            f"{SAME:.0%} of difference is allowed; read the scan with the geometry of the reconstruction"
        )


def is_of(reconstruction: Reconstruction, scan: ScanData) -> bool:
    """Whether a reconstruction can be of a scan, by the run or the file that they name; one that names none can."""
    named = ((reconstruction.provenance.get(key), scan.provenance.get(key)) for key in ("run_uid", "sha256"))
    return not any(one and other and one != other for one, other in named)


def _places_px(scan: ScanData, reconstruction: Reconstruction) -> np.ndarray:
    """Probe centres (N, 2) in pixels of the reconstruction: as it moved them, else as the scan has them."""
    places_px = scan.positions_px - np.array(reconstruction.origin_px)
    known = np.flatnonzero(np.isfinite(reconstruction.positions_px).all(axis=1))
    row_of = dict(zip(reconstruction.trigger_index[known].tolist(), known.tolist()))
    found = [(row, row_of[trigger]) for row, trigger in enumerate(scan.trigger_index.tolist()) if trigger in row_of]
    if not found:
        raise ValueError(f"none of {len(places_px)} frames has a place in the reconstruction; give that of this scan")
    rows, moved = np.array(found).T
    places_px[rows] = reconstruction.positions_px[moved]
    return places_px

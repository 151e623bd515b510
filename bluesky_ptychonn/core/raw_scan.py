"""From what a file or run holds to the diffraction patterns that phase retrieval starts from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bluesky_ptychonn.core.beam import MIN_COUNTS, named, with_beam
from bluesky_ptychonn.core.counts import leave_out_saturated, unsigned_counts
from bluesky_ptychonn.core.frames import FrameGeometry, no_data
from bluesky_ptychonn.core.optics import Geometry, far_field, near_field
from bluesky_ptychonn.core.scan_data import ScanData
from bluesky_ptychonn.core.totals import counts_of_frames

OFF_CENTRE = 1 / 16
"""Distance of the light's centre of mass from the assumed beam, in sides of a pattern, that is worth a note."""
DISAGREE = 0.02
"""Relative difference from which on two statements of the pixel size contradict each other."""
MOST_CROP = 4
"""Side of a pattern, in units of the frame's longer side, up to which it may reach beyond the frame."""
RANGES = {
    "energy_kev": (0.1, 200.0, "keV", "give the photon energy in keV, not eV"),
    "distance_m": (1e-3, 200.0, "m", "give the distance from sample to detector in m"),
    "detector_pixel_um": (0.1, 2000.0, "um", "give the side of a detector pixel in um"),
    "pixel_size_um": (1e-5, 100.0, "um", "give the side of an object pixel, pixel_size_nm, in nm"),
}


@dataclass(frozen=True)
class RawScan:
    """Frames and positions of a scan as recorded; what is not known is None.

    Parameters
    ----------
    frames : (N, H, W) numbers
        An array, or an HDF5 dataset that is read batch by batch.
    positions : (N, 2) float64, optional
        Probe centres (y, x) on the sample along rows and columns, in ``positions_unit``.
    positions_unit : {"um", "px"}
        Pixels are object pixels of frames of this size.
    probe : (n, n) or (M, n, n) complex, optional
        Illumination in the field of a frame.
    bad_pixels : (H, W) bool, optional
        True where a pixel is bad.
    energy_kev, distance_m, detector_pixel_um : float, optional
    pixel_size_um : float, optional
        Side of an object pixel of frames of this size, um.
    """

    frames: Any
    positions: np.ndarray | None = None
    positions_unit: Literal["um", "px"] = "um"
    probe: np.ndarray | None = None
    bad_pixels: np.ndarray | None = None
    energy_kev: float | None = None
    distance_m: float | None = None
    detector_pixel_um: float | None = None
    pixel_size_um: float | None = None


def prepare_scan(
    raw: RawScan,
    *,
    crop_px: int | None = None,
    beam_center_px: tuple[float, float] | None = None,
    orientation: str = "identity",
    binning: int = 1,
    pixel_size_um: float | None = None,
    trigger_index: np.ndarray | None = None,
    min_counts: float = MIN_COUNTS,
    has_flux: np.ndarray | None = None,
    provenance: Mapping[str, str] | None = None,
) -> ScanData:
    """Cut, orient and check a scan; frames without beam or position are left out and noted.

    Parameters
    ----------
    raw : RawScan
    crop_px : int, optional
        Side of the patterns; the largest even square by default.
    beam_center_px : (float, float), optional
        Row and column of the beam in a frame; the frame's middle by default.
    orientation : str
        Of the frames, one of `core.frames.ORIENTATIONS`; the probe stays as it is.
    binning : int
        Side of a superpixel in detector pixels; the probe is then one of the patterns, not of the frames.
    pixel_size_um : float, optional
        Side of an object pixel of the patterns as cut, um.
    trigger_index : (N,) int, optional
        Trigger of each frame; its row by default.
    min_counts : float
        What a frame with beam has, as for `core.beam.threshold_of`.
    has_flux : (N,) bool, optional
        Which frames had beam by what a monitor says.
    provenance : mapping, optional

    Raises
    ------
    ValueError
        If counts, positions or geometry are not what they must be; the message says which and what to do.
    """
    height, width = raw.frames.shape[1:] if len(raw.frames.shape) == 3 else (0, 0)
    if min(height, width) < 8:
        raise ValueError(f"frames have shape {tuple(raw.frames.shape)}; give (N, H, W) of at least 8 x 8 px")
    positions = _positions(raw)
    n = 2 * (min(height, width) // (2 * binning)) if crop_px is None else crop_px
    side = n * binning
    if side > MOST_CROP * max(height, width):
        raise ValueError(
            f"crop_px = {n} px{_binned(binning)} for frames of {height} x {width} px; at most "
            f"{MOST_CROP * max(height, width)} px is allowed; leave it out for the largest even square"
        )
    centre = (height // 2, width // 2) if beam_center_px is None else beam_center_px
    cut = FrameGeometry((height, width), n, centre, raw.bad_pixels, orientation, binning)
    geometry, pixel_size = _geometry(raw, n, binning, pixel_size_um)
    positions_px = positions * _per_unit(raw, side, pixel_size)
    patterns, notes = unsigned_counts(raw.frames, raw.bad_pixels, cut)
    if (side, side) != (height, width):
        notes.append(f"frames of {height} x {width} px are cut to {side} x {side} px around pixel {tuple(centre)}")
    if binning > 1:
        notes.append(f"{binning} x {binning} detector pixels are one pixel of the patterns of {n} px")
    lit = _lit(patterns, min_counts) & (True if has_flux is None else has_flux)
    notes += leave_out_saturated(patterns)
    triggers = np.arange(len(patterns)) if trigger_index is None else trigger_index
    placed = np.isfinite(positions_px).all(axis=1)
    kept = placed & lit
    for what, left in (("no position", ~placed), ("no beam", placed & ~lit)):
        if left.any():
            notes.append(f"{np.count_nonzero(left)} frames have {what} and are left out: {named(triggers[left])}")
    if not kept.any():
        raise ValueError(f"none of {len(kept)} frames is left: " + "; ".join(notes))
    notes += _note_of_beam(patterns)
    return ScanData(
        patterns=patterns if kept.all() else patterns[kept],
        positions_px=positions_px[kept],
        pixel_size_um=pixel_size,
        geometry=geometry,
        probe=None if raw.probe is None else _probe(raw.probe, n, binning),
        trigger_index=triggers[kept],
        left_out=int(np.count_nonzero(~kept)),
        notes=tuple(notes),
        provenance=dict(provenance or {}),
    )


def _positions(raw: RawScan) -> np.ndarray:
    frames = raw.frames.shape[0]
    if raw.positions is None:
        raise ValueError("the scan has no positions; give positions_um or positions_px, one (y, x) for each frame")
    positions = np.asarray(raw.positions)
    if positions.shape != (frames, 2) or positions.dtype.kind not in "iuf":
        raise ValueError(
            f"{frames} frames and positions of shape {positions.shape}, {positions.dtype}; "
            "give one (y, x) for each frame"
        )
    positions = positions.astype(np.float64)
    if not np.isfinite(positions).all(axis=1).any():
        raise ValueError(f"none of the {frames} positions is finite; record the stage's readbacks")
    return positions


def _binned(binning: int) -> str:
    return f" of {binning} x {binning} px" if binning > 1 else ""


def _geometry(raw: RawScan, n: int, binning: int, given_um: float | None) -> tuple[Geometry | None, float | None]:
    """Geometry of the patterns and their pixel size; a pixel size that is given goes before that of the file."""
    pixel_size = given_um
    if pixel_size is None and raw.pixel_size_um is not None:
        pixel_size = raw.pixel_size_um * _side(raw) / (n * binning)
    known = {"energy_kev": raw.energy_kev, "distance_m": raw.distance_m, "detector_pixel_um": raw.detector_pixel_um}
    for name, value in {**known, "pixel_size_um": pixel_size}.items():
        low, high, unit, remedy = RANGES[name]
        if value is not None and not low <= value <= high:
            raise ValueError(f"{name} = {value:g} {unit} is outside {low:g} to {high:g} {unit}; {remedy}")
    if raw.energy_kev is None or raw.distance_m is None or raw.detector_pixel_um is None:
        return None, pixel_size
    geometry = Geometry(float(raw.energy_kev), float(raw.distance_m), float(raw.detector_pixel_um) * binning, n)
    if pixel_size is None:
        return geometry, geometry.pixel_size_um
    if abs(pixel_size / geometry.pixel_size_um - 1) > DISAGREE:
        told = ", ".join(f"{name} = {value:g}" for name, value in known.items())
        raise ValueError(
            f"the pixel size is {1e3 * pixel_size:.4g} nm, but {told} and patterns of {n} px{_binned(binning)} make it "
            f"{1e3 * geometry.pixel_size_um:.4g} nm; at most 2 % of difference is allowed; correct one of them"
        )
    return geometry, pixel_size


def _side(raw: RawScan) -> int:
    """Side of the frames, px, to which the file's object pixels belong."""
    height, width = raw.frames.shape[1:]
    if height != width:
        raise ValueError(
            f"object pixels of frames of {height} x {width} px are not square; give positions_um and the geometry"
        )
    return height


def _per_unit(raw: RawScan, side: int, pixel_size: float | None) -> float:
    """Object pixels of patterns, which are made of ``side`` pixels of a frame, per unit of the positions."""
    if raw.positions_unit == "px":
        return 1.0 if raw.frames.shape[1:] == (side, side) else side / _side(raw)
    if pixel_size is None:
        names = ("energy_kev", "distance_m", "detector_pixel_um")
        missing = [name for name in names if getattr(raw, name) is None]
        raise ValueError(
            f"positions are in um and the size of an object pixel is not known; {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing; give {' and '.join(missing)}, or pixel_size_nm"
        )
    return 1 / pixel_size


def _lit(patterns: np.ndarray, min_counts: float) -> np.ndarray:
    counts = counts_of_frames(patterns)
    if not counts.any():
        masked = np.mean(patterns == no_data(patterns.dtype))
        raise ValueError(
            f"all {len(patterns)} frames are dark: 0 counts on the measured pixels, {100 * masked:.0f} % of the pixels "
            "are masked; open the shutter, correct the crop, or invert the mask (True means bad)"
        )
    return with_beam(counts, min_counts)


def _note_of_beam(patterns: np.ndarray) -> list[str]:
    n = patterns.shape[-1]
    valid = patterns != no_data(patterns.dtype)
    mean = np.sum(patterns, axis=0, where=valid, dtype=np.float64) / np.maximum(valid.sum(axis=0), 1)
    centre = [float(np.sum(mean.sum(axis=1 - axis) * np.arange(n)) / mean.sum()) for axis in (0, 1)]
    if np.hypot(*(place - n / 2 for place in centre)) <= OFF_CENTRE * n:
        return []
    return [
        f"the light's centre of mass is at ({centre[0]:.1f}, {centre[1]:.1f}) in patterns of {n} px; "
        "correct beam_center_px if the beam is there"
    ]


def _probe(probe: np.ndarray, n: int, binning: int) -> np.ndarray:
    """Illumination in patterns of another size: the same field, more or less of its far field."""
    side = probe.shape[-1] if probe.ndim in (2, 3) else 0
    if not side or probe.shape[-2] != side or side % 2 or not np.iscomplexobj(probe):
        raise ValueError(
            f"the probe is {probe.dtype} of shape {probe.shape}; give complex (n, n) or (modes, n, n) with an even n"
        )
    if not np.isfinite(probe).all() or not np.any(probe):
        raise ValueError("the probe holds values that are not finite, or only zeros; save it anew")
    if side == n:
        return probe.astype(np.complex64)
    if binning > 1:
        raise ValueError(
            f"the probe has {side} px, the binned patterns have {n} px and a smaller field; give a probe of {n} px"
        )
    far = far_field(probe)
    edge = abs(side - n) // 2
    if side > n:
        return near_field(far[..., edge : edge + n, edge : edge + n])
    return near_field(np.pad(far, [(0, 0)] * (far.ndim - 2) + [(edge, edge)] * 2))

"""Labels from a reconstruction: the object around each position, as what a network shall learn to see.

What is removed from the object, once for a whole scan and nothing else: the phase, the slope and the amplitude of its
background, see `background`. The slope goes to the probe, so that a pattern, its label and the probe still agree.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from scipy import ndimage

from bluesky_ptychonn.core.frames import no_data
from bluesky_ptychonn.core.optics import counts_of, intensities, with_counts
from bluesky_ptychonn.core.reconstruction import Reconstruction, RetrievalReport
from bluesky_ptychonn.core.scan_data import ScanData
from bluesky_ptychonn.training.learning.background import background_of
from bluesky_ptychonn.training.learning.corpus import LabelledScan
from bluesky_ptychonn.training.retrieval.field import WELL_COVERED

SAME_PIXEL = 0.02
"""Relative difference of pixel sizes up to which a network takes them for the same."""
UNKNOWN = 0.1
"""Light, in units of what most of the field has, up to which nothing is known of a pixel."""
LEAST_SEEN = 0.25
"""Share of the light of a frame which must fall where the object is known."""
FAINTEST = 0.05
"""Least amplitude of a label, in units of the background."""
ASKED = 64
"""Frames that are asked whether the reconstruction explains them."""


def label_scan(
    scan: ScanData,
    reconstruction: Reconstruction,
    *,
    pixel_size_um: float | None = None,
    about: Mapping[str, Any] | None = None,
) -> LabelledScan:
    """Make training pairs of a scan and its reconstruction.

    Frame and place belong together by their trigger; frames which were held out are labelled like the others. Frames
    without a place, or with most of their light where the object is badly known, are left out and counted.

    Parameters
    ----------
    scan : ScanData
        The one that was reconstructed, cut and oriented in the same way.
    reconstruction : Reconstruction
        With a report that trusts it.
    pixel_size_um : float, optional
        Pixel size of the network that shall learn, um.
    about : mapping, optional
        More for the manifest, plain values; its keys win.

    Returns
    -------
    LabelledScan
        Pixel n/2 of each label lies at the position; the object is interpolated between pixels by cubic splines. Labels
        are 0 where nothing is known, ``seen`` falls smoothly to 0 there. The probe is the brightest mode, scaled to the
        counts per frame, with the slope that the object has lost.

    Raises
    ------
    ValueError
        If the reconstruction is not trusted, is not one of this scan, or has other pixels than the network.
    """
    report = trusted_report(reconstruction)
    _refuse_other_pixels(scan, reconstruction, pixel_size_um)
    rows, places = _paired(scan, reconstruction)
    patterns, positions_px = scan.patterns[rows], reconstruction.positions_px[places]
    _refuse_unexplained(patterns, positions_px, reconstruction, report)
    known = how_well_known(reconstruction)
    background = background_of(reconstruction.object_, known)
    level = np.where(known > 0, background.removed_from(reconstruction.object_), 1)
    labels, seen = _cut(level, known, positions_px, patterns.shape[-1])
    probe = background.given_to(reconstruction.probe[0])
    light = np.abs(probe) ** 2 / np.sum(np.abs(probe) ** 2, dtype=np.float64)
    kept = np.tensordot(seen, light, axes=2) >= 255 * LEAST_SEEN
    if not kept.any():
        raise ValueError(
            f"all {len(kept)} frames have most of their light where the object is badly known; reconstruct again"
        )
    if not kept.all():
        patterns, labels, seen = patterns[kept], labels[kept], seen[kept]
    counts = counts_of(patterns, probe)
    return LabelledScan(
        patterns=patterns,
        labels=labels,
        probe=with_counts(probe, counts),
        seen=seen if np.any(seen < 255) else None,
        about={
            **_about(scan, reconstruction, report),
            "photons_per_frame": round(counts),
            "frames_without_place": scan.left_out + len(scan.patterns) - len(rows),
            "frames_badly_covered": int(np.count_nonzero(~kept)),
            "removed": asdict(background),
            **(about or {}),
        },
    )


def trusted_report(reconstruction: Reconstruction) -> RetrievalReport:
    """Report of a reconstruction that may be learned from.

    Raises
    ------
    ValueError
        If there is none, or it does not trust the reconstruction.
    """
    report = reconstruction.report
    if report is None:
        raise ValueError("the reconstruction has no verdict; judge it first: reconstruct without --no-report")
    if not report.trusted:
        raise ValueError(
            f"the reconstruction is not trusted, so nothing is learned from it: {report.reason}; reconstruct again"
        )
    return report


def how_well_known(reconstruction: Reconstruction) -> np.ndarray:
    """How well each object pixel is known, (H, W) float32 from 0 to 1, by the light it received.

    It is 1 from `WELL_COVERED` on, in units of the 90th percentile of the light at the positions, and falls smoothly to
    0 at `UNKNOWN`.
    """
    coverage = reconstruction.coverage
    finite = reconstruction.positions_px[np.isfinite(reconstruction.positions_px).all(axis=1)]
    y, x = np.clip(np.rint(finite).astype(int), 0, np.subtract(coverage.shape, 1)).T
    usual = max(float(np.percentile(coverage[y, x], 90)), 1e-30)
    part = np.clip((coverage / usual - UNKNOWN) / (WELL_COVERED - UNKNOWN), 0, 1)
    return np.where(np.isfinite(reconstruction.object_), part**2 * (3 - 2 * part), 0).astype(np.float32)


def _refuse_other_pixels(scan: ScanData, reconstruction: Reconstruction, network_um: float | None) -> None:
    side, n = scan.patterns.shape[-1], reconstruction.probe.shape[-1]
    if side != n:
        raise ValueError(f"patterns of {side} px, but a reconstruction of {n} px; cut the scan to {n} px")
    own_um = reconstruction.pixel_size_um
    others = (
        ("scan", scan.pixel_size_um, "read it with the energy, distance and detector pixel of the reconstruction"),
        ("network", network_um, "cut the frames so that their pixels are the same, or train a network for these"),
    )
    for name, other_um, remedy in others:
        if own_um and other_um and abs(own_um / other_um - 1) > SAME_PIXEL:
            raise ValueError(
                f"the reconstruction has pixels of {1e3 * own_um:.4g} nm, the {name} of {1e3 * other_um:.4g} nm; at "
                f"most {100 * SAME_PIXEL:g} % of difference is allowed; {remedy}"
            )


def _paired(scan: ScanData, reconstruction: Reconstruction) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the scan, in its order, that have a place, and rows of these places."""
    for key in ("run_uid", "sha256"):
        own, other = scan.provenance.get(key), reconstruction.provenance.get(key)
        if own and other and own != other:
            raise ValueError(f"the scan has {key} = {own}, the reconstruction is of {other}; give the scan it is of")
    placed = np.flatnonzero(np.isfinite(reconstruction.positions_px).all(axis=1))
    place_of = dict(zip(reconstruction.trigger_index[placed].tolist(), placed.tolist(), strict=True))
    triggers = scan.trigger_index.tolist()
    if len(place_of) < len(placed) or len(set(triggers)) < len(triggers):
        raise ValueError("a trigger comes twice, in the scan or in its reconstruction; pair the frames anew")
    rows = np.array([row for row, trigger in enumerate(triggers) if trigger in place_of], np.int64)
    if not len(rows):
        raise ValueError(f"none of {len(triggers)} frames has a place in the reconstruction; give the scan it is of")
    return rows, np.array([place_of[triggers[row]] for row in rows], np.int64)


def _refuse_unexplained(
    patterns: np.ndarray, positions_px: np.ndarray, reconstruction: Reconstruction, report: RetrievalReport
) -> None:
    """Refuse patterns which the reconstruction does not explain: turned, moved or of another scan."""
    n = patterns.shape[-1]
    corners = np.rint(positions_px) - n // 2
    inside = np.flatnonzero(np.all((corners >= 0) & (corners <= np.subtract(reconstruction.object_.shape, n)), axis=1))
    asked = inside[:: max(1, len(inside) // ASKED)]
    modes = (intensities(reconstruction.object_, mode, positions_px[asked]) for mode in reconstruction.probe)
    modelled = sum(modes, np.zeros((len(asked), n, n), np.float32))
    valid = patterns[asked] != no_data(patterns.dtype)
    measured = np.where(valid, patterns[asked], 0).astype(np.float32)
    misfit = np.sum((np.sqrt(modelled) - np.sqrt(measured)) ** 2, where=valid, dtype=np.float64)
    error = misfit / max(float(measured.sum(dtype=np.float64)), 1.0)
    allowed = (report.error + report.error_blank) / 2
    if error > allowed:
        raise ValueError(
            f"the reconstruction does not explain these patterns: the error is {error:.3g}, it was {report.error:.3g} "
            f"when it was judged, and at most {allowed:.3g} is allowed; read the scan with the orientation and beam "
            "centre of the reconstruction"
        )


def _cut(object_: np.ndarray, known: np.ndarray, positions_px: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels (B, 2, n, n) float16 and how well they are known (B, n, n) uint8, pixel n/2 at each position."""
    parts = [ndimage.spline_filter(part) for part in (np.real(object_), np.imag(object_))]
    spline = (parts[0] + 1j * parts[1]).astype(np.complex64)
    labels = np.empty((len(positions_px), 2, n, n), np.float16)
    seen = np.empty((len(positions_px), n, n), np.uint8)
    for row, corner_px in enumerate(positions_px - n // 2):
        part = {"matrix": [1, 1], "offset": corner_px, "output_shape": (n, n)}
        patch = ndimage.affine_transform(spline, order=3, prefilter=False, mode="mirror", **part)
        seen[row] = np.rint(255 * ndimage.affine_transform(known, order=1, mode="constant", **part))
        labels[row] = np.log(np.maximum(np.abs(patch), FAINTEST)), np.angle(patch)
        labels[row, :, seen[row] == 0] = 0
    return labels, seen


def _about(scan: ScanData, reconstruction: Reconstruction, report: RetrievalReport) -> dict[str, Any]:
    """Where the labels come from; what is not known is left out."""
    source = {**reconstruction.provenance, **scan.provenance}
    settings = reconstruction.settings
    known = {
        "kind": "reconstruction",
        "run": source.get("run_uid") or source.get("sha256"),
        "file": source.get("file"),
        "pixel_size_um": reconstruction.pixel_size_um,
        "energy_kev": scan.geometry.energy_kev if scan.geometry else None,
        "method": settings.get("method"),
        "sweeps": settings.get("sweeps"),
        "modes": len(reconstruction.probe),
        "verdict": report.verdict,
        "error_heldout": report.error_heldout if np.isfinite(report.error_heldout) else None,
        "frc_cycles_per_px": report.frc_cycles_per_px,
        "frc_nm": report.frc_nm,
    }
    known = {name: value for name, value in known.items() if value is not None}
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in known.items()}

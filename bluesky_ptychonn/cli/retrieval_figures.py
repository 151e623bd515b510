"""Figures of a reconstruction, for its JSON file and for the screen."""

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from bluesky_ptychonn.cli.sweeps_bar import SweepsBar
from bluesky_ptychonn.core.reconstruction import Reconstruction, RetrievalReport
from bluesky_ptychonn.core.scan_data import ScanData


@dataclass(frozen=True)
class Moves:
    """How far position correction moved the positions.

    Parameters
    ----------
    rms_px, max_px : float
        Root mean square and largest distance, object pixels.
    at_bound : int
        Positions which went as far as they may along y or x.
    """

    rms_px: float
    max_px: float
    at_bound: int


def moves_of(scan: ScanData, result: Reconstruction) -> Moves | None:
    """Distances from the scan's own positions to those used; None where positions were not corrected."""
    bound_px = result.settings["position_bound_px"]
    if bound_px is None:
        return None
    moved_px = result.positions_px + np.array(result.origin_px) - scan.positions_px
    distance_px = np.linalg.norm(moved_px, axis=1)
    stuck = np.abs(moved_px).max(axis=1) >= (1 - 1e-6) * bound_px
    rms_px = float(np.sqrt(np.mean(distance_px**2)))
    return Moves(rms_px, float(distance_px.max()), int(np.count_nonzero(stuck)))


def told_moves(moves: Moves, result: Reconstruction) -> str:
    """The moves in a sentence."""
    nm = "" if result.pixel_size_um is None else " ({:.3g} nm)"
    rms, most = (
        f"{px:.3g} px" + nm.format(1e3 * px * (result.pixel_size_um or 0)) for px in (moves.rms_px, moves.max_px)
    )
    text = f"positions moved by {rms} rms, at most {most}"
    if not moves.at_bound:
        return text
    bound_px = result.settings["position_bound_px"]
    return f"{text}; {moves.at_bound} of {len(result.positions_px)} went as far as the {bound_px:g} px allowed"


def kept_sweep(result: Reconstruction) -> int:
    """Number, from 1, of the sweep which was kept."""
    return int(result.settings.get("kept_sweep", len(result.errors)))


def figures_of(scan: ScanData, result: Reconstruction, progress: SweepsBar) -> dict[str, Any]:
    """Flat figures of a reconstruction; those of its report are null without one."""
    kept = kept_sweep(result) - 1
    moves = moves_of(scan, result)
    figures = dict.fromkeys(item.name for item in fields(RetrievalReport))
    figures |= {
        "test": "reconstruct",
        "method": result.settings["method"],
        "sweeps": len(result.errors),
        "kept_sweep": kept + 1,
        "modes": len(result.probe),
        "batch": result.settings["batch"],
        "position_bound_px": result.settings["position_bound_px"],
        "position_rms_px": None if moves is None else moves.rms_px,
        "position_max_px": None if moves is None else moves.max_px,
        "probe_start": result.settings["probe_start"],
        "orientation_applied": result.settings["orientation"],
        "points": len(scan.patterns),
        "left_out": scan.left_out,
        "masked_fraction": float(1 - scan.valid.mean()),
        "pixel_size_nm": None if result.pixel_size_um is None else 1e3 * result.pixel_size_um,
        "error": float(result.errors[kept]),
        "error_heldout": float(result.errors_heldout[kept]),
        "photons_per_frame": float(np.sum(np.abs(result.probe) ** 2, dtype=float)),
        "seconds_per_sweep": progress.seconds_per_sweep,
        "seconds_total": progress.seconds_total,
        "verdict": None,
    }
    if result.report is not None:
        figures |= {**result.report.as_figures(), "verdict": result.report.verdict}
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in figures.items()}

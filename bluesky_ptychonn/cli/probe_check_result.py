"""The result of a probe check, in a folder of its own: figures, mask, probe, reconstruction, picture."""

import io
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bluesky_ptychonn.io.durable import replace_file

if TYPE_CHECKING:
    from bluesky_ptychonn.cli.probe_check_analysis import Found

RESULT, PICTURE, MASK, PROBE = "probe_check.json", "probe_check.png", "bad_pixels.npy", "probe.npy"
RECONSTRUCTION = "reconstruction.cxi"
CENTER_PX = 0.5
DEFOCUS_UM, DEFOCUS_PART = 1.0, 0.01
ASTIGMATISM_UM, ANGLE_RAD = 2.0, 0.1
"""Tolerances: the largest errors to be expected, with what retrieval leaves; the direction's from 10 um on."""


@dataclass(frozen=True)
class FoundValues:
    """What was found, with its margins; see `core.beam_center`, `core.probe_fit` and `training.retrieval.orientation`.

    Parameters
    ----------
    beam_center_px, beam_center_margin_px
        Row and column in the frame.
    bad_pixels, missing, dead, hot : int
        All of them, and of each kind.
    judged : float
        Part of the pixels that saw enough light to be judged.
    orientation, orientation_margin, twin_margin
        Error of the next pair of orientations, and of the other one of the pair, over that of the best.
    defocus_um, astigmatism_um, astigmatism_angle_rad
        Of the fitted zone plate, each with its margin.
    coherence : float
        Share of the cone that these optics explain.
    """

    beam_center_px: tuple[float, float]
    beam_center_margin_px: float
    bad_pixels: int
    missing: int
    dead: int
    hot: int
    judged: float
    orientation: str
    orientation_margin: float
    twin_margin: float | None
    defocus_um: float
    defocus_margin_um: float
    astigmatism_um: float
    astigmatism_margin_um: float
    astigmatism_angle_rad: float
    astigmatism_angle_margin_rad: float
    coherence: float


@dataclass(frozen=True)
class Result:
    """Figures of a probe check.

    Parameters
    ----------
    name : str
        Of the folder.
    source : str
        Uid of the run, or the file.
    found : FoundValues
    settings : dict
        What the settings said.
    verdict : str
        On the reconstruction.
    problems : tuple of str
        Why it is not believed.
    """

    name: str
    source: str
    found: FoundValues
    settings: dict[str, Any]
    verdict: str
    problems: tuple[str, ...]

    @property
    def believed(self) -> bool:
        """Whether it may be written into settings and model store."""
        return not self.problems

    def table(self) -> str:
        """Found, settings and margin, line by line."""
        found, before = self.found, self.settings
        known = before["bad_pixels"]
        twin = "not decided" if found.twin_margin is None else f"{found.twin_margin:.2f} x"
        um = "{:.1f} um".format
        rows = [
            ("", "found", "settings", "margin", "tolerance"),
            (
                "beam centre (row, column)",
                "{:.2f}, {:.2f} px".format(*found.beam_center_px),
                "{:.2f}, {:.2f} px".format(*before["beam_center_px"]),
                f"± {found.beam_center_margin_px:.2f} px",
                f"{CENTER_PX:g} px",
            ),
            (
                "bad pixels",
                f"{found.bad_pixels}: {found.missing} missing, {found.dead} dead, {found.hot} hot",
                "no mask" if known is None else f"{known}",
                f"{100 * found.judged:.0f} % of the others judged",
                "all that light reached",
            ),
            (
                "orientation (next pair, twin)",
                found.orientation,
                before["orientation"],
                f"{found.orientation_margin:.2f} x, {twin}",
                "1.10 x, 1.03 x",
            ),
            (
                "defocus",
                um(found.defocus_um),
                um(before["defocus_um"]),
                f"± {um(found.defocus_margin_um)}",
                um(max(DEFOCUS_UM, DEFOCUS_PART * abs(found.defocus_um))),
            ),
            (
                "astigmatism",
                um(found.astigmatism_um),
                um(before["astigmatism_um"]),
                f"± {um(found.astigmatism_margin_um)}",
                um(ASTIGMATISM_UM),
            ),
        ]
        if found.astigmatism_um > 2 * ASTIGMATISM_UM:
            angle, margin = found.astigmatism_angle_rad, found.astigmatism_angle_margin_rad
            told = before["astigmatism_angle_rad"] if before["astigmatism_um"] > 2 * ASTIGMATISM_UM else None
            rows.append(
                (
                    "  its direction",
                    _degrees(angle),
                    "" if told is None else _degrees(told),
                    f"± {_degrees(margin)}",
                    _degrees(ANGLE_RAD),
                )
            )
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
        lines.append(f"zone plate optics explain {100 * found.coherence:.1f} % of the probe's cone")
        return "\n".join([*lines, f"reconstruction: {self.verdict}"])


def _degrees(angle_rad: float) -> str:
    return f"{math.degrees(angle_rad):.1f}°"


def save_result(folder: Path, result: Result, found: "Found") -> None:
    """Write everything but the picture; the figures last, so that a folder which has them is complete."""
    from bluesky_ptychonn.io.reconstruction_files import write_reconstruction

    folder.mkdir(parents=True, exist_ok=True)
    reconstruction = found.probe.reconstruction
    probe = reconstruction.probe[0] / np.linalg.norm(reconstruction.probe[0])
    for name, array in ((MASK, found.bad.mask), (PROBE, probe.astype(np.complex64))):
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        replace_file(folder / name, buffer.getbuffer())
    write_reconstruction(folder / RECONSTRUCTION, reconstruction)
    text = json.dumps({**asdict(result), "believed": result.believed}, indent=1)
    replace_file(folder / RESULT, f"{text}\n".encode())


def read_result(folder: Path) -> Result:
    """Read the figures of a result.

    Raises
    ------
    ValueError
        If they cannot be read.
    """
    path = folder / RESULT
    try:
        told = json.loads(path.read_bytes())
        values = {**told["found"], "beam_center_px": tuple(told["found"]["beam_center_px"])}
        return Result(
            told["name"],
            told["source"],
            FoundValues(**values),
            told["settings"],
            told["verdict"],
            tuple(told["problems"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read: {error}; check the scan again") from error

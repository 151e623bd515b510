"""What `probe-check` finds in a scan: first centre and mask, then what phase retrieval tells."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bluesky_ptychonn.cli.probe_check_result import FoundValues, Result
from bluesky_ptychonn.core.beam_center import BadPixels, BeamCenter, find_bad_pixels, find_beam_center
from bluesky_ptychonn.core.scan_data import ScanData

if TYPE_CHECKING:
    from bluesky_ptychonn.config import Settings
    from bluesky_ptychonn.training.retrieval.probe_check import CheckedProbe

MOST_FRAMES = 512
"""Frames that are asked for centre and mask."""
LARGEST_MARGIN_PX = 1.0
TOLD = 6
"""Lines on the progress of the reconstruction."""


@dataclass(frozen=True)
class Found:
    """Everything, for the picture and to be written.

    Parameters
    ----------
    frames : (B, H, W) unsigned integer
        Those that were asked for centre and mask.
    beam : BeamCenter
    bad : BadPixels
    probe : CheckedProbe
    expected : (n, n) complex64
        Probe of the settings.
    side_px : int
        Of the part of a frame that is cut around the beam.
    """

    frames: np.ndarray
    beam: BeamCenter
    bad: BadPixels
    probe: "CheckedProbe"
    expected: np.ndarray
    side_px: int


def analyse(source: str, settings: "Settings", *, sweeps: int) -> tuple[Found, Result]:
    """Analyse a run or a file, and tell what is being done."""
    from bluesky_ptychonn.cli.edge import settings_probe
    from bluesky_ptychonn.cli.probe_check_source import open_source
    from bluesky_ptychonn.core.scan_checks import refuse_unfit
    from bluesky_ptychonn.training.retrieval.probe_check import check_probe

    expected = settings_probe(settings)
    opened = open_source(source, settings)
    frames = opened.frames
    some = frames[np.unique(np.linspace(0, len(frames) - 1, min(len(frames), MOST_FRAMES)).astype(int))]
    bad = find_bad_pixels(some)
    beam = find_beam_center(some, bad.mask)
    y, x = beam.center_px
    print(f"{len(frames)} frames of {frames.shape[1]} x {frames.shape[2]} px, beam centre {y:.2f}, {x:.2f} px")

    def scan_in(orientation: str) -> ScanData:
        scan = replace(opened.cut(beam.center_px, bad.mask, orientation), probe=expected)
        refuse_unfit(scan)
        return scan

    def on_sweep(at: Any) -> None:
        if at.number % max(1, sweeps // TOLD) == 0:
            print(
                f"  sweep {at.number} of {at.total}: error {at.error:.4f}, held out {at.error_heldout:.4f}", flush=True
            )

    checked = check_probe(
        scan_in, sweeps=sweeps, on_step=lambda text: print(f"  {text}", flush=True), on_sweep=on_sweep
    )
    found = Found(some, beam, bad, checked, expected, settings.geometry.frame_px * settings.geometry.binning)
    problems = ([_blurred(beam)] if beam.margin_px > LARGEST_MARGIN_PX else []) + list(checked.problems)
    report = checked.reconstruction.report
    verdict = "" if report is None else f"{report.verdict}: {report.reason}"
    result = Result(
        opened.name, opened.origin, _values(found), _of_settings(settings, checked), verdict, tuple(problems)
    )
    return found, result


def _blurred(beam: BeamCenter) -> str:
    return (
        f"the beam centre is known to {beam.margin_px:.1f} px only, at most {LARGEST_MARGIN_PX:g} px is allowed; take "
        "more frames, or a pattern without a preferred direction"
    )


def _values(found: Found) -> FoundValues:
    beam, bad, fit, orientation = found.beam, found.bad, found.probe.fit, found.probe.orientation
    y, x = beam.center_px
    return FoundValues(
        beam_center_px=(round(y, 2), round(x, 2)),
        beam_center_margin_px=beam.margin_px,
        bad_pixels=int(bad.mask.sum()),
        missing=bad.missing,
        dead=bad.dead,
        hot=bad.hot + bad.stuck,
        judged=bad.judged,
        orientation=orientation.best,
        orientation_margin=orientation.margin,
        twin_margin=orientation.twin_margin if orientation.twin == "decided" else None,
        **vars(fit),
    )


def _of_settings(settings: "Settings", checked: "CheckedProbe") -> dict[str, Any]:
    """What the settings say of the same things."""
    mask = settings.geometry.bad_pixels_file
    return {
        "beam_center_px": list(settings.geometry.beam_center_px),
        "orientation": settings.geometry.orientation,
        "bad_pixels": int(np.load(mask).astype(bool).sum()) if mask is not None and mask.is_file() else None,
        **vars(checked.expected),
    }

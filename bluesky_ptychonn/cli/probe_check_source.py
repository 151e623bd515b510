"""A scan whose beam centre, mask and orientation are not known yet."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bluesky_ptychonn.core.scan_data import ScanData

if TYPE_CHECKING:
    from bluesky_ptychonn.config import Settings

Cut = Callable[[tuple[float, float], np.ndarray, str], ScanData]


@dataclass(frozen=True)
class Source:
    """Frames, and what makes a scan of them.

    Parameters
    ----------
    name : str
        Short.
    origin : str
        Uid of the run, or path of the file.
    frames : (N, H, W) unsigned integer
    cut : callable
        Gives the scan for a beam centre (y, x) in px, a mask (H, W) and an orientation.
    """

    name: str
    origin: str
    frames: np.ndarray
    cut: Cut


def open_source(source: str, settings: "Settings") -> Source:
    """Read a run of the catalog or a file; a file's geometry is completed from the settings.

    Raises
    ------
    Problem, ValueError
        If there is no such run or file, or it is no scan.
    """
    from bluesky_ptychonn.cli.retrieval_source import FILES

    path = Path(source)
    return _file(path, settings) if path.suffix in FILES or path.is_file() else _run(source, settings)


def _file(path: Path, settings: "Settings") -> Source:
    from bluesky_ptychonn.core.counts import unsigned_counts
    from bluesky_ptychonn.core.raw_scan import prepare_scan
    from bluesky_ptychonn.io.scan_files import open_raw_scan

    geometry = settings.geometry
    with open_raw_scan(path) as opened:
        raw = replace(
            opened,
            frames=unsigned_counts(opened.frames, None)[0],
            probe=None,
            bad_pixels=None,
            energy_kev=opened.energy_kev or geometry.energy_kev,
            distance_m=opened.distance_m or geometry.distance_m,
            detector_pixel_um=opened.detector_pixel_um or geometry.detector_pixel_um,
        )

    def cut(center_px: tuple[float, float], mask: np.ndarray, orientation: str) -> ScanData:
        return prepare_scan(
            replace(raw, bad_pixels=mask),
            crop_px=geometry.frame_px,
            beam_center_px=center_px,
            orientation=orientation,
            binning=geometry.binning,
            provenance={"file": path.name},
        )

    return Source(path.stem, str(path.resolve()), raw.frames, cut)


def _run(source: str, settings: "Settings") -> Source:
    from bluesky_ptychonn.cli.retrieval_source import run_of_catalog
    from bluesky_ptychonn.core.counts import unsigned_counts
    from bluesky_ptychonn.io.runs import read_run, scan_from_run

    recorded = read_run(run_of_catalog(settings, source))
    recorded = replace(recorded, frames=unsigned_counts(recorded.frames, None)[0])
    start = recorded.start

    def cut(center_px: tuple[float, float], mask: np.ndarray, orientation: str) -> ScanData:
        block = {**start["ptycho"], "beam_center_px": list(center_px), "orientation": orientation}
        return scan_from_run(replace(recorded, start={**start, "ptycho": block}), bad_pixels=mask)

    return Source(start["uid"][:8], start["uid"], recorded.frames, cut)

"""`bench learning` on real data: the stitched image of a Siemens star against its reconstruction."""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bluesky_ptychonn.core.metrics import compare_phase
from bluesky_ptychonn.core.protocols import Engine
from bluesky_ptychonn.core.reconstruction import Reconstruction
from bluesky_ptychonn.core.stitch import Canvas
from bluesky_ptychonn.engines.offline import stitch_scan
from bluesky_ptychonn.io.scan_files import read_scan_file

FILE = "siemens_star_128.npz"
REGION_PX = 280
"""Side of the square in the middle of the scanned field that is compared."""
STAR_BARS = {"refined": (0.93, 0.97), "file": (0.87, 0.97)}
"""Correlation that a model is required to reach with each probe, and its goal."""


def find_star() -> Path | str:
    """The file, or why there is none."""
    folder = os.environ.get("PTYCHONN_DATA", "")
    if not folder:
        return f"PTYCHONN_DATA names no folder with {FILE}"
    path = Path(folder) / FILE
    return path if path.is_file() else f"PTYCHONN_DATA={folder} holds no {FILE}"


def star_figures(
    path: Path, engines: Mapping[str, Engine], sweeps: int, on_step: Callable[[str], None]
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Reconstruct the star, stitch it with each engine, and compare.

    From each stitched image a constant, a ramp and a shift are removed. The reconstruction's own ramp is removed
    before: one that both images share would count as likeness.

    Parameters
    ----------
    path : Path
        The scan, with the analytic guess of its probe.
    engines : mapping of str to Engine
    sweeps : int
        Of the reconstruction, with one mode.
    on_step : callable
        Told after the reconstruction and after each stitched image.

    Returns
    -------
    list of dict
        Flat figures, one for each engine and probe.
    dict of str to (H, H) float
        Phase in the compared square: the reconstruction, and ``"engine, probe"``; rad.
    """
    from bluesky_ptychonn.training.retrieval.reconstruct import reconstruct

    scan, begin_s = read_scan_file(path), time.monotonic()
    if scan.probe is None:
        raise ValueError(f"{path} holds no probe")
    result = reconstruct(scan, sweeps=sweeps, modes=1)
    seconds = time.monotonic() - begin_s
    on_step("star: reconstruction")
    region = middle_of(result)
    reference = level(result, region)
    error = float(result.errors_heldout[-1])
    told = f"{result.settings['method']}, {sweeps} sweeps, 1 mode, {seconds:.0f} s, error held out {error:.4f}"
    results, pictures = [], {"reconstruction": reference[region]}
    for start, probe in (("refined", result.probe[0]), ("file", scan.probe)):
        for name, engine in engines.items():
            begin_s = time.monotonic()
            canvas = Canvas((reference.shape[0], reference.shape[1]), (0.0, 0.0), 1.0)
            image, _, _ = stitch_scan(engine, scan.patterns, result.positions_px, probe, 1.0, canvas)
            likeness = compare_phase(image, reference, remove=("constant", "ramp", "shift"), region=region)
            results.append(
                {
                    "test": "star",
                    "part": "star",
                    "at": start,
                    "model": name,
                    "engine": engine.name,
                    "method": "network" if engine.card else engine.name,
                    "probe_start": start,
                    "points": len(scan.patterns),
                    **likeness.as_figures(),
                    "reference": told,
                    "seconds_total": time.monotonic() - begin_s,
                }
            )
            pictures[f"{name}, {start} probe"] = image[region] - np.mean(image[region])
            on_step(f"star: {name}, {start} probe")
    return results, pictures


def middle_of(result: Reconstruction) -> tuple[slice, slice]:
    """The square in the middle of the scanned field."""
    middle = np.rint((result.positions_px.min(axis=0) + result.positions_px.max(axis=0)) / 2).astype(int)
    (top, bottom), (left, right) = ((int(m) - REGION_PX // 2, int(m) + REGION_PX // 2) for m in middle)
    return slice(top, bottom), slice(left, right)


def level(result: Reconstruction, region: tuple[slice, slice]) -> np.ndarray:
    """Phase of the reconstruction without the constant and the ramp that fit it best in the region."""
    part = result.object_[region]
    slopes = [np.angle(np.sum(step)) for step in (part[1:] * part[:-1].conj(), part[:, 1:] * part[:, :-1].conj())]
    y, x = np.indices(result.object_.shape)
    turned = result.object_ * np.exp(-1j * (slopes[0] * y + slopes[1] * x))  # first the ramp, so that nothing wraps
    phase = np.angle(turned * np.exp(-1j * np.angle(np.sum(turned[region]))))
    basis = np.stack([np.ones_like(phase), y, x], axis=-1)
    fitted = np.linalg.lstsq(basis[region].reshape(-1, 3), phase[region].ravel(), rcond=None)[0]
    return phase - basis @ fitted

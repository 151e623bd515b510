"""The picture that is kept of a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def save_picture(
    path: Path, phase_rad: np.ndarray, attributes: Mapping[str, Any], start: Mapping[str, Any], stats: Mapping[str, Any]
) -> None:
    """Save a stitched phase image as PNG; safe in any thread, no display needed.

    Parameters
    ----------
    path : Path
        PNG to write; its folder is made.
    phase_rad : (H, W) float
        Phase, NaN where nothing was seen.
    attributes : mapping
        ``pixel_size_um`` and, if known, ``origin_y_um`` and ``origin_x_um`` of the image.
    start, stats : mapping
        Start document of the run, and what the edge says about it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    pixel_um = float(attributes.get("pixel_size_um", 0) or 1)
    left, top = (float(attributes.get(f"origin_{axis}_um", 0)) for axis in "xy")
    height, width = phase_rad.shape
    figure = Figure(figsize=(6.4, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    seen = phase_rad[np.isfinite(phase_rad)]
    low, high = np.percentile(seen, [1, 99]) if seen.size else (0.0, 1.0)
    shown = axes.imshow(
        phase_rad,
        cmap="gray",
        vmin=low,
        vmax=max(high, low + 1e-6),
        extent=(left, left + width * pixel_um, top + height * pixel_um, top),
        interpolation="nearest",
    )
    figure.colorbar(shown, ax=axes, label="phase (rad)", shrink=0.8)
    axes.set_xlabel("x (um)")
    axes.set_ylabel("y (um)")
    axes.set_title(
        f"{start.get('sample_name') or 'scan'} {start.get('scan_id', '')}  run {start['uid'][:8]}\n"
        f"{stats.get('frames_stitched', '?')} of {start.get('num_points', '?')} frames, model "
        f"{stats.get('model_version') or stats.get('engine', '?')}, account {stats.get('account', '?')}",
        fontsize="small",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)

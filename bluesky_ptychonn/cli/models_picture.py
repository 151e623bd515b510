"""The picture of a validation: what the model stitched, what is true, and the difference."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from bluesky_ptychonn.io.durable import replace_file
from bluesky_ptychonn.training.learning.validate import Validation


def save_validation(path: Path, found: Validation, pixel_size_um: float | None, source: str) -> None:
    """Stitched image, reconstruction and their difference as a PNG; the first alone where nothing is known.

    Parameters
    ----------
    path : Path
        PNG to write.
    found : Validation
    pixel_size_um : float, optional
        For the axes; pixels without it.
    source : str
        Name of the scan, for the title.

    Raises
    ------
    OSError
        If it cannot be written; one that was there is unchanged then.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    unit, per_px = ("px", 1.0) if pixel_size_um is None else ("µm", pixel_size_um)
    panels: list[tuple[str, np.ndarray, str]] = [("stitched", found.image, "gray")]
    if found.reference is not None:
        panels += [
            ("reconstruction", found.reference, "gray"),
            ("difference", found.image - found.reference, "RdBu_r"),
        ]
    figure = Figure(figsize=(4.6 * len(panels), 5.0), layout="constrained")
    FigureCanvasAgg(figure)
    height, width = found.image.shape
    extent = (0, width * per_px, height * per_px, 0)
    low, high = np.nanpercentile(found.image if found.reference is None else found.reference, [1, 99])
    half = max(float(high - low), 1e-6) / 2
    axes: Any = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (title, image, colours) in zip(axes, panels, strict=True):
        limits = (-half, half) if title == "difference" else (low, low + 2 * half)
        drawn = axis.imshow(image, cmap=colours, vmin=limits[0], vmax=limits[1], extent=extent, interpolation="nearest")
        axis.set_title(f"{title}, phase (rad)")
        axis.set_xlabel(f"x ({unit})")
        figure.colorbar(drawn, ax=axis, shrink=0.8)
    axes[0].set_ylabel(f"y ({unit})")
    caption = f"{source}: {found.model or found.engine}, residual {found.residual:.4f} of {found.residual_blank:.4f}"
    if found.ssim is not None:
        caption += f"; SSIM {found.ssim:.3f}, mean error {found.mae_rad:.3f} rad, correlation {found.correlation:.3f}"
    figure.suptitle(caption)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110)
    replace_file(path, png.getbuffer())

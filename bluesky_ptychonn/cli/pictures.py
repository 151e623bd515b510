"""Pictures that commands leave as files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def save_comparison(
    path: Path,
    phases: Sequence[tuple[str, np.ndarray]],
    coverage: np.ndarray | None,
    pixel_size_um: float,
    caption: str,
) -> None:
    """Phase images side by side on one scale, and the coverage where it is given.

    Parameters
    ----------
    path : Path
        PNG to write.
    phases : sequence of (title, (H, W) float)
        Images, rad, each shown without its mean; NaN where nothing was seen.
    coverage : (H, W) float, optional
        Sum of stitching weights.
    pixel_size_um : float
        For the axes.
    caption : str
        Line above the pictures.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = len(phases) + (coverage is not None)
    figure = Figure(figsize=(4.2 * panels, 4.9), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    height, width = phases[0][1].shape
    extent = (0, width * pixel_size_um, height * pixel_size_um, 0)
    centred = [(title, image - np.nanmean(image)) for title, image in phases]
    ranges = [np.nanpercentile(image, [2, 98]) for _, image in centred]
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    for axis, (title, image) in zip(axes, centred, strict=False):
        axis.imshow(image, cmap="gray", vmin=low, vmax=high, extent=extent, interpolation="nearest")
        axis.set_title(title)
    figure.colorbar(axes[0].images[0], ax=list(axes[: len(phases)]), label="phase (rad)", shrink=0.8)
    if coverage is not None:
        covered = np.where(coverage > 0, coverage / coverage.max(), np.nan)
        axes[-1].set_title("coverage")
        figure.colorbar(axes[-1].imshow(covered, cmap="viridis", extent=extent), ax=axes[-1], shrink=0.8)
    for axis in axes:
        axis.set_xlabel("x (µm)")
    axes[0].set_ylabel("y (µm)")
    figure.suptitle(caption)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)

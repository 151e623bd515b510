"""The picture that stands beside a reconstruction: what it looks like, and whether to believe it."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from bluesky_ptychonn.core.reconstruction import Reconstruction
from bluesky_ptychonn.io.durable import replace_file

SEEN = 0.05
"""Light, in units of the most, from which on a pixel of the object is shown."""
SPECK_PX = 3.0
"""Over which that light is averaged."""
WELL_SEEN = 0.2
"""The same, without average, for the pixels which set the scale of grey."""
MOST_MODES = 4
TRUSTED, NOT_TRUSTED, NOT_JUDGED = "#1a7f37", "#c1121f", "#6b7280"


def save_reconstruction(path: Path, reconstruction: Reconstruction, source: str) -> None:
    """Phase, amplitude, probe modes, light, error after each sweep, and the verdict, as a PNG.

    Parameters
    ----------
    path : Path
        PNG to write.
    reconstruction : Reconstruction
    source : str
        Name of the scan, for the title.

    Raises
    ------
    OSError
        If it cannot be written; one that was there is unchanged then.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 7.2), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 4)
    box, seen = field_of(reconstruction.coverage)
    unit, per_px = ("px", 1.0) if reconstruction.pixel_size_um is None else ("µm", reconstruction.pixel_size_um)
    extent = _extent(box, per_px)
    light = reconstruction.coverage[box] / reconstruction.coverage.max()
    phase, amplitude = flattened(reconstruction.object_[box], light)
    well = light >= WELL_SEEN
    axis = figure.add_subplot(grid[:, :2])
    _image(
        figure, axis, np.where(seen, phase, np.nan), "phase (rad), without mean and ramp", extent, _range(phase[well])
    )
    axis.set_xlabel(f"x ({unit})")
    axis.set_ylabel(f"y ({unit})")
    axis = figure.add_subplot(grid[0, 2])
    _image(figure, axis, np.where(seen, amplitude, np.nan), "amplitude", extent, _range(amplitude[well]))
    axis = figure.add_subplot(grid[0, 3])
    _image(figure, axis, np.where(seen, light, np.nan), "light received", extent, (0, 1), "viridis")
    y, x = reconstruction.positions_px.T * per_px
    axis.plot(x, y, ",", color="white", alpha=0.8)
    _probe(figure.add_subplot(grid[1, 2]), reconstruction.probe, unit, per_px)
    _errors(figure.add_subplot(grid[1, 3]), reconstruction)
    _caption(figure, reconstruction, source)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110)
    replace_file(path, png.getbuffer())


def field_of(coverage: np.ndarray) -> tuple[tuple[slice, slice], np.ndarray]:
    """Rows and columns which hold every pixel that received light, and which pixels of these did, specks apart."""
    seen = ndimage.gaussian_filter(coverage, SPECK_PX) >= SEEN * coverage.max()
    rows, columns = (np.flatnonzero(seen.any(axis=axis)) for axis in (1, 0))
    box = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
    return box, seen[box]


def _extent(box: tuple[slice, slice], per_px: float) -> tuple[float, float, float, float]:
    """Left, right, bottom and top edge; a pixel's middle lies at its number."""
    rows, columns = box
    edges = (columns.start, columns.stop, rows.stop, rows.start)
    left, right, bottom, top = (per_px * (edge - 0.5) for edge in edges)
    return left, right, bottom, top


def flattened(object_: np.ndarray, light: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Phase without ramp and mean, which the data leave open, and amplitude.

    The ramp is the median slope, so that flat parts become level and edges do not tilt them.
    """
    well = light >= WELL_SEEN
    down = np.median(np.angle(object_[1:] * np.conj(object_[:-1]))[well[1:]])
    right = np.median(np.angle(object_[:, 1:] * np.conj(object_[:, :-1]))[well[:, 1:]])
    y, x = (np.arange(side) for side in object_.shape)
    level = object_ * np.exp(-1j * (down * y[:, None] + right * x))
    return np.angle(level * np.conj(np.sum(level * light))), np.abs(object_)


def _range(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, [1, 99])
    return float(low), float(high)


def _image(
    figure: Any,
    axis: Any,
    image: np.ndarray,
    title: str,
    extent: tuple[float, float, float, float],
    limits: tuple[float, float],
    colours: str = "gray",
) -> None:
    drawn = axis.imshow(
        image, cmap=colours, vmin=limits[0], vmax=limits[1], extent=extent, interpolation="nearest", aspect="equal"
    )
    axis.set_title(title)
    figure.colorbar(drawn, ax=axis, shrink=0.8)


def _probe(axis: Any, probe: np.ndarray, unit: str, per_px: float) -> None:
    """Modes side by side; colour is phase, brightness amplitude, each mode on its own scale."""
    from matplotlib.colors import hsv_to_rgb

    power = np.sum(np.abs(probe) ** 2, axis=(1, 2), dtype=np.float64)
    shares = ", ".join(f"{100 * part / power.sum():.0f} %" for part in power[:MOST_MODES])
    shown = np.concatenate([mode / np.abs(mode).max() for mode in probe[:MOST_MODES]], axis=1)
    colour = np.stack([np.angle(shown) / (2 * np.pi) % 1, np.ones(shown.shape), np.minimum(np.abs(shown), 1)], axis=-1)
    height, width = (side * per_px for side in shown.shape)
    axis.imshow(hsv_to_rgb(colour), extent=(0, width, height, 0), interpolation="nearest")
    axis.set_title("probe (colour: phase)" if len(probe) == 1 else f"{len(probe)} probe modes: {shares}")
    axis.set_xlabel(f"x ({unit})")


def _errors(axis: Any, reconstruction: Reconstruction) -> None:
    sweeps = np.arange(1, len(reconstruction.errors) + 1)
    axis.semilogy(sweeps, reconstruction.errors, color="black", label="frames in use")
    if reconstruction.held_out.any():
        axis.semilogy(sweeps, reconstruction.errors_heldout, color="tab:orange", label="frames held out")
    if reconstruction.report is not None:
        axis.axhline(reconstruction.report.error_noise, color="gray", linestyle=":", label="counting noise")
    axis.set_title("error")
    axis.set_xlabel("sweep")
    axis.legend(frameon=False)


def _caption(figure: Any, reconstruction: Reconstruction, source: str) -> None:
    report, settings = reconstruction.report, reconstruction.settings
    colour, verdict = NOT_JUDGED, "not judged"
    if report is not None:
        colour, verdict = (TRUSTED if report.trusted else NOT_TRUSTED), f"{report.verdict}: {report.reason}"
    figures = [f"{source}: {settings['method']}, {len(reconstruction.errors)} sweeps"]
    figures.append(f"{len(reconstruction.positions_px)} frames")
    if report is not None:
        figures.append(f"{report.photons_per_frame:.2g} photons each")
        held_out = f", held out {report.error_heldout:.4f}" if reconstruction.held_out.any() else ""
        figures.append(f"error {report.error:.4f}{held_out}")
        if report.frc_nm is not None:
            figures.append(f"resolution {report.frc_nm:.1f} nm")
        elif report.frc_cycles_per_px:
            figures.append(f"resolution {report.frc_cycles_per_px:.2f} cycles/px")
    figure.suptitle(verdict, color=colour, fontsize=14, fontweight="bold", wrap=True)
    figure.supxlabel("; ".join(figures), fontsize=11)

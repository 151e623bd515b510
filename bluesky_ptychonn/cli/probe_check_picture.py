"""The picture of a probe check: probe found and expected, centre and mask, orientations, defocus, object."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from bluesky_ptychonn.cli.probe_check_analysis import Found
from bluesky_ptychonn.cli.probe_check_result import Result
from bluesky_ptychonn.core.frames import no_data
from bluesky_ptychonn.io.durable import replace_file
from bluesky_ptychonn.training.retrieval.orientation import CLASSES

BELIEVED, NOT_BELIEVED = "#1a7f37", "#c1121f"
BLUE, RED = "#1f77b4", "#d62728"
PROBE_PART = 0.8
"""Part of the field around the probe that is shown, in units of the field, at most."""
BRIGHTEST = 99.8
"""Percentile of the amplitude that is white."""


def save_picture(path: Path, found: Found, result: Result) -> None:
    """Draw it all into one PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 8), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 4)
    _probes(figure, grid, found)
    _center(figure, figure.add_subplot(grid[0, 2]), found)
    _orientations(figure.add_subplot(grid[0, 3]), found)
    _defocus(figure.add_subplot(grid[1, 3]), found)
    _object(figure, figure.add_subplot(grid[1, 2]), found)
    verdict = "believed" if result.believed else f"not believed: {result.problems[0]}"
    colour = BELIEVED if result.believed else NOT_BELIEVED
    figure.suptitle(f"probe check {result.name}: {verdict}", color=colour, fontsize=14, fontweight="bold", wrap=True)
    values = result.found
    figure.supxlabel(
        f"defocus {values.defocus_um:.1f} ± {values.defocus_margin_um:.2f} µm, astigmatism {values.astigmatism_um:.1f} "
        f"± {values.astigmatism_margin_um:.2f} µm, {100 * values.coherence:.1f} % of the cone explained; expected: "
        f"{result.settings['defocus_um']:.1f} µm, {result.settings['astigmatism_um']:.1f} µm",
        fontsize=11,
    )
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=100)
    replace_file(path, png.getbuffer())


def _probes(figure: Any, grid: Any, found: Found) -> None:
    """Amplitude and phase, found above expected, on one scale of amplitude."""
    probes = {"found": found.probe.reconstruction.probe[0], "expected": found.expected}
    probes = {name: probe / np.linalg.norm(probe) for name, probe in probes.items()}
    pixel_um = found.probe.reconstruction.pixel_size_um or 1.0
    n = len(found.expected)
    half_px = min(int(PROBE_PART * n / 2), max(_reach_px(probe) for probe in probes.values()))
    part = slice(n // 2 - half_px, n // 2 + half_px)
    edge_um = half_px * pixel_um
    top = max(float(np.percentile(np.abs(probe), BRIGHTEST)) for probe in probes.values())
    for row, (name, probe) in enumerate(probes.items()):
        seen = probe[part, part]
        seen = seen * np.exp(-1j * np.angle(probe.sum()))
        images = (
            (np.abs(seen), {"cmap": "gray", "vmin": 0, "vmax": top}, f"probe {name}: amplitude"),
            (
                np.where(np.abs(seen) > 0.05 * top, np.angle(seen), np.nan),
                {"cmap": "twilight", "vmin": -np.pi, "vmax": np.pi},
                "phase (rad)",
            ),
        )
        for column, (image, look, title) in enumerate(images):
            axes = figure.add_subplot(grid[row, column])
            drawn = axes.imshow(image, extent=(-edge_um, edge_um, edge_um, -edge_um), interpolation="nearest", **look)
            axes.set_title(title)
            axes.set_xlabel("x (µm)")
            axes.set_ylabel("y (µm)")
            if column:
                figure.colorbar(drawn, ax=axes, shrink=0.7)


def _reach_px(probe: np.ndarray) -> int:
    """Half side of the square around the middle that holds what is bright."""
    bright = np.argwhere(np.abs(probe) > 0.05 * np.abs(probe).max()) - len(probe) // 2
    return int(np.abs(bright).max()) + 3


def _center(figure: Any, axes: Any, found: Found) -> None:
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Circle, Rectangle

    measured = found.frames != no_data(found.frames.dtype)
    counts = found.frames.sum(axis=0, where=measured, dtype=np.float64)
    mean = counts / np.maximum(measured.sum(axis=0), 1)
    lit = np.where(found.bad.mask, np.nan, np.maximum(mean, 1e-2))
    top = max(float(np.nanmax(lit)), 1.0)
    axes.set_facecolor(RED)  # shows where there is nothing
    drawn = axes.imshow(lit, cmap="gray", norm=LogNorm(max(1e-4 * top, 1e-2), top), interpolation="nearest")
    figure.colorbar(drawn, ax=axes, shrink=0.7)
    y, x = found.beam.center_px
    side = found.side_px
    axes.plot(x, y, "+", color=BLUE, markersize=14)
    axes.add_patch(Circle((x, y), found.beam.radius_px, fill=False, color=BLUE, linewidth=0.8))
    corner = (x - side / 2 - 0.5, y - side / 2 - 0.5)
    axes.add_patch(Rectangle(corner, side, side, fill=False, color="#ff7f0e", linewidth=0.8, linestyle="--"))
    height, width = mean.shape
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), xlabel="column (px)", ylabel="row (px)")
    axes.set_title(f"mean counts; centre {y:.2f}, {x:.2f} px\nred: {int(found.bad.mask.sum())} bad pixels")


def _orientations(axes: Any, found: Found) -> None:
    orientation = found.probe.orientation
    pairs = {first: f"{first}\n{second}" for first, second in CLASSES}
    errors = [orientation.errors[first] for first in pairs]
    best = min(errors)
    colours = [BLUE if error == best else "#b0b0b0" for error in errors]
    axes.barh(list(pairs.values()), errors, color=colours)
    axes.invert_yaxis()
    axes.locator_params(axis="x", nbins=4)
    axes.set_xlabel("error")
    twin = "" if orientation.twin_margin is None else f"\nits twin {orientation.twin_margin:.2f} x"
    axes.set_title(f"orientation: {orientation.best}\nnext pair {orientation.margin:.2f} x{twin}")


def _defocus(axes: Any, found: Found) -> None:
    trials, fit = found.probe.trials, found.probe.fit
    axes.plot(trials.defocus_um, trials.errors, "o-", color="black", markersize=4, label="error, probe fixed")
    axes.axvline(found.probe.expected.defocus_um, color="#b0b0b0", linestyle="--", label="expected")
    axes.axvline(fit.defocus_um, color=BLUE, label="found")
    axes.set_xlabel("defocus (µm)")
    axes.set_ylabel("error")
    axes.legend(frameon=False)
    axes.set_title("residual against defocus")


def _object(figure: Any, axes: Any, found: Found) -> None:
    from bluesky_ptychonn.cli.reconstruction_picture import WELL_SEEN, field_of, flattened

    reconstruction = found.probe.reconstruction
    box, seen = field_of(reconstruction.coverage)
    light = reconstruction.coverage[box] / reconstruction.coverage.max()
    phase, _ = flattened(reconstruction.object_[box], light)
    low, high = np.percentile(phase[light >= WELL_SEEN], [1, 99])
    pixel_um = reconstruction.pixel_size_um or 1.0
    height_um, width_um = (pixel_um * side for side in phase.shape)
    drawn = axes.imshow(
        np.where(seen, phase, np.nan),
        cmap="gray",
        vmin=low,
        vmax=high,
        extent=(0, width_um, height_um, 0),
        interpolation="nearest",
    )
    figure.colorbar(drawn, ax=axes, shrink=0.7)
    axes.set(xlabel="x (µm)", ylabel="y (µm)")
    axes.set_title("object: phase (rad), without ramp")

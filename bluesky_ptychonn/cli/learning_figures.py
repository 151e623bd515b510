"""Pictures of `bench learning`: likeness against points, overlap, dose and wrong probes, and the images themselves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bluesky_ptychonn.cli.learning_cases import BARS, NAMES, Part
from bluesky_ptychonn.cli.learning_tables import key_of

Row = Mapping[str, Any]

COLOURS = ("#0072b2", "#cc79a7", "#56b4e9", "#d55e00", "#000000")
BASELINES = {"lift": ("#999999", ":", "^"), "epie": ("#e69f00", "--", "s"), "poisson": ("#009e73", "--", "D")}
REQUIRED, GOAL = "#c1121f", "#1a7f37"
PER_IMAGE_INCH = 2.3


def draw_lines(path: Path, part: Part, rows: Sequence[Row], conditions: str) -> None:
    """SSIM of each method against points, overlap ratio or photons, with what is required and the goal."""
    labels = {
        "points": "scan positions in the same field",
        "overlap": "overlap ratio (1 - step / probe diameter)",
        "dose": "photons per frame",
    }
    columns = ["ssim", "ssim_to_reference"] if part == "overlap" else ["ssim"]
    figure, panels = _panels(len(columns))
    for axes, column in zip(panels, columns, strict=True):
        for name, style in _styles(rows).items():
            own = sorted((float(row["at"]), row[column]) for row in rows if key_of(row) == name)
            axes.plot(*np.array(own).T, label=NAMES.get(name, name), **style)
        if part == "overlap":
            axes.invert_xaxis()
        else:
            axes.set_xscale("log")
            axes.set_xticks(places := sorted({row["at"] for row in rows}), [f"{place:,.0f}" for place in places])
            axes.minorticks_off()
        axes.set(xlabel=labels[part], ylim=(0, 1.02), ylabel="SSIM")
        axes.set_title("against the truth" if column == "ssim" else "against a reconstruction at high dose", size=10)
        if column == "ssim":
            _mark(axes, part, [row["at"] for row in rows])
        axes.grid(alpha=0.3)
    _legend(figure, panels[0], conditions)
    figure.savefig(path, dpi=120)


def draw_losses(path: Path, rows: Sequence[Row], conditions: str) -> None:
    """SSIM that each model loses with each wrong probe, one panel for each test set."""
    tests = list(dict.fromkeys(row["test"] for row in rows))
    figure, panels = _panels(len(tests))
    places = list(dict.fromkeys(row["at"] for row in rows))
    for axes, test in zip(panels, tests, strict=True):
        own = [row for row in rows if row["test"] == test]
        names = _styles(own)
        width = 0.8 / len(names)
        for number, (name, style) in enumerate(names.items()):
            losses = {row["at"]: row["ssim_loss"] for row in own if key_of(row) == name}
            middles = np.arange(len(places)) + (number + 0.5) * width - 0.4
            bars = [losses.get(place, np.nan) for place in places]
            axes.bar(middles, bars, width, color=style["color"], label=NAMES.get(name, name))
        axes.set_xticks(np.arange(len(places)), places, rotation=40, ha="right")
        axes.set_ylabel("SSIM lost against the exact probe")
        axes.set_title(test, size=10)
        _mark(axes, "probe", places, dict(zip(places, range(len(places)), strict=True)))
        axes.axhline(0, color="black", lw=0.8)
        axes.grid(alpha=0.3, axis="y")
    _legend(figure, panels[0], conditions)
    figure.savefig(path, dpi=120)


def draw_images(path: Path, rows: Sequence[Sequence[tuple[str, np.ndarray]]], pixel_size_um: float | None) -> None:
    """Phase images in rows, each image with its title, all of one row on the scale of its first.

    Parameters
    ----------
    path : Path
    rows : sequence of sequences of (title, (H, W) float)
        rad; NaN where nothing was seen.
    pixel_size_um : float, optional
        For the scale bar; px without it.
    """
    from matplotlib.figure import Figure

    columns = max(len(row) for row in rows)
    figure = Figure(figsize=(PER_IMAGE_INCH * columns + 0.8, (PER_IMAGE_INCH + 0.35) * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for line, row in zip(grid, rows, strict=True):
        middle = np.nanmean(row[0][1])
        low, high = np.nanpercentile(row[0][1] - middle, [1, 99])
        room = 0.15 * (high - low)
        for axes in line:
            axes.axis("off")
        for axes, (title, image) in zip(line, row, strict=False):
            shift = np.nanmean(image)
            drawn = axes.imshow(image - shift, cmap="gray", vmin=low - room, vmax=high + room, interpolation="nearest")
            axes.set_title(title, size=8)
        _scale_bar(line[0], row[0][1].shape, pixel_size_um)
        figure.colorbar(drawn, ax=list(line), label="phase (rad)", shrink=0.85, pad=0.01)
    figure.savefig(path, dpi=130, bbox_inches="tight")


def _panels(count: int):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * count + 1.9, 3.9), layout="constrained")
    return figure, figure.subplots(1, count, squeeze=False, sharey=True)[0]


def _legend(figure: Any, axes: Any, title: str) -> None:
    """Legend beside the panels, title above them."""
    figure.legend(*axes.get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside right center")
    figure.suptitle(title, size=10)


def _styles(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """How the line of each method looks."""
    styles, colours = {}, iter(COLOURS * 3)
    for name in dict.fromkeys(key_of(row) for row in rows):
        colour, line, marker = BASELINES.get(name) or (next(colours), "-", "o")
        styles[name] = {"color": colour, "ls": line, "marker": marker, "ms": 5}
    return styles


def _mark(axes: Any, part: Part, places: Sequence[Any], along: Mapping[Any, float] | None = None) -> None:
    """What is required, and the goal, at the places for which they are set."""
    known = [place for place in dict.fromkeys(places) if (part, place) in BARS]
    for which, (label, colour) in enumerate((("required", REQUIRED), ("goal", GOAL))):
        x = [along[place] if along else place for place in known]
        y = [BARS[part, place][which] for place in known]
        if x:
            axes.plot(x, y, ls="none", marker="_", ms=22, mew=2.2, color=colour, label=label, zorder=5)


def _scale_bar(axes: Any, shape: tuple[int, ...], pixel_size_um: float | None) -> None:
    height, width = shape
    length_px = 50 if pixel_size_um is None else 0.5 / pixel_size_um
    label = "50 px" if pixel_size_um is None else "0.5 µm"
    y = 0.95 * height
    axes.plot([0.05 * width, 0.05 * width + length_px], [y, y], color="white", lw=4.5, solid_capstyle="butt")
    axes.plot([0.05 * width, 0.05 * width + length_px], [y, y], color="black", lw=2.5, solid_capstyle="butt")
    box = {"facecolor": "white", "alpha": 0.7, "pad": 1, "lw": 0}
    axes.text(0.05 * width, 0.91 * height, label, size=7, va="bottom", bbox=box)

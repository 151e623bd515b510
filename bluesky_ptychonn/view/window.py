"""A window on the stitched image, in a process of its own; or one picture of it as a file."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from bluesky_ptychonn.view.feed import EdgeFeed

PERIOD_MS = 300
ROWS = 9
SEEN = 0.01
"""Part of the largest coverage below which a pixel counts as not seen."""
INK, PAPER, FAINT, GOOD, BAD = "#e8e8e8", "#15181c", "#7d8794", "#57b894", "#e0705c"


class NoDisplayError(RuntimeError):
    """There is no screen to open a window on."""


class Picture:
    """Phase, coverage and how the run is doing, drawn into a figure.

    Parameters
    ----------
    figure : Figure
    """

    def __init__(self, figure: Figure) -> None:
        self.figure = figure
        figure.set_facecolor(PAPER)
        figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
        grid = figure.add_gridspec(2, 2, width_ratios=(2.1, 1), height_ratios=(1, 1.15))
        self._phase_axes = figure.add_subplot(grid[:, 0])
        self._coverage_axes = figure.add_subplot(grid[0, 1])
        self._text_axes = figure.add_subplot(grid[1, 1])
        self._text_axes.set_axis_off()
        self._phase = self._panel(self._phase_axes, "gray", "phase (rad)")
        self._coverage = self._panel(self._coverage_axes, "viridis", "coverage")
        self._phase_axes.set_xlabel("x (µm)")
        self._phase_axes.set_ylabel("y (µm)")
        self._title = self._phase_axes.set_title("", color=INK, loc="left")
        self._note = self._phase_axes.text(
            0.5, 0.5, "", transform=self._phase_axes.transAxes, ha="center", va="center", color=FAINT, fontsize=13
        )
        heights = np.linspace(0.8, 0.22, ROWS)
        self._rows = [
            (
                self._text_axes.text(0.0, y, "", va="top", color=FAINT),
                self._text_axes.text(0.4, y, "", va="top", color=INK),
            )
            for y in heights
        ]
        self._warning = self._text_axes.text(0.0, 0.0, "", va="bottom", color=BAD, wrap=True)
        self._progress = self._text_axes.text(0.0, 1.0, "", va="top", color=INK, fontsize=14, weight="bold")
        self._bar = self._bar_of(GOOD)

    def _panel(self, axes: Any, colours: str, label: str) -> Any:
        axes.set_facecolor(PAPER)
        axes.tick_params(colors=FAINT, labelsize=9)
        for spine in axes.spines.values():
            spine.set_color(FAINT)
        axes.xaxis.label.set_color(INK)
        axes.yaxis.label.set_color(INK)
        shown = axes.imshow(np.full((2, 2), np.nan), cmap=colours, interpolation="nearest", aspect="equal")
        bar = self.figure.colorbar(shown, ax=axes, label=label, shrink=0.85, pad=0.02)
        bar.ax.tick_params(colors=FAINT, labelsize=9)
        bar.ax.yaxis.label.set_color(INK)
        bar.outline.set_edgecolor(FAINT)
        return shown

    def _bar_of(self, colour: str) -> Any:
        from matplotlib.patches import Rectangle

        for width, face in ((1.0, "#2a3038"), (0.0, colour)):
            bar = Rectangle((0, 0.86), width, 0.03, transform=self._text_axes.transAxes, facecolor=face, clip_on=False)
            self._text_axes.add_patch(bar)
        return bar

    def update(
        self, stats: dict[str, Any], phase: np.ndarray, coverage: np.ndarray, attributes: dict[str, Any], answers: bool
    ) -> None:
        """Draw anew."""
        self._draw_images(phase, coverage, attributes)
        uid = str(stats.get("run_uid", ""))
        state = "final image" if attributes.get("final") else stats.get("state", "")
        self._title.set_text(f"run {uid[:8]}   {state}" if uid else "")
        self._note.set_text("" if phase.size else ("the edge does not answer" if not answers else "waiting for a scan"))
        done, planned = stats.get("frames_stitched", 0), stats.get("frames_planned", 0)
        self._progress.set_text(f"{done} / {planned} frames" if planned else "no run yet")
        self._bar.set_width(min(1.0, done / planned) if planned else 0.0)
        rows, warning = account_lines(stats)
        for texts, row in zip(self._rows, rows or [("", "")] * ROWS):
            for text, word in zip(texts, row):
                text.set_text(word)
        if not answers:
            warning = "The edge does not answer: this is the last it said."
        self._warning.set_text(warning)
        self._bar.set_facecolor(BAD if warning else GOOD)

    def _draw_images(self, phase: np.ndarray, coverage: np.ndarray, attributes: dict[str, Any]) -> None:
        pixel = float(attributes.get("pixel_size_um", 1.0))
        origin = float(attributes.get("origin_y_um", 0.0)), float(attributes.get("origin_x_um", 0.0))
        seen = np.isfinite(phase)
        if coverage.shape == phase.shape and coverage.size and coverage.max() > 0:
            seen &= coverage > SEEN * coverage.max()
        if not seen.any():
            self._phase.set_data(np.full((2, 2), np.nan))
            self._coverage.set_data(np.full((2, 2), np.nan))
            return
        shown = np.where(seen, phase - np.median(phase[seen]), np.nan)
        low, high = np.percentile(shown[seen], [0.5, 99.5])
        self._place(self._phase, shown, origin, pixel)
        self._phase.set_clim(low, max(high, low + 1e-6))
        if coverage.shape == phase.shape:
            self._place(self._coverage, np.where(seen, coverage, np.nan), origin, pixel)
            self._coverage.set_clim(0, float(coverage.max()))

    @staticmethod
    def _place(image: Any, values: np.ndarray, origin: tuple[float, float], pixel: float) -> None:
        height, width = values.shape
        y_um, x_um = origin[0] - pixel / 2, origin[1] - pixel / 2
        image.set_data(values)
        image.set_extent((x_um, x_um + width * pixel, y_um + height * pixel, y_um))


def account_lines(stats: dict[str, Any]) -> tuple[list[tuple[str, str]], str]:
    """Return what the window says about a run: rows of name and value, and a warning or an empty string."""
    if not stats:
        return [], ""
    lost = {place: stats[f"frames_lost_{place}"] for place in ("detector", "plugin", "wire")}
    known = sum(count for count in lost.values() if count > 0)
    where = ", ".join(f"{count} {place}" for place, count in lost.items() if count > 0)
    model = stats["model_version"] or "no model"
    rows = [
        ("rate", f"{stats['fps']:.0f} frames/s" if stats["fps"] else "-"),
        ("latency", f"{stats['latency_ms_p50']:.0f} ms (p99 {stats['latency_ms_p99']:.0f} ms)"),
        ("lost", f"{known}" + (f" ({where})" if where else "")),
        ("unpaired", f"{stats['frames_unpaired']}"),
        ("no beam", f"{stats['frames_no_beam']}"),
        ("shed, rejected", f"{stats['frames_shed']}, {stats['frames_rejected']}"),
        ("account", str(stats["account"]).split(";")[0]),
        ("engine", f"{stats['engine']}, {model}"),
        ("positions", stats["positions_source"] or "-"),
        ("masked", f"{stats['masked_fraction']:.1%} of the pixels" if stats["masked_fraction"] else "-"),
    ]
    doubts = [text for text in (stats["pairing"], stats["message"]) if text and text != "ok"]
    if str(stats["account"]).startswith("wrong"):
        doubts.append(f"account {stats['account']}")
    return rows, "\n".join(doubts)


def save_picture(prefix: str, path: Path, timeout_s: float = 5.0) -> None:
    """Save one picture of what the edge shows now.

    Raises
    ------
    TimeoutError
        If the edge does not answer.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    feed = EdgeFeed(prefix)
    try:
        if not feed.wait(timeout_s):
            raise TimeoutError(f"the edge {prefix!r} does not answer within {timeout_s:g} s; is it running?")
        figure = Figure(figsize=(12, 6.4))
        FigureCanvasAgg(figure)
        Picture(figure).update(*feed.now(), answers=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
    finally:
        feed.close()


def show(prefix: str) -> None:
    """Open the window and return when it is closed.

    Raises
    ------
    NoDisplayError
        If there is no screen.
    """
    from matplotlib import pyplot
    from matplotlib.backends import BackendFilter, backend_registry  # type: ignore[attr-defined]

    interactive = backend_registry.list_builtin(BackendFilter.INTERACTIVE)
    try:
        figure = pyplot.figure("bluesky_ptychonn live", figsize=(12, 6.4))
    except Exception as error:  # each toolkit has its own
        raise NoDisplayError(f"no window can be opened ({error}); use --save FILE.png for a picture") from error
    if pyplot.get_backend().lower() not in {name.lower() for name in interactive}:
        raise NoDisplayError(
            "there is no display here (no DISPLAY or WAYLAND_DISPLAY, or no window toolkit for matplotlib); "
            "use --save FILE.png for a picture, or run the view on your desk: it needs only PVA access to the edge"
        )
    feed = EdgeFeed(prefix)
    picture = Picture(figure)

    shown: list[Any] = []

    def draw() -> None:
        now, answers = feed.now(), feed.answers
        stats, _, _, attributes = now
        if shown != (news := [stats, attributes, answers]):  # at rest it costs nothing
            shown[:] = news
            picture.update(*now, answers=answers)
            figure.canvas.draw_idle()

    timer = figure.canvas.new_timer(interval=PERIOD_MS)
    timer.add_callback(draw)
    timer.start()
    try:
        pyplot.show(block=True)
    finally:
        timer.stop()
        feed.close()

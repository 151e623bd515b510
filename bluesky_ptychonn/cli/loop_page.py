"""A page of plots per experiment: SSIM, mismatch and residual against scans, with what the loop did."""

import html
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bluesky_ptychonn.io.durable import replace_file
from bluesky_ptychonn.io.journal_rows import ScanRow
from bluesky_ptychonn.training.loop.policy import Terms, clock, experiment_of

PLOTS, PAGE = "plots.png", "index.html"
MARKS = {  # colour and marker of a scan's state
    "validated": ("#0072b2", "o"),
    "published": ("#009e73", "^"),
    "suspended": ("#999999", "s"),
    "parked": ("#c1121f", "X"),
    "training": ("#e69f00", "D"),
}
UNTRUSTED = ("#d55e00", "x")
UNDER_WAY = ("#e69f00", "D")
STYLE = (
    "body{font:15px/1.45 sans-serif;margin:2em;max-width:75em}img{max-width:100%}table{border-collapse:collapse}"
    "td,th{padding:.2em .7em;text-align:left;border-bottom:1px solid #ddd;vertical-align:top}"
    "@media(prefers-color-scheme:dark){body{background:#161616;color:#ddd}img{filter:invert(.9) hue-rotate(180deg)}}"
)


def save_pages(directory: Path, rows: Sequence[ScanRow], terms: Terms) -> list[Path]:
    """Draw the page of every experiment.

    Parameters
    ----------
    directory : Path
        Gets a folder for each experiment, with ``index.html`` and ``plots.png``.
    rows : sequence of ScanRow
        In the order in which they started.
    terms : Terms
        For the lines that decide.

    Returns
    -------
    list of Path
        The pages.

    Raises
    ------
    OSError
        If they cannot be written; those that were there are unchanged then.
    """
    experiments: dict[str, list[ScanRow]] = {}
    for row in rows:
        experiments.setdefault(experiment_of(row.start), []).append(row)
    pages = []
    for name, scans in experiments.items():
        folder = directory / (re.sub(r"[^\w.-]+", "_", name).strip(".") or "experiment")
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / PLOTS, _png(draw(scans, terms)))
        replace_file(folder / PAGE, _html(name, scans).encode())
        pages.append(folder / PAGE)
    return pages


def draw(rows: Sequence[ScanRow], terms: Terms) -> Any:
    """SSIM, mismatch and residual of the live model against scans, as in Figure 5 of the paper.

    Returns
    -------
    matplotlib Figure
    """
    from matplotlib.figure import Figure

    places = list(range(1, len(rows) + 1))
    figure = Figure(figsize=(max(7.0, min(0.45 * len(rows), 18.0)), 8.0), layout="constrained")
    panels: Any = figure.subplots(3, 1, sharex=True)
    names = {
        "ssim": "SSIM of the live image\nwith the reconstruction",
        "mismatch": "mismatch, 1 - SSIM",
        "residual": "residual of the\nlive model, label-free",
    }
    for axes, (column, label) in zip(panels, names.items(), strict=True):
        values = [getattr(row, column) for row in rows]
        axes.plot(places, [float("nan") if value is None else value for value in values], color="0.8", lw=1, zorder=1)
        for place, value, row in zip(places, values, rows, strict=True):
            if value is not None:
                colour, marker = mark_of(row)
                axes.plot([place], [value], marker=marker, color=colour, ls="", ms=8, zorder=2)
        axes.set_ylabel(label)
        axes.grid(alpha=0.25)
    panels[0].set_ylim(top=1.02)
    panels[0].axhline(1 - terms.mismatch, color="0.4", ls="--", lw=1)
    panels[1].axhline(terms.mismatch, color="0.4", ls="--", lw=1, label=f"{terms.mismatch:g}: retrain")
    panels[1].set_ylim(bottom=0)
    panels[2].set_ylim(bottom=0)
    for axes in panels:
        _shade(axes, places, rows)
    _name_versions(panels[0], places, rows)
    _legend(figure, panels[1], rows)
    panels[2].set_xlabel("scan")
    panels[2].set_xticks(places, [str(row.scan_id or row.uid[:4]) for row in rows], rotation=90 * (len(rows) > 30))
    panels[2].set_xlim(0.4, len(rows) + 0.6)
    return figure


def mark_of(row: ScanRow) -> tuple[str, str]:
    """Colour and marker of a scan."""
    return UNTRUSTED if row.trusted is False else MARKS.get(row.state, UNDER_WAY)


def _shade(axes: Any, places: Sequence[int], rows: Sequence[ScanRow]) -> None:
    """Grey where the loop was suspended."""
    for place, row in zip(places, rows, strict=True):
        if row.state == "suspended":
            axes.axvspan(place - 0.5, place + 0.5, color="0.93", lw=0, zorder=0)


def _name_versions(axes: Any, places: Sequence[int], rows: Sequence[ScanRow]) -> None:
    """A line after each scan that brought a version, with its number."""
    for place, row in zip(places, rows, strict=True):
        if row.published_version:
            axes.axvline(place + 0.5, color=MARKS["published"][0], lw=1, ls=":")
            axes.annotate(
                f"v{int(row.published_version) if row.published_version.isdigit() else row.published_version}",
                (place + 0.5, 0.02),
                xycoords=("data", "axes fraction"),
                color=MARKS["published"][0],
                fontsize="small",
                ha="left",
                xytext=(2, 0),
                textcoords="offset points",
            )


def _legend(figure: Any, axes: Any, rows: Sequence[ScanRow]) -> None:
    shown: Mapping[str, tuple[str, str]] = {
        ("not trusted" if row.trusted is False else row.state if row.state in MARKS else "under way"): mark_of(row)
        for row in rows
    }
    for name, (colour, marker) in sorted(shown.items()):
        axes.plot([], [], marker=marker, color=colour, ls="", label=name)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=6, frameon=False)


def _png(figure: Any) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110)
    return png.getvalue()


def _html(name: str, rows: Sequence[ScanRow]) -> str:
    """Plots, and what was decided last about each scan."""
    title = html.escape(f"The loop: {name or 'scans'}")
    head = "".join(f"<th>{word}</th>" for word in ("scan", "run", "started", "state", "SSIM", "mismatch", "why"))
    lines = []
    for row in rows:
        figures = ["" if value is None else f"{value:.3f}" for value in (row.ssim, row.mismatch)]
        cells = [str(row.scan_id or ""), row.uid[:8], clock(row.started_s), row.state, *figures, row.sentence]
        lines.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="30">'
        f"<title>{title}</title><style>{STYLE}</style><h1>{title}</h1>"
        f'<p><img src="{PLOTS}" alt="SSIM, mismatch and residual against scans"></p>'
        f"<table><tr>{head}</tr>{''.join(lines)}</table></html>\n"
    )

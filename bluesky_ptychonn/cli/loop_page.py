"""A page of plots per experiment: SSIM, mismatch and residual against scans, with what the loop did."""

import html
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bluesky_ptychonn.cli.loop_plots import draw
from bluesky_ptychonn.io.durable import replace_file
from bluesky_ptychonn.io.journal import Journal
from bluesky_ptychonn.io.journal_rows import ScanRow
from bluesky_ptychonn.training.loop.policy import Terms, clock, experiment_of

PLOTS, PAGE = "plots.png", "index.html"
STYLE = (
    "body{font:15px/1.45 sans-serif;margin:2em;max-width:75em}img{max-width:100%}table{border-collapse:collapse}"
    "td,th{padding:.2em .7em;text-align:left;border-bottom:1px solid #ddd;vertical-align:top}"
    "@media(prefers-color-scheme:dark){body{background:#161616;color:#ddd}img{filter:invert(.9) hue-rotate(180deg)}}"
)


def save_pages(directory: Path, journal: Journal, terms: Terms) -> list[Path]:
    """Draw the page of every experiment.

    Parameters
    ----------
    directory : Path
        Gets a folder for each experiment, with ``index.html`` and ``plots.png``.
    journal : Journal
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
    for row in journal.scans():
        experiments.setdefault(experiment_of(row.start), []).append(row)
    pages = []
    for name, scans in experiments.items():
        folder = directory / (re.sub(r"[^\w.-]+", "_", name).strip(".") or "experiment")
        folder.mkdir(parents=True, exist_ok=True)
        histories = {row.uid: journal.history(row.uid) for row in scans}
        replace_file(folder / PLOTS, _png(draw(scans, terms, histories)))
        replace_file(folder / PAGE, _html(name, scans).encode())
        pages.append(folder / PAGE)
    return pages


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

"""SSIM, mismatch and residual of an experiment against its scans, and what the loop did: the paper's Figure 5."""

from collections.abc import Mapping, Sequence
from typing import Any

from bluesky_ptychonn.cli.loop_events import VERSIONS, Event, events_of
from bluesky_ptychonn.io.journal_rows import HistoryLine, ScanRow
from bluesky_ptychonn.training.loop.policy import Terms

MARKS = {  # colour and marker of a scan's state
    "validated": ("#0072b2", "o"),
    "published": ("#009e73", "^"),
    "suspended": ("#999999", "s"),
    "parked": ("#c1121f", "X"),
    "training": ("#e69f00", "D"),
}
UNTRUSTED = ("#d55e00", "x")
UNDER_WAY = ("#e69f00", "D")
NEW = MARKS["published"][0]
ALARM = "#c1121f"
COLUMNS = {
    "ssim": "SSIM of the live image\nwith the reconstruction",
    "mismatch": "mismatch, 1 - SSIM",
    "residual": "residual of the\nlive model, label-free",
}
LEGEND = {
    "validated": "reconstructed, no new version",
    "published": "reconstructed, brought a new version",
    "suspended": "left alone, suspended",
}
WORDS_AT_MOST = 40
"""Scans up to which there is room for words above the plots."""
DECADE = 8.0
"""Ratio of the largest to the least residual from which on its axis is logarithmic."""


def draw(rows: Sequence[ScanRow], terms: Terms, histories: Mapping[str, Sequence[HistoryLine]] | None = None) -> Any:
    """Draw an experiment.

    Parameters
    ----------
    rows : sequence of ScanRow
        In the order in which they started.
    terms : Terms
        For the lines that decide.
    histories : mapping, optional
        History of each scan by its uid: what the loop did is read there.

    Returns
    -------
    matplotlib Figure
    """
    from matplotlib.figure import Figure

    places = list(range(1, len(rows) + 1))
    events = [events_of((histories or {}).get(row.uid, ())) for row in rows]
    wide = len(rows) <= WORDS_AT_MOST // 2
    figure = Figure(figsize=(max(7.0, min((1.08 if wide else 0.45) * len(rows), 18.0)), 8.6), layout="constrained")
    panels: Any = figure.subplots(3, 1, sharex=True)
    for axes, (column, label) in zip(panels, COLUMNS.items(), strict=True):
        values = [getattr(row, column) for row in rows]
        axes.plot(places, [float("nan") if value is None else value for value in values], color="0.8", lw=1, zorder=1)
        for place, value, row in zip(places, values, rows, strict=True):
            if value is not None:
                colour, marker = mark_of(row)
                axes.plot([place], [value], marker=marker, color=colour, ls="", ms=8, zorder=3)
        axes.set_ylabel(label)
        axes.grid(alpha=0.25)
        _shade(axes, places, rows, events)
        _name_versions(axes, places, rows, events, named=axes is panels[0])
    panels[0].set_ylim(top=1.02)
    panels[0].axhline(1 - terms.mismatch, color="0.4", ls="--", lw=1)
    panels[1].axhline(terms.mismatch, color="0.4", ls="--", lw=1, label=f"mismatch of {terms.mismatch:g}: retrain")
    _gains(panels[1], places, rows, events)
    panels[1].set_ylim(bottom=0)
    _alarms(panels[2], places, rows, events, terms)
    residuals = [row.residual for row in rows if row.residual]
    if residuals and max(residuals) > DECADE * min(residuals):
        panels[2].set_yscale("log")
    else:
        panels[2].set_ylim(bottom=0)
    if len(rows) <= WORDS_AT_MOST:
        _words(panels[0], places, rows, events, rotation=0 if wide else 90)
    _legend(figure, panels, rows)
    names = [_name_of(row, wide) for row in rows]
    panels[2].set_xlabel("scan")
    panels[2].set_xticks(places, names, rotation=90 * (len(rows) > 30), fontsize="small" if wide else None)
    panels[2].set_xlim(0.4, len(rows) + 0.6)
    return figure


def mark_of(row: ScanRow) -> tuple[str, str]:
    """Colour and marker of a scan."""
    return UNTRUSTED if row.trusted is False else MARKS.get(row.state, UNDER_WAY)


def _name_of(row: ScanRow, wide: bool) -> str:
    """Number of a scan, and what was scanned where the start document says it and there is room."""
    number, sample = str(row.scan_id or row.uid[:4]), row.start.get("sample")
    return "\n".join([number, *str(sample).split(", ")]) if wide and isinstance(sample, str) else number


def _shade(axes: Any, places: Sequence[int], rows: Sequence[ScanRow], events: Sequence[Sequence[Event]]) -> None:
    """Grey where the loop was suspended when the scan came."""
    for place, row, found in zip(places, rows, events, strict=True):
        if row.state == "suspended" or any(event.kind in ("compared", "alarm") for event in found):
            axes.axvspan(place - 0.5, place + 0.5, color="0.93", lw=0, zorder=0)


def _name_versions(axes: Any, places: Sequence[int], rows: Sequence[ScanRow], events: Any, *, named: bool) -> None:
    """A line after each scan that brought a version, with the number of what is live from there on."""
    for place, row, found in zip(places, rows, events, strict=True):
        newest = [event.version for event in found if event.version][-1:] or [row.published_version]
        if not newest[0]:
            continue
        axes.axvline(place + 0.5, color=NEW, lw=1, ls=":", zorder=1)
        if named:
            axes.annotate(
                short(newest[0]),
                (place + 0.5, 0.02),
                xycoords=("data", "axes fraction"),
                color=NEW,
                fontsize="small",
                ha="left",
                xytext=(2, 0),
                textcoords="offset points",
            )


def short(version: str) -> str:
    """Name of a version for a plot.

    Examples
    --------
    >>> short("000012")
    'v12'
    """
    return f"v{int(version) if version.isdigit() else version}"


def _gains(axes: Any, places: Sequence[int], rows: Sequence[ScanRow], events: Sequence[Sequence[Event]]) -> None:
    """From the mismatch of a scan down to what it is with its refined probe; trainings are judged by other scans."""
    label: str | None = "with the refined probe"
    for place, row, found in zip(places, rows, events, strict=True):
        for event in found:
            if event.kind != "probe" or event.value is None or row.mismatch is None:
                continue
            arrow = {"arrowstyle": "->", "color": NEW}
            axes.annotate("", (place, event.value), (place, row.mismatch), arrowprops=arrow)
            axes.plot(place, event.value, marker="o", mfc="white", color=NEW, ls="", ms=6, zorder=4, label=label)
            where = {"xytext": (7, -3), "textcoords": "offset points"}
            axes.annotate(short(event.version), (place, event.value), color=NEW, fontsize=8, **where)
            label = None


def _alarms(axes: Any, places: Sequence[int], rows: Sequence[ScanRow], events: Any, terms: Terms) -> None:
    """The residual above which a scan ends the suspension, and a ring around those that did."""
    line = f"more than {terms.residual_drift:.0%} above the last check: alarm"
    ring = "alarm: the suspension ends"
    for place, row, found in zip(places, rows, events, strict=True):
        kinds = {event.kind: event for event in found}
        if "compared" in kinds and kinds["compared"].value is not None:
            limit = kinds["compared"].value * (1 + terms.residual_drift)
            axes.plot([place - 0.45, place + 0.45], [limit, limit], color=ALARM, lw=1.2, zorder=2, label=line)
            line = None
        if "alarm" in kinds and row.residual is not None:
            axes.plot(place, row.residual, marker="o", mfc="none", color=ALARM, ls="", ms=15, zorder=4, label=ring)
            ring = None


def _words(axes: Any, places: Sequence[int], rows: Sequence[ScanRow], events: Any, *, rotation: int) -> None:
    """What the loop did about each scan, above the plots."""
    for place, row, found in zip(places, rows, events, strict=True):
        words = words_of(row, found)
        if not words:
            continue
        axes.annotate(
            ("\n" if rotation == 0 else ", ").join(words),
            (place, 1.03),
            xycoords=("data", "axes fraction"),
            ha="center",
            va="bottom",
            rotation=rotation,
            fontsize=8,
            color=ALARM if "ALARM" in words else "0.2",
        )


def words_of(row: ScanRow, events: Sequence[Event]) -> list[str]:
    """What the loop did about a scan, in a few words, in the order of time."""
    told = {
        "alarm": "ALARM",
        "not trusted": "not trusted:\nno labels",
        "refused": "training\nrefused",
        "no training": "training\ngiven up",
        "suspends": "good:\nsuspended",
    }
    words = []
    for event in events:
        if event.kind in VERSIONS:
            words.append(f"{event.kind}\n→ {short(event.version)}")
        elif event.kind in told:
            words.append(told[event.kind])
    if row.state in ("suspended", "parked"):
        words.append("left alone" if row.state == "suspended" else "parked")
    elif row.state not in MARKS:
        words.append(row.state)
    return words


def _legend(figure: Any, panels: Any, rows: Sequence[ScanRow]) -> None:
    marks: Mapping[str, tuple[str, str]] = {
        ("not trusted" if row.trusted is False else row.state if row.state in MARKS else "under way"): mark_of(row)
        for row in rows
    }
    for name, (colour, marker) in sorted(marks.items()):
        panels[1].plot([], [], marker=marker, color=colour, ls="", label=LEGEND.get(name, name))
    panels[2].fill_between([], [], color="0.93", label="the loop was suspended")
    shown = [pair for axes in panels for pair in zip(*axes.get_legend_handles_labels(), strict=True)]
    figure.legend(*zip(*shown, strict=True), loc="outside lower center", ncols=3, frameon=False, fontsize="small")

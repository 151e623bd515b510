"""Tables of `bench learning` on the screen: methods down, cases across, with what is required and the goal."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bluesky_ptychonn.cli.learning_cases import BARS, Part

Row = Mapping[str, Any]

TITLES: dict[Part, str] = {
    "points": "letters against points, 1e6 photons/frame: SSIM, and that without the mean difference",
    "overlap": "etched against overlap, 1e6 photons/frame: SSIM against truth, against reconstruction",
    "dose": "etched against photons/frame: SSIM, and that without the mean difference",
    "probe": "wrong assumed probe, 1e6 photons/frame: SSIM, SSIM lost",
}
SECOND = {
    "points": "ssim_mean_removed",
    "overlap": "ssim_to_reference",
    "dose": "ssim_mean_removed",
    "probe": "ssim_loss",
}


def key_of(row: Row) -> str:
    """What a line of the table stands for: the model, or the method where there is none."""
    return row["model"] or row["method"]


def table(part: Part, rows: Sequence[Row]) -> str:
    """Lines of one part."""
    places = list(dict.fromkeys(row["at"] for row in rows))
    heads = {place: _head(part, next(row for row in rows if row["at"] == place)) for place in places}
    lines = {}
    for test in dict.fromkeys(row["test"] for row in rows):
        for row in (row for row in rows if row["test"] == test):
            name = f"{test}: {key_of(row)}" if part == "probe" else _named(row)
            lines.setdefault(name, {})[row["at"]] = f"{row['ssim']:.3f} {row[SECOND[part]]:6.3f}"
    for which, name in enumerate(("required", "goal")):
        lines[name] = {place: f"{BARS[part, place][which]:.2f}" for place in places if (part, place) in BARS}
    return "\n".join([TITLES[part], *_aligned(heads, lines)])


def star_table(rows: Sequence[Row], bars: Mapping[str, tuple[float, float]]) -> str:
    """Lines of the real star."""
    heads = {"refined": "refined probe", "file": "analytic probe"}
    lines: dict[str, dict[Any, str]] = {}
    for row in rows:
        lines.setdefault(row["model"], {})[row["at"]] = f"{row['correlation']:.3f}"
    for which, name in enumerate(("required", "goal")):
        lines[name] = {start: f"{pair[which]:.2f}" for start, pair in bars.items()}
    title = f"real Siemens star, correlation of phases with the reconstruction ({rows[0]['reference']})"
    return "\n".join([title, *_aligned(heads, lines)])


def crossings(rows: Sequence[Row]) -> list[str]:
    """For each live image, at which overlaps it is liker to the truth than each reconstruction of the same frames."""
    ssim = {(key_of(row), row["at"]): row["ssim"] for row in rows}
    overlaps = list(dict.fromkeys(row["at"] for row in rows))
    sentences = []
    for name in dict.fromkeys(row["model"] for row in rows if row["model"]):
        for rival in dict.fromkeys(row["method"] for row in rows if not row["model"]):
            better = [overlap for overlap in overlaps if ssim[name, overlap] > ssim[rival, overlap]]
            where = f"at overlap {', '.join(f'{overlap:g}' for overlap in better)}" if better else "nowhere"
            if len(better) == len(overlaps):
                where = "at every overlap"
            sentences.append(f"{name} is liker to the truth than {rival} {where}")
    return sentences


def _named(row: Row) -> str:
    return key_of(row) if row["model"] else f"{row['method']} (same frames)"


def _head(part: Part, row: Row) -> str:
    if part == "points":
        return f"{row['points']} ({row['overlap_ratio']:.2f})"
    if part == "overlap":
        return f"{row['at']:g} ({row['points']} pts)"
    return f"{row['at']:.0e} (max {row['counts_max']})" if part == "dose" else str(row["at"])


def _aligned(heads: Mapping[Any, str], lines: Mapping[str, Mapping[Any, str]]) -> list[str]:
    first = max(len(name) for name in lines)
    width = 2 + max(
        *(len(head) for head in heads.values()), *(len(cell) for row in lines.values() for cell in row.values())
    )
    show: Callable[[str, Mapping[Any, str]], str]
    show = lambda name, cells: name.ljust(first) + "".join(cells.get(at, "").rjust(width) for at in heads)  # noqa: E731
    return [show("", heads), *(show(name, cells) for name, cells in lines.items())]

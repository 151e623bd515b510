"""Pictures of what trainings cost and give."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def draw_curves(path: Path, results: Sequence[Mapping[str, Any]]) -> None:
    """Error on held-out scans against minutes of computing, one line per network and recipe."""
    axes, save = _axes("minutes of computing")
    for result in results:
        history = result["history"]
        label = f"{result['model']}, recipe {result['method']}"
        axes.plot(
            [entry["minutes"] for entry in history], [entry["mae_rad"] for entry in history], "o-", ms=3, label=label
        )
    axes.axhline(results[0]["mae_of_nothing_rad"], color="0.6", ls=":", label="predicting nothing")
    save(path)


def draw_pairs(path: Path, results: Sequence[Mapping[str, Any]]) -> None:
    """Error on features of the corpus and on letters, against the number of training pairs."""
    axes, save = _axes("training pairs")
    pairs = [result["training_pairs"] for result in results]
    axes.plot(pairs, [result["mae_rad"] for result in results], "o-", label="features of the corpus, scans held out")
    axes.plot(pairs, [result["mae_letters_rad"] for result in results], "s-", label="letters, never seen")
    axes.axhline(results[0]["mae_of_nothing_rad"], color="0.6", ls=":", label="predicting nothing (held-out scans)")
    axes.set_xscale("log")
    save(path)


def _axes(along: str):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=along, ylabel="probe-weighted error of a patch (rad)", yscale="log")

    def save(path: Path) -> None:
        axes.legend(frameon=False, fontsize="small")
        axes.grid(alpha=0.3, which="both")
        figure.savefig(path, dpi=120)

    return axes, save

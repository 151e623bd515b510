"""How good the models are: on frozen test sets no network has seen, and on a real Siemens star; at most ten minutes.

Likeness (SSIM) to the truth of fine letters against the number of points, of etched shapes against overlap and dose,
and what is lost when the assumed probe is wrong; beside it the lift alone, and phase retrieval from the same frames,
which starts from the exact probe. An engine is told of the analytic probe alone; counts and mottle come from the
frames, as live. Tables, figures (--json) and pictures (--output).
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bluesky_ptychonn.core.protocols import Engine
from bluesky_ptychonn.engines.registry import NAMES

MODELS = Path(__file__).parents[1] / "models"
KEYS = (
    *("test", "part", "at", "model", "engine", "method", "points", "overlap_ratio", "step_um", "photons_per_frame"),
    *("counts_max", "probe_start", "ssim", "mae_rad", "correlation", "ssim_to_reference", "ssim_loss", "removed"),
    *(
        "ssim_mean_removed",
        "data_range",
        "region",
        "uncovered_fraction",
        "reference",
        "sweeps",
        "seconds_total",
        "required",
        "goal",
    ),
    "skipped",
)
"""What each result has.

``ssim`` of a network is that of its image as it is: its zero means the empty beam. The lift and phase retrieval leave a
constant open; there the median difference is removed. ``ssim_mean_removed`` is that without the mean difference, for
all: where the truth is flat it falls by half at an offset of 0.006 rad, so that too much contrast in the features
spoils the ground, too (`docs/decisions/0007-which-constant.md`).
``required`` and ``goal`` are those of ``ssim``, for wrong probes of ``ssim_loss``, for the star of ``correlation``.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the case."""
    parser.add_argument(
        "--model", type=Path, nargs="+", default=[], metavar="DIR", help="further models, beside those of the package"
    )
    parser.add_argument(
        "--engine", choices=NAMES, default="openvino", help="lift: without any model; default: openvino"
    )
    parser.add_argument("--output", type=Path, default=Path("bench_learning"), metavar="DIR", help="for the pictures")
    parser.add_argument("--quick", action="store_true", help="few points and sweeps: seconds, and figures of no worth")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")


def run(options: argparse.Namespace) -> int:
    """Measure part by part, and show each as a table."""
    import torch
    from tqdm import tqdm

    from bluesky_ptychonn.cli.figures import conditions, refuse_unwritable, write_figures
    from bluesky_ptychonn.cli.learning_cases import QUICK, Effort, cases_of, groups
    from bluesky_ptychonn.cli.learning_images import Laboratory
    from bluesky_ptychonn.cli.learning_star import find_star

    if options.json:
        refuse_unwritable("--json", options.json)
    options.output.mkdir(parents=True, exist_ok=True)
    effort, engines, star = QUICK if options.quick else Effort(), open_engines(options), find_star()
    laboratory, cases = Laboratory(engines, effort), cases_of(list(engines), effort)
    measured_under = conditions(
        threads=torch.get_num_threads(),
        quick=options.quick,
        test_sets={name: test_set.sha256 for name, test_set in laboratory.test_sets.items()},
        seconds_by_part={},
        cpu_seconds_by_part={},
    )
    results: list[dict[str, Any]] = []
    steps = len(cases) + (1 + 2 * len(engines) if isinstance(star, Path) else 0)
    try:
        with tqdm(total=steps, desc="bench learning", unit="image") as bar:

            def step(what: str) -> None:
                bar.set_postfix_str(what, refresh=False)
                bar.update()

            for part, own in groups(cases):
                timer = Timer()
                rows = []
                for case in own:
                    rows.append(complete(laboratory.figures(case)))
                    step(f"{part}: {case.method}, {case.at}")
                results += rows
                timer.note(measured_under, part)
                _show(bar, own, rows, laboratory, options.output)
            timer = Timer()
            results += _star(bar, star, engines, effort.star_sweeps, step, options.output)
            timer.note(measured_under, "star")
    finally:
        if options.json and results:
            write_figures(options.json, "bench learning", measured_under, results)
    print("SSIM: images of networks as they are; others without the median difference, a constant being open")
    print("\n".join(f"{name}: {value}" for name, value in measured_under.items()))
    print(f"pictures: {', '.join(str(path) for path in sorted(options.output.glob('*.png')))}")
    return 0


class Timer:
    """Time on the clock and on the processor from here on."""

    def __init__(self) -> None:
        self._begin_s = time.monotonic(), time.process_time()

    def note(self, measured_under: dict[str, Any], part: str) -> None:
        """Write down what a part took."""
        for name, now_s, begin_s in zip(
            ("seconds_by_part", "cpu_seconds_by_part"),
            (time.monotonic(), time.process_time()),
            self._begin_s,
            strict=True,
        ):
            measured_under[name][part] = round(now_s - begin_s, 1)


def open_engines(options: argparse.Namespace) -> dict[str, Engine]:
    """What makes live images: the models of the package, those asked for, and the lift; by the version of the model."""
    from bluesky_ptychonn.engines.registry import open_engine

    if options.model and options.engine == "lift":
        raise ValueError("--engine lift runs without any model; leave out --model, or --engine")
    engines: dict[str, Engine] = {}
    shipped = sorted(path.parent for path in MODELS.glob("*/card.json"))
    for path in [*shipped, *options.model] if options.engine != "lift" else []:
        engine = open_engine(options.engine, path)
        name = engine.card.version if engine.card else str(path)
        if engine.frame_px != 128:
            raise ValueError(f"model {name} in {path} takes frames of {engine.frame_px} px; the test sets have 128 px")
        engines[name if name not in engines else f"{name} ({path})"] = engine
    return {**engines, "lift": open_engine("lift")}


def complete(figures: Mapping[str, Any]) -> dict[str, Any]:
    """All keys, with what is required where there is a bar for a model."""
    from bluesky_ptychonn.cli.learning_cases import BARS
    from bluesky_ptychonn.cli.learning_star import STAR_BARS

    bars = {**BARS, **{("star", start): pair for start, pair in STAR_BARS.items()}}
    model = figures.get("method") == "network"
    required, goal = bars.get((figures["part"], figures.get("at")), (None, None)) if model else (None, None)
    return {**dict.fromkeys(KEYS), **figures, "required": required, "goal": goal}


def _show(bar: Any, cases: Sequence[Any], rows: Sequence[Mapping[str, Any]], laboratory: Any, output: Path) -> None:
    """Table and pictures of one part."""
    from bluesky_ptychonn.cli.learning_figures import draw_images, draw_lines, draw_losses
    from bluesky_ptychonn.cli.learning_tables import crossings, table

    part, first = cases[0].part, rows[0]
    bar.write("\n" + table(part, rows))
    told = f"{first['test']}, {first['photons_per_frame']:.0e} photons/frame"
    if part == "overlap":
        bar.write("\n".join(crossings(rows)))
        uncovered = {row["at"]: row["uncovered_fraction"] for row in rows if row["uncovered_fraction"] > 0}
        bar.write(f"left out, because no light came there: {_shares(uncovered)}")
        bar.write(f"reference: {first['reference']}")
    if part == "dose":
        told = f"{first['test']}, overlap {first['overlap_ratio']:.2f}, {first['points']} points"
    if part == "probe":
        draw_losses(output / "wrong_probe.png", rows, f"{first['points']} points, 1e6 photons/frame")
        return
    names = {"points": "letters_points", "overlap": "etched_overlap", "dose": "etched_dose"}
    draw_lines(output / f"{names[part]}.png", part, rows, told)
    draw_images(
        output / f"{names[part]}_images.png", laboratory.gallery(cases), laboratory.test_sets["etched"].pixel_size_um
    )


def _shares(uncovered: Mapping[Any, float]) -> str:
    return ", ".join(f"{share:.1%} at {at:g}" for at, share in uncovered.items()) or "nothing"


def _star(
    bar: Any, star: Path | str, engines: Mapping[str, Engine], sweeps: int, step: Any, output: Path
) -> list[dict[str, Any]]:
    """Figures, table and picture of the real star; of one that is not there, the reason in ``skipped``."""
    from bluesky_ptychonn.cli.learning_figures import draw_images
    from bluesky_ptychonn.cli.learning_star import STAR_BARS, star_figures
    from bluesky_ptychonn.cli.learning_tables import star_table

    if isinstance(star, str):
        bar.write(f"\nreal Siemens star: skipped: {star}")
        return [complete({"test": "star", "part": "star", "skipped": star})]
    figures, pictures = star_figures(star, engines, sweeps, step)
    rows = [complete(row) for row in figures]
    bar.write("\n" + star_table(rows, STAR_BARS))
    titles = {f"{row['model']}, {row['at']} probe": f"{row['correlation']:.3f}" for row in rows}
    columns = [("reconstruction", pictures["reconstruction"])]
    lines = [
        columns
        + [
            (f"{name}\ncorrelation {titles[name]}", image)
            for name, image in pictures.items()
            if f"{start} probe" in name
        ]
        for start in STAR_BARS
    ]
    draw_images(output / "star.png", lines, None)
    return rows

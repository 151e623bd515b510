"""Networks and recipes against computing time, and error against the number of training pairs (the paper's Figure 5).

All learn from one simulated corpus of one beamline: the simulated probe, known exactly, and one dose, as the paper's
network needs it. They are judged by the same scans held out, and by the frozen test set of letters, whose features are
in no corpus. What is in --output already is not trained again, so that a long bench can be stopped and taken up.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

PHOTONS = 1e6
FRAMES = 40
SEED = 20262
HELD_OUT = 0.05
JUDGED = 12
"""Scans that no size of the corpus holds: by them all sizes are judged."""
VALIDATIONS = 24
"""Points of a curve, about."""
CONTESTANTS = ("ptychonn2/paper", "ptychonn2/robust", "ptychonn-lift/robust")
UNSEEN_FRAMES = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--minutes", type=float, default=30.0, help="of computing, for each network and recipe")
    parser.add_argument("--pairs", type=int, nargs="*", default=[1000, 5000, 20000, 80000], help="sizes of the corpus")
    parser.add_argument("--curve-pairs", type=int, default=20000, help="size of the corpus behind the curves")
    parser.add_argument("--pair-minutes", type=float, default=8.0, help="of computing, for each size")
    parser.add_argument(
        "--contestants", nargs="*", choices=CONTESTANTS, default=CONTESTANTS, help="networks and recipes (default: all)"
    )
    parser.add_argument("--output", type=Path, default=Path("bench_training"), help="corpus, trainings and pictures")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")


def run(options: argparse.Namespace) -> int:
    """Train all that was asked for, and compare."""
    from bluesky_ptychonn.cli.figures import conditions, refuse_unwritable, write_figures
    from bluesky_ptychonn.cli.training_figures import draw_curves, draw_pairs

    if options.json:
        refuse_unwritable("--json", options.json)
    options.output.mkdir(parents=True, exist_ok=True)
    most = max([*options.pairs, options.curve_pairs]) / FRAMES / (1 - HELD_OUT)
    every = _corpus(options.output / "corpus", JUDGED + round(most))
    judged, shards = every[:JUDGED], every[JUDGED:]
    curves, sizes = [], []
    for contestant in options.contestants:
        network, recipe = contestant.split("/")
        out = options.output / f"{network}-{recipe}"
        curves.append(
            _trained(out, _some(shards, options.curve_pairs), network, recipe, options.minutes, options.threads)
        )
    for pairs in options.pairs:
        out = options.output / f"pairs-{pairs}"
        few = _some(shards, pairs)
        sizes.append(_trained(out, few, "ptychonn-lift", "robust", options.pair_minutes, options.threads))
        _judge_alike(sizes[-1], out, judged)
    results = [*curves, *sizes]
    for result in results:
        shown = {key: value for key, value in result.items() if key != "history"}
        print(json.dumps(shown))
    if curves:
        draw_curves(options.output / "error_against_computing.png", curves)
    if sizes:
        draw_pairs(options.output / "error_against_pairs.png", sizes)
    print(f"pictures: {options.output}")
    if options.json:
        measured_under = conditions(
            minutes=options.minutes,
            pair_minutes=options.pair_minutes,
            photons_per_frame=PHOTONS,
            threads=options.threads,
        )
        write_figures(options.json, "bench training", measured_under, results)
    return 0


def _some(shards: Sequence[Any], pairs: int) -> Sequence[Any]:
    """Shards of so many pairs to learn from, beside those that a training holds out."""
    return shards[: max(2, round(pairs / FRAMES / (1 - HELD_OUT)))]


def _corpus(directory: Path, scans: int) -> Sequence[Any]:
    """Simulated scans of the one beamline, made or found."""
    import numpy as np
    from tqdm import tqdm

    from bluesky_ptychonn.core.optics import zone_plate_probe
    from bluesky_ptychonn.training.learning.corpus import Corpus
    from bluesky_ptychonn.training.learning.simulated import GEOMETRY, simulate_scan

    corpus, probe = Corpus(directory), zone_plate_probe(GEOMETRY)
    there = {shard.run: shard for shard in corpus.open()}
    shards = []
    for number in tqdm(range(scans), desc="simulate", unit="scan"):
        run = f"one-beamline-{SEED}-{number}"
        if run not in there:
            scan = simulate_scan(
                np.random.default_rng([SEED, number]),
                FRAMES,
                counts=PHOTONS,
                probes=lambda rng, geometry: (probe, probe),
            )
            there[run] = corpus.add(replace(scan, about={**scan.about, "run": run}))
        shards.append(there[run])
    return shards


def _trained(out: Path, shards, network: str, recipe: str, minutes: float, threads: int) -> dict[str, Any]:
    """Train, or find trained; figures with the curve of the error."""
    from bluesky_ptychonn.training.learning.checkpoint import trained_network
    from bluesky_ptychonn.training.learning.recipes import RECIPES
    from bluesky_ptychonn.training.learning.train import train

    pace = {"ptychonn2": 0.026, "ptychonn-lift": 0.0045}[network]  # s per pair, only to place the points of the curve
    plan = RECIPES[recipe]
    plan = replace(
        plan,
        held_out="scan",
        validation_share=HELD_OUT,
        validation_steps=max(1, round(60 * minutes / (pace * plan.batch) / VALIDATIONS)),
    )
    figures = train(out, shards, recipe=plan, network=network, minutes=minutes, seed=1, threads=threads)
    last = figures["results"][0]
    return {
        "test": "held-out scans",
        "model": network,
        "method": recipe,
        "training_pairs": figures["conditions"]["pairs"],
        "pairs_seen": last["pairs_seen"],
        "minutes_computing": last["minutes"],
        "mae_rad": last["mae_rad"],
        "mae_offset_free_rad": last["mae_offset_free_rad"],
        "mae_of_nothing_rad": last["mae_of_nothing_rad"],
        "mae_best_rad": min(entry["mae_rad"] for entry in figures["history"]),
        "mae_letters_rad": _error_on_letters(trained_network(out)[0]),
        "history": figures["history"],
    }


def _judge_alike(result: dict[str, Any], out: Path, shards) -> None:
    """Replace the error on a training's own few scans held out by that on the same ones for every size."""
    from bluesky_ptychonn.training.learning.batches import Batches
    from bluesky_ptychonn.training.learning.checkpoint import trained_network
    from bluesky_ptychonn.training.learning.held_out import UNCHANGED

    batches = Batches(shards, 32, 0, UNCHANGED)
    judged = [batches.batch(step) for step in range(min(16, batches.steps_per_epoch))]
    result.update(_errors(trained_network(out)[0], judged))


def _error_on_letters(network) -> float:
    """Error on frames of the frozen letters."""
    import numpy as np
    import torch

    from bluesky_ptychonn.core.optics import intensities, measured_probe, with_counts, zone_plate_probe
    from bluesky_ptychonn.simulation.test_sets import load_test_set, poisson
    from bluesky_ptychonn.training.learning.batches import Batch
    from bluesky_ptychonn.training.learning.simulated import GEOMETRY

    object_, half = load_test_set("letters").object_, GEOMETRY.frame_px // 2
    rng = np.random.default_rng(0)
    centres = rng.integers(half, len(object_) - half, (UNSEEN_FRAMES, 2))
    probe = zone_plate_probe(GEOMETRY)
    counts = poisson(intensities(object_, with_counts(probe, PHOTONS), centres), rng)
    given = measured_probe(probe, counts[:64])
    labels = np.stack([object_[y - half : y + half, x - half : x + half] for y, x in centres])
    batch = Batch(
        torch.from_numpy(counts.astype(np.float32)),
        torch.ones(counts.shape, dtype=torch.bool),
        torch.from_numpy(given).expand(len(counts), -1, -1),
        torch.from_numpy(np.stack([np.log(np.abs(labels)), np.angle(labels)], axis=1)),
        torch.from_numpy(np.abs(given) ** 2).expand(len(counts), -1, -1),
    )
    return _errors(network, [batch])["mae_rad"]


def _errors(network, batches) -> dict[str, float]:
    import torch

    from bluesky_ptychonn.training.learning.held_out import pair_errors

    return pair_errors(network, batches, torch.device("cpu"))

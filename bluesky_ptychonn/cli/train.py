"""Train a network on a corpus, and make a model of it.

    bluesky-ptychonn corpus simulate corpus --scans 200             something to learn from
    bluesky-ptychonn train OUT --corpus corpus --minutes 60         train; the same command goes on after a stop
    bluesky-ptychonn train OUT --simulate 2 --minutes 60            no corpus: two processes simulate meanwhile
    bluesky-ptychonn train OUT --simulate 14 --recipe large --minutes 9         the same on a GPU
    bluesky-ptychonn train OUT --corpus corpus --recipe paper --network ptychonn2
    bluesky-ptychonn train OUT --corpus corpus --start starter --recipe tune --minutes 5    learn a new sample
    bluesky-ptychonn train OUT --export MODEL                       a model (ONNX, card, golden pair) of the training

OUT gets the checkpoint (each epoch and every two minutes), figures.json, and pictures: curves.png and samples.png (held
out patches: label beside network). Ctrl-C, SIGTERM and SIGUSR1 (a scheduler that preempts) end it after the next step
with the checkpoint written. Started by torchrun, srun or mpiexec, the processes share each batch.

Recipe `robust` is ours: probe-weighted loss, mirrors and turns, doses thinned, probes given wrongly, averaged weights,
whole scans held out. `large` is the same in batches of 1,024, for a GPU; `tune` is gentler, for few
scans of one sample; `paper` is that of the paper. Needs the extra `training` (torch).
"""

import argparse
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

PREEMPTED = 75
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the training")
    parser.add_argument("--corpus", type=Path, metavar="DIR", help="what to learn from")
    parser.add_argument(
        "--simulate", type=int, metavar="N", help="learn from scans that N processes simulate meanwhile, not a corpus"
    )
    parser.add_argument(
        "--visits", type=float, default=4.0, help="how often a simulated pair is learned from; more where the GPU waits"
    )
    parser.add_argument("--photons", type=float, help="per simulated frame: a network for one dose (default: any)")
    parser.add_argument("--snapshot", type=Path, metavar="FILE", help="names of shards, one per line (default: all)")
    parser.add_argument(
        "--network", default="ptychonn-lift", help="ptychonn-lift, ptychonn-lift-large, ptychonn2 or ptychonn"
    )
    parser.add_argument("--recipe", default="robust", choices=("robust", "large", "tune", "paper"))
    parser.add_argument(
        "--start", type=Path, metavar="DIR", help="training or model whose network is learned further; starter, large"
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=int, help="passes over the corpus (default: the recipe's)")
    length.add_argument("--minutes", type=float, help="about how long instead; the number of steps is set by the pace")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="cores of each process")
    parser.add_argument("--export", type=Path, metavar="MODEL", help="make a model of the training, and train no more")
    parser.add_argument("--name", default="local", help="name of the model")
    parser.add_argument(
        "--patch-px", type=int, help="side of the model's patches (default: as trained); less is faster"
    )


def run(options: argparse.Namespace) -> int:
    """Train or export."""
    from bluesky_ptychonn.cli.main import Problem

    if options.export:
        from bluesky_ptychonn.training.learning.export import export

        card = export(
            options.out, options.export, name=options.name, version=f"{options.name}-1", patch_px=options.patch_px
        )
        print(f"{options.export}: {card.name}; try it with `bluesky-ptychonn models validate {options.export} ...`")
        return 0
    if bool(options.corpus) == bool(options.simulate):
        raise Problem("either --corpus DIR (`bluesky-ptychonn corpus --help` says how to make one) or --simulate N")
    if options.corpus and options.photons:
        raise Problem("--photons is for --simulate; the doses of a corpus are those of its scans")
    from bluesky_ptychonn.cli.interruption import signals_noted
    from bluesky_ptychonn.training.learning.corpus import Corpus
    from bluesky_ptychonn.training.learning.ranks import find_ranks
    from bluesky_ptychonn.training.learning.recipes import RECIPES
    from bluesky_ptychonn.training.learning.simulators import Simulation
    from bluesky_ptychonn.training.learning.train import train

    recipe = RECIPES[options.recipe]
    if options.simulate:
        if options.photons:
            recipe = replace(recipe, augmentation=replace(recipe.augmentation, thinning=0.0))
        shards = Simulation(options.simulate, options.visits, photons=options.photons)
    else:
        names = options.snapshot.read_text().split() if options.snapshot else None
        shards = Corpus(options.corpus).open(names)
        if not shards:
            raise Problem(f"{options.corpus} holds no shards; `bluesky-ptychonn corpus --help` says how to add some")
    with signals_noted(ENDING) as got:
        figures = train(
            options.out,
            shards,
            recipe=recipe,
            network=options.network,
            epochs=options.epochs,
            minutes=options.minutes,
            seed=options.seed,
            threads=options.threads,
            start=_start_of(options.start, options.out),
            ranks=find_ranks(os.environ),
            on_epoch=lambda figures: _draw_curves(options.out / "curves.png", figures),
            stop=lambda: bool(got),
        )
    if got:
        print(f"stopped; the same command goes on from {options.out}", file=sys.stderr)
        return PREEMPTED if got[0] == signal.SIGUSR1 else 128 + got[0]
    last = figures["results"][0]
    print(f"{options.out}: error {last['mae_rad']:.4f} rad on what was held out; --export MODEL makes a model of it")
    return 0


def _start_of(named: Path | None, out: Path) -> Path | None:
    """Folder of the training to start from; that of a model is made of its weights, in ``out``."""
    from bluesky_ptychonn.engines.registry import PACKAGED
    from bluesky_ptychonn.io.model_store import CARD, open_model
    from bluesky_ptychonn.training.learning.warm import start_from

    if named is None:
        return None
    model = PACKAGED.get(str(named), named)
    if not (model / CARD).is_file():
        return named
    start = out / "start"
    start_from(open_model(model), start)
    return start


def _draw_curves(path: Path, figures: dict[str, Any]) -> None:
    """Training loss and error on what was held out, against the pairs seen."""
    from matplotlib.figure import Figure

    history = figures["history"]
    seen = [entry["pairs_seen"] / 1e3 for entry in history]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(seen, [entry["training_loss"] for entry in history], "o-", ms=3)
    left.set(xlabel="pairs seen (thousands)", ylabel="training loss (running mean)", yscale="log")
    right.plot(seen, [entry["mae_rad"] for entry in history], "o-", ms=3, label="as it is")
    right.plot(seen, [entry["mae_offset_free_rad"] for entry in history], "s-", ms=3, label="constant removed")
    right.axhline(history[-1]["mae_of_nothing_rad"], color="0.6", ls=":", label="predicting nothing")
    right.set(xlabel="pairs seen (thousands)", ylabel="held out: error of a patch (rad)", yscale="log")
    right.legend(frameon=False, fontsize="small")
    figure.suptitle(f"{figures['conditions']['network']}, recipe {figures['conditions']['recipe']['name']}")
    figure.savefig(path, dpi=110)

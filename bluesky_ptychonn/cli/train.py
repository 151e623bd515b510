"""Train the starter model on simulated scans, and export it.

    bluesky-ptychonn train --out DIR --minutes 60            train; a later call with the same DIR goes on
    bluesky-ptychonn train --out DIR --export MODEL          make a model (ONNX, card, golden pair) of the checkpoint

Needs the extra `training` (torch). Progress, checkpoints, figures and sample patches are in DIR.
"""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint, figures and sample patches")
    parser.add_argument("--minutes", type=float, default=60.0, help="time to spend in all, resumed parts included")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="cores for the network")
    parser.add_argument("--export", type=Path, metavar="MODEL", help="export the checkpoint instead of training")
    parser.add_argument("--version-name", default="starter-local", help="version in the exported card")


def run(options: argparse.Namespace) -> int:
    """Train or export."""
    if options.export:
        from bluesky_ptychonn.training.learning.export import export

        card = export(options.out, options.export, name="starter", version=options.version_name)
        print(f"{options.export}: {card.name} {card.version}")
        return 0
    from bluesky_ptychonn.training.learning.train import train

    train(options.out, minutes=options.minutes, seed=options.seed, threads=options.threads)
    return 0

"""A few simulated scans to learn from, and networks small enough to learn in a test."""

from pathlib import Path

from bluesky_ptychonn.training.learning.corpus import Corpus, Shard
from bluesky_ptychonn.training.learning.recipes import RECIPES
from bluesky_ptychonn.training.learning.simulated import add_simulated

TINY = {"patch_px": 32, "first": [4, 8, 8], "refine": [4, 8, 8]}


def small_corpus(directory: Path, scans: int = 4, frames: int = 6, seed: int = 3) -> list[Shard]:
    """Simulate scans, unless they are there."""
    corpus = Corpus(directory)
    if len(corpus.names()) < scans:
        list(add_simulated(corpus, range(scans), frames, seed))
    return corpus.open()


def small_recipe(name: str = "robust", **changes):
    """A recipe whose batch fits a few frames."""
    from dataclasses import replace

    return replace(RECIPES[name], **{"batch": 4, "validation_share": 0.25, **changes})

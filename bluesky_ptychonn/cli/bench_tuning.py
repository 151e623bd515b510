"""Learn a new sample from few labelled frames: what it gives on an unseen area, and what is forgotten.

One area of a simulated sample with features of a new kind is scanned and reconstructed; 1,024 of its frames, labelled
by the reconstruction, teach the network for some minutes. Then another area of the same sample is judged against the
truth, before and after, and so is the frozen test set `etched`, which the network did well before.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

PHOTONS = 1e6
FRAMES = 1024
SIDE_PX = 820
AREA_PX = 270
"""Side of each of the two scanned areas, at opposite corners; no frame of one reaches a frame of the other."""
JUDGED_PX = 180
SWEEPS = 24
"""Of the reconstruction that gives the labels."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("training", type=Path, metavar="TRAINING", help="folder of the training to start from")
    parser.add_argument("--minutes", type=float, default=5.0, help="of learning")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="a sample and a training for each")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("bench_tuning"), help="corpora and trainings")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")


def run(options: argparse.Namespace) -> int:
    """Tune once for each seed."""
    from bluesky_ptychonn.cli.figures import conditions, refuse_unwritable, write_figures

    if options.json:
        refuse_unwritable("--json", options.json)
    results = []
    for seed in options.seeds:
        results.append(_tuned(options, seed))
        print(json.dumps(results[-1]))
    if options.json:
        measured_under = conditions(minutes=options.minutes, threads=options.threads, photons_per_frame=PHOTONS)
        write_figures(options.json, "bench tuning", measured_under, results)
    return 0


def _tuned(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    import torch

    from bluesky_ptychonn.core.optics import zone_plate_probe
    from bluesky_ptychonn.core.scan_data import ScanData
    from bluesky_ptychonn.simulation.sample import make_sample
    from bluesky_ptychonn.training.learning.checkpoint import trained_network
    from bluesky_ptychonn.training.learning.corpus import Corpus
    from bluesky_ptychonn.training.learning.labels import label_scan
    from bluesky_ptychonn.training.learning.recipes import RECIPES
    from bluesky_ptychonn.training.learning.simulated import GEOMETRY
    from bluesky_ptychonn.training.learning.train import train
    from bluesky_ptychonn.training.retrieval.reconstruct import reconstruct
    from bluesky_ptychonn.training.retrieval.report import judge

    pixel_um, probe = GEOMETRY.pixel_size_um, zone_plate_probe(GEOMETRY)
    sample = make_sample("letters", field_um=SIDE_PX * pixel_um, pixel_size_um=pixel_um, seed=1000 + seed)
    rng = np.random.default_rng(seed)
    taught, unseen = (_scan(sample, middle, probe, rng) for middle in (0.25, 0.75))
    torch.set_num_threads(options.threads)
    scan = ScanData(taught[0], taught[1], pixel_size_um=pixel_um, geometry=GEOMETRY, probe=probe)
    reconstruction = judge(scan, reconstruct(scan, sweeps=SWEEPS))
    corpus = Corpus(options.output / f"corpus-{seed}")
    labelled = label_scan(scan, reconstruction)
    chosen = rng.permutation(len(labelled.patterns))[:FRAMES]
    shard = corpus.add(
        replace(
            labelled,
            patterns=labelled.patterns[chosen],
            labels=labelled.labels[chosen],
            seen=None if labelled.seen is None else labelled.seen[chosen],
        )
    )
    out = options.output / f"tuned-{seed}"
    figures = train(
        out,
        [shard],
        recipe=RECIPES["tune"],
        start=options.training,
        minutes=options.minutes,
        seed=seed,
        threads=options.threads,
    )
    before, after = trained_network(options.training)[0], trained_network(out)[0]
    old = _old_test(probe)
    return {
        "test": "letters, another area of the sample",
        "model": "ptychonn-lift",
        "method": "tune",
        "seed": seed,
        "training_pairs": len(chosen),
        "pairs_seen": figures["results"][0]["pairs_seen"],
        "minutes_computing": figures["results"][0]["minutes"],
        **_likeness("ssim", before, after, unseen, probe, sample),
        **_likeness("ssim_etched", before, after, old[:2], probe, old[2]),
        "labels_error": reconstruction.report.error if reconstruction.report else None,
        "photons_per_frame": PHOTONS,
        "removed": "constant (median)",
        "data_range": 0.6,
    }


def _likeness(name: str, before, after, scan, probe: np.ndarray, sample: np.ndarray) -> dict[str, float]:
    """Before and after: without the median difference, a constant being open in the labels, and without the mean's."""
    found = {}
    for when, network in (("_before", before), ("", after)):
        found[name + when], found[f"{name}{when}_mean_removed"] = _ssim(network, scan[0], scan[1], probe, sample)
    return found


def _scan(sample: np.ndarray, middle: float, probe: np.ndarray, rng: np.random.Generator):
    """Counts and positions (px) of a spiral of about `FRAMES` points over one area of the sample."""
    from bluesky_ptychonn.core.optics import intensities, with_counts
    from bluesky_ptychonn.core.scan import fermat_spiral

    positions_px = fermat_spiral(AREA_PX, AREA_PX, AREA_PX / np.sqrt(1.07 * FRAMES)) + middle * len(sample)
    return rng.poisson(intensities(sample, with_counts(probe, PHOTONS), positions_px)).astype(np.uint16), positions_px


def _old_test(probe: np.ndarray):
    from bluesky_ptychonn.simulation.test_sets import load_test_set, scan_of

    test_set = load_test_set("etched")
    scan = scan_of(test_set, probe, points=960)
    return scan.patterns, scan.positions_um / scan.pixel_size_um, test_set.object_


def _ssim(
    network, patterns: np.ndarray, positions_px: np.ndarray, probe: np.ndarray, sample: np.ndarray
) -> list[float]:
    """Likeness of the stitched image to the truth in the middle of the scanned area: without the median, the mean."""
    from bluesky_ptychonn.core.metrics import compare_phase
    from bluesky_ptychonn.core.stitch import Canvas
    from bluesky_ptychonn.engines.offline import stitch_scan
    from bluesky_ptychonn.training.learning.network_engine import NetworkEngine

    canvas = Canvas(sample.shape, (0.0, 0.0), 1.0)
    image, _, _ = stitch_scan(NetworkEngine(network), patterns, positions_px, probe, 1.0, canvas)
    y, x = np.rint((positions_px.min(axis=0) + positions_px.max(axis=0)) / 2).astype(int) - JUDGED_PX // 2
    region = (slice(int(y), int(y) + JUDGED_PX), slice(int(x), int(x) + JUDGED_PX))
    truth = np.angle(sample)
    shifted = image - np.nanmedian((image - truth)[region])
    median_removed = compare_phase(shifted, truth, remove=(), data_range=0.6, region=region)
    mean_removed = compare_phase(image, truth, remove=("constant",), data_range=0.6, region=region)
    return [round(found.ssim, 4) for found in (median_removed, mean_removed)]

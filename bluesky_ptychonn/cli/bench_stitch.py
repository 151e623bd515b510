"""Stitching alone: what a patch costs on its way into the image, and what the image costs.

The edge keeps each patch and adds it to two running sums; beside it stand the sums alone, and the same with slices of
numpy. Patches lie on a spiral, as in a scan, so that the image's memory is used as in one.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

PATCHES = 4096
"""Different patches that are stitched in turn, so that they do not stay in the cache."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the case."""
    parser.add_argument("--size", type=int, default=64, help="side of a patch, px; default: 64, the starter's")
    parser.add_argument("--field", type=float, default=3.0, metavar="UM", help="side of the scan; default: 3 um")
    parser.add_argument("--batch", type=int, default=8, help="patches at once; default: 8")
    parser.add_argument("--runs", type=int, default=200, help="batches measured; default: 200")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")


def run(options: argparse.Namespace) -> int:
    """Measure."""
    from bluesky_ptychonn.cli.bench_inference import processor
    from bluesky_ptychonn.cli.figures import conditions, refuse_unwritable, write_figures

    for name, low, high in (("size", 2, 1024), ("field", 0.1, 50), ("batch", 1, 1024), ("runs", 2, 100_000)):
        if not low <= getattr(options, name) <= high:
            raise ValueError(f"--{name} {getattr(options, name):g}: allowed is {low} to {high}")
    if options.json:
        refuse_unwritable("--json", options.json)
    asked = {"size_px": options.size, "field_um": options.field, "batch": options.batch, "runs": options.runs}
    measured_under = conditions(processor=processor(), **asked)
    results = measure(options.size, options.field, options.batch, options.runs)
    print("\n".join(f"{name}: {value}" for name, value in measured_under.items()))
    print(f"image: {results[0]['image_px']} px\n")
    for result in results:
        each = f"{result['us_per_frame_mean']:8.1f} +- {result['us_per_frame_std']:.1f} us"
        print(f"{result['method']:28} {each}, median {result['us_per_frame_median']:.1f}")
    if options.json:
        write_figures(options.json, "bench stitch", measured_under, results)
    return 0


def measure(patch_px: int, field_um: float, batch: int, runs: int) -> list[dict[str, Any]]:
    """Figures of the edge's stitching, of the sums alone, of numpy's, and of one look at the image."""
    from bluesky_ptychonn.cli.bench_inference import times_us
    from bluesky_ptychonn.core.optics import Geometry
    from bluesky_ptychonn.core.scan import fermat_spiral, short_route
    from bluesky_ptychonn.core.stitch import Canvas, add_patches
    from bluesky_ptychonn.edge.image import LiveImage

    rng, shape = np.random.default_rng(1), (patch_px, patch_px)
    spiral = fermat_spiral(field_um, field_um, field_um / np.sqrt(PATCHES))
    spiral = spiral[short_route(spiral)]
    positions_um = np.resize(spiral, (PATCHES, 2))
    canvas = Canvas.covering(positions_um, Geometry().pixel_size_um, patch_px)
    patches, weights = rng.standard_normal((PATCHES, *shape), np.float32), rng.random(shape)
    corners_px = canvas.corners_px(positions_um, patch_px)
    image = LiveImage(canvas, weights, positions_um, PATCHES)
    sums = np.zeros((4, *canvas.shape))
    place = {"edge": 0, "sums": 0, "numpy": 0}

    def part(method: str) -> np.ndarray:
        first = place[method]
        place[method] = (first + batch) % (PATCHES - batch + 1)
        return np.arange(first, first + batch)

    def edge() -> None:
        rows = part("edge")
        if not rows[0]:
            image.withdraw(0)
        image.add(rows, rows, patches[rows])

    def alone() -> None:
        rows = part("sums")
        add_patches(sums[0], sums[1], patches[rows], weights, corners_px[rows])

    def slices() -> None:
        for k in part("numpy"):
            y, x = corners_px[k]
            sums[2, y : y + patch_px, x : x + patch_px] += weights * patches[k]
            sums[3, y : y + patch_px, x : x + patch_px] += weights

    works = {"edge: kept and stitched": edge, "the two sums": alone, "the two sums by numpy": slices}
    results = [
        _figures(name, times / batch, canvas.shape) for name, times in zip(works, times_us([*works.values()], runs))
    ]
    (look,) = times_us([lambda: image.snapshot()], max(2, runs // 10))
    return [*results, _figures("one look at the image", look, canvas.shape)]


def _figures(method: str, times_us: np.ndarray, shape: tuple[int, int]) -> dict[str, Any]:
    return {
        "test": "stitch",
        "method": method,
        "image_px": f"{shape[0]} x {shape[1]}",
        "us_per_frame_mean": round(float(times_us.mean()), 2),
        "us_per_frame_std": round(float(times_us.std(ddof=1)), 2),
        "us_per_frame_median": round(float(np.median(times_us)), 2),
        "fps": round(1e6 / float(times_us.mean()), 1),
    }

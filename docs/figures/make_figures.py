"""Make the figures of the documentation with the project itself; the PNG files are kept beside this script.

python docs/figures/make_figures.py                what follows from arithmetic alone, a minute
python docs/figures/make_figures.py --live         and the live image: `bluesky-ptychonn demo --no-loop`
python docs/figures/make_figures.py --loop         and what `demo` and `bench loop` draw, half an hour
"""

import argparse
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from bluesky_ptychonn.core.lift import lift
from bluesky_ptychonn.core.metrics import covered_region
from bluesky_ptychonn.core.optics import Geometry, measured_probe, probe_diameter_um, zone_plate_probe
from bluesky_ptychonn.core.scan import fermat_spiral
from bluesky_ptychonn.core.stitch import Canvas, add_patches, patch_weights
from bluesky_ptychonn.engines.offline import stitch_scan
from bluesky_ptychonn.engines.registry import open_engine
from bluesky_ptychonn.simulation.test_sets import TestScan, TestSet, load_test_set, scan_of

HERE = Path(__file__).parent
GEOMETRY = Geometry(energy_kev=10.0, distance_m=0.9, detector_pixel_um=75.0, frame_px=128)
PROBE = zone_plate_probe(GEOMETRY, defocus_um=170.0)
PHASE = {"cmap": "gray", "vmin": -0.6, "vmax": 0.05}
SHOWN = 0.1
"""Coverage, in units of the most, from which on a pixel is shown."""
COLOURS = 128


def save(figure: Figure, name: str) -> None:
    """Write a figure."""
    path = HERE / f"{name}.png"
    figure.savefig(path, dpi=100)
    shrink(path, path)


def shrink(source: Path, path: Path, width_px: int = 0, title: float = 0.0) -> None:
    """Write a picture with few colours, narrower if it is too wide, and without this part of its height at the top."""
    with Image.open(source) as image:
        image = image.crop((0, round(title * image.height), *image.size))
        if width_px and image.width > width_px:
            image = image.resize((width_px, round(image.height * width_px / image.width)), Image.Resampling.LANCZOS)
        image.convert("RGB").quantize(COLOURS).save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size // 1000} kB")


def spiral() -> None:
    """Route of a small spiral, and the light that falls on the sample at three overlap ratios."""
    pixel_um, diameter_um = GEOMETRY.pixel_size_um, probe_diameter_um(PROBE, GEOMETRY.pixel_size_um)
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    axes = figure.subplots(1, 4)
    points = fermat_spiral(2.0, 2.0, 0.15 * diameter_um)
    axes[0].plot(points[:, 1], points[:, 0], "-", lw=0.6, color="#888888")
    axes[0].scatter(points[:, 1], points[:, 0], c=np.arange(len(points)), s=9, cmap="viridis")
    axes[0].set(title=f"{len(points)} positions, along a short route", xlabel="x (um)", ylabel="y (um)", aspect="equal")
    for axis, overlap_ratio in zip(axes[1:], (0.85, 0.7, 0.4), strict=True):
        points = fermat_spiral(2.0, 2.0, (1 - overlap_ratio) * diameter_um)
        canvas = Canvas.covering(points, pixel_um, GEOMETRY.frame_px)
        light, coverage = np.zeros(canvas.shape), np.zeros(canvas.shape)
        ones = np.ones((len(points), GEOMETRY.frame_px, GEOMETRY.frame_px), np.float32)
        weights = patch_weights(PROBE, GEOMETRY.frame_px)
        add_patches(light, coverage, ones, weights, canvas.corners_px(points, GEOMETRY.frame_px))
        axis.imshow(coverage / coverage.max(), cmap="magma")
        axis.set(title=f"overlap {overlap_ratio}: {len(points)} positions", xticks=[], yticks=[])
    save(figure, "spiral")


def from_pattern_to_patch(test_set: TestSet, scan: TestScan) -> None:
    """One frame, its lift, the patch of the starter model, and the truth."""
    engine = open_engine("openvino", max_batch=1)
    probe = measured_probe(PROBE, scan.patterns[:64])
    engine.set_probe(probe)
    size, index = engine.patch_px, len(scan.patterns) // 2
    patch = engine.infer(scan.patterns[index : index + 1])[0]
    lifted = lift(scan.patterns[index : index + 1], probe)[0, 1]
    y, x = np.rint(scan.positions_um[index] / scan.pixel_size_um).astype(int) - size // 2
    edge = (GEOMETRY.frame_px - size) // 2
    middle = (slice(edge, edge + size),) * 2
    figure = Figure(figsize=(14, 3.2), layout="constrained")
    pictures = (
        ("frame: counts, logarithmic", np.log10(1 + scan.patterns[index]), {"cmap": "viridis"}),
        ("probe: amplitude", np.abs(PROBE)[middle], {"cmap": "magma"}),
        ("lift: imaginary part", lifted[middle], {"cmap": "gray"}),
        ("patch: phase of the network", patch, PHASE),
        ("truth", test_set.phase_rad[y : y + size, x : x + size], PHASE),
    )
    for axis, (title, picture, look) in zip(figure.subplots(1, 5), pictures, strict=True):
        axis.imshow(picture, **look)
        axis.set(title=title, xticks=[], yticks=[])
    save(figure, "lift")


def stitched(scan: TestScan, frames: slice, positions_um: np.ndarray) -> tuple[np.ndarray, np.ndarray, Canvas]:
    """Image of some frames on the canvas of all, and its coverage."""
    engine = open_engine("openvino", max_batch=8)
    canvas = Canvas.covering(scan.positions_um, scan.pixel_size_um, engine.patch_px)
    return stitch_scan(engine, scan.patterns[frames], positions_um[frames], PROBE, scan.pixel_size_um, canvas)


def growth(scan: TestScan) -> None:
    """The stitched image after some of its frames."""
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    for axis, frames in zip(figure.subplots(1, 4), (30, 150, 450, scan.points), strict=True):
        phase, coverage, _ = stitched(scan, slice(frames), scan.positions_um)
        axis.imshow(np.where(coverage > SHOWN * np.median(coverage[coverage > 0]), phase, np.nan), **PHASE)
        axis.set(title=f"{frames} frames", xticks=[], yticks=[])
    save(figure, "growth")


def a_lost_frame(test_set: TestSet, scan: TestScan) -> None:
    """What one lost frame does if all later ones are taken for their neighbours."""
    lost = 400
    frames = np.delete(np.arange(scan.points), lost)
    kept = replace(scan, patterns=scan.patterns[frames])
    phase, coverage, canvas = stitched(kept, slice(None), scan.positions_um[frames])
    region = covered_region(coverage)
    y, x = np.rint(np.divide(canvas.origin_um, scan.pixel_size_um)).astype(int)
    pictures = {
        "one frame lost, the others in place": phase,
        "all later ones shifted by one": stitched(kept, slice(None), scan.positions_um[:-1])[0],
        "truth": test_set.phase_rad[y : y + canvas.shape[0], x : x + canvas.shape[1]],
    }
    figure = Figure(figsize=(10.5, 3.8), layout="constrained")
    for axis, (title, picture) in zip(figure.subplots(1, 3), pictures.items(), strict=True):
        axis.imshow(picture[region], **PHASE)
        axis.set(title=title, xticks=[], yticks=[])
    save(figure, "lost_frame")


def command(*arguments: str) -> None:
    """Run one of the project's commands."""
    subprocess.run([sys.executable, "-m", "bluesky_ptychonn.cli.main", *arguments], check=True)


def main() -> None:
    """Make the figures that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--live", action="store_true", help="run the scan of the demonstration")
    parser.add_argument("--loop", action="store_true", help="run the demonstration with its loop, and the experiment")
    options = parser.parse_args()
    test_set = load_test_set("letters")
    scan = scan_of(test_set, PROBE, points=960, photons=1e6)
    spiral()
    from_pattern_to_patch(test_set, scan)
    growth(scan)
    a_lost_frame(test_set, scan)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.live:
            command("demo", "--no-loop", "--output", str(folder))
            shrink(folder / "live.png", HERE / "live.png", 1100, title=0.1)  # which tells this machine's frame rate
        if options.loop:
            command("demo", "--output", str(folder))
            shrink(folder / "loop.png", HERE / "loop.png", 1600)
            command("bench", "loop", "--output", str(folder / "bench"))
            shrink(next((folder / "bench").rglob("plots.png")), HERE / "experiment.png", 1300)


if __name__ == "__main__":
    main()

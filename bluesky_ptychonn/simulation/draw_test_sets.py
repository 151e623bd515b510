"""How the frozen test sets were drawn; a record, not a source: what counts is in the files.

    python -m bluesky_ptychonn.simulation.draw_test_sets DIR

Another version of matplotlib or scikit-image may draw some pixels otherwise, and `test_sets.load_test_set` refuses
such files.
"""

import argparse
import hashlib
import io
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from bluesky_ptychonn.core.optics import Geometry
from bluesky_ptychonn.simulation.sample import ABSORBED, DEEPEST_RAD, _draw, _regular, _rotation

SIDE_PX = 460
EDGE_PX = 0.8
SEEDS = {"letters": 2023, "etched": 1123}

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
HEIGHTS_PX = (26.0, 54.0)
PITCH_PX = 52.0
JITTER_PX = 4.0

SIZES_UM = (0.2, 0.4)
FILLED = 0.35
"""Share of the area that shapes are drawn until it is filled."""
MOST_OVER = 0.25
"""Share of a shape that may lie over earlier ones."""


def draw_letters(side_px: int, rng: np.random.Generator) -> np.ndarray:
    """Bold capitals and digits 26 to 54 px high, one at each jittered point of a grid, upright; depth 0 or 1."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    font = FontProperties(family="DejaVu Sans", weight="bold")
    depth = np.zeros((side_px, side_px), np.float32)
    cells = int(np.ceil(side_px / PITCH_PX))
    for row, column in np.ndindex(cells, cells):
        letter = LETTERS[rng.integers(len(LETTERS))]
        outlines = [np.asarray(o)[:, ::-1] * [-1, 1] for o in TextPath((0, 0), letter, 100, prop=font).to_polygons()]
        low, high = (bound([bound(o, axis=0) for o in outlines], axis=0) for bound in (np.min, np.max))
        scale = rng.uniform(*HEIGHTS_PX) / (high[0] - low[0])
        centre_px = (np.array([row, column]) + 0.5) * PITCH_PX + rng.uniform(-JITTER_PX, JITTER_PX, 2)
        centre_px += (side_px - cells * PITCH_PX) / 2
        _draw(depth, [(outline - (low + high) / 2) * scale for outline in outlines], centre_px, 1.0)
    return depth


def draw_etched(side_px: int, rng: np.random.Generator, px_per_um: float) -> np.ndarray:
    """Bars, discs and polygons 0.2 to 0.4 um long, turned, some over others; depth 0 or 1."""
    depth = np.zeros((side_px, side_px), np.float32)
    while depth.mean() < FILLED:
        radius_px = rng.uniform(*SIZES_UM) / 2 * px_per_um
        kind = rng.integers(3)
        if kind == 0:
            outline = np.sqrt(2) * _regular(4, radius_px) * [rng.uniform(0.35, 0.6), 1.0]
        else:
            outline = _regular(48 if kind == 1 else int(rng.integers(3, 8)), radius_px)
        shape = np.zeros_like(depth)
        _draw(shape, [outline @ _rotation(rng.uniform(0, 2 * np.pi))], rng.uniform(0, side_px, 2), 1.0)
        if np.sum(shape * depth) <= MOST_OVER * np.sum(shape):
            np.maximum(depth, shape, out=depth)
    return depth


def draw(name: str) -> bytes:
    """Draw a test set, "letters" or "etched"; the bytes of its file."""
    pixel_um = Geometry().pixel_size_um
    rng = np.random.default_rng(SEEDS[name])
    depth = draw_letters(SIDE_PX, rng) if name == "letters" else draw_etched(SIDE_PX, rng, 1 / pixel_um)
    rounded = np.clip(gaussian_filter(depth, EDGE_PX), 0, 1)
    file = io.BytesIO()
    np.savez_compressed(
        file,
        depth=np.rint(255 * rounded).astype(np.uint8),
        deepest_rad=DEEPEST_RAD,
        absorbed=ABSORBED,
        pixel_size_um=pixel_um,
    )
    return file.getvalue()


def main() -> None:
    """Write the files, and tell their hashes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="DIR")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for name in SEEDS:
        file = draw(name)
        (out / f"{name}.npz").write_bytes(file)
        print(f"{name}.npz  {len(file)} bytes  {hashlib.sha256(file).hexdigest()}")


if __name__ == "__main__":
    main()

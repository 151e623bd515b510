"""Simulated samples: thin structures which shift the phase by up to -0.6 rad and absorb a little."""

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from scipy.ndimage import gaussian_filter
from skimage.draw import polygon2mask

DEEPEST_RAD = -0.6
ABSORBED = 0.1
"""Share of the amplitude lost where the structure is deepest."""
ISLANDS_UM, ISLANDS_SHARE = 0.12, 0.2
"""Standard deviation of the Gaussian that smooths the noise whose peaks are islands, and the share they cover."""

Kind = Literal["etched", "letters", "islands"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def make_sample(
    kind: Kind, *, field_um: float, pixel_size_um: float, seed: int = 0, edge_px: float = 0.8
) -> np.ndarray:
    """Draw a square sample.

    Parameters
    ----------
    kind : {"etched", "letters", "islands"}
        Bars, discs and triangles of 0.15 to 0.6 um; letters of 0.4 to 0.9 um; or smooth islands of some 0.3 um, such as
        the packaged networks have learned from.
    field_um, pixel_size_um : float
        Side of the sample and of one object pixel.
    seed : int
        The same seed draws the same sample.
    edge_px : float
        Standard deviation of the Gaussian that rounds the edges; at 0.8 px nothing is left beyond 0.4 cycles/px.

    Returns
    -------
    (H, H) complex64
        Transmission: phase from 0 to `DEEPEST_RAD`, amplitude from 1 down to 0.9.

    Raises
    ------
    ValueError
        If the kind is unknown or a length is not positive.

    Examples
    --------
    >>> transmission = make_sample("etched", field_um=2.0, pixel_size_um=0.0116)
    >>> transmission.shape, round(float(np.angle(transmission).min()), 2)
    ((174, 174), -0.6)
    """
    draw = {"etched": _etched, "letters": _letters, "islands": _islands}.get(kind)
    if draw is None:
        raise ValueError(f"kind = {kind!r} is unknown; choose one of {', '.join(KINDS)}")
    if not (field_um > 0 and pixel_size_um > 0):
        raise ValueError(f"field_um = {field_um} um and pixel_size_um = {pixel_size_um} um must be positive")
    size_px = int(np.ceil(field_um / pixel_size_um / 2)) * 2
    depth = np.zeros((size_px, size_px), np.float32)
    draw(depth, 1 / pixel_size_um, np.random.default_rng(seed))
    depth = np.clip(gaussian_filter(depth, edge_px), 0, 1)
    return ((1 - ABSORBED * depth) * np.exp(1j * DEEPEST_RAD * depth)).astype(np.complex64)


def _etched(depth: np.ndarray, px_per_um: float, rng: np.random.Generator) -> None:
    area_um2 = (len(depth) / px_per_um) ** 2
    shapes: list[Callable[[float], np.ndarray]] = [
        lambda size: _regular(4, size) * [rng.uniform(0.2, 0.6), 1.0],
        lambda size: _regular(4, size),
        lambda size: _regular(24, 0.8 * size),
        lambda size: _regular(3, size),
    ]
    for _ in range(int(8 * area_um2) + 1):
        outline = shapes[rng.integers(len(shapes))](rng.uniform(0.08, 0.3) * px_per_um)
        outline = outline @ _rotation(rng.uniform(0, 2 * np.pi))
        level = rng.choice([0.35, 0.7, 1.0], p=[0.2, 0.3, 0.5])
        _draw(depth, [outline], rng.uniform(0, len(depth), 2), level)


def _letters(depth: np.ndarray, px_per_um: float, rng: np.random.Generator) -> None:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    font = FontProperties(family="DejaVu Sans", weight="bold")
    pitch_px = 0.8 * px_per_um
    for row in np.arange(0.5, len(depth) / pitch_px):
        for column in np.arange(0.5, len(depth) / pitch_px):
            size_px = rng.uniform(0.4, 0.9) * px_per_um / 0.73  # a capital is 0.73 of the font's size
            outlines = TextPath(
                (0, 0), str(rng.choice(list("ABDEFGHKMNPRSTWXYZ248"))), size_px, prop=font
            ).to_polygons()
            upright = [np.asarray(outline)[:, ::-1] * [-1, 1] for outline in outlines]
            middle = (upright[0].min(axis=0) + upright[0].max(axis=0)) / 2
            centre = (np.array([row, column]) + rng.uniform(-0.1, 0.1, 2)) * pitch_px
            _draw(depth, [outline - middle for outline in upright], centre, 1.0)


def _islands(depth: np.ndarray, px_per_um: float, rng: np.random.Generator) -> None:
    ground = gaussian_filter(rng.standard_normal(depth.shape, np.float32), ISLANDS_UM * px_per_um, mode="wrap")
    depth[ground > np.quantile(ground, 1 - ISLANDS_SHARE)] = 1


def _regular(corners: int, radius_px: float) -> np.ndarray:
    angle = 2 * np.pi * (np.arange(corners) + 0.5) / corners
    return radius_px * np.stack([np.sin(angle), np.cos(angle)], axis=1)


def _rotation(angle_rad: float) -> np.ndarray:
    return np.array([[np.cos(angle_rad), -np.sin(angle_rad)], [np.sin(angle_rad), np.cos(angle_rad)]])


def _draw(depth: np.ndarray, outlines: list[np.ndarray], centre_px: np.ndarray, level: float) -> None:
    """Etch the area inside an odd number of outlines down to ``level``."""
    moved = [outline + centre_px for outline in outlines]
    low = np.maximum(np.floor(np.min([m.min(axis=0) for m in moved], axis=0)).astype(int), 0)
    high = np.minimum(np.ceil(np.max([m.max(axis=0) for m in moved], axis=0)).astype(int) + 1, depth.shape)
    if np.any(high <= low):
        return
    inside = np.zeros(tuple(high - low), bool)
    for outline in moved:
        inside ^= polygon2mask(inside.shape, outline - low)
    window = depth[low[0] : high[0], low[1] : high[1]]
    np.maximum(window, level * inside, out=window)

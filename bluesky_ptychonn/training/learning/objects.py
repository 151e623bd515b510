"""Random sample objects of great variety to learn from; none of them holds letters."""

from itertools import pairwise

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree
from skimage import draw


def random_object(rng: np.random.Generator, side_px: int) -> np.ndarray:
    """Draw one object.

    The phase is that of features on a background of 0: weak to strong, mostly negative as matter makes it, sometimes of
    two depths or on a slowly varying ground; the amplitude is 1, follows the phase or has features of its own.

    Parameters
    ----------
    rng : numpy.random.Generator
    side_px : int

    Returns
    -------
    (side_px, side_px) complex64

    Examples
    --------
    >>> object_ = random_object(np.random.default_rng(0), 64)
    >>> bool(np.abs(object_).max() <= 1.001)
    True
    """
    shallowest, deepest = (0.1, 2.0) if rng.random() < 0.5 else (0.25, 1.2)  # rad; most samples at hard X-rays
    depth = np.exp(rng.uniform(np.log(shallowest), np.log(deepest))) * (1 if rng.random() < 0.15 else -1)
    features = _structure(rng, side_px)
    phase = depth * features
    if rng.random() < 0.2:
        phase = phase + depth * rng.uniform(0.2, 0.8) * _structure(rng, side_px)
    if rng.random() < 0.2:
        phase = phase + rng.uniform(0, 0.3) * _field(rng, side_px, rng.uniform(15, 60))
    kind = rng.random()
    if kind < 0.4:
        absorption = np.zeros_like(phase)
    elif kind < 0.8:
        absorption = rng.uniform(0, 0.3) * features
    else:
        absorption = rng.uniform(0, 0.4) * _structure(rng, side_px)
    return np.exp(1j * np.clip(phase, -3, 3) - absorption).astype(np.complex64)


def _structure(rng: np.random.Generator, side_px: int) -> np.ndarray:
    """Features from 0 (background) to 1 with edges of random sharpness."""
    kinds = (_shapes, _shapes, _shapes, _shapes, _blobs, _strokes, _strokes, _lines, _grains, _smooth)
    image = kinds[rng.integers(len(kinds))](rng, side_px)
    return ndimage.gaussian_filter(image.astype(np.float32), rng.uniform(0.4, 1.6), mode="wrap")


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _field(rng: np.random.Generator, side_px: int, correlation_px: float) -> np.ndarray:
    """Gaussian random field of unit variance."""
    frequency = np.fft.fftfreq(side_px)
    radius = np.hypot(frequency[:, None], frequency[None, : side_px // 2 + 1])
    spectrum = np.fft.rfft2(rng.standard_normal((side_px, side_px), np.float32))
    field = np.fft.irfft2(spectrum * np.exp(-2 * (np.pi * radius * correlation_px) ** 2), s=(side_px, side_px))
    return (field - field.mean()) / (field.std() + 1e-12)


def _shapes(rng: np.random.Generator, side_px: int) -> np.ndarray:
    """Polygons, ellipses, frames and rings, of one size or of many, as etching leaves them."""
    image = np.zeros((side_px, side_px), np.float32)
    size = _log_uniform(rng, 6, 40)
    spread = rng.choice([1.1, 3.0])
    covered = rng.uniform(0.15, 0.6) * side_px**2
    cut = rng.random() < 0.3  # overlapping shapes cancel instead of merging
    area = 0.0
    while area < covered:
        radius = size * _log_uniform(rng, 1 / spread, spread)
        centre = rng.uniform(0, side_px, 2)
        rows, columns = _shape(rng, centre, radius, (side_px, side_px))
        image[rows, columns] = 1 - image[rows, columns] if cut else 1
        if rng.random() < 0.2:
            rows, columns = _shape(rng, centre, radius * rng.uniform(0.3, 0.7), (side_px, side_px))
            image[rows, columns] = 0
        area += 2 * radius**2
    return image


def _shape(rng: np.random.Generator, centre: np.ndarray, radius: float, shape: tuple[int, int]):
    if rng.random() < 0.3:
        minor = radius * rng.uniform(0.3, 1)
        return draw.ellipse(centre[0], centre[1], radius, minor, shape=shape, rotation=rng.uniform(-3, 3))
    corners = rng.integers(3, 9)
    angles = np.arange(corners) * 2 * np.pi / corners
    if rng.random() < 0.4:
        angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    turn = rng.uniform(0, 2 * np.pi)
    stretch = rng.uniform(0.3, 1)
    y, x = radius * np.sin(angles + np.pi / corners), radius * stretch * np.cos(angles + np.pi / corners)
    return draw.polygon(
        centre[0] + y * np.cos(turn) + x * np.sin(turn), centre[1] + x * np.cos(turn) - y * np.sin(turn), shape
    )


def _blobs(rng: np.random.Generator, side_px: int) -> np.ndarray:
    """A random field cut at one or two levels: islands, holes and mazes."""
    field = _field(rng, side_px, _log_uniform(rng, 2, 20))
    image = (field > np.quantile(field, rng.uniform(0.3, 0.85))).astype(np.float32)
    if rng.random() < 0.3:
        image = 0.5 * image + 0.5 * (field > np.quantile(field, rng.uniform(0.85, 0.95)))
    return image


def _strokes(rng: np.random.Generator, side_px: int) -> np.ndarray:
    """Bent and angular strokes of one width."""
    outline = np.ones((side_px, side_px), bool)
    width = _log_uniform(rng, 3, 16)
    length = width * _log_uniform(rng, 2, 12)
    count = int(np.clip(rng.uniform(0.1, 0.5) * side_px**2 / (width * length), 4, 400))
    for _ in range(count):
        points = rng.integers(2, 5)
        steps = rng.normal(size=(points, 2))
        steps *= length / points / np.linalg.norm(steps, axis=1, keepdims=True)
        path = rng.uniform(0, side_px, 2) + np.cumsum(steps, axis=0)
        if rng.random() < 0.5:  # a smooth curve through the same corners
            fine = np.linspace(0, points - 1, 12)
            path = np.stack([np.interp(fine, np.arange(points), path[:, axis]) for axis in (0, 1)], axis=1)
            path = ndimage.gaussian_filter1d(path, 2, axis=0, mode="nearest")
        path = np.rint(path).astype(int)
        for start, stop in pairwise(path):
            rows, columns = draw.line(*start, *stop)
            outline[rows % side_px, columns % side_px] = False
    distance = np.asarray(ndimage.distance_transform_edt(outline))
    return (distance < width / 2).astype(np.float32)


def _lines(rng: np.random.Generator, side_px: int) -> np.ndarray:
    """Patches of gratings of different period and direction, or bent fringes."""
    y, x = np.mgrid[:side_px, :side_px]
    image = np.zeros((side_px, side_px), np.float32)
    if rng.random() < 0.5:
        patches = np.asarray(KDTree(rng.uniform(0, side_px, (rng.integers(1, 12), 2))).query(np.stack([y, x], -1))[1])
    else:
        patches = np.zeros((side_px, side_px), int)
    bend = rng.uniform(0, 4) * _field(rng, side_px, 40) * (rng.random() < 0.3)
    for patch in range(patches.max() + 1):
        angle, period, duty = rng.uniform(0, np.pi), _log_uniform(rng, 8, 60), rng.uniform(-0.6, 0.6)
        wave = np.sin(2 * np.pi / period * (y * np.sin(angle) + x * np.cos(angle)) + bend + rng.uniform(0, 6)) > duty
        image[patches == patch] = wave[patches == patch]
    return image


def _grains(rng: np.random.Generator, side_px: int) -> np.ndarray:
    """Cells of different level, as of a polycrystal, with or without boundaries."""
    count = int(np.clip(side_px**2 / _log_uniform(rng, 8, 60) ** 2, 4, 1500))
    y, x = np.mgrid[:side_px, :side_px]
    distance, cell = KDTree(rng.uniform(0, side_px, (count, 2))).query(np.stack([y, x], axis=-1), k=2)
    levels = rng.random(count) if rng.random() < 0.6 else (rng.random(count) < 0.4).astype(float)
    image = levels[cell[..., 0]]
    if rng.random() < 0.3:
        image = np.where(distance[..., 1] - distance[..., 0] < rng.uniform(2, 6), 1 - image.round(), image)
    return image


def _smooth(rng: np.random.Generator, side_px: int) -> np.ndarray:
    """Slow hills, nothing sharp."""
    field = _field(rng, side_px, _log_uniform(rng, 4, 30))
    return np.clip(field / 2, -1, 1) if rng.random() < 0.5 else np.clip(field / 2, 0, 1)

"""First guess of an object's slowly varying phase from the centres of mass of the diffraction patterns.

Phase retrieval builds small features within a few sweeps, but what varies over more than a probe diameter creeps from
frame to frame. The centre of mass of a pattern tells the mean slope of the phase under the probe at once, and slopes
integrate over the scan.

References
----------
Lubk and Zweck, Phys. Rev. A 91, 023805 (2015): differential phase contrast from the first moment.
"""

import numpy as np
from scipy import ndimage, sparse
from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator
from scipy.sparse.linalg import spsolve
from scipy.spatial import Delaunay, QhullError

from bluesky_ptychonn.core.frames import no_data
from bluesky_ptychonn.core.optics import far_field

FEWEST_POSITIONS = 4
LONGEST_EDGE = 3.0
"""Neighbours further apart than this many median distances say nothing of each other."""


def smooth_object(
    patterns: np.ndarray, positions_px: np.ndarray, probe: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """Object of unit amplitude with the slowly varying part of the phase.

    Absorption moves the centre of mass too where the probe is curved; its part is known from the transmitted counts.

    Parameters
    ----------
    patterns : (N, n, n) unsigned integer
        Counts; the largest value of the type says "no data".
    positions_px : (N, 2) float64
        Probe centres (y, x) in pixels of the object.
    probe : (n, n) complex64
        The illumination, of any power; its curvature is used.
    shape : (int, int)
        Of the object, px.

    Returns
    -------
    (H, W) complex64
        1 everywhere if the positions are too few or lie on a line.
    """
    flat = np.ones(shape, np.complex64)
    edges = _neighbours(positions_px)
    if not len(edges):
        return flat
    linked, edges = np.unique(edges, return_inverse=True)
    edges = edges.reshape(-1, 2)
    patterns, positions_px = patterns[linked], positions_px[linked]
    slopes, transmitted = _moments(patterns, np.abs(far_field(probe)) ** 2)
    step = positions_px[edges[:, 1]] - positions_px[edges[:, 0]]
    rise = np.sum((slopes[edges[:, 0]] + slopes[edges[:, 1]]) / 2 * step, axis=1)
    rows = np.repeat(np.arange(len(edges)), 2)
    signs = np.tile([-1.0, 1.0], len(edges))
    difference = sparse.csr_matrix((signs, (rows, edges.ravel())), shape=(len(edges), len(linked)))
    normal = difference.T @ difference + 1e-9 * sparse.eye(len(positions_px))
    phase = spsolve(normal.tocsc(), difference.T @ rise)
    phase -= _curvature(probe) * np.log(np.maximum(transmitted, 1e-3) / max(transmitted.mean(), 1e-3))
    phase -= phase.mean()
    grid = tuple(np.mgrid[: shape[0], : shape[1]])
    inside = LinearNDInterpolator(positions_px, phase)(grid)
    image = np.where(np.isfinite(inside), inside, NearestNDInterpolator(positions_px, phase)(grid))
    image = ndimage.gaussian_filter(image, float(np.median(np.hypot(*step.T))))
    return np.exp(1j * image).astype(np.complex64)


def _neighbours(positions_px: np.ndarray) -> np.ndarray:
    """Pairs (E, 2) of positions which are neighbours; none if they span no area."""
    if len(positions_px) < FEWEST_POSITIONS:
        return np.empty((0, 2), int)
    try:
        corners = Delaunay(positions_px).simplices
    except QhullError:
        return np.empty((0, 2), int)
    edges = np.unique(np.sort(np.vstack([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [0, 2]]]), axis=1), axis=0)
    length = np.hypot(*(positions_px[edges[:, 1]] - positions_px[edges[:, 0]]).T)
    return edges[length < LONGEST_EDGE * np.median(length)]


def _moments(patterns: np.ndarray, model: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean slope (N, 2) of the phase under each probe, rad/px, and relative transmission (N,)."""
    n = patterns.shape[-1]
    frequency = 2 * np.pi * (np.arange(n) - n // 2) / n
    slopes, transmitted = np.zeros((len(patterns), 2)), np.ones(len(patterns))
    for i, pattern in enumerate(patterns):
        valid = pattern != no_data(pattern.dtype)
        counts, expected = (np.where(valid, image, 0).astype(np.float64) for image in (pattern, model))
        if counts.sum() > 0 and expected.sum() > 0:
            transmitted[i] = counts.sum() / expected.sum()
            for axis in (0, 1):
                centre = [image.sum(1 - axis) @ frequency / image.sum() for image in (counts, expected)]
                slopes[i, axis] = centre[0] - centre[1]
    return slopes, transmitted


def _curvature(probe: np.ndarray) -> float:
    """Mean over the probe of half of r times the slope of its phase, rad: 0 for a flat wave."""
    n = probe.shape[-1]
    frequency = np.fft.fftfreq(n)
    spectrum = np.fft.fft2(probe)
    radius = np.arange(n) - n // 2
    along_y = np.fft.ifft2(spectrum * 2j * np.pi * frequency[:, None]) * radius[:, None]
    along_x = np.fft.ifft2(spectrum * 2j * np.pi * frequency[None, :]) * radius[None, :]
    return float(0.5 * np.sum(np.imag(np.conj(probe) * (along_y + along_x))) / np.sum(np.abs(probe) ** 2))

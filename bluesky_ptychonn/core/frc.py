"""Fourier ring correlation: down to which detail two images agree.

References
----------
van Heel and Schatz, J. Struct. Biol. 151, 250 (2005), eq. 2.
"""

import numpy as np

SMALLEST_PX = 16


def fourier_ring_correlation(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Correlation of two images ring by ring of their spectra.

    The means are removed and a Hann window is laid over both, so that their edges do not correlate.

    Parameters
    ----------
    a, b : (H, W) float or complex
        Images of the same field; the largest square in their middle is used.

    Returns
    -------
    frequencies : (K,) float64
        Middle of each ring, cycles per pixel, from above 0 to 0.5.
    correlation : (K,) float64
        1 for equal images, about 0 for unlike ones.

    Raises
    ------
    ValueError
        If the shapes differ, or a side is shorter than 16 px.

    Examples
    --------
    >>> image = np.random.default_rng(0).random((32, 32))
    >>> bool(np.allclose(fourier_ring_correlation(image, image)[1], 1))
    True
    """
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"a has shape {a.shape} and b {b.shape}; both must be the same (H, W)")
    side = min(a.shape) // 2 * 2
    if side < SMALLEST_PX:
        raise ValueError(f"images of {a.shape} px; at least {SMALLEST_PX} px a side are needed")
    window = np.outer(np.hanning(side), np.hanning(side))
    top, left = ((size - side) // 2 for size in a.shape)
    cut = (image[top : top + side, left : left + side] for image in (a, b))
    first, second = (np.fft.fft2((image - np.mean(image)) * window) for image in cut)
    frequency = np.fft.fftfreq(side)
    ring = np.rint(np.hypot(frequency[:, None], frequency[None]) * side).astype(int).ravel()
    along = np.bincount(ring, np.real(first * np.conj(second)).ravel())
    power = [np.bincount(ring, (np.abs(spectrum) ** 2).ravel()) for spectrum in (first, second)]
    last = side // 2 + 1
    correlation = along / np.maximum(np.sqrt(power[0] * power[1]), 1e-30)
    return np.arange(1, last) / side, correlation[1:last]


def resolution(frequencies: np.ndarray, correlation: np.ndarray, threshold: float = 0.5) -> float:
    """Frequency at which a ring correlation first falls below a threshold, cycles per pixel; 0.5 if it never does.

    Examples
    --------
    >>> resolution(np.array([0.1, 0.2, 0.3]), np.array([1.0, 0.75, 0.25]))
    0.25
    """
    below = np.flatnonzero(~(correlation >= threshold))
    if not below.size:
        return 0.5
    first = int(below[0])
    if first == 0 or not np.isfinite(correlation[first]):
        return 0.0 if first == 0 else float(frequencies[first - 1])
    high, low = correlation[first - 1], correlation[first]
    part = (high - threshold) / (high - low)
    return float(frequencies[first - 1] + part * (frequencies[first] - frequencies[first - 1]))

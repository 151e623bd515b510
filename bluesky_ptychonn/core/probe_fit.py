"""Defocus and astigmatism of a probe: zone plate optics fitted to its phase across the cone."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from bluesky_ptychonn.core.optics import Geometry, far_field, near_field

LIT = 0.1
"""Brightness, in units of the cone's, from which on a pixel of the detector takes part."""
CONE_PERCENTILE = 95
NEAR = 3
"""Side of the neighbourhood over which brightness is averaged for that, px."""
STEPS = 6
SECTORS = 12
"""Parts of the cone of which each is left out once, to see how well the rest decides."""
LEAST_COHERENCE = 0.8
"""Share of the light's amplitude that must have the phase of the optics; that of noise is near 0.

Retrieved probes of simulated scans have 0.93 and more at 1e5 photons a frame.
"""
FEWEST_PX = 60


@dataclass(frozen=True)
class OpticsFit:
    """What a probe says of the optics that made it.

    Margins are two standard deviations among parts of the cone: those of the fit, not of where the probe comes from.

    Parameters
    ----------
    defocus_um : float
        Sample behind the focus; negative is before it.
    defocus_margin_um : float
    astigmatism_um : float
        Distance between the two line foci, not negative.
    astigmatism_margin_um : float
    astigmatism_angle_rad : float
        Direction, from +x towards +y, in which the sample is half the astigmatism further behind the focus; 0 to pi.
        Says nothing where the astigmatism is within its margin.
    astigmatism_angle_margin_rad : float
    coherence : float
        Share of the cone's amplitude that has the phase of these optics, 0 to 1.
    """

    defocus_um: float
    defocus_margin_um: float
    astigmatism_um: float
    astigmatism_margin_um: float
    astigmatism_angle_rad: float
    astigmatism_angle_margin_rad: float
    coherence: float

    @property
    def believed(self) -> bool:
        """Whether these optics explain the probe at all."""
        return self.coherence >= LEAST_COHERENCE


def fit_optics(probe: np.ndarray, geometry: Geometry) -> OpticsFit:
    """Fit defocus and astigmatism to the phase of a probe on the detector.

    A constant and a slope of the phase are left open, because a probe's phase and place are. The first guess comes
    from the phase between neighbouring pixels, which needs no unwrapping as long as the probe fits into its field.

    Parameters
    ----------
    probe : (N, N) complex
        On the sample, of any power.
    geometry : Geometry
        Of the patterns, N px.

    Returns
    -------
    OpticsFit
        In the notation of `core.optics.zone_plate_probe`.

    Raises
    ------
    ValueError
        If the probe has another size, no cone, or no power.

    Examples
    --------
    >>> from bluesky_ptychonn.core.optics import zone_plate_probe
    >>> probe = zone_plate_probe(Geometry(), defocus_um=200.0, astigmatism_um=20.0, astigmatism_angle_rad=0.5)
    >>> found = fit_optics(probe, Geometry())
    >>> round(found.defocus_um), round(found.astigmatism_um), round(found.astigmatism_angle_rad, 2)
    (200, 20, 0.5)
    """
    n = geometry.frame_px
    if probe.shape != (n, n):
        raise ValueError(f"the probe has shape {probe.shape}; ({n}, {n}) is needed, the patterns' size")
    far = far_field(probe).astype(np.complex128)
    light = np.abs(far) ** 2
    if not (np.isfinite(light).all() and light.any()):
        raise ValueError("the probe holds values that are not finite, or only zeros; give one with power")
    smooth = ndimage.uniform_filter(light, NEAR)
    lit = smooth > LIT * np.percentile(smooth[smooth > LIT * smooth.max()], CONE_PERCENTILE)
    if np.count_nonzero(lit) < FEWEST_PX:
        raise ValueError(
            f"the probe's cone has {np.count_nonzero(lit)} px on the detector; at least {FEWEST_PX} are needed; use a "
            "longer distance, or bin less"
        )
    y, x = (np.mgrid[:n, :n] - n / 2) / geometry.field_um
    unit = -np.pi * geometry.wavelength_um
    terms = np.stack([np.ones_like(x), y, x, unit * (x**2 + y**2), unit * (x**2 - y**2), unit * 2 * x * y], axis=-1)
    wave, weight, basis = far[lit], light[lit], terms[lit]
    start = _from_slopes(far, lit, terms)
    best = _refined(wave, weight, basis, start)
    sectors = (np.arctan2(y[lit], x[lit]) / (2 * np.pi) * SECTORS).astype(int) % SECTORS
    others = np.array(
        [
            _refined(wave[kept], weight[kept], basis[kept], best)
            for kept in (sectors != sector for sector in range(SECTORS))
        ]
    )
    spread = np.sqrt((SECTORS - 1) / SECTORS * np.sum((others - others.mean(axis=0)) ** 2, axis=0))
    size = 2 * float(np.hypot(*best[4:]))
    size_margin = 4 * float(np.hypot(*spread[4:]) / np.sqrt(2))
    rest = wave * np.exp(-1j * (basis @ best)) / np.abs(wave)
    return OpticsFit(
        defocus_um=float(best[3]),
        defocus_margin_um=2 * float(spread[3]),
        astigmatism_um=size,
        astigmatism_margin_um=size_margin,
        astigmatism_angle_rad=float(np.arctan2(best[5], best[4]) / 2 % np.pi),
        astigmatism_angle_margin_rad=min(np.pi / 2, size_margin / max(2 * size, 1e-12)),
        coherence=float(np.abs(np.sum(weight * rest)) / np.sum(weight)),
    )


def _from_slopes(far: np.ndarray, lit: np.ndarray, terms: np.ndarray) -> np.ndarray:
    """Least squares of the phase differences between neighbours down and to the right."""
    rows, values, weights = [], [], []
    for near, next_ in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        both = lit[near] & lit[next_]
        turned = far[next_][both] * np.conj(far[near][both])
        rows.append(terms[next_][both] - terms[near][both])
        values.append(np.angle(turned))
        weights.append(np.sqrt(np.abs(turned)))
    matrix, slope, weight = np.concatenate(rows), np.concatenate(values), np.concatenate(weights)
    found = np.linalg.lstsq(matrix[:, 1:] * weight[:, None], slope * weight, rcond=None)[0]
    return np.concatenate([[0.0], found])


def _refined(wave: np.ndarray, weight: np.ndarray, basis: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Gauss-Newton steps on the phase that is left."""
    best, root = start.copy(), np.sqrt(weight)
    for _ in range(STEPS):
        rest = wave * np.exp(-1j * (basis @ best))
        constant = np.angle(np.sum(np.abs(rest) * rest))
        left = np.angle(rest * np.exp(-1j * constant))
        step = np.linalg.lstsq(basis * root[:, None], left * root, rcond=None)[0]
        best = best + step
        best[0] += constant
    return best


def defocused(probe: np.ndarray, geometry: Geometry, change_um: float) -> np.ndarray:
    """The probe (N, N) with the sample moved ``change_um`` further behind the focus.

    Examples
    --------
    >>> from bluesky_ptychonn.core.optics import zone_plate_probe
    >>> moved = defocused(zone_plate_probe(Geometry(), defocus_um=170.0), Geometry(), -20.0)
    >>> round(fit_optics(moved, Geometry()).defocus_um)
    150
    """
    n = geometry.frame_px
    y, x = (np.mgrid[:n, :n] - n / 2) / geometry.field_um
    phase = -np.pi * geometry.wavelength_um * change_um * (x**2 + y**2)
    return near_field(far_field(probe) * np.exp(1j * phase)).astype(np.complex64)

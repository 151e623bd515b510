"""Optics of the experiment: geometry, zone-plate probe and the one forward model.

Arrays are (y, x); the zero frequency and the optical axis lie at pixel (N/2, N/2). All transforms are orthonormal, so a
wave's power is the same on the sample and on the detector.
"""

from dataclasses import dataclass

import numpy as np
import scipy.fft

HC_KEV_UM = 1.239841984e-3
"""Planck constant times speed of light, keV um."""

CONE = 0.01
"""Brightness, in units of the brightest pixel, from which on a detector pixel belongs to the cone of the probe."""

PROBE_FRAMES = 64
"""First frames of a run from which its probe is measured."""
FEWEST_FRAMES = 8
"""Frames from which on their mean says something of the cone."""

MOTTLE = 3.0
"""Largest factor by which the amplitude within the cone may differ from what the probe file says."""


@dataclass(frozen=True)
class Geometry:
    """Far-field geometry: what one object pixel is.

    Parameters
    ----------
    energy_kev : float
    distance_m : float
        Sample to detector.
    detector_pixel_um : float
    frame_px : int
        Side of a diffraction pattern.

    Examples
    --------
    >>> round(1e3 * Geometry(10.0, 0.9, 75.0, 128).pixel_size_um, 2)
    11.62
    """

    energy_kev: float = 10.0
    distance_m: float = 0.9
    detector_pixel_um: float = 75.0
    frame_px: int = 128

    def __post_init__(self) -> None:
        for name in ("energy_kev", "distance_m", "detector_pixel_um"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise ValueError(f"{name} = {value}; it must be a positive number")
        if self.frame_px < 8 or self.frame_px % 2:
            raise ValueError(f"frame_px = {self.frame_px} px; it must be even and at least 8")

    @property
    def wavelength_um(self) -> float:
        """Wavelength, um."""
        return HC_KEV_UM / self.energy_kev

    @property
    def pixel_size_um(self) -> float:
        """Side of an object pixel, um: lambda z / (N p)."""
        return self.wavelength_um * self.distance_m * 1e6 / (self.frame_px * self.detector_pixel_um)

    @property
    def field_um(self) -> float:
        """Side of the field of one pattern on the sample, um."""
        return self.pixel_size_um * self.frame_px


def far_field(wave: np.ndarray) -> np.ndarray:
    """Propagate a wave to the detector: centred orthonormal FFT over the last two axes."""
    return _centred(scipy.fft.fft2, wave)


def near_field(wave: np.ndarray) -> np.ndarray:
    """Propagate a wave back to the sample: the inverse of `far_field`."""
    return _centred(scipy.fft.ifft2, wave)


def _centred(transform, wave: np.ndarray) -> np.ndarray:
    """Transform about pixel (N/2, N/2): for even sides both shifts are a change of sign of every other pixel."""
    height, width = wave.shape[-2:]
    if height % 2 or width % 2:
        raise ValueError(f"the wave has sides of ({height}, {width}) px; they must be even")
    sign = np.float32(1) - 2 * (np.add.outer(np.arange(height), np.arange(width)) % 2).astype(np.float32)
    out = transform(np.multiply(wave, sign, dtype=np.complex64), norm="ortho", overwrite_x=True)
    out *= sign if (height + width) % 4 == 0 else -sign
    return out


def zone_plate_probe(
    geometry: Geometry,
    *,
    zone_plate_diameter_um: float = 160.0,
    outermost_zone_nm: float = 30.0,
    central_stop_um: float = 60.0,
    defocus_um: float = 170.0,
    astigmatism_um: float = 0.0,
    astigmatism_angle_rad: float = 0.0,
) -> np.ndarray:
    """Wave of a zone plate with a central stop, some way behind (or before) its focus.

    Parameters
    ----------
    geometry : Geometry
    zone_plate_diameter_um, outermost_zone_nm, central_stop_um : float
        Focal length is diameter x outermost zone / wavelength.
    defocus_um : float
        Sample position behind the focus; negative is before it.
    astigmatism_um : float
        Distance between the two line foci.
    astigmatism_angle_rad : float
        Direction, from +x towards +y, in which the sample is half the astigmatism further behind the focus.

    Returns
    -------
    (N, N) complex64
        Probe of unit power.

    Raises
    ------
    ValueError
        If the cone leaves the detector or the field of the geometry.
    """
    n = geometry.frame_px
    if not 0 <= central_stop_um < zone_plate_diameter_um:
        raise ValueError(
            f"central_stop_um = {central_stop_um} um; allowed is 0 to less than zone_plate_diameter_um = "
            f"{zone_plate_diameter_um} um"
        )
    if not outermost_zone_nm > 0:
        raise ValueError(f"outermost_zone_nm = {outermost_zone_nm} nm; it must be positive")
    pixel_per_um = 1 / geometry.field_um
    edge_px = 1 / (2e-3 * outermost_zone_nm) / pixel_per_um
    if edge_px > n / 2 - 1:
        raise ValueError(
            f"the cone of outermost_zone_nm = {outermost_zone_nm} nm has a radius of {edge_px:.1f} px on a detector of "
            f"{n} px; use a wider zone, a longer distance or more pixels"
        )
    width_um = (abs(defocus_um) + abs(astigmatism_um) / 2) * geometry.wavelength_um / (outermost_zone_nm * 1e-3)
    if width_um > geometry.field_um:
        raise ValueError(
            f"defocus_um = {defocus_um} um spreads the probe over {width_um:.2f} um, beyond the field of "
            f"{geometry.field_um:.2f} um"
        )
    y, x = np.mgrid[:n, :n] - n / 2
    radius_px = np.hypot(y, x)
    pupil = np.clip(edge_px - radius_px + 0.5, 0, 1)
    pupil *= np.clip(radius_px - edge_px * central_stop_um / zone_plate_diameter_um + 0.5, 0, 1)
    along = 2 * (np.arctan2(y, x) - astigmatism_angle_rad)
    defocus = defocus_um + astigmatism_um / 2 * np.cos(along)
    phase = -np.pi * geometry.wavelength_um * defocus * (radius_px * pixel_per_um) ** 2
    pupil /= np.linalg.norm(pupil)
    return near_field(pupil * np.exp(1j * phase))


def with_counts(probe: np.ndarray, counts: float) -> np.ndarray:
    """Scale a probe so that the sum of its intensity is ``counts`` per frame."""
    if not (np.isfinite(counts) and counts > 0):
        raise ValueError(f"counts = {counts}; counts per frame must be positive")
    return (probe * np.sqrt(counts / np.sum(np.abs(probe) ** 2, dtype=np.float64))).astype(np.complex64)


def counts_of(patterns: np.ndarray, unit_probe: np.ndarray) -> float:
    """Counts per frame of the unobstructed beam: the one intensity scale of a run.

    Parameters
    ----------
    patterns : (B, N, N) unsigned integer
        Counts; pixels without data carry the largest value of the type.
    unit_probe : (N, N) complex
        Probe; its power divides out.

    Returns
    -------
    float
        Median over frames of measured over modelled power on the measured pixels. 0 if there is no light.
    """
    counts = counts_of_each(patterns, unit_probe)
    return float(np.median(counts[np.isfinite(counts)])) if np.isfinite(counts).any() else 0.0


def counts_of_each(patterns: np.ndarray, unit_probe: np.ndarray) -> np.ndarray:
    """Measured over modelled power of each pattern (B,) on its measured pixels, as in `counts_of`; NaN without any."""
    patterns = np.asarray(patterns)
    model = np.abs(far_field(unit_probe)) ** 2
    model = model / model.sum(dtype=np.float64)
    valid = patterns != np.iinfo(patterns.dtype).max
    measured = np.sum(patterns, axis=(1, 2), dtype=np.float64, where=valid)
    modelled = np.sum(np.broadcast_to(model, patterns.shape), axis=(1, 2), dtype=np.float64, where=valid)
    return np.divide(measured, modelled, out=np.full(len(patterns), np.nan), where=modelled > 1e-3)


def measured_probe(unit_probe: np.ndarray, patterns: np.ndarray) -> np.ndarray:
    """The probe of a run: scaled to its counts, with the brightness of its cone as the detector shows it.

    A probe file knows the shape of a cone well and its mottle badly; the mean of a few patterns knows the mottle. The
    phases stay those of the file. On the real Siemens star, 8 frames raise the correlation of the stitched network
    with a reconstruction from 0.55 to 0.85, of the bare lift from 0.82 to 0.86; an exact probe loses next to nothing.

    Parameters
    ----------
    unit_probe : (N, N) complex
        Probe of any power.
    patterns : (B, N, N) unsigned integer
        Frames of the run at different positions; of fewer than `FEWEST_FRAMES` only the counts are taken, because each
        shows the sample more than the cone. Pixels without data carry the largest value of the type.

    Returns
    -------
    (N, N) complex64
        Its power is the counts per frame, `counts_of`.

    Raises
    ------
    ValueError
        If there is no light.
    """
    patterns = np.asarray(patterns)
    probe = with_counts(unit_probe, counts_of(patterns, unit_probe))
    if len(patterns) < FEWEST_FRAMES:
        return probe
    far = far_field(probe)
    model = np.abs(far).astype(np.float64) ** 2
    valid = patterns != np.iinfo(patterns.dtype).max
    frames = valid.sum(axis=0)
    mean = patterns.sum(axis=0, dtype=np.float64, where=valid) / np.maximum(frames, 1)
    cone = (model > CONE * model.max()) & (frames > 0)
    gain = np.sqrt(mean[cone] / model[cone] * (model[cone].sum() / max(mean[cone].sum(), 1e-12)))
    far[cone] *= np.clip(gain, 1 / MOTTLE, MOTTLE).astype(np.float32)
    return with_counts(near_field(far), float(model.sum()))


def probe_diameter_um(probe: np.ndarray, pixel_size_um: float, power: float = 0.9) -> float:
    """Diameter of the circle around the centre of mass that holds ``power`` (0 to 1) of the probe."""
    intensity = np.abs(probe).astype(np.float64) ** 2
    total = intensity.sum()
    if not total > 0:
        raise ValueError("the probe is dark; give one with power")
    y, x = np.indices(intensity.shape)
    centre_y, centre_x = (y * intensity).sum() / total, (x * intensity).sum() / total
    radius_px = np.hypot(y - centre_y, x - centre_x).ravel()
    order = np.argsort(radius_px)
    inside = np.cumsum(intensity.ravel()[order])
    index = min(int(np.searchsorted(inside, power * total)), radius_px.size - 1)
    return float(2 * radius_px[order][index] * pixel_size_um)


def shifted(probe: np.ndarray, shifts_px: np.ndarray) -> np.ndarray:
    """Copies of a band-limited probe moved by ``shifts_px`` (B, 2), sub-pixel, as (B, N, N) complex64."""
    n = probe.shape[-1]
    frequency = (np.arange(n) - n // 2) / n
    if not np.any(shifts_px):
        return np.repeat(np.asarray(probe, np.complex64)[None], len(shifts_px), axis=0)
    turn_y, turn_x = (np.exp(-2j * np.pi * np.outer(shifts_px[:, axis], frequency)) for axis in (0, 1))
    return near_field(far_field(probe) * (turn_y[:, :, None] * turn_x[:, None, :]))


def intensities(object_: np.ndarray, probe: np.ndarray, centres_px: np.ndarray) -> np.ndarray:
    """Diffraction patterns without noise: the one forward model, ``|F[P(r - c) O(r)]|^2``.

    Parameters
    ----------
    object_ : (H, W) complex
        Transmission of the sample.
    probe : (N, N) complex
        Its power is the power of each pattern in vacuum.
    centres_px : (B, 2) float
        Probe centres (y, x) in pixels of ``object_``; parts of a pixel are kept by moving the probe.

    Returns
    -------
    (B, N, N) float32

    Raises
    ------
    ValueError
        If the field around a centre leaves the object.

    Examples
    --------
    >>> probe = zone_plate_probe(Geometry())
    >>> round(float(intensities(np.ones((140, 140)), probe, np.array([[70.2, 69.5]])).sum()), 3)
    1.0
    """
    centres_px = np.atleast_2d(np.asarray(centres_px, np.float64))
    n = probe.shape[-1]
    whole = np.rint(centres_px).astype(int)
    corners = whole - n // 2
    outside = np.flatnonzero(np.any((corners < 0) | (corners > np.subtract(object_.shape, n)), axis=1))
    if outside.size:
        raise ValueError(
            f"centres_px[{outside[0]}] = {centres_px[outside[0]].tolist()} px: the field of {n} px leaves the object "
            f"of {object_.shape} px; enlarge the object"
        )
    waves = shifted(probe, centres_px - whole)
    for wave, (y, x) in zip(waves, corners, strict=True):
        wave *= object_[y : y + n, x : x + n]
    far = far_field(waves)
    return np.real(far) ** 2 + np.imag(far) ** 2

"""What a scan will be like, before anything moves: time, motion, and how light falls on the sample."""

from dataclasses import dataclass

import numpy as np

from bluesky_ptychonn.core.optics import with_counts
from bluesky_ptychonn.core.request import ScanRequest
from bluesky_ptychonn.core.stitch import Canvas
from bluesky_ptychonn.core.trajectory import profile_points


@dataclass(frozen=True)
class ScanPreview:
    """A scan as it is planned.

    Parameters
    ----------
    duration_s, exposed_s : float
        From the first trigger to the end of the last dwell, and how much of it the detector counts.
    speed_um_per_s, acceleration_um_per_s2 : float
        Largest ones along either axis of a fly scan; 0 of a step scan.
    fluence : (H, W) float64
        Photons per um^2 that each pixel of the sample gets.
    canvas : Canvas
        Where these pixels lie.
    unevenness : float
        Standard deviation of the fluence in the middle half of the field, away from its edges, in units of its mean.
    """

    duration_s: float
    exposed_s: float
    speed_um_per_s: float
    acceleration_um_per_s2: float
    fluence: np.ndarray
    canvas: Canvas
    unevenness: float


def preview_scan(request: ScanRequest, probe: np.ndarray, pixel_size_um: float, photons: float) -> ScanPreview:
    """Look ahead at a scan.

    What devices have against it is another question: `core.request.refuse_if_impossible`.

    Parameters
    ----------
    request : ScanRequest
    probe : (n, n) complex
        Illumination of any power.
    pixel_size_um : float
        Its pixels.
    photons : float
        Per frame: those that come through the sample during one exposure.

    Examples
    --------
    >>> from bluesky_ptychonn.core.optics import Geometry, probe_diameter_um, zone_plate_probe
    >>> probe, pixel_um = zone_plate_probe(Geometry()), Geometry().pixel_size_um
    >>> request = ScanRequest(1.0, 1.0, 0.1, 0.5e-3, 2e-3, 10.0, probe_diameter_um=probe_diameter_um(probe, pixel_um))
    >>> plan = preview_scan(request, probe, pixel_um, 1e6)
    >>> round(plan.duration_s, 3), round(float(plan.fluence.sum() * pixel_um**2) / 1e6)
    (0.202, 101)
    """
    n = len(probe)
    beam = np.abs(with_counts(probe, photons)).astype(np.float64) ** 2 / pixel_size_um**2
    positions_um = request.positions_um
    canvas = Canvas.covering(positions_um, pixel_size_um, n)
    fluence = np.zeros(canvas.shape)
    for y, x in canvas.corners_px(positions_um, n):
        fluence[y : y + n, x : x + n] += beam
    quarter_um = np.array([request.height_um, request.width_um]) / 4
    low, high = canvas.corners_px(np.stack([request.center_um - quarter_um, request.center_um + quarter_um]), 0)
    inside = fluence[low[0] : high[0] + 1, low[1] : high[1] + 1]
    motion = (np.zeros(2), np.zeros(2))
    if request.fly:
        motion = profile_points(positions_um, request.exposure_s, request.dwell_s).peak_motion()
    return ScanPreview(
        duration_s=request.points * (request.dwell_s + request.settle_s),
        exposed_s=request.points * request.exposure_s,
        speed_um_per_s=float(motion[0].max()),
        acceleration_um_per_s2=float(motion[1].max()),
        fluence=fluence,
        canvas=canvas,
        unevenness=float(inside.std() / inside.mean()),
    )

"""Ptychography scans."""

import logging
from collections.abc import Sequence
from typing import cast

from bluesky import plan_stubs as bps
from bluesky.protocols import Flyable, Movable, Readable
from bluesky.utils import CustomPlanMetadata, FailedStatus, MsgGenerator

from bluesky_ptychonn.core.request import ScanRequest, refuse_if_impossible, step_from
from bluesky_ptychonn.plans.guard import PausedInFlight, reason_of
from bluesky_ptychonn.plans.run import Scan

logger = logging.getLogger(__name__)


def spiral_ptycho_scan(
    detector: Flyable,
    stage: Flyable,
    *,
    width_um: float,
    height_um: float | None = None,
    step_um: float | None = None,
    overlap_ratio: float | None = None,
    exposure_s: float,
    dwell_s: float | None = None,
    fly: bool = True,
    settle_s: float = 0.0,
    energy_kev: float | None = None,
    sample_name: str = "",
    monitors: Sequence[Readable | Flyable] = (),
    shutter: Movable | None = None,
    edge: Flyable | None = None,
    md: CustomPlanMetadata | None = None,
) -> MsgGenerator[str]:
    """Scan the sample along a Fermat spiral around where the stage stands, one frame per point.

    Frames are in stream ``primary``, positions at mid exposure with their trigger index in ``positions``, what became
    of the frames in ``counters`` and ``account``. Whatever happens, the shutter is closed, the detector disarmed and
    the stage back where it started. A pause in a fly scan ends the run; resuming begins a new one.

    Parameters
    ----------
    detector : Flyable
        Detector which takes a `ScanRequest` in ``prepare``, lists problems in ``check``, and counts its frames in
        ``counters``.
    stage : Flyable
        Sample stage with the same abilities, which also moves to a position (y, x) in um. For a step scan, an
        `AxisPair` of any two movables.
    width_um, height_um : float
        Extent of the probe centres along x and y; the height is the width if not given.
    step_um : float, optional
        Square root of the area per point; either this or ``overlap_ratio``.
    overlap_ratio : float, optional
        1 - step / probe diameter, 0 to 1; 0.6 to 0.9 is usual.
    exposure_s : float
        Exposure of a frame.
    dwell_s : float, optional
        Time from point to point; exposure plus the detector's dead time if not given.
    fly : bool
        Move without stopping, with a trigger per frame; otherwise stop at each point.
    settle_s : float
        Rest before each exposure of a step scan.
    energy_kev : float, optional
        Photon energy; the detector's if not given.
    sample_name : str
        What is measured.
    monitors : list of Readable or Flyable
        Signals, such as flux and ring current: recorded at the start, at the end and whenever they change. A flyer,
        such as a `FluxScaler`, counts the flux at each trigger of a fly scan, into stream ``flux``.
    shutter : Movable, optional
        Takes ``"Open"`` and ``"Close"``.
    edge : Flyable, optional
        Live image; the scan waits a moment until it is armed, and goes on without it if it is not.
    md : dict, optional
        Extra start-document metadata; its keys win.

    Returns
    -------
    str
        Uid of the run; of the last one if it was paused and resumed.

    Raises
    ------
    ValueError
        If this is impossible; nothing has moved then.
    RuntimeError
        If a device fails during the scan; what was measured is recorded.
    """
    try:
        defaults = detector.ptycho_block()  # type: ignore[attr-defined]
        location = yield from bps.locate(stage)  # type: ignore[arg-type]
    except TimeoutError as error:
        raise RuntimeError(reason_of(error)) from error
    start_um = tuple(float(value) for value in location["setpoint"])
    request = ScanRequest(
        width_um=width_um,
        height_um=width_um if height_um is None else height_um,
        step_um=step_from(step_um, overlap_ratio, defaults["probe_diameter_um"]),
        exposure_s=exposure_s,
        dwell_s=exposure_s + defaults["dead_time_s"] if dwell_s is None else dwell_s,
        energy_kev=defaults["energy_kev"] if energy_kev is None else energy_kev,
        center_um=cast(tuple[float, float], start_um),
        probe_diameter_um=defaults["probe_diameter_um"],
        fly=fly,
        settle_s=settle_s,
        sample_name=sample_name,
    )
    scan = Scan(request, detector, stage, shutter, edge, monitors)
    devices = [device for device in (detector, stage, edge, *scan.flux) if device is not None]
    refuse_if_impossible(request, *devices)  # type: ignore[arg-type]
    given = {"step_um": step_um, "overlap_ratio": overlap_ratio, "energy_kev": energy_kev, "fly": fly}
    plan_args = {"width_um": width_um, "height_um": height_um, "exposure_s": exposure_s, "dwell_s": dwell_s, **given}
    while True:
        try:
            return (yield from scan.run({"plan_args": plan_args, **(md or {})}))
        except PausedInFlight:
            logger.warning("the paused fly scan begins anew, as a new run")
        except (FailedStatus, TimeoutError) as failure:
            raise RuntimeError(reason_of(failure)) from failure

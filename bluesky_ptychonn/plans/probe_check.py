"""Setting up a beamline: a short dense scan of a test pattern, which tells probe, beam centre, mask and orientation."""

import logging

from bluesky import plan_stubs as bps
from bluesky.protocols import Flyable, Movable
from bluesky.utils import CustomPlanMetadata, FailedStatus, MsgGenerator

from bluesky_ptychonn.plans.guard import reason_of
from bluesky_ptychonn.plans.spiral import spiral_ptycho_scan

logger = logging.getLogger(__name__)

WIDTHS = 2.5
"""Width of the scan in probe diameters."""
OVERLAP_RATIO = 0.85
"""Of the expected probe; one whose diameter is 30 % smaller still overlaps by 0.79."""


def probe_check(
    detector: Flyable,
    stage: Flyable,
    *,
    width_um: float | None = None,
    overlap_ratio: float = OVERLAP_RATIO,
    exposure_s: float = 0.01,
    dwell_s: float | None = None,
    fly: bool = True,
    settle_s: float = 0.0,
    energy_kev: float | None = None,
    sample_name: str = "test pattern",
    shutter: Movable | None = None,
    edge: Flyable | None = None,
    analysis: Movable | None = None,
    write: bool = False,
    md: CustomPlanMetadata | None = None,
) -> MsgGenerator[str]:
    """Scan a test pattern densely, and find probe, defocus, beam centre, mask and orientation from it.

    Centre and mask may be unknown, the orientation any of eight, the defocus in the settings wrong by 30 %; its sign
    must be right. The analysis, `bluesky-ptychonn probe-check`, is a process of its own and takes some minutes.

    Parameters
    ----------
    detector, stage : Flyable
        As for `spiral_ptycho_scan`.
    width_um : float, optional
        Extent of the probe centres; 2.5 times the probe's diameter in the settings if not given.
    overlap_ratio : float
        1 - step / probe diameter, 0 to 1.
    exposure_s : float
        Exposure of a frame; 1e5 photons and more are wanted in each.
    dwell_s : float, optional
        Time from point to point; exposure plus the detector's dead time if not given.
    fly : bool
        Move without stopping, with a trigger per frame; otherwise stop at each point.
    settle_s : float
        Rest before each exposure of a step scan.
    energy_kev : float, optional
        Photon energy; the detector's if not given.
    sample_name : str
        What is measured: something with sharp edges all over the field.
    shutter : Movable, optional
        Takes ``"Open"`` and ``"Close"``.
    edge : Flyable, optional
        Live image, with the settings as they are before.
    analysis : Movable, optional
        Takes the run's uid, and ``write``; ``probe_analysis`` of the profile. Without it, the command is told.
    write : bool
        Put what is found into settings and model store, if it is believed; otherwise it is shown only.
    md : dict, optional
        Extra start-document metadata; its keys win.

    Returns
    -------
    str
        Uid of the run.

    Raises
    ------
    ValueError
        If the scan is impossible; nothing has moved then.
    RuntimeError
        If a device or the analysis fails, or if ``write`` was asked and the result is not believed; what was measured
        is recorded.
    """
    if write and analysis is None:
        raise ValueError("write = True needs an analysis that writes; give analysis=probe_analysis")
    try:
        probe_diameter_um = float(detector.ptycho_block()["probe_diameter_um"])  # type: ignore[attr-defined]
    except TimeoutError as error:
        raise RuntimeError(reason_of(error)) from error
    uid = yield from spiral_ptycho_scan(
        detector,
        stage,
        width_um=WIDTHS * probe_diameter_um if width_um is None else width_um,
        overlap_ratio=overlap_ratio,
        exposure_s=exposure_s,
        dwell_s=dwell_s,
        fly=fly,
        settle_s=settle_s,
        energy_kev=energy_kev,
        sample_name=sample_name,
        shutter=shutter,
        edge=edge,
        md={"plan_name": "probe_check", "purpose": "probe_check", **(md or {})},
    )
    if analysis is None:
        logger.warning("to analyse this run: bluesky-ptychonn probe-check %s", uid)
        return uid
    try:
        yield from bps.abs_set(analysis, uid, write=write, wait=True)
    except FailedStatus as failure:
        raise RuntimeError(reason_of(failure)) from failure
    return uid

"""The verdict: trusted or not, and the one sentence that says why."""

import math

from bluesky_ptychonn.core.reconstruction import RetrievalReport

FEWEST_OVERLAP = 0.45
LARGEST_STRETCH = 0.05
LEAST_GAIN = 1.1
"""Ratio of errors from which on another orientation is clearly the better one."""
MOST_UNEXPLAINED = 0.18
"""Share of what the sample does to the patterns, beyond noise, that may stay unexplained.

Whole simulated scans leave up to 0.03, the real star up to 0.15 with one mode; a motion of 30 px during the exposure,
whose image is worthless, leaves 0.22 and more.
"""
MOST_OVERFIT = 2.0
"""Largest ratio of the error beyond noise of held out frames to that of the frames in use."""
DARK = 1.1
"""What there was to explain must be more than this times the noise."""
COARSEST = 0.08
"""Ring correlation of the halves must reach so far, cycles/px."""
LEAST_COVERED = 0.6


def unexplained(report: RetrievalReport) -> float:
    """Error beyond noise, of held out frames or of all if that is larger, in units of what there was to explain."""
    error = report.error if math.isnan(report.error_heldout) else max(report.error, report.error_heldout)
    there_was = report.error_blank - report.error_noise
    return (error - report.error_noise) / there_was if there_was > 0 else float("inf")


def verdict(report: RetrievalReport) -> tuple[bool, str]:
    """Judge what was measured.

    Causes come before symptoms: a scan that is too sparse or turned also fits badly, but that is not what its owner
    can change.

    Returns
    -------
    trusted : bool
    reason : str
    """
    for problem in (_geometry(report), _fit(report)):
        if problem:
            return False, problem
    finest = "" if report.frc_nm is None else f" ({report.frc_nm:.3g} nm half period)"
    held_out = ", held out ones too," if math.isfinite(report.error_heldout) else ""
    return True, (
        f"frames{held_out} are explained to {100 * min(1.0, 1 - unexplained(report)):.0f} %, and two halves "
        f"of the data agree down to {report.frc_cycles_per_px:.2f} cycles/px{finest}"
    )


def _geometry(report: RetrievalReport) -> str:
    if report.overlap_ratio is None:
        return "the positions lie on a line or at too few places; scan an area"
    if report.overlap_ratio < FEWEST_OVERLAP:
        return (
            f"too sparse: the overlap ratio is {report.overlap_ratio:.2f}, at least {FEWEST_OVERLAP} is needed; "
            "scan with a smaller step"
        )
    if report.orientation != "identity" and report.orientation_gain > LEAST_GAIN:
        return (
            f"wrong orientation: the data fit {report.orientation_gain:.2f} times better when the frames are turned "
            f"by {report.orientation!r}; set it, or the signs of the stage axes"
        )
    if abs(report.position_scale - 1) > LARGEST_STRETCH and unexplained(report) < MOST_UNEXPLAINED:
        return (
            f"wrong scale: the data fit best with the positions multiplied by about {report.position_scale:.2f}; check "
            "energy, distance, detector pixel and the unit of the positions"
        )
    if report.covered_fraction < LEAST_COVERED:
        return (
            f"poorly covered: only {100 * report.covered_fraction:.0f} % of the field has enough light, at least "
            f"{100 * LEAST_COVERED:.0f} % is needed; look for lost frames"
        )
    return ""


def _fit(report: RetrievalReport) -> str:
    finest = report.frc_cycles_per_px
    if finest is None:
        return "the well covered field is too small to compare two halves of the data; scan a larger one"
    if report.error_blank <= DARK * report.error_noise:
        return (
            f"too little light: at {report.photons_per_frame:.3g} photons a frame, counting noise hides the sample; "
            "expose longer"
        )
    if not finest >= COARSEST:
        return (
            f"not reproducible: two halves of the data agree down to {finest:.2f} cycles/px only, at least "
            f"{COARSEST} is needed; check that frames and positions belong together, or give more light"
        )
    left = unexplained(report)
    if not left <= MOST_UNEXPLAINED:
        return (
            f"bad fit: {100 * left:.0f} % of what the sample does to the frames is unexplained, at most "
            f"{100 * MOST_UNEXPLAINED:.0f} % is allowed; check positions, mask, beam centre and probe modes"
        )
    beyond = report.error - report.error_noise
    if beyond > 0 and (report.error_heldout - report.error_noise) / beyond > MOST_OVERFIT and left > 0.1:
        return (
            f"overfitted: frames held out fit {report.error_heldout / report.error:.1f} times worse than those in use; "
            "use fewer modes, or scan with a smaller step"
        )
    return ""

"""Whether a run can be done, and whether what was captured can be believed."""

import numpy as np

from bluesky_ptychonn.core.optics import Geometry, probe_diameter_um
from bluesky_ptychonn.core.protocols import Engine
from bluesky_ptychonn.io.edge_channels import RunMessage

MISMATCH = 0.02
"""Relative difference in pixel size or energy from which a model is refused."""
FIELD_IN_PROBES = 1.1
"""Least field of a pattern on the sample, in probe diameters (90 % of the power); a smaller one folds the rim over."""
LEAST_STRAY_UM = 1.0
"""A captured position this little outside the planned field is believed however small the field."""


def goes_astray(captured_um: np.ndarray, planned_um: np.ndarray) -> np.ndarray:
    """Which captured positions (n, 2) cannot be: further outside the planned field than half its size."""
    low, high = planned_um.min(axis=0), planned_um.max(axis=0)
    limit_um = np.maximum((high - low) / 2, LEAST_STRAY_UM)
    return np.any((captured_um < low - limit_um) | (captured_um > high + limit_um), axis=1)


def check_run(message: RunMessage, engine: Engine, unit_probe: np.ndarray) -> Geometry:
    """Return the geometry of a run which this engine can do.

    Raises
    ------
    ValueError
        If it cannot, with the remedy.
    """
    geometry = message.geometry
    if engine.frame_px != message.crop_px or unit_probe.shape != (message.crop_px, message.crop_px):
        raise ValueError(
            f"crop_px = {message.crop_px} px, but the engine takes {engine.frame_px} px and the probe has "
            f"{unit_probe.shape} px; set geometry.frame_px, or use another model and probe"
        )
    diameter_um = probe_diameter_um(unit_probe, geometry.pixel_size_um)
    if geometry.field_um < FIELD_IN_PROBES * diameter_um:
        remedy = "crop instead of binning" if message.binning > 1 else "move the detector away"
        raise ValueError(
            f"the field of a pattern is {geometry.field_um:.3g} um ({message.crop_px} px of "
            f"{1e3 * geometry.pixel_size_um:.3g} nm, binning = {message.binning}), less than {FIELD_IN_PROBES:g} times "
            f"the probe's diameter of {diameter_um:.3g} um; {remedy}, or bring the sample nearer to the focus"
        )
    card = engine.card
    for name, unit in (("pixel_size_um", "um"), ("energy_kev", "keV")) if card else ():
        here, there = getattr(geometry, name), getattr(card, name)
        if there is not None and abs(here - there) > MISMATCH * there:
            raise ValueError(
                f"{name} = {here:.5g} {unit} differs by more than {MISMATCH:.0%} from {there:.5g} {unit} of model "
                f"{card and card.version}; use a model trained for it, or the engine 'lift'"
            )
    return geometry

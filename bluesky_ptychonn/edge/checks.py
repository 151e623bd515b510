"""Whether a run can be done, and whether what was captured can be believed."""

import numpy as np

from bluesky_ptychonn.core.optics import Geometry
from bluesky_ptychonn.core.protocols import Engine
from bluesky_ptychonn.io.edge_channels import RunMessage

MISMATCH = 0.02
"""Relative difference in pixel size or energy from which a model is refused."""
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
    geometry = Geometry(message.energy_kev, message.distance_m, message.detector_pixel_um, message.crop_px)
    if engine.frame_px != message.crop_px or unit_probe.shape != (message.crop_px, message.crop_px):
        raise ValueError(
            f"crop_px = {message.crop_px} px, but the engine takes {engine.frame_px} px and the probe has "
            f"{unit_probe.shape} px; set geometry.frame_px, or use another model and probe"
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

"""Whether an engine can do a run."""

import numpy as np

from bluesky_ptychonn.core.model_card import ModelCard
from bluesky_ptychonn.core.optics import Geometry, probe_diameter_um
from bluesky_ptychonn.core.protocols import Engine
from bluesky_ptychonn.io.edge_channels import RunMessage

MISMATCH = 0.02
"""Relative difference in pixel size or energy from which a model is refused."""
FIELD_IN_PROBES = 1.1
"""Least field of a pattern on the sample, in probe diameters (90 % of the power); a smaller one folds the rim over."""


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
    refuse_mismatch(engine.card, geometry.pixel_size_um, geometry.energy_kev)
    return geometry


def refuse_mismatch(card: ModelCard | None, pixel_size_um: float, energy_kev: float | None) -> None:
    """Raise `ValueError` if a model was trained for another pixel size or energy; None is an energy nobody knows."""
    for name, here, unit in (("pixel_size_um", pixel_size_um, "um"), ("energy_kev", energy_kev, "keV")):
        there = getattr(card, name, None)
        if card is not None and here is not None and there is not None and abs(here - there) > MISMATCH * there:
            raise ValueError(
                f"{name} = {here:.5g} {unit} differs by more than {MISMATCH:.0%} from {there:.5g} {unit} of model "
                f"{card.version}; use a model trained for it, or the engine 'lift'"
            )

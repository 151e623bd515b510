"""What a scan is asked to do, and the questions every device answers before it starts."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from bluesky_ptychonn.core.scan import SPIRAL_ORDER, check_spiral, fermat_spiral

SCHEMA_VERSION = 1


def _in_range(name: str, value: float, unit: str, low: float, high: float, remedy: str) -> None:
    if not (isinstance(value, (int, float, np.number)) and math.isfinite(value) and low <= value <= high):
        raise ValueError(f"{name} = {value!r} {unit} is outside {low:g} to {high:g} {unit}; {remedy}")


@dataclass(frozen=True)
class ScanRequest:
    """One spiral scan: where the probe goes, how long it stays, with which beam.

    Parameters
    ----------
    width_um, height_um : float
        Extent of the probe centres along x and y, um.
    step_um : float
        Square root of the area per point, um.
    exposure_s, dwell_s : float
        Time a frame is exposed, and time from one trigger to the next.
    energy_kev : float
        Photon energy.
    center_um : (float, float)
        Stage coordinates (y, x) of the middle, um.
    probe_diameter_um : float
        Diameter holding 90 % of the probe's power on the sample, um.
    fly : bool
        A trigger per frame while the stage moves, or one stop per frame.
    settle_s : float
        Rest between a step's arrival and its exposure.
    sample_name : str
        What is measured.

    Raises
    ------
    ValueError
        If a value is out of range; the message names it with unit, range and remedy.

    Examples
    --------
    >>> request = ScanRequest(1.0, 1.0, 0.1, 0.001, 0.002, 10.0, probe_diameter_um=0.5)
    >>> request.points, round(request.overlap_ratio, 3)
    (101, 0.8)
    """

    width_um: float
    height_um: float
    step_um: float
    exposure_s: float
    dwell_s: float
    energy_kev: float
    center_um: tuple[float, float] = (0.0, 0.0)
    probe_diameter_um: float = 1.0
    fly: bool = True
    settle_s: float = 0.0
    sample_name: str = ""

    def __post_init__(self) -> None:
        _in_range("width_um", self.width_um, "um", 1e-3, 1e5, "scan a field of that size")
        _in_range("height_um", self.height_um, "um", 1e-3, 1e5, "scan a field of that size")
        _in_range("step_um", self.step_um, "um", 1e-4, 1e3, "give a step in micrometres, or an overlap_ratio")
        _in_range("exposure_s", self.exposure_s, "s", 1e-6, 1e3, "give seconds")
        _in_range("settle_s", self.settle_s, "s", 0, 60, "give seconds")
        _in_range("energy_kev", self.energy_kev, "keV", 0.1, 200, "give the photon energy in keV, not eV")
        _in_range("probe_diameter_um", self.probe_diameter_um, "um", 1e-3, 1e3, "correct the probe's diameter")
        _in_range(
            "dwell_s",
            self.dwell_s,
            "s",
            self.exposure_s,
            1e3,
            f"the time per point holds the exposure (exposure_s = {self.exposure_s:g} s); enlarge dwell_s",
        )
        if len(self.center_um) != 2 or not all(math.isfinite(value) for value in self.center_um):
            raise ValueError(f"center_um = {self.center_um!r} um must be two finite numbers, (y, x)")
        if self.step_um > max(self.width_um, self.height_um):
            raise ValueError(
                f"step_um = {self.step_um:g} um exceeds the field of {self.width_um:g} x {self.height_um:g} um; "
                "shorten the step or enlarge the field"
            )
        check_spiral(self.width_um, self.height_um, self.step_um)

    @cached_property
    def positions_um(self) -> np.ndarray:
        """Probe centres (y, x) in stage coordinates, um, in the order of the triggers."""
        return fermat_spiral(self.width_um, self.height_um, self.step_um) + np.asarray(self.center_um)

    @property
    def points(self) -> int:
        """Number of triggers."""
        return len(self.positions_um)

    @property
    def overlap_ratio(self) -> float:
        """1 - step / probe diameter."""
        return 1 - self.step_um / self.probe_diameter_um

    def as_metadata(self) -> dict[str, Any]:
        """Start-document metadata: the recipe of the positions and the ``ptycho`` block."""
        return {
            "plan_pattern": "fermat_spiral",
            "plan_pattern_module": "bluesky_ptychonn.core.scan",
            "plan_pattern_args": {
                "width_um": float(self.width_um),
                "height_um": float(self.height_um),
                "step_um": float(self.step_um),
                "order": SPIRAL_ORDER,
            },
            "num_points": self.points,
            "sample_name": self.sample_name,
            "ptycho": {
                "schema_version": SCHEMA_VERSION,
                "energy_kev": float(self.energy_kev),
                "exposure_s": float(self.exposure_s),
                "dwell_s": float(self.dwell_s),
                "step_um": float(self.step_um),
                "probe_diameter_um": float(self.probe_diameter_um),
                "overlap_ratio": float(self.overlap_ratio),
                "center_um": [float(value) for value in self.center_um],
                "position_convention": "probe centre on the sample (y, x) um in stage coordinates, at mid exposure",
                "fly": self.fly,
            },
        }


def step_from(step_um: float | None, overlap_ratio: float | None, probe_diameter_um: float) -> float:
    """Step of a scan which was asked for by its step or by its overlap ratio, exactly one of them.

    Examples
    --------
    >>> step_from(None, 0.75, 0.4)
    0.1
    """
    if (step_um is None) == (overlap_ratio is None):
        raise ValueError(
            f"step_um = {step_um} um and overlap_ratio = {overlap_ratio}: give exactly one of the two; "
            f"with this probe of {probe_diameter_um:g} um, overlap_ratio = 0.75 is a step of "
            f"{0.25 * probe_diameter_um:g} um"
        )
    if step_um is not None:
        return step_um
    if not (isinstance(overlap_ratio, (int, float)) and 0 <= overlap_ratio < 1):
        raise ValueError(
            f"overlap_ratio = {overlap_ratio!r} is outside 0 to 1 (1 excluded); it is 1 - step / probe diameter, "
            "0.6 to 0.9 is usual"
        )
    return (1 - overlap_ratio) * probe_diameter_um


class Instrument(Protocol):
    """What the plans ask of a device beyond Bluesky's protocols."""

    @property
    def name(self) -> str: ...

    def check(self, request: ScanRequest) -> list[str]:
        """What stands against this request; empty if nothing does. Changes nothing."""
        ...

    def ptycho_block(self) -> Mapping[str, Any]:
        """What this device adds to the start document's ``ptycho`` block."""
        ...


def refuse_if_impossible(request: ScanRequest, *devices: Instrument) -> None:
    """Raise if any device cannot do this; nothing has moved then.

    Raises
    ------
    ValueError
        With every problem of every device, one per line.
    """
    problems = [f"{device.name}: {problem}" for device in devices for problem in device.check(request)]
    if problems:
        raise ValueError("this scan is impossible, nothing has moved:\n  " + "\n  ".join(problems))

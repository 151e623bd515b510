"""What the records of the simulated detector ask for and show."""

from dataclasses import dataclass
from enum import IntEnum

from bluesky_ptychonn.simulation.writer import Frame


class TriggerMode(IntEnum):
    """Choices of an Eiger's ``cam1:TriggerMode``."""

    INTERNAL_SERIES = 0
    INTERNAL_ENABLE = 1
    EXTERNAL_SERIES = 2
    EXTERNAL_ENABLE = 3
    CONTINUOUS = 4
    EXTERNAL_GATE = 5

    @property
    def external(self) -> bool:
        return self in (self.EXTERNAL_SERIES, self.EXTERNAL_ENABLE, self.EXTERNAL_GATE)


IDLE, ACQUIRE, ABORTED = 0, 1, 10
"""Choices of ``cam1:DetectorState_RBV``."""


@dataclass
class Settings:
    """What the records ask for, and how the detector is.

    ``numbers_exposures`` is Serval's way: a frame's id is its number in the series, and the series ends with its last
    trigger. Otherwise it is ADEiger's: the id counts the frames handled, and the series ends when all have come.
    ``beam`` is the part of the full beam that there is; there is none at the triggers ``no_beam``.
    """

    mode: int = TriggerMode.INTERNAL_SERIES
    images: int = 1
    triggers: int = 1
    exposure_s: float = 0.05
    period_s: float = 0.1
    manual: bool = False
    streaming: bool = True
    detector_clock: bool = True
    array_callbacks: bool = True
    roi_enabled: bool = True
    roi_hears: bool = True
    pva_enabled: bool = True
    shutter_open: bool = True
    photons: float = 1e6
    dead_time_s: float = 1e-7
    numbers_exposures: bool = False
    stamp_index: bool = False
    beam: float = 1.0
    no_beam: frozenset[int] = frozenset()
    drop_in_detector: frozenset[int] = frozenset()
    drop_in_plugin: frozenset[int] = frozenset()
    drop_in_writer: frozenset[int] = frozenset()

    @property
    def images_per_trigger(self) -> int:
        """A series is several images per trigger, everything else is one."""
        return self.images if self.mode in (TriggerMode.INTERNAL_SERIES, TriggerMode.EXTERNAL_SERIES) else 1

    @property
    def total(self) -> float:
        """Images after which the detector ends by itself."""
        if self.mode == TriggerMode.CONTINUOUS:
            return float("inf")
        return self.images_per_trigger * self.triggers


@dataclass
class State:
    """What the records show."""

    acquiring: bool = False
    armed: bool = False
    detector_state: int = IDLE
    message: str = ""
    images: int = 0
    exposed: int = 0
    array_counter: int = 0
    stream_dropped: int = 0
    roi_arrays: int = 0
    pva_arrays: int = 0
    pva_dropped: int = 0
    ignored_triggers: int = 0
    sequence: int = 0
    last: Frame | None = None

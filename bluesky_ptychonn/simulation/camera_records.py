"""What the camera records of each kind of simulated detector do and show."""

from collections.abc import Callable
from typing import Any

from bluesky_ptychonn.simulation.detector_records import DetectorRecords, assign, at_least_one
from bluesky_ptychonn.simulation.detector_state import IDLE, TriggerMode


class EigerRecords(DetectorRecords):
    """Those of ADEiger."""

    def _camera_handlers(self) -> dict[str, Callable[[Any], Any]]:
        detector, settings = self._detector, self._detector.settings
        return {
            "cam1:Trigger": lambda value: detector.trigger(),
            "cam1:NumImages": at_least_one(settings, "images"),
            "cam1:NumTriggers": at_least_one(settings, "triggers"),
            "cam1:TriggerMode": self._set_mode,
            "cam1:ManualTrigger": assign(settings, "manual"),
            "cam1:DataSource": assign(settings, "streaming", lambda value: value == 2),
            "cam1:StreamAsTSSource": lambda value: self._set_clock("StreamAsTSSource", value),
            "cam1:StreamVersion": lambda value: self._set_clock("StreamVersion", value),
        }

    def _set_mode(self, value: int) -> int:
        settings = self._detector.settings
        if value in (TriggerMode.INTERNAL_ENABLE, TriggerMode.EXTERNAL_ENABLE):
            settings.images = 1
            self._show("cam1:NumImages", 1)
            self._show("cam1:NumImages_RBV", 1)
        settings.mode = int(value)
        return value

    def _set_clock(self, name: str, value: int) -> int:
        wanted = {other: self._records["cam1:" + other].get() for other in ("StreamAsTSSource", "StreamVersion")}
        self._detector.settings.detector_clock = all({**wanted, name: value}.values())
        return value

    def _camera_state(self) -> dict[str, Any]:
        state = self._detector.state
        return {
            "cam1:SequenceId": state.sequence,
            "cam1:Armed": state.armed,
            "cam1:State_RBV": "acquire" if state.acquiring else "idle",
            "cam1:DetectorState_RBV": state.detector_state,
        }

    def _camera_counters(self) -> dict[str, int]:
        return {"cam1:NumImagesCounter_RBV": self._detector.state.images}


EXTERNAL_MODES, CONTINUOUS_MODE = range(4), 5
SINGLE, JSONIMAGE = 0, 3


class MedipixRecords(DetectorRecords):
    """Those of ADTimePix3: Serval counts and numbers the frames, and sends them where it was last told to."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        settings = self._detector.settings
        settings.numbers_exposures, settings.detector_clock = True, False
        settings.dead_time_s = self._kind.dead_time_s
        self._set_series()
        self._set_destinations()

    def _camera_handlers(self) -> dict[str, Callable[[Any], Any]]:
        names = ("TriggerMode", "NumImages", "ImageMode")
        return {
            **{f"cam1:{name}": lambda value, name=name: self._set_series(**{name: value}) for name in names},
            "cam1:WriteData": lambda value: self._set_destinations() if value else None,
        }

    def _asked(self, *names: str) -> list[int]:
        return [int(self._records["cam1:" + name].get()) for name in names]

    def _set_series(self, **put: int) -> int | None:
        """Translate what was put, and the records beside it, for the detector."""
        names = ("TriggerMode", "NumImages", "ImageMode")
        asked = dict(zip(names, self._asked(*names), strict=True)) | put
        settings, count = self._detector.settings, max(1, int(asked["NumImages"]))
        count = 1 if asked["ImageMode"] == SINGLE else count
        external = asked["TriggerMode"] in EXTERNAL_MODES
        continuous = asked["TriggerMode"] == CONTINUOUS_MODE
        internal = TriggerMode.CONTINUOUS if continuous else TriggerMode.INTERNAL_SERIES
        settings.mode = TriggerMode.EXTERNAL_ENABLE if external else internal
        settings.images, settings.triggers = (1, count) if external else (count, 1)
        return next(iter(put.values()), None)

    def _set_destinations(self) -> None:
        write, form = self._asked("WriteImg", "ImgFileFmt")
        to_driver = str(self._records["cam1:ImgFilePath"].get()).startswith("tcp://")
        self._detector.settings.streaming = bool(write) and form == JSONIMAGE and to_driver

    def _camera_state(self) -> dict[str, Any]:
        state = self._detector.state
        return {
            "cam1:Status_RBV": "DA_RECORDING" if state.armed else "DA_IDLE",
            "cam1:DetectorState_RBV": state.detector_state if state.acquiring else IDLE,
        }

    def _camera_counters(self) -> dict[str, int]:
        state = self._detector.state
        return {"cam1:FrameCnt_RBV": state.exposed, "cam1:ImgFrameNumber_RBV": max(0, state.exposed - 1)}

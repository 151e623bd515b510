"""Eiger2 behind ADEiger."""

from typing import Any

from ophyd import Component as Cpt
from ophyd import EpicsSignalRO, Signal
from ophyd.areadetector.base import ADComponent as ADCpt
from ophyd.areadetector.base import EpicsSignalWithRBV
from ophyd.areadetector.cam import EigerDetectorCam

from bluesky_ptychonn.core.request import ScanRequest
from bluesky_ptychonn.devices.detector import FrameDetector
from bluesky_ptychonn.devices.signals import Setting
from bluesky_ptychonn.devices.waiting import WorkStatus, wait_until

DTYPES = {8: "|u1", 16: "<u2", 32: "<u4"}
SERIES, ENABLE = "External Series", "External Enable"


class Eiger2Cam(EigerDetectorCam):
    """``cam1:`` of eiger2.template. Ophyd's class is that of an Eiger1: what the template lacks is gone here."""

    trigger_exposure = None
    fw_clear = None
    link_0 = None
    link_1 = None
    link_2 = None
    link_3 = None
    dcu_buff_free = None
    pool_max_buffers = None
    file_number_sync = None
    file_number_write = None

    trigger_mode = ADCpt(EpicsSignalWithRBV, "TriggerMode", string=True)
    manual_trigger = ADCpt(EpicsSignalWithRBV, "ManualTrigger", string=True)
    data_source = ADCpt(EpicsSignalWithRBV, "DataSource", string=True)
    stream_enable = ADCpt(EpicsSignalWithRBV, "StreamEnable", string=True)
    stream_decompress = ADCpt(EpicsSignalWithRBV, "StreamDecompress", string=True)
    stream_as_ts_source = ADCpt(EpicsSignalWithRBV, "StreamAsTSSource", string=True)
    stream_version = ADCpt(EpicsSignalWithRBV, "StreamVersion", string=True)
    array_callbacks = ADCpt(EpicsSignalWithRBV, "ArrayCallbacks", string=True)
    detector_state = ADCpt(EpicsSignalRO, "DetectorState_RBV", string=True)
    status_message = ADCpt(EpicsSignalRO, "StatusMessage_RBV", string=True)
    bit_depth = ADCpt(EpicsSignalRO, "BitDepthImage_RBV")


class Eiger(FrameDetector):
    """Eiger2 through ADEiger, as any `FrameDetector`; in a step scan ``trigger`` takes one frame by software.

    Its driver numbers frames before it counts them, from 0; frames lost in the detector leave no gap.
    """

    cam = Cpt(Eiger2Cam, "cam1:", kind="omitted")
    stream_clock = Cpt(Setting, value="detector", kind="config", doc="whose time stamps frames: detector or ioc")

    @property
    def dead_time_s(self) -> float:
        return float(self.cam.dead_time.get())

    @property
    def clock(self) -> str:
        return str(self.stream_clock.get())

    @property
    def frame_dtype(self) -> str:
        return DTYPES.get(int(self.cam.bit_depth.get()), "<u4")

    def _lost_in_camera(self) -> Signal:
        return self.cam.stream_dropped

    def _recorded_settings(self) -> list[Any]:
        cam = self.cam
        return [
            *super()._recorded_settings(),
            cam.num_images,
            cam.num_triggers,
            cam.photon_energy,
            cam.threshold_energy,
            cam.bit_depth,
            cam.count_cutoff,
            cam.dead_time,
        ]

    def _camera_values(self) -> list[tuple[Signal, Any]]:
        cam = self.cam
        return [
            (cam.data_source, "Stream"),
            (cam.stream_enable, "Enable"),
            (cam.stream_decompress, "Enable"),
            (cam.stream_version, "Stream2"),
            (cam.stream_as_ts_source, "Yes" if self.clock == "detector" else "No"),
        ]

    def _trigger_values(self, request: ScanRequest) -> list[tuple[Signal, Any]]:
        cam, points = self.cam, request.points
        modes = {"gate": (ENABLE, 1, points), "pulse": (SERIES, 1, points), "start": (SERIES, points, 1)}
        mode, images, triggers = modes[self.triggering.get()] if request.fly else ("Internal Enable", 1, points)
        return [
            (cam.trigger_mode, mode),
            (cam.manual_trigger, "Disable" if request.fly else "Enable"),
            (cam.num_images, images),
            (cam.num_triggers, triggers),
        ]

    def _is_armed(self) -> bool:
        return self.cam.armed.get() == 1

    def _came(self) -> int:
        return int(self.cam.num_images_counter.get(use_monitor=False))

    def trigger(self) -> WorkStatus:
        """Send one software trigger; done when its frame has reached the driver."""
        if self._request is None or self._request.fly:
            raise RuntimeError(f"{self.name} is not prepared for software triggers; prepare a request with fly=False")
        return self._begin("frame", lambda status: self._expose_one())

    def _expose_one(self) -> None:
        request = self._request
        if request is None:
            raise RuntimeError(f"{self.name} was unstaged")
        sent = int(self.counters.triggers_sent.get()) + 1
        self.counters.triggers_sent.put(sent)
        self.cam.special_trigger_button.put(1)
        wait_until(
            lambda: self._seen() >= sent,
            request.exposure_s + self.stall_s.get(),
            lambda: f"{self.name} was triggered {sent} times but only {self._seen()} frames came",
            poll_s=0.005,
        )

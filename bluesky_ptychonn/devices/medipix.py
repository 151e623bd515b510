"""Medipix3 of Amsterdam Scientific Instruments behind ADTimePix3, the driver for Serval."""

from typing import Any

from ophyd import Component as Cpt
from ophyd import EpicsSignal, EpicsSignalRO, Signal
from ophyd.areadetector.base import ADComponent as ADCpt
from ophyd.areadetector.base import EpicsSignalWithRBV
from ophyd.areadetector.cam import CamBase

from bluesky_ptychonn.core.request import ScanRequest
from bluesky_ptychonn.devices.detector import FrameDetector
from bluesky_ptychonn.devices.signals import Setting

PEXSTART_NEXSTOP, PEXSTART_TIMERSTOP = 0, 2
"""Of TriggerMode, by number: its words differ between template and driver."""


class Medipix3Cam(CamBase):
    """``cam1:`` of TimePix3Base, ADTimePix3, Server and Measurement.template, as far as a scan needs it."""

    pool_max_buffers = None

    image_mode = ADCpt(EpicsSignalWithRBV, "ImageMode", string=True)
    array_callbacks = ADCpt(EpicsSignalWithRBV, "ArrayCallbacks", string=True)
    detector_state = ADCpt(EpicsSignalRO, "DetectorState_RBV", string=True)
    status_message = ADCpt(EpicsSignalRO, "StatusMessage_RBV", string=True)
    measurement = ADCpt(EpicsSignalRO, "Status_RBV", string=True, doc="of Serval, such as DA_RECORDING")
    dropped_frames = ADCpt(EpicsSignalRO, "DroppedFrames_RBV", doc="by Serval, in this measurement")
    pixel_depth = ADCpt(EpicsSignalWithRBV, "PixelDepth", string=True)
    both_counters = ADCpt(EpicsSignalWithRBV, "BothCounters", string=True)

    image_write = ADCpt(EpicsSignalWithRBV, "WriteImg", string=True, doc="whether Serval sends every frame")
    image_path = ADCpt(EpicsSignalWithRBV, "ImgFilePath", string=True, doc="where to: tcp:// is the driver")
    image_format = ADCpt(EpicsSignalWithRBV, "ImgFileFmt", string=True)
    image_values = ADCpt(EpicsSignalWithRBV, "ImgFileMode", string=True)
    image_thresholds = ADCpt(EpicsSignalWithRBV, "ImgThs", string=True)
    image_sum = ADCpt(EpicsSignalWithRBV, "ImgIntgSize")
    image_reading = ADCpt(EpicsSignalWithRBV, "ImgAccumulationEnable", string=True)
    write_data = ADCpt(EpicsSignal, "WriteData", doc="hands the destinations to Serval")


class Medipix3(FrameDetector):
    """Medipix3 through ADTimePix3, as any `FrameDetector`; fly scans only, for the driver has no software trigger.

    Serval sends every frame to the driver, which hands it out at address 1, under the number that it has in its
    measurement: frames that Serval drops leave a gap. Frames carry the IOC's time.
    """

    camera_address = 1
    gap_of_lost = True
    triggerings = ("gate", "pulse")

    cam = Cpt(Medipix3Cam, "cam1:", kind="omitted")
    readout_s = Cpt(Setting, value=0.002, kind="config", doc="shutter down between two frames")

    @property
    def dead_time_s(self) -> float:
        return float(self.readout_s.get())

    @property
    def frame_dtype(self) -> str:
        return "<u4" if self.cam.pixel_depth.get() == "24-bit" else "<u2"

    def _lost_in_camera(self) -> Signal:
        return self.cam.dropped_frames

    def _check_camera(self, request: ScanRequest) -> list[str]:
        problems, path = [], str(self.cam.image_path.get())
        if not request.fly:
            problems.append("ADTimePix3 has no record for a software trigger; use fly=True")
        if not path.startswith("tcp://"):
            problems.append(
                f"Serval does not send frames to the driver: ImgFilePath is {path!r}; set it to 'tcp://listen@HOST:8086'"
            )
        return problems

    def _recorded_settings(self) -> list[Any]:
        return [*super()._recorded_settings(), self.cam.num_images, self.cam.pixel_depth]

    def _camera_values(self) -> list[tuple[Signal, Any]]:
        cam = self.cam
        return [
            (cam.both_counters, "No"),
            (cam.image_format, "jsonimage"),
            (cam.image_values, "count"),
            (cam.image_thresholds, "0"),
            (cam.image_sum, 1),
            (cam.image_reading, "Enabled"),
            (cam.image_write, "true"),
        ]

    def _trigger_values(self, request: ScanRequest) -> list[tuple[Signal, Any]]:
        mode = {"gate": PEXSTART_NEXSTOP, "pulse": PEXSTART_TIMERSTOP}[self.triggering.get()]
        return [
            (self.cam.trigger_mode, mode),
            (self.cam.image_mode, "Multiple"),
            (self.cam.num_images, request.points),
        ]

    def _prepare(self, request: ScanRequest) -> None:
        self.cam.write_data.put(1)
        super()._prepare(request)

    def unstage(self) -> list[object]:
        changed = bool(self._original_vals)
        devices = super().unstage()
        if changed and self._alive():
            self.cam.write_data.put(1)
        return devices

    def _is_armed(self) -> bool:
        return self.cam.measurement.get() == "DA_RECORDING"

    def _came(self) -> int:
        return int(self.roi1.array_counter.get(use_monitor=False)) + self._losses()["roi"]

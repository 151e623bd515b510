"""The records of a detector IOC, wired to the detector and its file writer; those of the camera are its kind's."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bluesky_ptychonn.core.optics import Geometry
from bluesky_ptychonn.simulation.detector import Detector
from bluesky_ptychonn.simulation.detector_kinds import DetectorKind
from bluesky_ptychonn.simulation.image_server import ImageServer
from bluesky_ptychonn.simulation.names import SHUTTER
from bluesky_ptychonn.simulation.record_factory import OUTPUTS, make_record, start_values
from bluesky_ptychonn.simulation.records import record_specs
from bluesky_ptychonn.simulation.scaler import BeamRecords
from bluesky_ptychonn.simulation.writer import EPICS_EPOCH_S

SHORTEST_EXPOSURE_S, LONGEST_EXPOSURE_S = 1e-5, 3600.0
FAULTS = {
    "Sim:DropInDetector": "drop_in_detector",
    "Sim:DropInPlugin": "drop_in_plugin",
    "Sim:DropInWriter": "drop_in_writer",
    "Sim:NoBeam": "no_beam",
}
"""Triggers at which something goes wrong in the next series."""
MAX_FAULTS = 256


def assign(target: Any, name: str, convert: Callable = bool) -> Callable[[Any], Any]:
    """A put sets an attribute; the readback is what was put."""

    def handler(value: Any) -> Any:
        setattr(target, name, convert(value))
        return value

    return handler


def at_least_one(target: Any, name: str) -> Callable[[Any], int]:
    """A put sets a count, which is never less than one."""

    def handler(value: Any) -> int:
        setattr(target, name, max(1, int(value)))
        return getattr(target, name)

    return handler


def count(target: Any, name: str) -> Callable[[Any], None]:
    """A put sets a count that is shown from there."""
    return lambda value: setattr(target, name, int(value))


def _indices(values: Any) -> frozenset[int]:
    return frozenset(int(value) for value in np.atleast_1d(values) if value >= 0)


class DetectorRecords:
    """Make every record; puts reach the detector, its state reaches the records.

    A kind of detector adds what its camera's own records do and show.

    Parameters
    ----------
    kind : DetectorKind
    detector : Detector
    images : ImageServer
    geometry : Geometry
        Shown in the metadata records.
    """

    def __init__(self, kind: DetectorKind, detector: Detector, images: ImageServer, geometry: Geometry) -> None:
        from softioc import builder

        self._kind, self._detector, self._images = kind, detector, images
        self._records: dict[str, Any] = {}
        self._shown: dict[str, Any] = {}
        self._rate = (time.monotonic(), 0)
        self._handlers = self._make_handlers() | self._camera_handlers()
        builder.SetBlocking(True)
        starts = start_values(kind, detector.source, detector.settings, geometry)
        self._settable = {SHUTTER}
        for spec in record_specs(kind.name):
            value = starts.get(spec.name, spec.value)
            self._records[spec.name] = make_record(builder, kind.prefix, spec, value, self._on_put(spec.name))
            if spec.type in OUTPUTS:
                self._settable.add(spec.name)
        self._make_simulation_records(builder)

    def _make_simulation_records(self, builder: Any) -> None:
        detector, settings, prefix = self._detector, self._detector.settings, self._kind.prefix

        self._settable |= {"Sim:Photons", "Sim:StampIndex", *FAULTS}
        self._records["Sim:Photons"] = builder.aOut(
            prefix + "Sim:Photons",
            initial_value=settings.photons,
            DRVL=1,
            DRVH=1e9,
            on_update=assign(settings, "photons", float),
        )
        self._records["Sim:StampIndex"] = builder.boolOut(
            prefix + "Sim:StampIndex", "No", "Yes", initial_value=0, on_update=assign(settings, "stamp_index")
        )
        self._beam = BeamRecords(settings, detector.scaler)
        self._records["Sim:IgnoredTriggers_RBV"] = builder.longIn(prefix + "Sim:IgnoredTriggers_RBV", initial_value=0)
        self._records[SHUTTER] = builder.boolOut(
            SHUTTER,
            "Close",
            "Open",
            initial_value=detector.settings.shutter_open,
            on_update=assign(settings, "shutter_open"),
        )
        for fault, name in FAULTS.items():
            self._records[fault] = builder.WaveformOut(
                prefix + fault,
                length=MAX_FAULTS,
                datatype=int,
                on_update=assign(settings, name, _indices),
            )

    # What a kind of detector adds

    def _camera_handlers(self) -> dict[str, Callable[[Any], Any]]:
        """Build what puts to the camera's own records do; as `_make_handlers`."""
        raise NotImplementedError

    def _camera_state(self) -> dict[str, Any]:
        """What the camera's own records show after arming, an end, a capture."""
        raise NotImplementedError

    def _camera_counters(self) -> dict[str, int]:
        """What the camera's own records count."""
        raise NotImplementedError

    # Puts

    def _on_put(self, name: str) -> Callable[[Any], None]:
        def on_put(value: Any) -> None:
            handler = self._handlers.get(name)
            accepted = value if handler is None else handler(value)
            if accepted is not None and name + "_RBV" in self._records:
                self._show(name + "_RBV", accepted)

        return on_put

    def _make_handlers(self) -> dict[str, Callable[[Any], Any]]:
        """Build what a put does, by record; it returns the readback, or None where the state shows it."""
        detector, file = self._detector, self._detector.writer.settings
        settings, state = detector.settings, detector.state
        corner_y, corner_x = self._kind.corner_px
        height, width = detector.source.frame_shape
        return {
            "cam1:Acquire": lambda value: detector.arm() if value else detector.disarm(),
            "cam1:AcquireTime": self._set_exposure,
            "cam1:AcquirePeriod": self._set_period,
            "cam1:ArrayCallbacks": assign(settings, "array_callbacks"),
            "cam1:ArrayCounter": lambda value: detector.reset_counter(int(value)),
            "ROI1:EnableCallbacks": assign(settings, "roi_enabled"),
            "ROI1:NDArrayAddress": self._set_address,
            "ROI1:ArrayCounter": count(state, "roi_arrays"),
            "ROI1:MinX": lambda value: corner_x,
            "ROI1:MinY": lambda value: corner_y,
            "ROI1:SizeX": lambda value: width,
            "ROI1:SizeY": lambda value: height,
            "Pva1:EnableCallbacks": assign(settings, "pva_enabled"),
            "Pva1:ArrayCounter": count(state, "pva_arrays"),
            "Pva1:DroppedArrays": count(state, "pva_dropped"),
            "HDF1:EnableCallbacks": assign(file, "enabled"),
            "HDF1:ArrayCounter": count(detector.writer.state, "arrays"),
            "HDF1:DroppedArrays": count(detector.writer.state, "dropped"),
            "HDF1:QueueSize": at_least_one(file, "queue_size"),
            "HDF1:FilePath": self._set_path,
            "HDF1:FileName": assign(file, "name", str),
            "HDF1:FileTemplate": assign(file, "template", str),
            "HDF1:FileNumber": self._set_file_number,
            "HDF1:AutoIncrement": assign(file, "auto_increment"),
            "HDF1:NumCapture": assign(file, "capture", int),
            "HDF1:NumFramesChunks": assign(file, "frames_per_chunk", int),
            "HDF1:SWMRMode": assign(file, "swmr"),
            "HDF1:LazyOpen": assign(file, "lazy_open"),
            "HDF1:Capture": lambda value: detector.writer.start() if value else detector.writer.stop(),
        }

    def _set_exposure(self, value: float) -> float:
        settings = self._detector.settings
        settings.exposure_s = float(np.clip(value, SHORTEST_EXPOSURE_S, LONGEST_EXPOSURE_S))
        self._show("cam1:AcquirePeriod_RBV", self._set_period(self._records["cam1:AcquirePeriod"].get()))
        return settings.exposure_s

    def _set_period(self, value: float) -> float:
        settings = self._detector.settings
        shortest_s = max(self._kind.shortest_period_s, settings.exposure_s + settings.dead_time_s)
        settings.period_s = self._detector.writer.settings.period_s = max(shortest_s, float(value))
        return settings.period_s

    def _set_address(self, value: int) -> int:
        self._detector.settings.roi_hears = value == self._kind.address
        return value

    def _set_path(self, value: str) -> str:
        levels = -int(self._records["HDF1:CreateDirectory"].get())
        path = Path(value)
        missing = sum(not parent.exists() for parent in (path, *path.parents))
        if value and 0 < missing <= levels:
            path.mkdir(parents=True, exist_ok=True)
        shown = value if value.endswith("/") or not value else value + "/"
        self._detector.writer.settings.path = shown
        self._show("HDF1:FilePathExists_RBV", bool(value) and path.is_dir() and os.access(path, os.W_OK))
        return shown

    def _set_file_number(self, value: int) -> int:
        self._detector.writer.settings.number = self._detector.writer.state.number = int(value)
        return value

    # State

    def _show(self, name: str, value: Any) -> None:
        if name in self._shown and np.array_equal(self._shown[name], value):
            return
        if name in self._settable:
            if not np.array_equal(self._records[name].get(), value):
                self._records[name].set(value, process=False)  # known already: processing it does nothing more
                self._records[name].set_field("PROC", 1)  # but tells the clients
        else:
            self._records[name].set(value)
            self._shown[name] = value

    def show(self) -> None:
        """Show the whole state: after arming, an end, a capture."""
        state, file = self._detector.state, self._detector.writer.state
        self.show_counters()
        for end in ("", "_RBV"):
            self._show("HDF1:Capture" + end, int(file.capturing))
        self._show("HDF1:FileNumber", file.number)
        self._show("HDF1:FileNumber_RBV", file.number)
        self._show("HDF1:FullFileName_RBV", file.full_name)
        self._show("HDF1:SWMRActive_RBV", file.swmr_active)
        self._show("HDF1:WriteMessage", file.error)
        self._show("HDF1:WriteStatus", bool(file.error))
        for fault, name in FAULTS.items():
            if not getattr(self._detector.settings, name):
                self._show(fault, np.empty(0, np.int32))
        for name, value in self._camera_state().items():
            self._show(name, value)
        self._show("cam1:StatusMessage_RBV", state.message)
        for name in ("cam1:AcquireBusy", "cam1:Acquire", "cam1:AcquireBusyCB", "cam1:Acquire_RBV"):
            self._show(name, int(state.acquiring))

    def show_counters(self) -> None:
        """Show what counts and the last frame; cheap when nothing has changed."""
        state, file = self._detector.state, self._detector.writer.state
        queue_size = self._detector.writer.settings.queue_size
        values = {
            "cam1:ArrayCounter_RBV": state.array_counter,
            self._kind.dropped: state.stream_dropped,
            **self._camera_counters(),
            "ROI1:ArrayCounter_RBV": state.roi_arrays,
            "Pva1:ArrayCounter_RBV": state.pva_arrays,
            "Pva1:DroppedArrays_RBV": state.pva_dropped,
            "HDF1:ArrayCounter_RBV": file.arrays,
            "HDF1:DroppedArrays_RBV": file.dropped,
            "HDF1:NumCaptured_RBV": file.captured,
            "HDF1:QueueFree": max(0, queue_size - file.queued),
            "HDF1:QueueUse": file.queued,
            "Sim:IgnoredTriggers_RBV": state.ignored_triggers,
        }
        values |= {f"{name}:QueueFree": self._records[f"{name}:QueueSize"].get() for name in ("ROI1", "Pva1")}
        lost = (values[self._kind.dropped], values["Pva1:DroppedArrays_RBV"])
        if (self._shown.get(self._kind.dropped), self._shown.get("Pva1:DroppedArrays_RBV")) != lost:
            self._images.show_counters(*lost)
        for name, value in values.items():
            self._show(name, value)
        if state.last is not None:
            self._show_frame(state.last.unique_id, state.last.time_s, state.last.data.shape)
        self._beam.show()
        now = time.monotonic()
        if now - self._rate[0] >= 1:
            rate_hz = (state.roi_arrays - self._rate[1]) / (now - self._rate[0])
            self._rate = (now, state.roi_arrays)
            for plugin in ("cam1:", "ROI1:", "Pva1:", "HDF1:"):
                self._records[plugin + "ArrayRate_RBV"].set(max(0.0, round(rate_hz, 1)))  # stamped anew, as a real one

    def _show_frame(self, unique_id: int, time_s: float, shape: tuple[int, ...]) -> None:
        if self._shown.get("ROI1:UniqueId_RBV") == unique_id:
            return
        dimensions = np.array([*shape[::-1], *[0] * 8], np.int32)
        seconds, rest = divmod(time_s - EPICS_EPOCH_S, 1)
        for plugin in ("cam1:", "ROI1:", "Pva1:", "HDF1:"):
            self._show(plugin + "UniqueId_RBV", unique_id)
            self._show(plugin + "TimeStamp_RBV", time_s - EPICS_EPOCH_S)
            self._show(plugin + "EpicsTSSec_RBV", int(seconds))
            self._show(plugin + "EpicsTSNsec_RBV", int(rest * 1e9))
            if plugin != "cam1:":
                for axis, letter in enumerate("XY"):
                    self._show(f"{plugin}ArraySize{letter}_RBV", shape[1 - axis])
                    self._show(f"{plugin}ArraySize{axis}_RBV", shape[1 - axis])
                self._show(plugin + "Dimensions_RBV", dimensions)

"""An area detector at rest: what it can do, what a run sets, and how it is put back."""

import shutil
from pathlib import Path
from typing import Any

from ophyd import Component as Cpt
from ophyd import Device, Signal
from ophyd.device import Staged
from ophyd.utils import RedundantStaging

from bluesky_ptychonn.core.request import ScanRequest
from bluesky_ptychonn.devices.detector_pvs import BeamGeometry, FilePlugin, FrameCounters, RoiPlugin, StreamPlugin
from bluesky_ptychonn.devices.signals import Setting
from bluesky_ptychonn.devices.waiting import address, answers, put_checked, same, wait_until


class StagedDetector(Device):
    """Camera with its plugins: checks, staging and restoring; `FrameDetector` adds the run.

    A detector's own class names its ``cam`` and says what differs: how frames are numbered and counted, whose clock
    stamps them, and which records a run sets.
    """

    cam: Any
    camera_address = 0
    """Address at which the driver hands out the frames of a run."""
    gap_of_lost = False
    """Whether frames lost in the detector leave a gap in the ids; otherwise the driver renumbers silently."""
    triggerings: tuple[str, ...] = ("gate", "pulse", "start")
    """What ``triggering`` may be."""

    roi1 = Cpt(RoiPlugin, "ROI1:", kind="omitted")
    pva1 = Cpt(StreamPlugin, "Pva1:", kind="omitted")
    hdf1 = Cpt(FilePlugin, "HDF1:", kind="omitted")
    geometry = Cpt(BeamGeometry, "")
    counters = Cpt(FrameCounters, "", kind="omitted")

    file_directory = Cpt(Setting, value="", kind="config", doc="where the IOC writes; empty: where its FilePath points")
    triggering = Cpt(Setting, value="pulse", kind="config", doc="what a pulse of a fly scan does: gate, pulse or start")
    stall_s = Cpt(Setting, value=2.0, kind="config", doc="longest silence between two frames")
    first_frame_s = Cpt(Setting, value=15.0, kind="config", doc="longest silence before the first frame")
    first_unique_id = Cpt(Setting, value=0, kind="omitted")
    frames_after_s = Cpt(Setting, value=0.0, kind="omitted", doc="IOC time of the counter's reset, epoch seconds")

    def __init__(self, prefix: str = "", *, name: str, **kwargs: Any) -> None:
        super().__init__(prefix, name=name, **kwargs)
        self._losses_before: dict[str, int] = {}

    # what differs between detectors

    @property
    def dead_time_s(self) -> float:
        """Shortest time from the end of an exposure to the next trigger."""
        raise NotImplementedError

    @property
    def clock(self) -> str:
        """Whose time stamps frames: detector or ioc."""
        return "ioc"

    @property
    def frame_dtype(self) -> str:
        """Type of the frames of this run, as numpy writes it."""
        raise NotImplementedError

    def _lost_in_camera(self) -> Signal:
        """Count of the frames that the detector lost."""
        raise NotImplementedError

    def _check_camera(self, request: ScanRequest) -> list[str]:
        """What stands against this request in this camera."""
        return []

    def _camera_values(self) -> list[tuple[Signal, Any]]:
        """What ``stage`` sets in the camera."""
        raise NotImplementedError

    def _recorded_settings(self) -> list[Any]:
        """Signals of the camera whose values belong to each run."""
        return [self.cam.acquire_time, self.cam.acquire_period, self.cam.trigger_mode, self.hdf1.full_file_name]

    # what a plan asks before it starts

    def check(self, request: ScanRequest) -> list[str]:
        """What stands against this request; empty if nothing does. Changes nothing."""
        try:
            dead_time_s, problems = self.dead_time_s, self._check_camera(request)
            height, width = self._frame_shape()
            state, message = self.cam.detector_state.get(), self.cam.status_message.get()
            directory = str(self.file_directory.get() or self.hdf1.file_path.get())
        except TimeoutError as error:
            return [f"{error}; is the detector's IOC running, and does EPICS_CA_ADDR_LIST reach it?"]
        if state in ("Error", "Disconnected", "Initializing"):
            problems.append(f"DetectorState is {state} ({message}); initialize the detector")
        if request.dwell_s < (request.exposure_s + dead_time_s) * (1 - 1e-6):
            problems.append(
                f"dwell_s = {request.dwell_s:g} s is shorter than exposure_s = {request.exposure_s:g} s plus the dead "
                f"time of {dead_time_s:g} s; allowed is {request.exposure_s + dead_time_s:g} s or more"
            )
        if self.triggering.get() not in self.triggerings:
            problems.append(
                f"triggering = {self.triggering.get()!r} is none of {', '.join(self.triggerings)} (beamline.triggering)"
            )
        crop, binning = int(self.geometry.crop_px.get()), int(self.geometry.binning.get())
        center = (self.geometry.beam_center_y_px.get(), self.geometry.beam_center_x_px.get())
        if not (0 <= center[0] < height and 0 <= center[1] < width):
            problems.append(
                f"the beam centre (y, x) = {center} px lies outside the frame of {height} x {width} px; "
                "correct beam_center_px, or the ROI"
            )
        if crop * binning > 2 * max(height, width):
            problems.append(
                f"crop_px = {crop} px, binned by {binning}, is more than twice the frame of {height} x {width} px; "
                "correct frame_px or binning"
            )
        needed = request.points * height * width * 4
        if Path(directory).is_dir():
            free = shutil.disk_usage(directory).free
            if free < 1.1 * needed:
                problems.append(
                    f"{directory} has {free / 1e9:.3g} GB left, {request.points} frames need {needed / 1e9:.3g} GB; "
                    "free some space or choose another file_directory"
                )
        return problems

    def ptycho_block(self) -> dict[str, Any]:
        """Geometry, stream and identity of the frames for the start document; of the run, after ``stage``."""
        geometry = self.geometry
        return {
            "energy_kev": float(geometry.energy_kev.get()),
            "distance_m": float(geometry.distance_m.get()),
            "detector_pixel_um": float(geometry.detector_pixel_um.get()),
            "probe_diameter_um": float(geometry.probe_diameter_um.get()),
            "dead_time_s": self.dead_time_s,
            "frame_shape": list(self._frame_shape()),
            "crop_px": int(geometry.crop_px.get()),
            "binning": int(geometry.binning.get()),
            "beam_center_px": [float(geometry.beam_center_y_px.get()), float(geometry.beam_center_x_px.get())],
            "orientation": str(geometry.orientation.get()),
            "min_counts": float(geometry.min_counts.get()),
            "min_flux": float(geometry.min_flux.get()),
            "image_channel": str(self.pva1.pv_name.get()),
            "dropped_channel": "" if self.gap_of_lost else address(self._lost_in_camera()),
            "clock": self.clock,
            "first_unique_id": int(self.first_unique_id.get()),
            "frames_after_s": float(self.frames_after_s.get()),
        }

    def _frame_shape(self) -> tuple[int, int]:
        return int(self.roi1.size.y.get()), int(self.roi1.size.x.get())

    def read_configuration(self) -> Any:
        settings = [signal.read() for signal in self._recorded_settings()]
        return {**super().read_configuration(), **{key: item for reading in settings for key, item in reading.items()}}

    def describe_configuration(self) -> Any:
        settings = [signal.describe() for signal in self._recorded_settings()]
        return {**super().describe_configuration(), **{key: item for keys in settings for key, item in keys.items()}}

    # stage

    def stage(self) -> list[object]:
        """Wait for quiet, set and check everything that matters, set the frame counter to 0.

        Raises
        ------
        TimeoutError
            If the detector is busy, a PV is dead, or does not take its value; everything is as before then.
        """
        if self._staged != Staged.no:
            raise RedundantStaging(f"{self.name} is already staged; unstage it first")
        self._staged = Staged.partially
        try:
            self._wait_for_quiet()
            for signal, value in self._stage_values():
                self._change(signal, value)
            for counter in (self.cam.array_counter, self.roi1.array_counter):
                put_checked(counter, 0)
            self.frames_after_s.put(self.cam.array_counter.timestamp)
            self._losses_before = self._loss_counters()
        except Exception:
            self.unstage()
            raise
        self._staged = Staged.yes
        return [self]

    def _stage_values(self) -> list[tuple[Signal, Any]]:
        roi, pva, hdf = self.roi1, self.pva1, self.hdf1
        camera, region = (self.cam.port_name.get(), self.camera_address), (roi.port_name.get(), 0)
        values = [*self._camera_values(), (self.cam.array_callbacks, "Enable")]
        for plugin, (port, where) in ((roi, camera), (pva, region), (hdf, region)):
            values += [(plugin.nd_array_port, port), (plugin.nd_array_address, where)]
            values += [(plugin.blocking_callbacks, "No"), (plugin.enable, "Enable")]
        values += [
            (hdf.file_write_mode, "Stream"),
            (hdf.auto_increment, "No"),
            (hdf.file_template, "%s%s_%6.6d.h5"),
            (hdf.file_number, 0),
            (hdf.lazy_open, "Yes"),  # the file takes its type from the first frame, not from an earlier exposure
            (hdf.swmr_mode, "On"),
            (hdf.store_attr, "Yes"),
        ]
        if self.file_directory.get():
            values.append((hdf.file_path, self.file_directory.get()))
        return values

    def _wait_for_quiet(self) -> None:
        cam = self.cam
        wait_until(
            lambda: cam.acquire.get() == 0 and cam.detector_state.get() in ("Idle", "Aborted"),
            5.0,
            lambda: (
                f"{self.name} is busy: Acquire = {cam.acquire.get()}, DetectorState = {cam.detector_state.get()}; "
                f"stop it with {self.name}.cam.acquire.put(0)"
            ),
        )
        if self.hdf1.capture.get():
            self.hdf1.capture.put(0)
        wait_until(
            lambda: self.hdf1.capture.get() == 0,
            5.0,
            lambda: f"{address(self.hdf1.capture)} does not end; is the disk full?",
        )
        for plugin in (self.roi1, self.pva1, self.hdf1):
            wait_until(
                lambda plugin=plugin: plugin.queue_free.get() >= plugin.queue_size.get(),
                5.0,
                lambda plugin=plugin: f"{address(plugin.queue_free)} shows frames of an earlier run in the queue",
            )

    def _change(self, signal: Signal, value: Any) -> None:
        """Set a value that ``unstage`` restores."""
        before = signal.get()
        if not same(before, value):
            put_checked(signal, value)
            self._original_vals.setdefault(signal, before)

    def unstage(self) -> list[object]:
        """Disarm and restore what ``stage`` and ``prepare`` changed; never raises, says what could not be restored."""
        failures = []
        try:
            self._disarm()
        except Exception as error:
            failures.append(str(error))
        while self._original_vals and (not failures or self._alive()):
            signal, value = self._original_vals.popitem()
            try:
                put_checked(signal, value)
            except Exception as error:
                failures.append(str(error))
        failures += [f"{address(signal)} was {value!r}" for signal, value in self._original_vals.items()]
        self._original_vals.clear()
        if failures:
            self.log.warning("%s could not be put back as it was: %s", self.name, "; ".join(failures))
        self._staged = Staged.no
        return [self]

    def _disarm(self) -> None:
        if not self._alive():
            raise TimeoutError(f"the IOC of {self.prefix} does not answer")
        for signal in (self.cam.acquire, self.hdf1.capture):
            if signal.get():
                signal.put(0)
            wait_until(lambda signal=signal: signal.get() == 0, 5.0, lambda s=signal: f"{address(s)} stays on")

    def _alive(self) -> bool:
        """Whether the IOC answers, asked now."""
        return answers(lambda: self.cam.acquire)

    def _loss_counters(self) -> dict[str, int]:
        signals = {
            "camera": self._lost_in_camera(),
            "roi": self.roi1.dropped_arrays,  # in front of both branches
            "pva": self.pva1.dropped_arrays,
            "file": self.hdf1.dropped_arrays,
        }
        return {name: int(signal.get(use_monitor=False)) for name, signal in signals.items()}

    def _losses(self) -> dict[str, int]:
        """Frames lost since ``stage``; a counter that went back was reset when the detector was armed."""
        before = self._losses_before
        return {name: now - before[name] if now >= before[name] else now for name, now in self._loss_counters().items()}

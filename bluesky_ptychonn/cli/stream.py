"""Frames from a detector to the edge at a given rate, without a RunEngine: for benchmarks and recorded scans."""

import logging
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bluesky_ptychonn.config import Settings

logger = logging.getLogger(__name__)

ARM_S = 10.0
SHUTTER_S = 5.0
STALL_S = 10.0


def stream_frames(
    settings: Settings,
    positions_um: np.ndarray,
    fps: float,
    *,
    detector: "Detector | None" = None,
    file_directory: Path | None = None,
    pixel_size_um: float | None = None,
    progress: Callable[[int], object] = lambda _: None,
) -> dict[str, Any]:
    """Let the detector run freely, one frame per position, and have the edge stitch them.

    Parameters
    ----------
    settings : Settings
        Of the beamline; its EPICS environment is in force.
    positions_um : (N, 2) float
        Probe centres (y, x), um, in the order of the frames.
    fps : float
        Frames per second.
    detector : Detector, optional
        What sends the frames; the detector IOC of the settings without it.
    file_directory : Path, optional
        Where that IOC is to write the frames, as HDF5; without it, it writes none.
    pixel_size_um : float, optional
        Object pixel; without it, the one of the settings' geometry. Expressed to the edge as a distance.
    progress : callable
        Told the number of frames stitched so far.

    Returns
    -------
    dict
        ``stats`` of the edge when its final image is published.

    Raises
    ------
    TimeoutError
        If the edge does not arm, or frames stay away.
    """
    from bluesky_ptychonn.io.edge_channels import PositionsMessage, RunMessage, as_message
    from bluesky_ptychonn.io.pva import PvaChannel

    prefix, geometry = settings.edge.prefix, settings.geometry
    distance_m = geometry.distance_m
    if pixel_size_um is not None:
        distance_m *= pixel_size_um / geometry.optics.pixel_size_um
    beamline = settings.beamline
    detector = detector or _Detector(beamline.detector_prefix, beamline.shutter_pv, file_directory)
    uid, token = str(uuid.uuid4()), uuid.uuid4().hex
    stats = PvaChannel(f"{prefix}stats")
    try:
        detector.prepare(len(positions_um), fps)
        run = RunMessage(
            run_uid=uid,
            token=token,
            image_channel=detector.image_channel,
            frames=len(positions_um),
            y_um=positions_um[:, 0],
            x_um=positions_um[:, 1],
            energy_kev=geometry.energy_kev,
            distance_m=distance_m,
            detector_pixel_um=geometry.detector_pixel_um,
            exposure_s=0.8 / fps,
            dwell_s=1 / fps,
            frame_shape=detector.frame_shape,
            crop_px=geometry.frame_px,
            beam_center_px=geometry.beam_center_px,
            orientation=geometry.orientation,
            binning=geometry.binning,
            clock="detector",
            dropped_channel=detector.dropped_channel,
            min_counts=beamline.min_counts,
        )
        PvaChannel(f"{prefix}run").put(as_message(run))
        _wait(stats, lambda now: now["armed_uid"] == uid, ARM_S, "the edge does not arm")
        detector.acquire()
        _follow(stats, len(positions_um), detector, progress)
        lost_in_detector, lost_in_plugin = detector.lost()
        end = PositionsMessage(
            run_uid=uid,
            token=token,
            exit_status="success",
            trigger_index=np.arange(len(positions_um)),
            y_um=positions_um[:, 0],
            x_um=positions_um[:, 1],
            triggered=len(positions_um),
            lost_in_detector=lost_in_detector,
            lost_in_plugin=lost_in_plugin,
        )
        PvaChannel(f"{prefix}positions").put(as_message(end))
        return _wait(stats, lambda now: now["final_uid"] == uid, 60.0, "the edge publishes no final image")
    finally:
        detector.stop()


def _wait(channel: Any, done: Callable[[dict[str, Any]], bool], timeout_s: float, otherwise: str) -> dict[str, Any]:
    deadline = time.monotonic() + timeout_s
    while not done(now := channel.get()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{otherwise} within {timeout_s:g} s; it says: {now['message'] or now['state']}")
        time.sleep(0.02)
    return now


def _follow(channel: Any, frames: int, detector: "Detector", progress: Callable[[int], object]) -> None:
    """Until every frame has been dealt with, or none comes any more."""
    seen, changed_at = -1, time.monotonic()
    while True:
        now = channel.get()
        progress(now["frames_stitched"])
        done = sum(now[f"frames_{fate}"] for fate in ("stitched", "no_beam", "unpaired", "shed", "rejected"))
        if done >= frames:
            return
        if done != seen:
            seen, changed_at = done, time.monotonic()
        if time.monotonic() - changed_at > (1.0 if detector.finished() else STALL_S):
            return
        time.sleep(0.1)


class Detector(Protocol):
    """What sends a series of frames."""

    @property
    def image_channel(self) -> str:
        """PVA name of the frames."""
        ...

    @property
    def dropped_channel(self) -> str:
        """PVA name of the count of frames lost in the detector."""
        ...

    @property
    def frame_shape(self) -> tuple[int, int]:
        """Rows and columns of a frame."""
        ...

    def prepare(self, frames: int, fps: float) -> None:
        """Make ready for a series, whose frames are numbered from 0."""
        ...

    def acquire(self) -> None:
        """Start the series."""
        ...

    def finished(self) -> bool:
        """Whether the series has ended."""
        ...

    def lost(self) -> tuple[int, int]:
        """Frames lost since `prepare`: in the detector, in the PVA plugin."""
        ...

    def stop(self) -> None:
        """End it, wherever it is."""
        ...


class _Detector:
    """The few records of a free-running series, and the shutter."""

    def __init__(self, prefix: str, shutter_pv: str, file_directory: Path | None) -> None:
        import epics

        self._prefix, self._shutter_pv, self._file_directory = prefix, shutter_pv, file_directory
        self._epics = epics

    def _get(self, name: str, **kwargs: Any) -> Any:
        value = self._epics.caget(self._prefix + name, timeout=5.0, **kwargs)
        if value is None:
            raise TimeoutError(f"{self._prefix}{name} does not answer; is the detector IOC running?")
        return value

    def _put(self, name: str, value: Any) -> None:
        if self._epics.caput(self._prefix + name, value, wait=True, timeout=10.0) != 1:
            raise TimeoutError(f"{self._prefix}{name} does not take {value!r}")

    def prepare(self, frames: int, fps: float) -> None:
        """Set a series of frames and start their numbers at 0."""
        self._lost_before = (0, 0)
        self._put("cam1:Acquire", 0)
        for name, value in {
            "cam1:TriggerMode": "Internal Series",
            "cam1:ManualTrigger": "Disable",
            "cam1:NumImages": frames,
            "cam1:NumTriggers": 1,
            "cam1:AcquireTime": 0.8 / fps,
            "cam1:AcquirePeriod": 1 / fps,
            "cam1:DataSource": "Stream",
            "cam1:StreamEnable": "Enable",
            "cam1:StreamVersion": "Stream2",
            "cam1:StreamAsTSSource": "Yes",
            "Pva1:QueueSize": 2000,
            "Pva1:EnableCallbacks": "Enable",
            "cam1:ArrayCounter": 0,
        }.items():
            self._put(name, value)
        if self._file_directory is not None:
            self._write_files(frames)
        self._lost_before = self.lost()
        if not self._move_shutter("Open"):
            raise TimeoutError(f"the shutter {self._shutter_pv} does not open; check beamline.shutter_pv")

    def _write_files(self, frames: int) -> None:
        for name, value in {
            "HDF1:EnableCallbacks": "Enable",
            "HDF1:FilePath": str(self._file_directory),
            "HDF1:FileName": "bench",
            "HDF1:FileTemplate": "%s%s_%6.6d.h5",
            "HDF1:AutoIncrement": "Yes",
            "HDF1:LazyOpen": "Yes",
            "HDF1:QueueSize": 2000,
            "HDF1:NumCapture": frames,
            "HDF1:Capture": 1,
        }.items():
            self._put(name, value)

    def acquire(self) -> None:
        """Start the series."""
        self._epics.caput(f"{self._prefix}cam1:Acquire", 1)

    def finished(self) -> bool:
        """Whether the series has ended."""
        return int(self._get("cam1:Acquire_RBV")) == 0

    def lost(self) -> tuple[int, int]:
        """Frames lost since `prepare`: in the detector, in the PVA plugin."""
        now = int(self._get("cam1:StreamDropped_RBV")), int(self._get("Pva1:DroppedArrays_RBV"))
        return now[0] - self._lost_before[0], now[1] - self._lost_before[1]

    @property
    def image_channel(self) -> str:
        """PVA name of the frames."""
        return str(self._get("Pva1:PvName_RBV", as_string=True))

    @property
    def dropped_channel(self) -> str:
        """PVA name of the count of frames lost in the detector."""
        return f"{self._prefix}cam1:StreamDropped_RBV"

    @property
    def frame_shape(self) -> tuple[int, int]:
        """Rows and columns of a frame."""
        return int(self._get("ROI1:SizeY_RBV")), int(self._get("ROI1:SizeX_RBV"))

    def stop(self) -> None:
        """Disarm and close the shutter; harmless on a dead IOC."""
        self._epics.caput(f"{self._prefix}cam1:Acquire", 0, timeout=2.0)
        if not self._move_shutter("Close"):
            logger.error("the shutter %s does not close; close it by hand", self._shutter_pv)

    def _move_shutter(self, state: str) -> bool:
        if not self._shutter_pv:
            return True
        return self._epics.caput(self._shutter_pv, state, wait=True, timeout=SHUTTER_S) == 1

"""Area detectors in a run: they stream frames over PVA, write them to HDF5, and are armed once."""

import math
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from event_model import compose_stream_resource
from ophyd import Signal

from bluesky_ptychonn.core.request import ScanRequest
from bluesky_ptychonn.devices.detector_base import StagedDetector
from bluesky_ptychonn.devices.detector_pvs import UNKNOWN
from bluesky_ptychonn.devices.waiting import WorkStatus, address, in_background, wait_until

FRAMES = "/entry/data/data"
ATTRIBUTES = "/entry/instrument/NDAttributes"
BLOCK_S = 0.25


class FrameDetector(StagedDetector):
    """Camera cropped by an ROI plugin, streamed by NDPva, written by NDFileHDF5.

    A run is ``stage``, ``prepare(request)``, ``kickoff`` (armed), triggers, ``complete``, ``unstage``. In a fly scan
    the triggers come by cable; what a pulse does is the setting ``triggering``: ``pulse`` starts one exposure of the
    requested length, ``gate`` is one exposure as long as itself, ``start`` (the first one) starts all exposures, which
    then follow the detector's clock.

    Parameters
    ----------
    prefix : str
        PV prefix with its trailing colon, such as ``"BL:EIG:"``.
    name : str
        Ophyd name; data keys begin with it.
    """

    def __init__(self, prefix: str = "", *, name: str, **kwargs: Any) -> None:
        super().__init__(prefix, name=name, **kwargs)
        self._request: ScanRequest | None = None
        self._file = Path()
        self._shape = (0, 0)
        self._chunk = 1
        self._streams: list[Any] = []
        self._collected = 0
        self._works: list[WorkStatus] = []
        self._armed = self._ended = False

    def prepare(self, request: ScanRequest) -> WorkStatus:
        """Set exposure, triggers and file for this request, and open the file plugin."""
        return self._begin("prepare", lambda status: self._prepare(request))

    def _prepare(self, request: ScanRequest) -> None:
        hdf = self.hdf1
        self._request, self._streams, self._collected = request, [], 0
        self._armed = self._ended = False
        self.counters.triggers_sent.put(0)
        self._shape = self._frame_shape()
        self._chunk = max(1, min(math.ceil(BLOCK_S / request.dwell_s), request.points, 1024))
        file_name = f"{self.name}_{time.strftime('%Y%m%dT%H%M%S')}_{uuid.uuid4().hex[:8]}"
        for signal, value in (
            *self._trigger_values(request),
            (self.cam.acquire_time, float(request.exposure_s)),
            (self.cam.acquire_period, float(request.dwell_s)),
            (self.roi1.queue_size, max(200, math.ceil(0.5 / request.dwell_s))),
            (self.pva1.queue_size, max(200, math.ceil(0.5 / request.dwell_s))),
            (hdf.queue_size, max(200, math.ceil(1.0 / request.dwell_s))),
            (hdf.num_frames_chunks, self._chunk),
            (hdf.num_capture, request.points),
            (hdf.file_name, file_name),
        ):
            self._change(signal, value)
        if not hdf.file_path_exists.get():
            raise FileNotFoundError(
                f"the IOC cannot write to {hdf.file_path.get()!r} ({address(hdf.file_path)}): "
                f"no such folder; create it, or set {self.name}.file_directory"
            )
        self._file = Path(hdf.file_path.get()) / f"{file_name}_000000.h5"
        hdf.capture.put(1)
        wait_until(
            lambda: hdf.capture.get() == 1 and hdf.write_status.get() == "Write OK",
            5.0,
            lambda: f"{address(hdf.capture)} does not start: {hdf.write_message.get() or hdf.write_status.get()}",
        )

    def kickoff(self) -> WorkStatus:
        """Arm; done when the detector waits for its first trigger."""
        if self._request is None:
            raise RuntimeError(f"{self.name} has nothing to do; prepare(request) comes first")
        return self._begin("arm", lambda status: self._arm())

    def _arm(self) -> None:
        cam = self.cam
        self._armed = True
        cam.acquire.put(1)
        wait_until(
            lambda: cam.acquire.get() == 1 and self._is_armed(),
            10.0,
            lambda: (
                f"{self.name} does not arm: DetectorState = {cam.detector_state.get()}, "
                f"{cam.status_message.get()!r}; initialize the detector"
            ),
        )

    def _trigger_values(self, request: ScanRequest) -> list[tuple[Signal, Any]]:
        """What makes the camera take the frames of this request."""
        raise NotImplementedError

    def _is_armed(self) -> bool:
        """Whether the camera waits for a trigger."""
        raise NotImplementedError

    def _came(self) -> int:
        """Frames of this run that reached the driver."""
        raise NotImplementedError

    def _seen(self) -> int:
        """Frames that came, and frames the detector says it lost."""
        return self._came() + self._losses()["camera"]

    def complete(self) -> WorkStatus:
        """Done when every frame has come and is written; fails when frames stay away.

        After `stop`, done when what has come is written.
        """
        return self._begin("frames", self._complete)

    def _complete(self, status: WorkStatus) -> None:
        if not self._alive():
            raise TimeoutError(f"{self.name} does not answer; is its IOC running?")
        planned = self._request.points if self._request else 0
        seen, changed_at = -1, time.monotonic()
        while not (status.stopped.is_set() or self._ended):
            now = self._seen()
            self.counters.written.put(int(self.hdf1.num_captured.get()))  # what is known if the IOC dies
            status.report(now, planned, "frames")
            if now >= planned:
                break
            if now != seen:
                seen, changed_at = now, time.monotonic()
            silence = time.monotonic() - changed_at
            allowed = self._silence_s() if seen > 0 else self.first_frame_s.get()
            if silence > allowed:
                raise TimeoutError(
                    f"{self.name}: {now} of {planned} frames came, none for {silence:.1f} s; "
                    "a trigger or its frame is missing (stream 'counters' says which), or the cable is out"
                )
            time.sleep(0.05)
        self._finish_file()

    def _silence_s(self) -> float:
        return max(self.stall_s.get(), 5 * self._request.dwell_s if self._request else 0)

    def _finish_file(self) -> None:
        """Wait until the file plugin has worked off its queue, then close the file."""
        hdf = self.hdf1
        came, deadline = self._came(), time.monotonic() + 2.0
        while int(hdf.num_captured.get()) + self._lost_behind_driver() < came and time.monotonic() < deadline:
            time.sleep(0.02)  # between the driver's counter and the plugin's queue
        wait_until(
            lambda: hdf.queue_free.get() >= hdf.queue_size.get(),
            30.0,
            lambda: f"{address(hdf.queue_free)}: the file plugin does not work off its queue; is the disk full?",
        )
        if hdf.capture.get():
            hdf.capture.put(0)
        wait_until(lambda: hdf.capture.get() == 0, 10.0, lambda: f"{address(hdf.capture)}: the file does not close")
        if hdf.write_status.get() != "Write OK":
            raise OSError(f"{self.name}: writing {self._file} failed: {hdf.write_message.get()}; is the disk full?")

    def _lost_behind_driver(self) -> int:
        losses = self._losses()
        return losses["roi"] + losses["file"]

    def stop(self, *, success: bool = False) -> None:
        """End what is running, disarm, do not wait. Harmless on an idle detector; told, not raised, on a dead one."""
        self._ended = True
        for work in self._works:
            work.stopped.set()
        try:
            if self._alive() and self.cam.acquire.get():
                self.cam.acquire.put(0)
        except Exception as error:
            self.log.error("%s cannot be disarmed: %s", self.name, error)

    def unstage(self) -> list[object]:
        self.stop(success=True)
        self._request = None
        return super().unstage()

    # documents

    def describe_collect(self) -> dict[str, Any]:
        """Data keys of the stream of frames, all of them external."""
        shape = self._shape
        source = f"PV:{self.prefix}"
        return {
            f"{self.name}_image": {
                "source": source,
                "dtype": "array",
                "shape": list(shape),
                "dtype_numpy": self.frame_dtype,
                "external": "STREAM:",
            },
            f"{self.name}_unique_id": {
                "source": source,
                "dtype": "integer",
                "shape": [],
                "dtype_numpy": "<i4",
                "external": "STREAM:",
            },
            f"{self.name}_time_stamp": {
                "source": source,
                "dtype": "number",
                "shape": [],
                "dtype_numpy": "<f8",
                "units": "s",
                "external": "STREAM:",
            },
        }

    @property
    def hints(self) -> dict[str, Any]:
        return {"fields": []}

    def get_index(self) -> int:
        """Number of frames in the file."""
        return int(self.counters.written.get())

    def collect_asset_docs(self, index: int | None = None) -> Iterator[tuple[str, Any]]:
        """Refer to the frames written since the last call."""
        if self._alive():
            self.counters.written.put(int(self.hdf1.num_captured.get()))
        written = self.get_index() if index is None else index
        if written <= self._collected:
            return
        if not self._streams:
            for key, dataset, chunk in (
                (f"{self.name}_image", FRAMES, (self._chunk, *self._shape)),
                (f"{self.name}_unique_id", f"{ATTRIBUTES}/NDArrayUniqueId", (self._chunk,)),
                (f"{self.name}_time_stamp", f"{ATTRIBUTES}/NDArrayTimeStamp", (self._chunk,)),
            ):
                stream = compose_stream_resource(
                    mimetype="application/x-hdf5",
                    uri=f"file://localhost{self._file.as_posix()}",
                    data_key=key,
                    parameters={"dataset": dataset, "chunk_shape": chunk},
                )
                self._streams.append(stream.compose_stream_datum)
                yield "stream_resource", stream.stream_resource_doc
        indices = {"start": self._collected, "stop": written}
        for compose_stream_datum in self._streams:
            yield "stream_datum", compose_stream_datum(indices=indices)
        self._collected = written

    def refresh_counters(self) -> WorkStatus:
        """Bring `counters` up to date; figures that a dead IOC cannot give become unknown (-1)."""
        return self._begin("counters", lambda status: self._refresh_counters())

    def _refresh_counters(self) -> None:
        counters = self.counters
        if not self._alive():
            for name in ("lost_in_detector", "lost_in_plugin", "lost_before_file", "driver_frames"):
                getattr(counters, name).put(UNKNOWN)
            return
        counters.driver_frames.put(self._came() if self._armed else 0)
        counters.written.put(int(self.hdf1.num_captured.get(use_monitor=False)))
        if self._losses_before:
            losses = self._losses()
            gap, silent = (losses["camera"], 0) if self.gap_of_lost else (0, losses["camera"])
            counters.lost_in_detector.put(silent)
            counters.lost_in_plugin.put(gap + losses["roi"] + losses["pva"])
            counters.lost_before_file.put(gap + losses["roi"] + losses["file"])

    def _begin(self, label: str, work: Any) -> WorkStatus:
        status = in_background(self, label, work)
        self._works = [running for running in self._works if not running.done] + [status]
        return status

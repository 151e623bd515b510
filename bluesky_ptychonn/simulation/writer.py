"""The HDF5 file plugin: its own thread, its own bounded queue, a file that can be read while it grows."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

logger = logging.getLogger(__name__)

EPICS_EPOCH_S = 631152000
"""1990-01-01 in seconds since 1970."""
DATA = "entry/data/data"
ATTRIBUTES = "entry/instrument/NDAttributes"
CHUNK_S = 0.25
POLL_S = 0.02
LATE_S = 0.5
"""A frame waits no longer for its chunk to fill."""


@dataclass(frozen=True)
class Frame:
    """A frame on its way to the plugins; times are seconds since 1970."""

    data: np.ndarray
    unique_id: int
    time_s: float
    epics_time_s: float


@dataclass
class FileSettings:
    """What the ``HDF1:`` records ask for."""

    path: str = ""
    name: str = "frames"
    template: str = "%s%s_%6.6d.h5"
    number: int = 1
    auto_increment: bool = True
    capture: int = 1
    swmr: bool = False
    lazy_open: bool = False
    frames_per_chunk: int = 256
    period_s: float = 1.0
    queue_size: int = 2000
    enabled: bool = True

    def full_name(self) -> str:
        """Apply the file template."""
        folder = self.path if self.path.endswith("/") or not self.path else self.path + "/"
        return self.template % (folder, self.name, self.number)

    def chunk_frames(self) -> int:
        """Frames per chunk: a quarter of a second, at most what the records allow."""
        limits = [max(1, round(CHUNK_S / self.period_s)), max(1, self.frames_per_chunk)]
        return min([*limits, self.capture] if self.capture > 0 else limits)


@dataclass
class FileState:
    """What the ``HDF1:`` records show."""

    capturing: bool = False
    captured: int = 0
    dropped: int = 0
    arrays: int = 0
    error: str = ""
    full_name: str = ""
    number: int = 1
    swmr_active: bool = False
    queued: int = 0


@dataclass
class FileWriter:
    """Write frames into one HDF5 file per capture.

    Parameters
    ----------
    settings : FileSettings
        Read when a capture starts.
    on_change : callable
        Called, from any thread, after `state` has changed in more than a counter.
    """

    settings: FileSettings
    on_change: Callable[[], None]
    state: FileState = field(default_factory=FileState)

    def __post_init__(self) -> None:
        self._queue: deque[Frame] = deque()
        self._stopping = threading.Event()
        self._file: _File | None = None
        self._last_shape: tuple[int, ...] | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.RLock()

    def start(self) -> None:
        """Begin a capture; a failure shows in `state.error` and leaves the stream alone."""
        with self._lock:
            if self.state.capturing:
                return
            self.state.captured, self.state.error = 0, ""
            try:
                if not self.settings.lazy_open:
                    if self._last_shape is None:
                        raise OSError("must collect an array to get dimensions first, or set LazyOpen")
                    self._open(self._last_shape)
                elif not Path(self.settings.path).is_dir():
                    raise OSError(f"file path does not exist: {self.settings.path!r}")
            except (OSError, ValueError, TypeError) as error:
                self._fail(error)
            else:
                self.state.capturing = True
                self._queue.clear()
                self._stopping.clear()
                self._thread = threading.Thread(target=self._run, name="file writer", daemon=True)
                self._thread.start()
        self.on_change()

    def offer(self, frame: Frame, *, lose: bool = False) -> None:
        """Take a frame for the file, or drop and count it when the queue is full (or ``lose`` says so)."""
        if not self.settings.enabled:
            return
        self._last_shape = frame.data.shape
        if lose or (self.state.capturing and len(self._queue) >= self.settings.queue_size):
            self.state.dropped += 1
        else:
            self.state.arrays += 1
            if self.state.capturing:
                self._queue.append(frame)

    def stop(self) -> None:
        """End the capture and close the file; what is queued is written first."""
        thread = self._thread
        if self.state.capturing and thread is not None:
            self._stopping.set()
            thread.join(timeout=30)

    def _run(self) -> None:
        """Collect frames into chunks; a chunk leaves when it is full, or late, or the last."""
        waiting: list[Frame] = []
        since_s = 0.0
        done = False
        try:
            while not done:
                done = self._stopping.wait(POLL_S)
                while self._queue and not self._complete(0):
                    if not waiting:
                        since_s = time.monotonic()
                    waiting.append(self._queue.popleft())
                    room = self._file.room if self._file else self.settings.chunk_frames()
                    if len(waiting) >= room or self._complete(len(waiting)):
                        self._write(waiting)
                        waiting = []
                self.state.queued = len(self._queue)
                done = done or self._complete(0)
                if waiting and (done or time.monotonic() - since_s >= LATE_S):
                    self._write(waiting)
                    waiting = []
        except (OSError, ValueError, RuntimeError) as error:
            self._fail(error)
        with self._lock:
            self._close()
            self.state.capturing, self.state.queued = False, 0
        self.on_change()

    def _complete(self, waiting: int) -> bool:
        return 0 < self.settings.capture <= self.state.captured + waiting

    def _write(self, frames: list[Frame]) -> None:
        with self._lock:
            first = self._file is None
            file = self._file or self._open(frames[0].data.shape)
            file.append(frames)
            self.state.captured += len(frames)
        if first:
            self.on_change()

    def _open(self, shape: tuple[int, ...]) -> "_File":
        name = self.settings.full_name()
        self._file = file = _File(Path(name), shape, self.settings)
        self.state.full_name, self.state.swmr_active = name, self.settings.swmr
        if self.settings.auto_increment:
            self.settings.number += 1
        self.state.number = self.settings.number
        return file

    def _close(self) -> None:
        file, self._file = self._file, None
        self.state.swmr_active = False
        if file is not None:
            try:
                file.close()
            except (OSError, RuntimeError, ValueError) as error:
                self._fail(error)

    def _fail(self, error: Exception) -> None:
        self.state.error = f"ERROR writing file: {error}"[:255]
        logger.error("%s", self.state.error)


class _File:
    """One HDF5 file with the layout of NDFileHDF5."""

    def __init__(self, path: Path, shape: tuple[int, ...], settings: FileSettings) -> None:
        self._chunk = settings.chunk_frames()
        self._file = h5py.File(path, "w", libver="latest")
        self._swmr = settings.swmr
        self._block = np.empty((self._chunk, *shape), np.uint16)
        self._data = self._file.create_dataset(
            DATA, (0, *shape), np.uint16, maxshape=(None, *shape), chunks=(self._chunk, *shape)
        )
        self._file["entry"].attrs["NX_class"] = "NXentry"
        self._file["entry/data"].attrs.update({"NX_class": "NXdata", "signal": "data"})
        columns = {"UniqueId": np.int32, "TimeStamp": np.float64, "EpicsTSSec": np.uint32, "EpicsTSnSec": np.uint32}
        self._columns = {
            name: self._file.create_dataset(
                f"{ATTRIBUTES}/NDArray{name}", (0,), dtype, maxshape=(None,), chunks=(max(256, self._chunk),)
            )
            for name, dtype in columns.items()
        }
        if settings.swmr:
            self._file.swmr_mode = True

    @property
    def room(self) -> int:
        """Frames that still fit into the chunk which is being filled."""
        return self._chunk - len(self._data) % self._chunk

    def append(self, frames: list[Frame]) -> None:
        """Append frames and show them to readers."""
        first, last = len(self._data), len(self._data) + len(frames)
        epics_ns = [round((frame.epics_time_s - EPICS_EPOCH_S) * 1e9) for frame in frames]
        rows = {
            "UniqueId": [frame.unique_id for frame in frames],
            "TimeStamp": [frame.time_s - EPICS_EPOCH_S for frame in frames],
            "EpicsTSSec": [ns // 10**9 for ns in epics_ns],
            "EpicsTSnSec": [ns % 10**9 for ns in epics_ns],
        }
        self._data.resize(last, axis=0)
        for place, frame in zip(self._block, frames):
            place[...] = frame.data
        if first % self._chunk == 0 and len(frames) == self._chunk:
            self._data.id.write_direct_chunk((first, *[0] * (self._data.ndim - 1)), self._block)  # three times faster
        else:
            self._data[first:last] = self._block[: len(frames)]
        for name, values in rows.items():
            self._columns[name].resize(last, axis=0)
            self._columns[name][first:last] = values
        if self._swmr:
            self._data.flush()
            for column in self._columns.values():
                column.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

"""All frames of a run by id and time, without their pixels: the pairing for consumers which see a part each."""

import threading
import time
from array import array
from typing import Any

import numpy as np

from bluesky_ptychonn.core.pairing import FOREIGN, UNPAIRED, Pairing
from bluesky_ptychonn.core.placement import Placement
from bluesky_ptychonn.io.edge_channels import RunMessage
from bluesky_ptychonn.io.ntndarray import frame_identity
from bluesky_ptychonn.io.pva import PvaChannel

UNKNOWN = -3
"""A frame that the roll has not seen, yet."""
IDENTITY = "uniqueId,timeStamp,dataTimeStamp"
QUEUE = 4000
"""Updates that may wait at the server; without pixels they are small."""
READING_S = 0.2
BASELINE_S = 1.0


class FrameRoll:
    """Watch the image channel of a run for who comes, and pair.

    Opens its own monitor, so that nothing queued for an earlier run can reach it. The first update after connecting is
    what the server published last, before this run: it is thrown away.

    Parameters
    ----------
    message : RunMessage
    """

    def __init__(self, message: RunMessage) -> None:
        self.message = message
        self.pairing = Pairing(
            message.frames,
            first_unique_id=message.first_unique_id,
            clock=message.clock,
            dwell_s=message.dwell_s,
            frames_after_s=message.frames_after_s,
        )
        self.lock = threading.Lock()
        """Held whenever the pairing changes."""
        self.last_arrival_s = 0.0
        self.began_s = time.monotonic()
        self._time_of = np.full(message.frames, np.nan)
        self._index_of = np.full(message.frames, UNPAIRED, np.int64)
        self._ids = array("q")
        self._shifts: list[tuple[int, int]] = []
        self._fresh = True
        self._ready, self._baseline, self._closed = threading.Event(), threading.Event(), threading.Event()
        self._channel = PvaChannel(message.image_channel)
        self._channel.monitor(self._take, QUEUE, field=IDENTITY, on_connection=self._on_connection)
        self._reader: threading.Thread | None = None
        if message.dropped_channel:
            self._reader = threading.Thread(target=self._read_dropped, name="lost frames", daemon=True)
            self._reader.start()

    @property
    def ready(self) -> bool:
        """Whether the next update will be a frame of this run, and the count of lost frames was read before it."""
        patient = self._reader is not None and time.monotonic() - self.began_s < BASELINE_S
        return self._ready.is_set() and (self._baseline.is_set() or not patient)

    @property
    def overruns(self) -> int:
        """Events in which the monitor's own queue was too short."""
        return self._channel.overruns

    def close(self) -> None:
        """Watch no more; read the count of lost frames a last time."""
        self._closed.set()
        self._channel.close()
        if self._reader is not None:
            self._reader.join(2)
            self._note_dropped(PvaChannel(self.message.dropped_channel, 0.5))

    def placement(self) -> Placement:
        """Which trigger each frame belongs to, as of now."""
        with self.lock:
            kept, withheld = self.pairing.kept, -1
            if kept < len(self._ids):
                withheld = self._ids[kept]
            elif self.pairing.doubt:
                withheld = self._ids[-1] + 1 if self._ids else self.message.first_unique_id
            ids, shifts = np.array(self._shifts, np.int64).reshape(-1, 2).T
        return Placement(self.message.first_unique_id, self.message.frames, ids, shifts, withheld)

    def judge(self, unique_ids: np.ndarray, times_s: np.ndarray) -> np.ndarray:
        """Return the trigger index (n,) of frames, or `UNPAIRED`, or `FOREIGN`, or `UNKNOWN`."""
        unique_ids = np.asarray(unique_ids, np.int64)
        place = unique_ids - self.message.first_unique_id
        inside = (place >= 0) & (place < self.message.frames)
        place = np.where(inside, place, 0)
        with self.lock:
            known_s, index = self._time_of[place], self._index_of[place]
        withheld = self.placement().withheld_from_id
        if withheld >= 0:
            index[unique_ids >= withheld] = UNPAIRED
        index[known_s != times_s] = FOREIGN
        index[np.isnan(known_s)] = UNKNOWN
        index[~inside] = FOREIGN
        return index

    def seen(self) -> np.ndarray:
        """Ids (n,) int64 of the frames of this run, ascending."""
        with self.lock:
            return np.flatnonzero(~np.isnan(self._time_of)) + self.message.first_unique_id

    def _on_connection(self, connected: bool) -> None:
        if connected:
            return
        self._fresh = True  # what comes first after this is old
        self._ready.clear()
        with self.lock:
            if self.pairing.received and not self._closed.is_set():
                self.pairing.break_off("the image channel was lost in the run")

    def _take(self, update: Any) -> None:
        arrival_s = time.monotonic()
        if self._fresh:
            self._fresh = False
            self._ready.set()
            return
        if self._closed.is_set():
            return
        unique_id, time_s = frame_identity(update, self.message.clock)
        with self.lock:
            index = self.pairing.add(unique_id, time_s, arrival_s)
            if index == FOREIGN:
                return
            place = unique_id - self.message.first_unique_id
            self._time_of[place], self._index_of[place] = time_s, index
            if index >= 0:
                self._ids.append(unique_id)
                if index - place != (self._shifts[-1][1] if self._shifts else 0):
                    self._shifts.append((unique_id, index - place))
        self.last_arrival_s = arrival_s

    def _read_dropped(self) -> None:
        channel = PvaChannel(self.message.dropped_channel, 1.0)
        while not self._closed.is_set():
            self._note_dropped(channel)
            self._closed.wait(READING_S)

    def _note_dropped(self, channel: PvaChannel) -> None:
        asked_s = time.monotonic()
        try:
            lost = int(channel.get("value")["value"])
        except (TimeoutError, KeyError, TypeError, ValueError, OverflowError):  # also of an infinity
            return  # without a reading nothing is confirmed
        with self.lock:
            self.pairing.note_dropped(lost, asked_s)
        self._baseline.set()

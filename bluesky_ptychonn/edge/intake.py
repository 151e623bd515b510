"""From the PVA monitor to the ring: each frame is paired, or counted."""

import logging
import threading
import time
from typing import Any

import numpy as np

from bluesky_ptychonn.core.pairing import FOREIGN, Pairing
from bluesky_ptychonn.edge.ring import FrameRing
from bluesky_ptychonn.io.edge_channels import RunMessage
from bluesky_ptychonn.io.ntndarray import frame_counts, frame_identity
from bluesky_ptychonn.io.pva import PvaChannel

logger = logging.getLogger(__name__)
READING_S = 0.2
BASELINE_S = 1.0
RING_S, RING_FRAMES = 1.0, 1000


class Intake:
    """Frames of one run, from its image channel into a bounded ring.

    Opens its own monitor, so that nothing queued for an earlier run can reach it. The first update after connecting is
    what the server published last, before this run: it is thrown away.

    Parameters
    ----------
    message : RunMessage
    ring_bytes : int
        Largest memory of the ring.
    """

    def __init__(self, message: RunMessage, ring_bytes: int) -> None:
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
        self.ring: FrameRing | None = None
        self.shed = 0
        self.rejected = 0
        self.unpaired = 0
        """Frames which never had an index; the withdrawn ones are counted where they are withdrawn."""
        self.problem = ""
        self.first_arrival_s = self.last_arrival_s = 0.0
        self._ring_bytes = ring_bytes
        self._fresh = True
        self._ready = threading.Event()
        self._baseline = threading.Event()
        self._closed = threading.Event()
        self.began_s = time.monotonic()
        self._channel = PvaChannel(message.image_channel)
        self._channel.monitor(self._take, on_connection=self._on_connection)
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
    def queue_used(self) -> int:
        """Frames waiting for the engine."""
        return len(self.ring) if self.ring is not None else 0

    @property
    def overruns(self) -> int:
        """Events in which the monitor's own queue was too short."""
        return self._channel.overruns

    def close(self) -> None:
        """Take no more frames; read the count of lost frames a last time."""
        self._closed.set()
        self._channel.close()
        if self._reader is not None:
            self._reader.join(2)
            self._note_dropped(PvaChannel(self.message.dropped_channel, 0.5))

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
        try:
            self._pair(update, arrival_s)
        except Exception as error:  # in a thread of PVA: nobody else would hear of it
            if not self.problem:
                logger.warning("a frame of %s is unusable: %s", self.message.image_channel, error)
            self.problem = str(error)
            self.rejected += 1

    def _pair(self, update: Any, arrival_s: float) -> None:
        if self._closed.is_set():
            return
        try:
            if not update.getSelectedUnionFieldName():
                return
            unique_id, time_s = frame_identity(update, self.message.clock)
        except Exception as error:  # no image at all, so no frame of the run that could be rejected
            self.pairing.foreign += 1
            self.problem = f"{self.message.image_channel} sends what is no frame: {error}"
            return
        with self.lock:
            index = self.pairing.add(unique_id, time_s, arrival_s)
            sequence = self.pairing.kept - 1
        if index == FOREIGN:
            return
        self.last_arrival_s = arrival_s
        self.first_arrival_s = self.first_arrival_s or arrival_s
        if index < 0:
            self.unpaired += 1
            return
        frame = frame_counts(update, self.message.frame_shape)
        if self.ring is None:
            self.ring = FrameRing(self._ring_size(frame.nbytes), self.message.frame_shape, frame.dtype)
        if frame.dtype != self.ring.dtype:
            raise ValueError(f"frames changed from {self.ring.dtype} to {frame.dtype}")
        if not self.ring.push(frame, sequence, index, arrival_s):
            self.shed += 1

    def _ring_size(self, frame_bytes: int) -> int:
        """Slots for one second of frames, for many where they come slowly, as far as there is memory."""
        frames = max(RING_S / self.message.dwell_s if self.message.dwell_s else 0, RING_FRAMES)
        return int(np.clip(min(frames, self._ring_bytes // frame_bytes, self.message.frames), 16, None))

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

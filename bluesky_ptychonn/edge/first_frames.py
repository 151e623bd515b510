"""The probe of a run, measured once for all consumers: each would find a slightly different one in its own frames."""

import logging
import threading
from typing import Any

import numpy as np

from bluesky_ptychonn.core.beam import Beam
from bluesky_ptychonn.core.frames import FrameGeometry
from bluesky_ptychonn.core.optics import PROBE_FRAMES, counts_of, measured_probe
from bluesky_ptychonn.core.totals import counts_of_frames
from bluesky_ptychonn.io.edge_channels import RunMessage
from bluesky_ptychonn.io.ntndarray import frame_counts, frame_identity
from bluesky_ptychonn.io.pva import PvaChannel

logger = logging.getLogger(__name__)
STEPS = (1, PROBE_FRAMES // 4, PROBE_FRAMES)
"""Frames from which the probe is measured: at once, better with a quarter, then settled."""


class FirstFrames:
    """Watch the image channel of a run until its first frames are there.

    Parameters
    ----------
    message : RunMessage
    frames : FrameGeometry
    unit_probe : (N, N) complex64
        Of any power.
    """

    def __init__(self, message: RunMessage, frames: FrameGeometry, unit_probe: np.ndarray) -> None:
        self._message, self._frames, self._unit_probe = message, frames, unit_probe
        self.beam = Beam(message.min_counts)
        """What the first frames say of the counts that a frame with beam has."""
        self._patterns: list[np.ndarray] = []
        self._counts = np.empty(0)
        self._lock = threading.Lock()
        self._used = 0
        self._fresh = True
        self.probe: np.ndarray | None = None
        """As measured last (N, N) complex64; its power is the counts per frame."""
        self.settled = False
        """Whether the probe will not change any more."""
        self.problem = ""
        self._channel: PvaChannel | None = PvaChannel(message.image_channel)
        self._channel.monitor(self._take, queue_size=2 * PROBE_FRAMES, on_connection=self._on_connection)

    def measure(self, at_the_end: bool = False) -> None:
        """Measure from what has come since the last time; at the end of a run, settle with what there is."""
        if self.settled:
            return
        with self._lock:
            patterns = self._patterns[:PROBE_FRAMES]
        due = any(self._used < step <= len(patterns) for step in STEPS)
        if due or (at_the_end and len(patterns) > self._used):
            self.probe = measured_probe(self._unit_probe, np.stack(patterns))
            self._used, self.problem = len(patterns), ""
        self.settled = at_the_end or self._used >= PROBE_FRAMES
        if self.settled:
            self.close()

    def close(self) -> None:
        """Watch no more."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def _on_connection(self, connected: bool) -> None:
        self._fresh |= not connected

    def _take(self, update: Any) -> None:
        if self._fresh:
            self._fresh = False  # what the server published last, before this run
            return
        message = self._message
        if len(self._patterns) >= PROBE_FRAMES or not update.getSelectedUnionFieldName():
            return
        unique_id, time_s = frame_identity(update, message.clock)
        if not 0 <= unique_id - message.first_unique_id < message.frames or (
            message.clock == "ioc" and time_s < message.frames_after_s
        ):
            return
        try:
            pattern = self._frames.patterns(frame_counts(update, message.frame_shape)[None])
            if counts_of(pattern, self._unit_probe) < 1:
                self.problem = self.problem or "frames are dark: is the shutter open?"
                return
        except Exception as error:  # in a thread of PVA: the consumers count such frames
            self.problem = str(error)
            return
        counts = counts_of_frames(pattern)
        with self._lock:
            self.beam.see(counts)
            self._counts = np.concatenate([self._counts, counts])
            lit = self.beam.has(self._counts)
            self._counts = self._counts[lit]
            self._patterns = [pattern for pattern, has_beam in zip([*self._patterns, pattern[0]], lit) if has_beam]

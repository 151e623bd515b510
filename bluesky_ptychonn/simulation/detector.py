"""How the simulated detector behaves: arming, triggers, counters, faults. No EPICS here."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bluesky_ptychonn.simulation.cable import CableIn
from bluesky_ptychonn.simulation.detector_state import ABORTED, ACQUIRE, IDLE, Settings, State, TriggerMode
from bluesky_ptychonn.simulation.scaler import Scaler
from bluesky_ptychonn.simulation.source import Source
from bluesky_ptychonn.simulation.trajectory import MotionRecord
from bluesky_ptychonn.simulation.writer import FileWriter, Frame

logger = logging.getLogger(__name__)

SUB_STEPS = 5
CLOCK_GRAIN_S = 2e-6
STRAY_PHOTONS = 5
"""In a frame without beam."""


@dataclass
class Detector:
    """The detector, from trigger to the plugins.

    Parameters
    ----------
    source : Source
        What it sees.
    publish : callable
        Takes each `Frame` for the PVA plugin.
    writer : FileWriter
    on_change : callable
        Called, from any thread, after arming, ending and the faults of a series were used up.
    """

    source: Source
    publish: Callable[[Frame], None]
    writer: FileWriter
    on_change: Callable[[], None]
    settings: Settings = field(default_factory=Settings)
    state: State = field(default_factory=State)
    scaler: Scaler = field(default_factory=Scaler)

    def __post_init__(self) -> None:
        offset = np.random.default_rng()
        self._clock_offset_s = float(offset.choice([-1, 1]) * offset.uniform(0.2, 2.0))
        self._rng = np.random.default_rng()
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._series = 0
        self._at_um = np.zeros(2)
        self._motion: MotionRecord | None = None
        self._moved = False
        self._pool: np.ndarray | None = None
        self._pool_key: tuple[float, ...] = ()
        self._dark = self.source.dark()
        self._accepted = 0
        self._ready_s = 0.0
        self.busy = False
        self._lock = threading.Lock()  # a frame is either before an end, or not at all
        threading.Thread(target=self._work, name="detector", daemon=True).start()

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            try:
                job()
            except Exception:
                logger.exception("detector job failed")

    def listen(self, cable: CableIn) -> None:
        """Follow the cable, for ever; its thread also sends the frames of external triggers."""
        for message in cable.messages():
            if "pulse" in message:
                self.pulse(int(message["pulse"]), float(message["t"]))
            elif "trajectory" in message:
                self.expect(Path(message["trajectory"]))
            elif "at" in message:
                self._at_um, self._moved = np.asarray(message["at"], float), True

    # Frames known beforehand

    def expect(self, path: Path) -> None:
        """Compute the frames of a trajectory, behind what else is to do; a marker file says that they are there."""
        self._jobs.put(lambda: self._expect(path))

    def _expect(self, path: Path) -> None:
        report = "ok"
        try:
            self._motion, self._moved, self._pool_key = MotionRecord.load(path), False, ()
            self._fill_pool()
        except Exception as error:
            logger.exception("cannot compute the frames of %s", path)
            report = f"detector: {error}"
        path.with_name(path.name + ".ready").write_text(report)

    def _fill_pool(self) -> None:
        s, motion = self.settings, self._motion
        if motion is None:
            return
        per_trigger = s.images if s.mode == TriggerMode.EXTERNAL_SERIES else 1
        series = (s.period_s, s.triggers) if per_trigger > 1 else ()
        key = (s.exposure_s, s.photons, per_trigger, *series)
        if key != self._pool_key:
            steps_s = (np.arange(SUB_STEPS) + 0.5) / SUB_STEPS * s.exposure_s
            pulse_s = motion.pulse_s if per_trigger == 1 else motion.pulse_s[: s.triggers]
            images_s = np.add.outer(pulse_s, np.arange(per_trigger) * s.period_s).ravel()
            self._pool = self.source.frames(motion.at(np.add.outer(images_s, steps_s)), s.photons)
            self._pool_key = key

    def _standing(self, count: int) -> np.ndarray:
        where = np.broadcast_to(self._at_um, (count, 1, 2))
        return self.source.frames(where, self.settings.photons, first=self.state.array_counter)

    # Arming

    def arm(self) -> None:
        """Start a series (``Acquire`` = 1)."""
        if self.state.acquiring:
            return
        self._series += 1
        state = self.state
        state.acquiring, state.detector_state, state.images, state.exposed = True, ACQUIRE, 0, 0
        if self.settings.numbers_exposures:
            state.stream_dropped = 0
        state.sequence += 1
        state.message = "Arming"
        self.on_change()
        self._jobs.put(lambda series=self._series: self._arm(series))

    def _arm(self, series: int) -> None:
        self._fill_pool()
        if series != self._series or not self.state.acquiring:
            return
        self._accepted, self._ready_s, self.busy = 0, 0.0, False
        self.state.armed, self.state.message = True, "Armed"
        self.on_change()
        mode = TriggerMode(self.settings.mode)
        if not mode.external and not self.settings.manual:
            self._expose_internally(series, self.settings.total)

    def disarm(self) -> None:
        """Abort the series (``Acquire`` = 0)."""
        if self.state.acquiring:
            self._end(ABORTED, "Aborted")

    def reset_counter(self, value: int) -> None:
        """Set the number which the next frame gets (``cam1:ArrayCounter``)."""
        with self._lock:
            self.state.array_counter = value

    def _end(self, detector_state: int, message: str) -> None:
        with self._lock:
            self._series += 1
        state = self.state
        state.armed = state.acquiring = False
        state.detector_state, state.message = detector_state, message
        none: frozenset[int] = frozenset()
        self.settings.drop_in_detector = self.settings.drop_in_plugin = self.settings.drop_in_writer = none
        self.settings.no_beam = none
        self.on_change()

    # Triggers

    def trigger(self) -> None:
        """Software trigger (``cam1:Trigger``); ignored unless armed for it and ready."""
        s = self.settings
        external = TriggerMode(s.mode).external
        if external or not s.manual or not self.state.armed or self.busy or self._accepted >= s.triggers:
            self.state.ignored_triggers += 1
            return
        self.busy = True
        self._accepted += 1
        self._jobs.put(lambda series=self._series: self._expose_internally(series, s.images_per_trigger))

    def _expose_internally(self, series: int, count: float) -> None:
        s, start_s = self.settings, time.time()
        pool = self._pool if self._motion is not None and not self._moved and not s.manual else None
        if pool is None:
            pool = self._standing(int(min(count, self.source.different_frames)))
        period_s = max(s.period_s, s.exposure_s + s.dead_time_s)
        taken = 0
        while taken < count:
            begin_s = start_s + taken * period_s
            if not self._wait(begin_s + s.exposure_s, series):
                return
            index = taken + (self._accepted - 1) * s.images_per_trigger if s.manual else taken
            self._take(series, index, begin_s, pool[taken % len(pool)])
            taken += 1
        self.busy = False
        if not s.manual or self._accepted >= s.triggers:
            self._finish(series)

    def pulse(self, index: int, time_s: float) -> None:
        """Trigger pulse from the cable; ignored unless armed for it and ready. Returns after its exposures."""
        s, series = self.settings, self._series
        self.scaler.advance(s.photons * self._beam_at(index))
        ready = self.state.armed and TriggerMode(s.mode).external and self._accepted < s.triggers
        if not ready or time_s < self._ready_s - CLOCK_GRAIN_S:
            self.state.ignored_triggers += 1
            return
        self._accepted += 1
        per_trigger = s.images_per_trigger
        for image in range(per_trigger):
            begin_s = time_s + image * s.period_s
            self._ready_s = begin_s + s.exposure_s + s.dead_time_s
            if not self._wait(begin_s + s.exposure_s, series):
                return
            number = index * per_trigger + image
            pool = self._pool
            frame = pool[number % len(pool)] if pool is not None else self._standing(1)[0]
            self._take(series, number, begin_s, frame)
        if (self.state.exposed if s.numbers_exposures else self.state.images) >= s.total:
            self._finish(series)

    def _wait(self, until_s: float, series: int) -> bool:
        while series == self._series:
            left_s = until_s - time.time()
            if left_s <= 0:
                return True
            time.sleep(min(left_s, 0.05))
        return False

    def _beam_at(self, index: int) -> float:
        """Part of the full beam at a trigger."""
        return 0.0 if index in self.settings.no_beam else self.settings.beam

    def _dimmed(self, data: np.ndarray, beam: float) -> np.ndarray:
        """The same frame with a part of the photons; without beam some stray ones are left."""
        if beam > 0:
            thinned = self._rng.binomial(data, beam).astype(data.dtype)
            return np.where(self._dark > 0, self._dark, thinned)
        stray = self._dark.copy()
        places = self._rng.integers(0, data.size, STRAY_PHOTONS)
        stray.flat[places] = np.maximum(stray.flat[places], 1)
        return stray

    def _finish(self, series: int) -> None:
        if series == self._series:
            self._end(IDLE, "Acquisition complete")

    def _take(self, series: int, index: int, begin_s: float, data: np.ndarray) -> None:
        with self._lock:
            if series == self._series:
                self._hand_out(index, begin_s, data)

    def _hand_out(self, index: int, begin_s: float, data: np.ndarray) -> None:
        """Give one frame its number and time, and the plugins their copy."""
        s, state = self.settings, self.state
        number = state.exposed
        state.exposed += 1
        if index in s.drop_in_detector:
            state.stream_dropped += 1
            return
        if not s.streaming:
            return
        unique_id = number if s.numbers_exposures else state.array_counter
        state.array_counter += 1
        state.images += 1
        if (beam := self._beam_at(index)) < 1:
            data = self._dimmed(data, beam)
        if not s.shutter_open:
            data = self._dark
        if s.stamp_index and self.source.stamp_pixel is not None:
            data = data.copy()
            data[self.source.stamp_pixel] = index % 65535
        time_s = begin_s + self._clock_offset_s if s.detector_clock else time.time()
        state.last = frame = Frame(data, unique_id, time_s, time_s)
        if not (s.array_callbacks and s.roi_enabled and s.roi_hears):
            return
        state.roi_arrays += 1
        if index in s.drop_in_plugin:
            state.pva_dropped += 1
        elif s.pva_enabled:
            state.pva_arrays += 1
            self.publish(frame)
        self.writer.offer(frame, lose=index in s.drop_in_writer)

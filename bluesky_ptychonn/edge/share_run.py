"""One consumer's share of a run: from the frames that it is given to sums which add up with those of others."""

import logging
import os
import threading
import time
from array import array
from typing import Any

import numpy as np

from bluesky_ptychonn.core.beam import NO_BEAM
from bluesky_ptychonn.core.optics import counts_of
from bluesky_ptychonn.core.pairing import UNPAIRED
from bluesky_ptychonn.core.protocols import Engine
from bluesky_ptychonn.core.stitch import patch_weights, run_canvas
from bluesky_ptychonn.core.totals import counts_of_frames
from bluesky_ptychonn.edge.latency import Latencies
from bluesky_ptychonn.edge.partial import PartialImage
from bluesky_ptychonn.edge.ring import FrameRing
from bluesky_ptychonn.engines.checks import check_run
from bluesky_ptychonn.engines.light import SCALE_FACTOR, DarkError
from bluesky_ptychonn.io.edge_channels import RUN
from bluesky_ptychonn.io.ntndarray import frame_counts, frame_identity
from bluesky_ptychonn.io.share_channels import PHASES, Task

logger = logging.getLogger(__name__)
LATENCY_BOUND_S = 0.02
"""A batch leaves after this, however short."""
EARLY = 2048
"""Frames which may be inferred before the probe is settled; they are inferred once more."""
WARM_UP_FRAMES = 64


class ShareRun:
    """Take frames, infer, stitch what this consumer is given of a run.

    The pairing is not done here, where most frames are not seen: the gatherer says which trigger a frame belongs to,
    and until it says otherwise that is ``unique_id - first_unique_id``.

    Parameters
    ----------
    task : Task
    engine : Engine
    bad_pixels : (H, W) bool, optional
    consumer : int
        Its number.
    ring_bytes, kept_bytes : int
        Memory for waiting frames, and for patches kept until the end.

    Raises
    ------
    ValueError
        If the run cannot be done.
    """

    def __init__(
        self,
        task: Task,
        engine: Engine,
        bad_pixels: np.ndarray | None,
        consumer: int,
        *,
        ring_bytes: int = 128 << 20,
        kept_bytes: int = 512 << 20,
    ) -> None:
        if task.message is None or task.unit_probe is None or task.placement is None:
            raise ValueError("the gatherer's task holds no run")
        self.task, self.message, self._placement = task, task.message, task.placement
        self._engine, self._consumer, self._ring_bytes = engine, consumer, ring_bytes
        geometry = check_run(self.message, engine, task.unit_probe)
        self._frames = self.message.frame_geometry(bad_pixels)
        size = engine.patch_px
        self.image = PartialImage(
            run_canvas(self.message.positions_um, geometry.pixel_size_um, size),
            patch_weights(task.unit_probe, size),
            self.message.positions_um,
            max(1, kept_bytes // (4 * size * size)),
        )
        self._ring: FrameRing | None = None
        self._ids, self._times = array("q"), array("d")
        self._spoiled = array("q")
        self._frame_counts = array("d")
        self._counts: dict[str, int] = dict.fromkeys(("shed", "rejected", "foreign"), 0)
        self._lock = threading.Lock()
        self._early: list[tuple[np.ndarray, np.ndarray]] = []
        self._probe: np.ndarray | None = None
        self._lit = False
        self._final = False
        self._text = ""
        self._model_versions: list[str] = []
        self._latencies = Latencies(WARM_UP_FRAMES)
        self._first_s = self._last_s = self._longest_gap_s = 0.0
        self._cpu_s = time.process_time()
        self._follow_probe(task)

    def take(self, update: Any) -> None:
        """Put a frame of this run into the ring; called by one thread, which is never kept waiting."""
        arrival_s, message = time.monotonic(), self.message
        if self._final or not update.getSelectedUnionFieldName():
            return
        unique_id, time_s = frame_identity(update, message.clock)
        if not 0 <= unique_id - message.first_unique_id < message.frames or (
            message.clock == "ioc" and time_s < message.frames_after_s
        ):
            self._counts["foreign"] += 1
            return
        if self._ids and unique_id <= self._ids[-1] and self._have(unique_id, time_s):
            return
        if self.task.phase != "run":
            self._spoil("shed", unique_id)
            return
        try:
            frame = frame_counts(update, message.frame_shape)
            if self._ring is None:
                size = int(np.clip(self._ring_bytes // frame.nbytes, 16, message.frames + 16))
                self._ring = FrameRing(size, message.frame_shape, frame.dtype)
            if frame.dtype != self._ring.dtype:
                raise ValueError(f"frames changed from {self._ring.dtype} to {frame.dtype}")
        except Exception as error:  # pvapy's own among them, where a field is missing
            self._text = str(error)
            self._spoil("rejected", unique_id)
            return
        self._ids.append(unique_id)
        self._times.append(time_s)
        if not self._ring.push(frame, len(self._ids) - 1, unique_id, arrival_s):
            self._ids.pop()
            self._times.pop()
            self._spoil("shed", unique_id)
            return
        self._first_s = self._first_s or arrival_s

    def _have(self, unique_id: int, time_s: float) -> bool:
        same = np.flatnonzero(np.array(self._ids, np.int64) == unique_id)
        return bool(np.any(np.array(self._times)[same] == time_s))

    def _spoil(self, how: str, *unique_ids: int) -> None:
        with self._lock:
            self._spoiled.extend(unique_ids)
            self._counts[how] += len(unique_ids)

    def goes_on_with(self, task: Task) -> bool:
        """Whether a task is of this run; one that begins anew under the same uid, or with another plan, is not."""
        if task.message is None or PHASES.index(task.phase) < PHASES.index(self.task.phase):
            return False
        return all(np.array_equal(getattr(task.message, name), getattr(self.message, name)) for name in RUN)

    def follow(self, task: Task) -> None:
        """Do what a newer task of the same run says."""
        self.task = task
        self._follow_probe(task)
        if task.placement is not None:
            self._placement = task.placement
        if task.phase != "final":
            self.image.place(self._indices(self.image.ids, self.image.times_s, np.array(self._frame_counts)))
        elif not self._final:
            indices = self._indices(self.image.ids, self.image.times_s, np.array(self._frame_counts))
            self.image.place(indices, task.final_um, task.canvas)
            self._final = True
            if self.image.loose_patches:
                self._text = f"{self.image.loose_patches} patches were too many to keep: they stay where planned"

    def _indices(self, ids: np.ndarray, times_s: np.ndarray, counts: np.ndarray) -> np.ndarray:
        indices, left_out = self._placement.indices(ids), self.task.left_out_of(self._consumer)
        if left_out:
            indices[[frame in left_out for frame in zip(ids.tolist(), times_s.tolist())]] = UNPAIRED
        if self.message.min_counts:
            indices[(indices >= 0) & (counts < max(1.0, self.task.beam_threshold))] = NO_BEAM
        if len(self.task.no_beam_trigger):
            indices[np.isin(indices, self.task.no_beam_trigger)] = NO_BEAM
        return indices

    def _follow_probe(self, task: Task) -> None:
        if task.probe is not None and (self._probe is None or not np.array_equal(task.probe, self._probe)):
            self._probe = task.probe
            self._engine.set_probe(task.probe)
            self._look_at_scale()
        if task.probe_settled and self._early:
            rows, patterns = (np.concatenate(parts) for parts in zip(*self._early))
            self._early = []
            for first in range(0, len(rows), self._engine.max_batch):
                part = slice(first, first + self._engine.max_batch)
                self.image.replace(rows[part], self._engine.infer(patterns[part]))

    def _look_at_scale(self) -> None:
        counts = self.intensity_scale
        reference = (self._engine.card and self._engine.card.reference_counts) or counts
        if not 1 / SCALE_FACTOR <= counts / reference <= SCALE_FACTOR:
            self._text = (
                f"{counts:.3g} counts per frame where the model knows about {reference:.3g}: expect a poor image; "
                "change the exposure, or use a model trained for this dose"
            )

    @property
    def intensity_scale(self) -> float:
        """Counts per frame; 0 before they are known."""
        return 0.0 if self._probe is None else float(np.sum(np.abs(self._probe) ** 2, dtype=np.float64))

    @property
    def waiting(self) -> int:
        """Frames in the ring."""
        return len(self._ring) if self._ring is not None else 0

    @property
    def spoiled(self) -> int:
        """Frames that were shed or rejected."""
        return len(self._spoiled)

    def step(self) -> bool:
        """Infer and stitch one batch; False if there is nothing to do now."""
        early = sum(len(rows) for rows, _ in self._early)
        if self._ring is None or (self._probe is None and not self.task.probe_settled) or early >= EARLY:
            return False
        frames, rows, _, arrivals_s = self._ring.peek(self._engine.max_batch, LATENCY_BOUND_S)
        count = len(frames)
        if not count:
            return False
        ids, times_s = (np.array(kind[rows[0] : rows[-1] + 1]) for kind in (self._ids, self._times))
        counts = np.zeros(count)
        try:
            if self._probe is None:
                raise DarkError("no frame had light: is the shutter open?")
            patterns = self._frames.patterns(frames)
            self._lit = self._lit or counts_of(patterns, self._probe) >= 1
            if not self._lit:
                raise DarkError("frames are dark: is the shutter open?")
            if self.message.min_counts:
                counts = counts_of_frames(patterns)
            patches = self._engine.infer(patterns)
        except DarkError as error:
            self._text = str(error)
            if self.message.min_counts:
                self._stitch(ids, times_s, counts, np.zeros((count, *2 * [self._engine.patch_px]), np.float32))
            else:
                self._spoil("rejected", *ids.tolist())
        except Exception as error:
            logger.exception("the engine failed on a batch")
            self._text = f"the engine failed: {error}"
            self._spoil("rejected", *ids.tolist())
        else:
            if not self.task.probe_settled:
                self._early.append((np.arange(count) + len(self.image), patterns))
            self._stitch(ids, times_s, counts, patches)
            self._note(arrivals_s)
        self._ring.release(count)
        return True

    def _stitch(self, ids: np.ndarray, times_s: np.ndarray, counts: np.ndarray, patches: np.ndarray) -> None:
        self.image.add(ids, times_s, self._indices(ids, times_s, counts), patches)
        self._frame_counts.extend(counts.tolist())

    def _note(self, arrivals_s: np.ndarray) -> None:
        now = time.monotonic()
        if len(self.image) > WARM_UP_FRAMES + len(arrivals_s):
            self._longest_gap_s = max(self._longest_gap_s, now - self._last_s)
        self._latencies.add(now - arrivals_s)
        self._last_s = now
        card = self._engine.card
        if card is not None and self._model_versions[-1:] != [card.version]:
            self._model_versions.append(card.version)

    @property
    def state(self) -> str:
        """One of `io.share_channels.STATES`."""
        if self._final:
            return "final"
        if self.task.phase != "run" and not self.waiting and not self._early:
            return "ended"
        return "running" if self._ids or self._spoiled else "armed"

    def report(self) -> dict[str, Any]:
        """What the channel says: the sums, and which frames are in them."""
        card, image = self._engine.card, self.image
        with self._lock:
            spoiled, counts = np.array(self._spoiled, np.int64), dict(self._counts)
        return {
            "consumer": self._consumer,
            "pid": os.getpid(),
            "run_uid": self.message.run_uid,
            "state": self.state,
            "message": self._text,
            "unique_id": image.ids,
            "time_s": image.times_s,
            "trigger_index": image.indices,
            "spoiled_id": spoiled,
            **counts,
            "waiting": self.waiting,
            "ring_size": self._ring.size if self._ring is not None else 0,
            "total": image.total.ravel(),
            "coverage": image.coverage.ravel(),
            "canvas_shape": image.canvas.shape,
            "patch_px": self._engine.patch_px,
            "engine": self._engine.name,
            "model_version": card.version if card else "",
            "model_versions": ", ".join(self._model_versions),
            "model_hash": card.sha256 if card else "",
            "intensity_scale": self.intensity_scale,
            "masked_fraction": self._frames.masked_fraction,
            **self._figures(),
        }

    def _figures(self) -> dict[str, Any]:
        done = len(self.image)
        if not done:
            return {}
        p50, p99 = self._latencies.percentiles_ms(50, 99)
        span_s = self._last_s - self._first_s
        return {
            "fps": (done - 1) / span_s if span_s > 0 else 0.0,
            "latency_ms_p50": p50,
            "latency_ms_p99": p99,
            "latency_ms_max": self._latencies.max_ms,
            "latency_counts": self._latencies.counts,
            "gap_ms_max": 1e3 * self._longest_gap_s,
            "cpu_us_per_frame": 1e6 * (time.process_time() - self._cpu_s) / done,
        }

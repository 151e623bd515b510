"""One run at the edge: batches from the ring through the engine into the image."""

import logging
import threading
import time

import numpy as np

from bluesky_ptychonn.core.account import FrameAccount
from bluesky_ptychonn.core.optics import PROBE_FRAMES, counts_of, measured_probe
from bluesky_ptychonn.core.protocols import Engine
from bluesky_ptychonn.core.stitch import Canvas
from bluesky_ptychonn.edge.checks import check_run, goes_astray
from bluesky_ptychonn.edge.hurry import Hurry
from bluesky_ptychonn.edge.image import LiveImage
from bluesky_ptychonn.edge.intake import Intake
from bluesky_ptychonn.io.edge_channels import PositionsMessage, RunMessage

logger = logging.getLogger(__name__)
LATENCY_BOUND_S = 0.02
"""A batch leaves after this, however short."""
SCALE_FACTOR = 30.0
WARM_UP_FRAMES = 64
QUIET_S = 0.3
"""No frame for so long after the end of a run: none is under way."""
LARGEST_MARGIN_PX = 16


class LiveRun:
    """Pair, infer and stitch one run.

    Parameters
    ----------
    message : RunMessage
    engine : Engine
    unit_probe : (N, N) complex64
        Probe of any power; it is scaled to the counts of the first good frames.
    bad_pixels : (H, W) bool, optional
    ring_bytes, kept_bytes : int
        Memory for waiting frames, and for patches kept until the end.

    Raises
    ------
    ValueError
        If the run cannot be done; nothing was started then.
    """

    def __init__(
        self,
        message: RunMessage,
        engine: Engine,
        unit_probe: np.ndarray,
        bad_pixels: np.ndarray | None = None,
        *,
        ring_bytes: int = 128 << 20,
        kept_bytes: int = 512 << 20,
    ) -> None:
        self.message = message
        self.engine = engine
        self.geometry = check_run(message, engine, unit_probe)
        self._probe = unit_probe
        self._frames = message.frame_geometry(bad_pixels)
        size, cut = engine.patch_px, (message.crop_px - engine.patch_px) // 2
        weights = np.abs(unit_probe[cut : cut + size, cut : cut + size]) ** 2
        canvas = Canvas.covering(
            message.positions_um, self.geometry.pixel_size_um, size, LARGEST_MARGIN_PX * self.geometry.pixel_size_um
        )
        kept = max(1, kept_bytes // (4 * size * size))
        self.image = LiveImage(canvas, weights / weights.max(), message.positions_um, kept)
        self.lock = threading.Lock()
        """Held whenever the image changes."""
        self.intensity_scale = 0.0
        self._early: list[tuple[np.ndarray, np.ndarray]] = []
        self._probe_settled = False
        self.positions_source = "planned"
        self.model_versions: list[str] = []
        """Models whose patches are in the image, in the order of their use."""
        self._next_probe: np.ndarray | None = None
        self.probe_swaps = 0
        self.message_text = ""
        self.withdrawn = 0
        self.hurry = Hurry(engine)
        self.rejected = 0
        self.stitched_ever = 0
        self.last_stitched_s = 0.0
        self._longest_gap_s = 0.0
        self.account = FrameAccount(planned=message.frames)
        self._latencies_s = np.empty(message.frames, np.float32)
        self._cpu_s = (0.0, 0.0)
        self._stop = threading.Event()
        self._cancelled = False
        self.intake = Intake(message, ring_bytes)
        self._worker = threading.Thread(target=self._work, name="engine", daemon=True)
        self._worker.start()

    def _work(self) -> None:
        while not self._cancelled and not (self._stop.is_set() and not self.intake.queue_used):
            ring = self.intake.ring
            if ring is None:
                self._stop.wait(0.005)
                continue
            frames, sequences, indices, arrivals_s = ring.peek(self.engine.max_batch, LATENCY_BOUND_S)
            count = len(frames)
            if not count:
                continue
            try:
                done = self._infer(frames, sequences, indices)
            except Exception as error:
                logger.exception("the engine failed on a batch")
                self.message_text = f"the engine failed: {error}"
                self.rejected += count
                done = False
            if done:
                now = time.monotonic()
                self._latencies_s[self.stitched_ever : self.stitched_ever + count] = now - arrivals_s
                if self.stitched_ever > WARM_UP_FRAMES:
                    self._longest_gap_s = max(self._longest_gap_s, now - self.last_stitched_s)
                self.stitched_ever += count
                self.last_stitched_s = now
                self._cpu_s = (self._cpu_s[0], time.process_time())
            ring.release(count)

    def _infer(self, frames: np.ndarray, sequences: np.ndarray, indices: np.ndarray) -> bool:
        if not self._cpu_s[0]:
            self._cpu_s = (time.process_time(), 0.0)
        if self._next_probe is not None:
            self._probe, self._next_probe = self._next_probe, None
            self.probe_swaps += 1
            self._early, self._probe_settled = [], False
        patterns = self._frames.patterns(frames)
        if not self.intensity_scale and not self._set_scale(patterns):
            self.rejected += len(frames)
            return False
        if not self._probe_settled:
            self._measure_probe(indices, patterns)
        patches = self.hurry.infer(indices, patterns, self.intake.queue_used)
        if self.engine.card is not None and self.model_versions[-1:] != [self.engine.card.version]:
            self.model_versions.append(self.engine.card.version)
        with self.lock:
            kept = int(np.searchsorted(sequences, self.intake.pairing.kept))  # some may have been withdrawn meanwhile
            self.image.add(sequences[:kept], indices[:kept], patches[:kept])
            self.withdrawn += len(frames) - kept
        return True

    def _set_scale(self, patterns: np.ndarray) -> bool:
        counts = counts_of(patterns, self._probe)
        if counts < 1:
            self.message_text = "frames are dark: is the shutter open?"
            return False
        self.intensity_scale = counts
        self.message_text = ""
        reference = (self.engine.card and self.engine.card.reference_counts) or counts
        if not 1 / SCALE_FACTOR <= counts / reference <= SCALE_FACTOR:
            self.message_text = (
                f"{counts:.3g} counts per frame where the model knows about {reference:.3g}: expect a poor image; "
                "change the exposure, or use a model trained for this dose"
            )
            logger.warning("%s", self.message_text)
        return True

    def _measure_probe(self, indices: np.ndarray, patterns: np.ndarray) -> None:
        """Take scale and brightness of the cone from the first frames: at once, better with a quarter, then settled."""
        before = sum(len(part) for part, _ in self._early)
        self._early.append((indices.copy(), patterns))
        count = before + len(patterns)
        if count >= PROBE_FRAMES:
            self._settle_probe()
        elif not before or before < PROBE_FRAMES // 4 <= count:
            self.engine.set_probe(measured_probe(self._probe, np.concatenate([part for _, part in self._early])))

    def _settle_probe(self) -> None:
        """Measure the probe from all of the first frames, and infer those anew that were stitched with less."""
        if self._probe_settled or not self._early:
            return
        indices, patterns = (np.concatenate(parts) for parts in zip(*self._early))
        probe = measured_probe(self._probe, patterns[:PROBE_FRAMES])
        self.engine.set_probe(probe)
        self.intensity_scale = float(np.sum(np.abs(probe) ** 2, dtype=np.float64))
        for first in range(0, len(patterns), self.engine.max_batch):
            part = slice(first, first + self.engine.max_batch)
            patches = self.engine.infer(patterns[part])
            with self.lock:
                self.image.replace(indices[part], patches)
        self._early, self._probe_settled = [], True

    def take_probe(self, unit_probe: np.ndarray) -> None:
        """Infer with another probe from the next batch on; its scale and its cone are measured anew."""
        self._next_probe = unit_probe

    def withdraw_doubtful(self) -> None:
        """Take out of the image what the pairing no longer stands for."""
        with self.lock:
            self.withdrawn += self.image.withdraw(self.intake.pairing.kept)

    def drained(self, positions: PositionsMessage) -> bool:
        """Whether every frame has come through, as far as anybody can know."""
        if self.intake.queue_used:
            return False
        expected = positions.triggered - max(0, positions.lost_in_detector) - max(0, positions.lost_in_plugin)
        return 0 <= expected <= self.intake.pairing.received or time.monotonic() - self.intake.last_arrival_s > QUIET_S

    def finish(self, positions: PositionsMessage) -> np.ndarray:
        """Take no more frames, judge the pairing, close the account; return the position (y, x) of each trigger, um."""
        self._end()
        self._settle_probe()
        indices, patches = self.hurry.in_full()
        if len(indices):
            with self.lock:
                self.image.replace(indices, patches)
        pairing, in_plugin = self.intake.pairing, _known(positions.lost_in_plugin)
        # captured positions also count triggers which were not sent
        slots = max(positions.triggered, int(positions.trigger_index.max(initial=-1)) + 1)
        if slots <= 0 and positions.exit_status == "success":
            slots = self.message.frames
        with self.intake.lock:
            pairing.finish(slots or None, _known(positions.lost_in_detector), in_plugin)
        self.withdraw_doubtful()
        triggered = _known(positions.triggered)
        self.account = FrameAccount(
            planned=self.message.frames,
            triggered=triggered,
            not_sent=None if triggered is None else self.message.frames - triggered,
            received=pairing.received,
            lost_in_detector=_known(positions.lost_in_detector),
            lost_in_plugin=in_plugin,
            lost_on_wire=None if in_plugin is None else max(0, pairing.missing_ids - in_plugin),
            **self.frame_counts(),
        )
        positions_um = self.message.positions_um.copy()
        captured = positions.trigger_index < self.message.frames
        index = positions.trigger_index[captured]
        captured_um = np.stack([positions.y_um[captured], positions.x_um[captured]], axis=1)
        astray = goes_astray(captured_um, positions_um)
        positions_um[index[~astray]] = captured_um[~astray]
        if np.count_nonzero(~astray):
            whole = np.count_nonzero(~astray) == self.message.frames
            self.positions_source = "captured" if whole else "captured, else planned"
        if astray.any():
            self.message_text = (
                f"{np.count_nonzero(astray)} captured positions lie outside the field and were not used; "
                "check the encoders and the stage's readbacks"
            )
        if self.image.loose_patches:
            self.message_text = f"{self.image.loose_patches} patches were too many to keep: they stay where planned"
        return positions_um

    def cancel(self) -> None:
        """End the run without a final image."""
        self._cancelled = True
        self._end()

    def _end(self) -> None:
        self.intake.close()
        self._stop.set()
        self._worker.join(30)

    @property
    def masked_fraction(self) -> float:
        """Part of each pattern's pixels which never count."""
        return self._frames.masked_fraction

    def frame_counts(self) -> dict[str, int]:
        """What became of the frames received so far."""
        return {
            "stitched": self.image.patches,
            "unpaired": self.intake.unpaired + self.withdrawn,
            "shed": self.intake.shed,
            "rejected": self.intake.rejected + self.rejected,
        }

    def figures(self) -> dict[str, float]:
        """Rate, latencies and processor time per frame; the first frames warm up and do not count as latency."""
        done = self.stitched_ever
        if not done:
            return {}
        latencies_ms = 1e3 * self._latencies_s[min(WARM_UP_FRAMES, done // 2) : done][-20_000:]
        p50, p99 = np.percentile(latencies_ms, [50, 99])
        span_s = self.last_stitched_s - self.intake.first_arrival_s
        return {
            "fps": (done - 1) / span_s if span_s > 0 else 0.0,
            "latency_ms_p50": float(p50),
            "latency_ms_p99": float(p99),
            "latency_ms_max": float(latencies_ms.max()),
            "gap_ms_max": 1e3 * self._longest_gap_s,
            "cpu_us_per_frame": 1e6 * (self._cpu_s[1] - self._cpu_s[0]) / done,
        }


def _known(count: int) -> int | None:
    return None if count < 0 else count

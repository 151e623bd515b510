"""One run at the edge: batches from the ring through the engine into the image."""

import logging
import os
import threading
import time
from typing import Any

import numpy as np

from bluesky_ptychonn.core.account import FrameAccount
from bluesky_ptychonn.core.beam import Beam, left_out_text
from bluesky_ptychonn.core.positions import best_positions
from bluesky_ptychonn.core.stitch import patch_weights, run_canvas
from bluesky_ptychonn.core.totals import counts_of_frames
from bluesky_ptychonn.edge.hurry import Hurry
from bluesky_ptychonn.edge.image import LiveImage
from bluesky_ptychonn.edge.intake import Intake
from bluesky_ptychonn.edge.latency import Latencies
from bluesky_ptychonn.edge.swap import EngineSlot
from bluesky_ptychonn.engines.checks import check_run
from bluesky_ptychonn.engines.light import DarkError, Light
from bluesky_ptychonn.io.edge_channels import PositionsMessage, RunMessage

logger = logging.getLogger(__name__)
LATENCY_BOUND_S = 0.02
"""A batch leaves after this, however short."""
WARM_UP_FRAMES = 64
END_S = 30.0
"""So long may the frames that wait at the end of a run take, and then the batch under way."""
QUIET_S = 0.3
"""No frame for so long after the end of a run: none is under way."""


class LiveRun:
    """Pair, infer and stitch one run.

    Parameters
    ----------
    message : RunMessage
    engine : EngineSlot
        What is offered to it is taken between two batches, its probe with it; the probe is scaled to the counts of the
        first good frames. Patches are weighted with the probe of the start, all of them alike.
    bad_pixels : (H, W) bool, optional
    kept : (n,) float32
        Memory for patches that are kept until the end.
    ring_bytes : int
        Memory for waiting frames.
    newest_wins : bool
        Shed the frames that have waited longest when the ring is nearly full; else those which find no room.
    engine_core : int, optional
        The one core on which to infer.

    Raises
    ------
    ValueError
        If the run cannot be done; nothing was started then.
    """

    def __init__(
        self,
        message: RunMessage,
        engine: EngineSlot,
        bad_pixels: np.ndarray | None = None,
        *,
        kept: np.ndarray,
        ring_bytes: int,
        newest_wins: bool = False,
        engine_core: int | None = None,
    ) -> None:
        self.message = message
        self.engine = engine
        if (unit_probe := engine.probe) is None:
            raise ValueError("the engine has no probe to begin with")
        self.geometry = check_run(message, engine, unit_probe)
        self._frames = message.frame_geometry(bad_pixels)
        canvas = run_canvas(message.positions_um, self.geometry.pixel_size_um, engine.patch_px)
        self.image = LiveImage(canvas, patch_weights(unit_probe, engine.patch_px), message.positions_um, kept)
        self.lock = threading.Lock()
        """Held whenever the image changes."""
        self.light = Light(engine, unit_probe)
        self.beam = Beam(message.min_counts)
        self._counts = np.zeros(message.frames)
        self.positions_source = "planned"
        self.model_versions: list[str] = []
        """Models whose patches are in the image, in the order of their use."""
        self.message_text = ""
        self.withdrawn = self._shed = 0
        self.hurry = Hurry(engine)
        self.rejected = 0
        self.stitched_ever = 0
        self.last_stitched_s = 0.0
        self._draining_s = 0.0
        self._longest_gap_s = 0.0
        self.account = FrameAccount(planned=message.frames)
        self._stitched, self._published = Latencies(WARM_UP_FRAMES), Latencies(WARM_UP_FRAMES)
        self._unpublished: list[np.ndarray] = []
        self._cpu_s = (0.0, 0.0)
        self._newest_wins, self._engine_core = newest_wins, engine_core
        self._stop = threading.Event()
        self._cancelled = False
        self.intake = Intake(message, ring_bytes)
        self._worker = threading.Thread(target=self._work, name="engine", daemon=True)
        self._worker.start()

    def _work(self) -> None:
        if self._engine_core is not None:
            os.sched_setaffinity(0, {self._engine_core})
        while not self._cancelled and not (self._stop.is_set() and not self.intake.queue_used):
            self._exchange()
            ring = self.intake.ring
            if ring is None:
                if not self.image.touch():
                    self._stop.wait(0.005)
                continue
            if self._newest_wins and (many := len(ring) - ring.size // 2) > ring.size // 4:
                ring.release(many)
                self._shed += many
            frames, sequences, indices, arrivals_s = ring.peek(self.engine.max_batch, LATENCY_BOUND_S)
            count = len(frames)
            if count:
                if self._try_to_infer(frames, sequences, indices):
                    self._note(arrivals_s)
                ring.release(count)
            if len(ring) < self.engine.max_batch:
                self._better()

    def _exchange(self) -> None:
        """Take up another version, its network and its probe together."""
        try:
            if (probe := self.engine.exchange()) is not None:
                self.light.take_probe(probe)
        except Exception as error:
            logger.exception("what was offered failed")
            self.message_text = f"the engine failed: {error}"

    def _try_to_infer(self, frames: np.ndarray, sequences: np.ndarray, indices: np.ndarray) -> bool:
        try:
            self._infer(frames, sequences, indices)
        except DarkError:
            self.rejected += len(frames)
            return False
        except Exception as error:
            logger.exception("the engine failed on a batch")
            self.message_text = f"the engine failed: {error}"
            self.rejected += len(frames)
            return False
        return True

    def _note(self, arrivals_s: np.ndarray) -> None:
        """Take the time of a batch that was stitched."""
        now = time.monotonic()
        self._stitched.add(now - arrivals_s)
        with self.lock:
            self._unpublished.append(arrivals_s.copy())
        if self.stitched_ever > WARM_UP_FRAMES:
            self._longest_gap_s = max(self._longest_gap_s, now - self.last_stitched_s)
        self.stitched_ever += len(arrivals_s)
        self.last_stitched_s = now
        self._cpu_s = (self._cpu_s[0], time.process_time())

    def _infer(self, frames: np.ndarray, sequences: np.ndarray, indices: np.ndarray) -> None:
        if not self._cpu_s[0]:
            self._cpu_s = (time.process_time(), 0.0)
        patterns = self._frames.patterns(frames)
        counts = counts_of_frames(patterns) if self.beam.judges else np.zeros(len(patterns))
        changed = self.beam.see(counts)
        try:
            if anew := self.light.see(indices, patterns):
                self.hurry.owe(*anew)
            patches = self.hurry.infer(indices, patterns, self.intake.queue_used)
        except DarkError:  # there is no probe to infer with, yet
            if not self.beam.judges:
                raise
            counts[:], patches = 0, np.zeros((len(patterns), *2 * [self.engine.patch_px]), np.float32)
        if self.engine.card is not None and self.model_versions[-1:] != [self.engine.card.version]:
            self.model_versions.append(self.engine.card.version)
        with self.lock:
            kept = int(np.searchsorted(sequences, self.intake.pairing.kept))  # some may have been withdrawn meanwhile
            self._counts[indices[:kept]] = counts[:kept]
            self.image.add(sequences[:kept], indices[:kept], patches[:kept], self.beam.has(counts[:kept]))
            if changed:
                self.image.show(self.beam.has(self._counts))
            self.withdrawn += len(frames) - kept

    def _better(self, *, all_of_it: bool = False) -> bool:
        """Put better patches in the place of some old ones; False if there is nothing to better."""
        try:
            better = self.hurry.pay(all_of_it=all_of_it)
        except Exception as error:  # the patches that are there stay
            logger.exception("the engine failed on a batch")
            self.message_text = f"the engine failed: {error}"
            return True
        if better is None:
            return False
        with self.lock:
            self.image.replace(*better)
        return True

    def snapshot(self) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """Phase and coverage (H, W) as of now, and when the frames arrived that are new in them."""
        with self.lock:
            arrivals_s, self._unpublished = self._unpublished, []
            return *self.image.snapshot(), arrivals_s

    def note_published(self, arrivals_s: list[np.ndarray]) -> None:
        """Take the time of frames of a `snapshot` that can be seen now."""
        if arrivals_s:
            self._published.add(time.monotonic() - np.concatenate(arrivals_s))

    def withdraw_doubtful(self) -> None:
        """Take out of the image what the pairing no longer stands for."""
        with self.lock:
            self.withdrawn += self.image.withdraw(self.intake.pairing.kept)

    def drained(self, positions: PositionsMessage) -> bool:
        """Whether every frame has come through, as far as anybody can know."""
        if self.intake.queue_used:
            return False
        expected = positions.triggered - max(0, positions.lost_in_detector) - max(0, positions.lost_in_plugin)
        if 0 <= expected <= self.intake.pairing.received:
            return True
        self._draining_s = self._draining_s or time.monotonic()  # they may overtake the first frames
        return time.monotonic() - max(self._draining_s, self.intake.last_arrival_s) > QUIET_S

    def finish(self, positions: PositionsMessage) -> np.ndarray:
        """Take no more frames, judge the pairing, close the account; return the position (y, x) of each trigger, um."""
        self._end()
        if not self.ended:  # its engine is for one thread at a time
            self._cancelled = True
            self._worker.join(END_S)
            if not self.ended:
                raise RuntimeError(f"the engine has been busy with one batch for {END_S:g} s; start the edge anew")
            self._shed += self.intake.queue_used
        if anew := self.light.settle():
            self.hurry.owe(*anew)
        while self._better(all_of_it=True):
            pass
        pairing, in_plugin = self.intake.pairing, _known(positions.lost_in_plugin)
        # captured positions also count triggers which were not sent
        slots = max(positions.triggered, int(positions.trigger_index.max(initial=-1)) + 1)
        if slots <= 0 and positions.exit_status == "success":
            slots = self.message.frames
        with self.intake.lock:
            pairing.finish(slots or None, _known(positions.lost_in_detector), in_plugin)
        self.withdraw_doubtful()
        shown = self.beam.has(self._counts)
        shown[positions.no_beam_trigger[positions.no_beam_trigger < len(shown)]] = False
        with self.lock:
            self.image.show(shown)
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
        captured_um = np.stack([positions.y_um, positions.x_um], axis=1)
        best = best_positions(self.message.positions_um, positions.trigger_index, captured_um)
        self.positions_source, self.message_text = best.source, best.warning or self.message_text
        if self.image.loose_patches:
            self.message_text = f"{self.image.loose_patches} patches were too many to keep: they stay where planned"
        self.message_text = "; ".join(text for text in (left_out_text(self.image.hidden), self.message_text) if text)
        return best.positions_um

    def cancel(self) -> None:
        """End the run without a final image."""
        self._cancelled = True
        self._end()

    def _end(self) -> None:
        self.intake.close()
        self._stop.set()
        self._worker.join(END_S)

    @property
    def ended(self) -> bool:
        """Whether nothing works on the run any more."""
        return not self._worker.is_alive()

    @property
    def masked_fraction(self) -> float:
        """Part of each pattern's pixels which never count."""
        return self._frames.masked_fraction

    def frame_counts(self) -> dict[str, int]:
        """What became of the frames received so far."""
        return {
            "stitched": self.image.patches,
            "no_beam": len(self.image.hidden),
            "unpaired": self.intake.unpaired + self.withdrawn,
            "shed": self.intake.shed + self._shed,
            "rejected": self.intake.rejected + self.rejected,
        }

    def figures(self) -> dict[str, Any]:
        """Rate, latencies and processor time per frame; the first frames warm up and do not count as latency."""
        done = self.stitched_ever
        if not done:
            return {}
        span_s = self.last_stitched_s - self.intake.first_arrival_s
        return {
            "fps": (done - 1) / span_s if span_s > 0 else 0.0,
            **self._stitched.figures("latency"),
            **self._published.figures("published"),
            "gap_ms_max": 1e3 * self._longest_gap_s,
            "cpu_us_per_frame": 1e6 * (self._cpu_s[1] - self._cpu_s[0]) / done,
        }


def _known(count: int) -> int | None:
    return None if count < 0 else count

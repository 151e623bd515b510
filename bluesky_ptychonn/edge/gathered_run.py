"""One run at the gatherer: what its consumers must do, and when each step of its end is reached."""

import logging
import time

import numpy as np

from bluesky_ptychonn.core.account import FrameAccount
from bluesky_ptychonn.core.beam import left_out_text, named
from bluesky_ptychonn.core.placement import Placement
from bluesky_ptychonn.core.positions import best_positions
from bluesky_ptychonn.core.stitch import Canvas, run_canvas
from bluesky_ptychonn.edge.first_frames import FirstFrames
from bluesky_ptychonn.edge.roll import FrameRoll
from bluesky_ptychonn.edge.shares import Report, Shares, judge
from bluesky_ptychonn.edge.sums import FrameCounts, add_up, count_frames, grown
from bluesky_ptychonn.io.edge_channels import PositionsMessage, RunMessage
from bluesky_ptychonn.io.share_channels import Task

logger = logging.getLogger(__name__)
LATE_S = 1.0
"""So long a run waits for consumers that are not there; the others do its work."""
QUIET_S = 0.5
"""No frame and no report for so long after the end of a run: none is under way."""
PATIENCE_S = 10.0
"""So long may each step of the end take."""
BUSY_PART = 0.2
"""Largest part of the time that looking through the reports may take, and that counting their frames may."""


class GatheredRun:
    """Pair the frames of a run, tell its consumers, add up what they have.

    Parameters
    ----------
    message : RunMessage
    unit_probe : (N, N) complex64
        Of any power; it is scaled to the counts of the first good frames.
    bad_pixels : (H, W) bool, optional
    shares : Shares

    Raises
    ------
    ValueError
        If the run cannot be done; nothing was started then.
    """

    def __init__(
        self, message: RunMessage, unit_probe: np.ndarray, bad_pixels: np.ndarray | None, shares: Shares
    ) -> None:
        self.message = message
        self.geometry = message.geometry
        if unit_probe.shape != (message.crop_px, message.crop_px):
            raise ValueError(
                f"crop_px = {message.crop_px} px, but the probe has {unit_probe.shape} px; set geometry.frame_px, or "
                "use another probe"
            )
        frames = message.frame_geometry(bad_pixels)
        run_canvas(message.positions_um, self.geometry.pixel_size_um, message.crop_px)  # a field too large ends here
        self._unit_probe, self._shares = unit_probe, shares
        self.done = False
        """Whether image and account are final."""
        self.text = ""
        self.positions_source = "planned"
        self.account = FrameAccount(planned=message.frames)
        self.missing = ""
        """Ids of the frames that were sent and are in no consumer's report; when the run is done."""
        self._phase, self._step_ends_s = "run", 0.0
        self._positions: PositionsMessage | None = None
        self._final_um: np.ndarray | None = None
        self._canvas: Canvas | None = None
        self._counted, self._counted_s = -1, 0.0
        self._judged: tuple[list[Report], Placement] | None = None
        self._counts: tuple[list[Report], FrameCounts] | None = None
        self._next_judgement_s = self._next_counts_s = 0.0
        self._dark_triggers = np.empty(0, int)
        self._left_out = np.empty(0, int), np.empty(0, int), np.empty(0)
        shares.begin(message.run_uid)
        self.roll = FrameRoll(message)
        self.first = FirstFrames(message, frames, unit_probe)

    def close(self) -> None:
        """Watch no more."""
        self.first.close()
        self.roll.close()

    @property
    def armed(self) -> bool:
        """Whether the consumers wait for frames: all of them, or those that are there in time."""
        ready = [share for share in self._shares.alive() if share.latest.said["state"] in ("armed", "running")]
        late = time.monotonic() - self.roll.began_s > LATE_S
        return bool(ready) and self.roll.ready and (late or len(ready) == self._shares.expected)

    @property
    def refused(self) -> str:
        """Why a consumer cannot do this run; empty if none has said so."""
        for report in self._shares.present():
            if report.said["run_uid"] == self.message.run_uid and report.said["state"] == "refused":
                return f"consumer {report.who[0]}: {report.said['message']}"
        return ""

    def end(self, positions: PositionsMessage) -> None:
        """Take note that the run has ended; `task` then leads to its final image."""
        self._positions, self._step_ends_s = positions, time.monotonic() + PATIENCE_S

    def task(self) -> Task:
        """Look at what there is, go on; return what the consumers must do now."""
        self.first.measure()
        if time.monotonic() >= self._next_judgement_s:
            self._judge()
        if self._positions is not None:
            self._go_on(self._positions)
        return Task(
            self._phase,
            self.message,
            self._unit_probe,
            self.first.probe,
            self.first.settled,
            self.roll.placement(),
            self._left_out,
            self._final_um,
            self._canvas,
            self.first.beam.threshold,
            self._dark_triggers,
        )

    def image(self) -> tuple[np.ndarray, np.ndarray, Canvas]:
        """Return phase (H, W) float32, NaN where nothing was seen, coverage (H, W) float32, and their canvas."""
        return add_up(self.reports(), self._live_canvas(), self._canvas if self.done else None)

    def reports(self) -> list[Report]:
        """What may be shown: of each process the last report whose frames all lie where they belong."""
        good = [share.good for share in self._shares.of_run() if share.good is not None]
        alike = [report for report in good if report.said["patch_px"] == good[0].said["patch_px"]]
        if len(alike) < len(good):
            self.text = "the consumers have models with patches of different sizes: not all are shown"
        return alike

    def counts(self) -> FrameCounts:
        """What became of the frames, by the consumers' last words."""
        reports = self.reports() if self.done else [share.latest for share in self._shares.of_run()]
        now = time.monotonic()
        if self._counts is None or self.done or (reports != self._counts[0] and now >= self._next_counts_s):
            self._counts = reports, count_frames(reports, self.roll)
            self._next_counts_s = now + (time.monotonic() - now) / BUSY_PART
        return self._counts[1]

    def _judge(self) -> None:
        began_s, shares, placement = time.monotonic(), self._shares.of_run(), self.roll.placement()
        latest = [share.latest for share in shares]
        if self._judged is None or self._judged[0] != latest or self._judged[1] != placement:
            self._left_out = judge(shares, self.roll, at_the_end=self._phase != "run")
            self._judged = latest, placement
            self._next_judgement_s = began_s + (time.monotonic() - began_s) / BUSY_PART

    def _go_on(self, positions: PositionsMessage) -> None:
        late = time.monotonic() > self._step_ends_s
        if self._phase == "run" and (late or self._drained(positions)):
            self.roll.close()
            self.first.measure(at_the_end=True)
            self._judge_pairing(positions)
            self._next("end")
        elif self._phase == "end" and (late or self._all_say("ended")):
            self._final_um = self._best_positions(positions)
            self._dark_triggers = positions.no_beam_trigger
            live, size = self._live_canvas(), self._patch_px()
            self._canvas = grown(live, live.corners_px(self._final_um, size), size)
            self._next("final")
        elif self._phase == "final" and (late or self._all_say("final")):
            self.done = True
            self._close_account(positions)

    def _next(self, phase: str) -> None:
        self._phase, self._step_ends_s, self._judged = phase, time.monotonic() + PATIENCE_S, None
        self._judge()

    def _all_say(self, state: str) -> bool:
        """Whether each consumer that is there is so far, and what it shows in the end is right."""
        return all(
            share.latest.said["state"] == state and (state != "final" or share.good is share.latest)
            for share in self._shares.alive()
        )

    def _drained(self, positions: PositionsMessage) -> bool:
        shares = self._shares.of_run()
        count, seen = sum(share.latest.frames for share in shares), self.roll.pairing.received
        now = time.monotonic()
        if count + seen != self._counted:
            self._counted, self._counted_s = count + seen, now
        # without any light they wait for a probe, which comes at the end
        if self.first.probe is not None and any(share.latest.said["waiting"] for share in self._shares.alive()):
            return False
        expected = positions.triggered - max(0, positions.lost_in_detector) - max(0, positions.lost_in_plugin)
        return 0 <= expected <= min(seen, count) or now - self._counted_s > QUIET_S

    def _judge_pairing(self, positions: PositionsMessage) -> None:
        # captured positions also count triggers which were not sent
        slots = max(positions.triggered, int(positions.trigger_index.max(initial=-1)) + 1)
        if slots <= 0 and positions.exit_status == "success":
            slots = self.message.frames
        with self.roll.lock:
            self.roll.pairing.finish(
                slots or None, _known(positions.lost_in_detector), _known(positions.lost_in_plugin)
            )

    def _best_positions(self, positions: PositionsMessage) -> np.ndarray:
        captured_um = np.stack([positions.y_um, positions.x_um], axis=1)
        best = best_positions(self.message.positions_um, positions.trigger_index, captured_um)
        self.positions_source, self.text = best.source, best.warning or self.text
        return best.positions_um

    def _patch_px(self) -> int:
        shares = self._shares.of_run()
        return shares[0].latest.said["patch_px"] if shares else self.message.crop_px

    def _live_canvas(self) -> Canvas:
        return run_canvas(self.message.positions_um, self.geometry.pixel_size_um, self._patch_px())

    def _close_account(self, positions: PositionsMessage) -> None:
        counts, roll = self.counts(), self.roll
        triggered, in_plugin = _known(positions.triggered), _known(positions.lost_in_plugin)
        sent = roll.pairing.received + roll.pairing.missing_ids
        self.account = FrameAccount(
            planned=self.message.frames,
            triggered=triggered,
            not_sent=None if triggered is None else self.message.frames - triggered,
            received=len(counts.ids),
            lost_in_detector=_known(positions.lost_in_detector),
            lost_in_plugin=in_plugin,
            lost_on_wire=None if in_plugin is None else max(0, sent - len(counts.ids) - in_plugin),
            stitched=counts.stitched,
            no_beam=len(counts.no_beam_triggers),
            unpaired=counts.unpaired,
            shed=counts.shed,
            rejected=counts.rejected,
        )
        missing = np.setdiff1d(roll.seen(), counts.ids)
        self.missing = named(missing)
        alive = self._shares.alive()
        self.text = "; ".join(text for text in (left_out_text(counts.no_beam_triggers), self.text) if text)
        ended = [share.latest.who[0] for share in self._shares.of_run() if share not in alive]
        said = [f"consumer {number} ended in the run" for number in ended]
        if missing.size:
            said.append(f"{missing.size} frames that were sent are in no consumer: unique_id {self.missing}")
        self.text = "; ".join([*said, self.text] if self.text else said)
        logger.info("%s\n%s", self.text, self.account.as_text())


def _known(count: int) -> int | None:
    return None if count < 0 else count

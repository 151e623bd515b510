"""The streaming service: runs come and go, the channels stay."""

import hmac
import logging
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np

from bluesky_ptychonn.core.protocols import Engine
from bluesky_ptychonn.edge.channels import EdgeChannels
from bluesky_ptychonn.edge.cores import leave_core
from bluesky_ptychonn.edge.follow import Follower, Watch
from bluesky_ptychonn.edge.live_run import LiveRun
from bluesky_ptychonn.edge.stats import image_attributes, run_stats
from bluesky_ptychonn.edge.swap import EngineSlot, warm_up
from bluesky_ptychonn.io import codecs
from bluesky_ptychonn.io.edge_channels import STATS, PositionsMessage, RunMessage, blank
from bluesky_ptychonn.io.model_store import CURRENT

logger = logging.getLogger(__name__)
STATS_PERIOD_S = 0.08
LOOK_S = 0.02
ABANDONED_S = 60.0
"""After so long without a frame anybody may replace a run."""
PATIENCE_S = 10.0
"""So long after its end may frames of a run still come."""
BUSY_PART = 0.2
"""Largest part of the time that publishing images may take."""
RING_BYTES, KEPT_BYTES = 1 << 30, 512 << 20


class EdgeService:
    """Take run messages, stitch, publish.

    Parameters
    ----------
    prefix : str
        Of the channels, such as ``"ptychonn:"``.
    engine : Engine
    probe : (N, N) complex64
        Illumination of any power: that of the engine's model, or else of the settings.
    bad_pixels : (H, W) bool, optional
        Of the detector's frame.
    ring_bytes, kept_bytes : int
        Memory for waiting frames, and for patches kept until the end of a run.
    newest_wins : bool
        Whether frames that have waited longest are shed when too many wait; else those that find no room.
    engine_core : int, optional
        A core for inference alone; without it, the system distributes all threads.

    Raises
    ------
    ValueError
        If there is no such core, or no other.
    """

    def __init__(
        self,
        prefix: str,
        engine: Engine,
        probe: np.ndarray,
        bad_pixels: np.ndarray | None = None,
        *,
        ring_bytes: int = RING_BYTES,
        kept_bytes: int = KEPT_BYTES,
        newest_wins: bool = False,
        engine_core: int | None = None,
    ) -> None:
        probe = np.asarray(probe, np.complex64)
        self._engine = EngineSlot(engine, probe)
        self._watch: Watch | None = None
        self._bad_pixels = bad_pixels
        self._kept = np.empty(
            kept_bytes // 4, np.float32
        )  # the system gives memory as it is written, once for all runs
        self._ways = {"ring_bytes": ring_bytes, "newest_wins": newest_wins, "engine_core": engine_core}
        self._run: LiveRun | None = None
        self._state = "idle"
        self._armed_uid = self._final_uid = self._text = ""
        self._published: tuple[int, ...] = ()
        self._positions: PositionsMessage | None = None
        self._patience_ends_s = 0.0
        self._next_image_s = 0.0
        warm_up(engine, probe)
        codecs.warm_up()
        if engine_core is not None:
            leave_core(engine_core)  # before PVA starts its threads, which inherit it
        self.channels = EdgeChannels(prefix)

    def serve(self, stop: threading.Event) -> None:
        """Serve until the event is set."""
        next_stats_s = time.monotonic()
        try:
            while not stop.is_set():
                message = self.channels.next_message(min(max(1e-3, next_stats_s - time.monotonic()), LOOK_S))
                try:
                    if isinstance(message, RunMessage):
                        self._start(message)
                    elif message is not None:
                        self._finish(message)
                    self._look_at_run()
                except Exception as error:  # nothing that one run brings may end the service
                    self._give_up(error)
                if message is not None or time.monotonic() >= next_stats_s:
                    next_stats_s = time.monotonic() + STATS_PERIOD_S
                    self._publish()
        finally:
            if self._watch is not None:
                self._watch.close()
            if self._run is not None:
                self._run.cancel()
            self.channels.close()

    def watch(
        self,
        store: Path | None,
        open_version: Callable[[Path], Engine],
        settings_files: Collection[Path],
        read_settings: Callable[[], tuple[np.ndarray, np.ndarray | None]],
        own_probe: np.ndarray | None = None,
    ) -> None:
        """Take up what changes on disk while serving.

        Parameters
        ----------
        store : Path, optional
            Model store, whose current version is followed, with the probe that goes with it.
        open_version : callable
            Opens and checks the engine of one version's folder.
        settings_files, read_settings
            Files of the settings, and what reads their probe, which versions without their own are used with, and
            their mask of bad pixels, which the next run is given.
        own_probe : (N, N) complex64, optional
            That goes with the model at the start, if it has one.
        """

        def open_warm(folder: Path) -> Engine:
            engine = open_version(folder)
            warm_up(engine, np.ones((engine.frame_px, engine.frame_px), np.complex64))
            return engine

        def take_settings() -> None:
            probe, self._bad_pixels = read_settings()
            follower.take_probe(probe)

        follower = Follower(self._engine, open_warm, read_settings()[0], own_probe)
        actions: dict[Path, Callable[[], None]] = dict.fromkeys(settings_files, take_settings)
        if store is not None:
            actions[store / CURRENT] = lambda: follower.take_version(store)
        self._watch = Watch(actions, at_once=actions.keys())

    @property
    def _active(self) -> bool:
        if self._run is None or self._state not in ("idle", "armed", "running"):
            return False
        intake = self._run.intake
        return time.monotonic() - (intake.last_arrival_s or intake.began_s) < ABANDONED_S

    def _start(self, message: RunMessage) -> None:
        if self._active and not self._may_replace(message.token):
            self.channels.refuse(
                f"run {message.run_uid} is refused while {self._run and self._run.message.run_uid} is under way; "
                "send its token, or wait for its end"
            )
            return
        if self._run is not None:
            self._cancel(self._run)
            if not self._run.ended:  # it may still write
                self._kept = np.empty_like(self._kept)
            self._run = None
        self._armed_uid = self._final_uid = self._text = ""
        self._published = ()
        self._positions = None
        self._state = "idle"
        self._engine.between_runs()
        try:
            self._run = LiveRun(message, self._engine, self._bad_pixels, kept=self._kept, **self._ways)
        except Exception as error:  # whatever is wrong with it, its sender hears of it
            self._state = "failed"
            self.channels.refuse(f"run {message.run_uid}: {error}")
            return
        logger.info("run %s: %d frames from %s", message.run_uid, message.frames, message.image_channel)

    def _give_up(self, error: Exception) -> None:
        logger.exception("the run failed at the edge")
        self._state, self._positions = "failed", None
        self._text = f"this run failed at the edge, the next one can be taken: {error}"
        if self._run is not None:
            self._cancel(self._run)

    def _cancel(self, run: LiveRun) -> None:
        try:
            run.cancel()
        except Exception:  # what failed once may fail again, and must not keep the next run out
            logger.exception("the run could not be ended in order")

    def _may_replace(self, token: str) -> bool:
        own = self._run.message.token if self._run is not None else ""
        return bool(own) and hmac.compare_digest(own.encode(), token.encode())

    def _finish(self, positions: PositionsMessage) -> None:
        run = self._run
        if run is None or self._state in ("final", "failed") or positions.run_uid != run.message.run_uid:
            self.channels.refuse(f"positions of run {positions.run_uid}, which is not under way")
            return
        if run.message.token != positions.token:
            self.channels.refuse(f"positions of run {positions.run_uid} with a wrong token")
            return
        self._positions = positions
        self._patience_ends_s = time.monotonic() + PATIENCE_S

    def _conclude(self, run: LiveRun, positions: PositionsMessage) -> None:
        positions_um = run.finish(positions)
        phase, coverage, canvas = run.image.final(positions_um)
        self._publish_images(run)
        self.channels.publish_image("final", phase, canvas, image_attributes(run) | {"coverage_max": coverage.max()})
        self._state = "final"
        self._final_uid = positions.run_uid
        logger.info("run %s is final\n%s", positions.run_uid, run.account.as_text())

    def _look_at_run(self) -> None:
        run = self._run
        if run is None or run.ended:
            self._engine.between_runs()
        if run is None or self._state not in ("idle", "armed", "running"):
            return
        if run.intake.ready:
            self._armed_uid = run.message.run_uid
        if run.intake.pairing.received:
            self._state = "running"
        elif self._armed_uid:
            self._state = "armed"
        run.withdraw_doubtful()
        if self._positions and (run.drained(self._positions) or time.monotonic() > self._patience_ends_s):
            self._conclude(run, self._positions)

    def _publish(self) -> None:
        run, now = self._run, time.monotonic()
        if run is not None and self._state == "running" and now >= self._next_image_s:
            changed = run.image.patches, run.withdrawn, run.hurry.guessed
            if changed != self._published:
                self._published = changed
                self._publish_images(run)
                self._next_image_s = now + (time.monotonic() - now) / BUSY_PART
        refused = self._watch.take_problem() if self._watch is not None else ""
        self._text = refused or self.channels.take_problem() or self._text
        self.channels.publish_stats(self._stats(run))

    def _publish_images(self, run: LiveRun) -> None:
        phase, coverage, arrivals_s = run.snapshot()
        attributes = image_attributes(run)
        self.channels.publish_image("stitched", phase, run.image.canvas, attributes)
        self.channels.publish_image("coverage", coverage, run.image.canvas, attributes)
        run.note_published(arrivals_s)

    @property
    def _model(self) -> tuple[str, str]:
        card = self._engine.card
        return (card.version, card.sha256) if card else ("", "")

    def _stats(self, run: LiveRun | None) -> dict[str, Any]:
        stats = blank(STATS) | {
            "state": self._state,
            "armed_uid": self._armed_uid,
            "final_uid": self._final_uid,
            "engine": self._engine.name,
            "model_version": self._model[0],
            "model_hash": self._model[1],
            "model_swaps": self._engine.swaps,
            "models_refused": self._watch.refused if self._watch is not None else 0,
            "runs_refused": self.channels.refused,
            "message": self._text,
        }
        return stats if run is None else stats | run_stats(run, self._state, self._text)

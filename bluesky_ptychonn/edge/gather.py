"""The gatherer: to the beamline an edge like any other; behind it, consumers that share the frames."""

import hmac
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bluesky_ptychonn.core.beam import named
from bluesky_ptychonn.edge.channels import EdgeChannels
from bluesky_ptychonn.edge.gather_stats import engine_stats, gathered_stats
from bluesky_ptychonn.edge.gathered_run import GatheredRun
from bluesky_ptychonn.edge.shares import Shares
from bluesky_ptychonn.io import codecs
from bluesky_ptychonn.io.edge_channels import STATS, PositionsMessage, RunMessage, blank, pva_structure
from bluesky_ptychonn.io.pva_values import fill
from bluesky_ptychonn.io.share_channels import TASK, Task

logger = logging.getLogger(__name__)
STATS_PERIOD_S = 0.1
LOOK_S = 0.02
ABANDONED_S = 60.0
"""After so long without a frame anybody may replace a run."""
BUSY_PART = 0.2
"""Largest part of the time that publishing images may take, and that telling the consumers may."""


class GatherChannels(EdgeChannels):
    """The edge's channels, and ``task`` for the consumers."""

    def __init__(self, prefix: str) -> None:
        super().__init__(prefix)
        self._task_structure = pva_structure(TASK)
        self._task: Task | None = None
        self._next_task_s = 0.0
        self._server.addRecord(prefix + "task", self._pva.PvObject(self._task_structure), None)

    def publish_task(self, task: Task) -> None:
        """Tell the consumers, if something has changed; what comes too soon after the last waits for the next call."""
        began_s = time.monotonic()
        if began_s >= self._next_task_s and (self._task is None or not task.same_as(self._task)):
            self._task = task
            values = fill(self._pva.PvObject(self._task_structure), self._task_structure, task.as_values())
            self._server.update(self.prefix + "task", values)
            self._next_task_s = began_s + (time.monotonic() - began_s) / BUSY_PART


class Gatherer:
    """Take run messages, let the consumers stitch, publish their image.

    Parameters
    ----------
    prefix : str
        Of the channels, such as ``"ptychonn:"``.
    consumers : int
        How many there will be, numbered from 1.
    read_probe : callable
        Returns the illumination (N, N) complex64, of any power, for the version and hash of the consumers' model; both
        are empty where they have none, or are not of one mind. Asked at the start of each run.
    bad_pixels : (H, W) bool, optional
        Of the detector's frame.
    """

    def __init__(
        self,
        prefix: str,
        consumers: int,
        read_probe: Callable[[str, str], np.ndarray],
        bad_pixels: np.ndarray | None = None,
    ) -> None:
        read_probe("", "")
        codecs.warm_up()
        self._read_probe, self._bad_pixels = read_probe, bad_pixels
        self._run: GatheredRun | None = None
        self._state = "idle"
        self._armed_uid = self._final_uid = self._text = ""
        self._ending = False
        self._published: list[Any] = []
        self._next_image_s = 0.0
        self.channels = GatherChannels(prefix)
        self.channels.publish_task(Task())
        self._shares = Shares(prefix, consumers)

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
                    logger.exception("the run failed at the gatherer")
                    self._fail(f"this run failed at the gatherer, the next one can be taken: {error}")
                if message is not None or time.monotonic() >= next_stats_s:
                    next_stats_s = time.monotonic() + STATS_PERIOD_S
                    self._publish()
        finally:
            self._end_run()
            self._shares.close()
            self.channels.close()

    @property
    def _under_way(self) -> bool:
        return self._run is not None and self._state in ("idle", "armed", "running")

    @property
    def _active(self) -> bool:
        roll = self._run.roll if self._run is not None and self._under_way else None
        return roll is not None and time.monotonic() - (roll.last_arrival_s or roll.began_s) < ABANDONED_S

    def _start(self, message: RunMessage) -> None:
        run = self._run
        if run is not None and self._active and not _same_secret(run.message.token, message.token):
            self.channels.refuse(
                f"run {message.run_uid} is refused while {run.message.run_uid} is under way; "
                "send its token, or wait for its end"
            )
            return
        self._end_run()
        self._armed_uid = self._final_uid = self._text = ""
        self._ending, self._published, self._state = False, [], "idle"
        try:
            probe = np.asarray(self._read_probe(*self._model()), np.complex64)
            self._run = GatheredRun(message, probe, self._bad_pixels, self._shares)
        except ValueError as error:
            self._refuse(message, str(error))
            return
        logger.info("run %s: %d frames from %s", message.run_uid, message.frames, message.image_channel)

    def _model(self) -> tuple[str, str]:
        """Version and hash of the consumers' model."""
        said = {(report.said["model_version"], report.said["model_hash"]) for report in self._shares.present()}
        return said.pop() if len(said) == 1 else ("", "")

    def _refuse(self, message: RunMessage, why: str) -> None:
        self._fail("")
        self.channels.refuse(f"run {message.run_uid}: {why}")

    def _fail(self, text: str) -> None:
        self._end_run()
        self._state, self._text = "failed", text

    def _end_run(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.close()
        self.channels.publish_task(Task())

    def _finish(self, positions: PositionsMessage) -> None:
        run = self._run
        if run is None or not self._under_way or positions.run_uid != run.message.run_uid:
            self.channels.refuse(f"positions of run {positions.run_uid}, which is not under way")
        elif run.message.token != positions.token:
            self.channels.refuse(f"positions of run {positions.run_uid} with a wrong token")
        else:
            self._ending = True
            run.end(positions)

    def _look_at_run(self) -> None:
        run = self._run
        if run is None:
            self.channels.publish_task(Task())
        if run is None or not self._under_way:
            return
        if why := run.refused:
            self._refuse(run.message, why)
            return
        self.channels.publish_task(run.task())
        if not self._ending and run.armed:
            self._armed_uid = run.message.run_uid
        if run.roll.pairing.received:
            self._state = "running"
        elif self._armed_uid:
            self._state = "armed"
        if run.done:
            phase, coverage, canvas = self._publish_images(run)
            attributes = self._attributes(run) | {"coverage_max": coverage.max(), "frames_missing": run.missing}
            self.channels.publish_image("final", phase, canvas, attributes)
            self._state, self._final_uid = "final", run.message.run_uid

    def _publish(self) -> None:
        run, now = self._run, time.monotonic()
        if run is not None and self._state == "running" and now >= self._next_image_s:
            reports = run.reports()
            if reports and reports != self._published:
                self._published = reports
                self._publish_images(run)
                self._next_image_s = now + (time.monotonic() - now) / BUSY_PART
        self._text = self.channels.take_problem() or self._text
        self.channels.publish_stats(self._stats(run))

    def _publish_images(self, run: GatheredRun) -> tuple[np.ndarray, np.ndarray, Any]:
        phase, coverage, canvas = run.image()
        attributes = self._attributes(run)
        self.channels.publish_image("stitched", phase, canvas, attributes)
        self.channels.publish_image("coverage", coverage, canvas, attributes)
        return phase, coverage, canvas

    def _attributes(self, run: GatheredRun) -> dict[str, Any]:
        stats = gathered_stats(run, self._shares, self._state, self._text)
        versions = {report.said["model_versions"] for report in run.reports()} - {""}
        return {
            **{name: stats[name] for name in ("run_uid", "positions_source", "intensity_scale", "masked_fraction")},
            **{name: stats[name] for name in ("engine", "model_version", "frames_stitched", "frames_no_beam")},
            "no_beam_triggers": named(run.counts().no_beam_triggers),
            "model_versions": "; ".join(sorted(versions)),
        }

    def _stats(self, run: GatheredRun | None) -> dict[str, Any]:
        stats = blank(STATS) | {
            "state": self._state,
            "armed_uid": self._armed_uid,
            "final_uid": self._final_uid,
            "runs_refused": self.channels.refused,
            "message": self._text,
            **engine_stats(self._shares),
        }
        return stats if run is None else stats | gathered_stats(run, self._shares, self._state, self._text)


def _same_secret(own: str, given: str) -> bool:
    return bool(own) and hmac.compare_digest(own.encode(), given.encode())


def gather(
    prefix: str,
    consumers: int,
    read_probe: Callable[[str, str], np.ndarray],
    bad_pixels: np.ndarray | None = None,
    *,
    interface: str = "",
    stop: threading.Event | None = None,
    on_ready: Callable[[], None] | None = None,
) -> None:
    """Serve the edge's channels for consumers until ``stop`` is set, or Ctrl-C or SIGTERM comes (in the main thread).

    Parameters
    ----------
    prefix, consumers, read_probe, bad_pixels
        As for `Gatherer`.
    interface : str
        Address of the one network interface to bind; "" is what ``EPICS_PVAS_INTF_ADDR_LIST`` says, or else loopback.
    stop : threading.Event, optional
    on_ready : callable, optional
        Called when the channels are there.
    """
    os.environ["EPICS_PVAS_INTF_ADDR_LIST"] = interface or os.environ.get("EPICS_PVAS_INTF_ADDR_LIST") or "127.0.0.1"
    stop = stop or threading.Event()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
    gatherer = Gatherer(prefix, consumers, read_probe, bad_pixels)
    if on_ready is not None:
        on_ready()
    gatherer.serve(stop)

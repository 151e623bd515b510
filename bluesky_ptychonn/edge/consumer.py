"""The edge in several processes: a processor for `pvapy-hpc-consumer`, which stitches the frames that it is given."""

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bluesky_ptychonn.core.protocols import Engine
from bluesky_ptychonn.edge.share_run import ShareRun
from bluesky_ptychonn.edge.swap import EngineSlot, warm_up
from bluesky_ptychonn.io import codecs
from bluesky_ptychonn.io.edge_channels import blank, pva_structure
from bluesky_ptychonn.io.pva import PvaChannel
from bluesky_ptychonn.io.pva_values import fill
from bluesky_ptychonn.io.share_channels import REPORT, Task

logger = logging.getLogger(__name__)
REPORT_S = 0.1
HEARTBEAT_S = 0.5
BUSY_PART = 0.2
"""Largest part of the time that reports may take."""
TASK_S = 2.0
STATS = ("state", "run_uid", "stitched", "shed", "rejected", "foreign", "waiting", "fps", "latency_ms_p99")
"""What pvapy's status channel says of a consumer."""


class Consumer:
    """One of several processes that share the frames of a run; does what the gatherer's channel ``task`` says.

    Parameters
    ----------
    prefix : str
        Of the gatherer's channels, such as ``"ptychonn:"``.
    engine : EngineSlot
    bad_pixels : (H, W) bool, optional
        Of the detector's frame.
    number : int
        Which consumer this is; pvapy counts from 1.
    ring_bytes, kept_bytes : int
        Memory for waiting frames and for patches kept until the end of a run.
    """

    def __init__(
        self,
        prefix: str,
        engine: EngineSlot,
        bad_pixels: np.ndarray | None,
        number: int,
        *,
        ring_bytes: int = 128 << 20,
        kept_bytes: int = 512 << 20,
    ) -> None:
        self.number = number
        self._engine: Engine = engine
        self._slot, self._bad_pixels = engine, bad_pixels
        self._memory = {"ring_bytes": ring_bytes, "kept_bytes": kept_bytes}
        warm_up(engine, np.ones((engine.frame_px, engine.frame_px), np.complex64))
        codecs.warm_up()
        self._wanted: Task | None = None
        self._followed: Task | None = None
        self._told = threading.Event()
        self._run: ShareRun | None = None
        self._refused: dict[str, Any] = {}
        self._reports = 0
        self._last: dict[str, Any] = blank(REPORT)
        self._stop = threading.Event()
        self._worker: threading.Thread | None = None
        self._channel = PvaChannel(f"{prefix}task")
        self._channel.monitor(self._take_task, queue_size=4)
        self._told.wait(TASK_S)  # frames come as soon as pvapy starts: the run should be known before
        self._follow()

    def start(self, publish: Callable[[Any], None]) -> None:
        """Work from now on; reports are given to ``publish``."""
        self._worker = threading.Thread(target=self._work, args=(publish,), name="engine", daemon=True)
        self._worker.start()

    def take(self, update: Any) -> None:
        """Take a frame; never waits, never raises."""
        run = self._run
        if run is None:
            return
        try:
            run.take(update)
        except Exception:  # in a thread of PVA: nobody else would hear of it
            logger.exception("a frame is unusable")

    def close(self) -> None:
        """Work no more."""
        self._stop.set()
        self._channel.close()
        if self._worker is not None:
            self._worker.join(10)

    def stats(self) -> dict[str, Any]:
        """Figures for pvapy's status channel, as of the last report."""
        last = self._last
        stitched = int(np.count_nonzero(np.asarray(last["trigger_index"]) >= 0))
        return {name: stitched if name == "stitched" else last[name] for name in STATS}

    def _take_task(self, update: Any) -> None:
        try:
            self._wanted = Task.of_values(update.toDict())
        except Exception:  # in a thread of PVA
            logger.exception("the gatherer's task cannot be read")
        self._told.set()

    def _work(self, publish: Callable[[Any], None]) -> None:
        due_s, said, said_s = 0.0, None, 0.0
        while not self._stop.is_set():
            try:
                self._exchange()
                self._follow()
                busy = self._run is not None and self._run.step()
            except Exception as error:  # nothing that one run brings may end the consumer
                logger.exception("the run failed at consumer %d", self.number)
                busy, self._run, self._refused = False, None, {"message": f"the run failed: {error}"}
            now = time.monotonic()
            if now >= due_s:
                state = self._news()
                if state != said or now - said_s > HEARTBEAT_S:
                    said, said_s = state, now
                    self._report(publish)
                due_s = now + max(REPORT_S, (time.monotonic() - now) / BUSY_PART)
            if not busy:
                self._stop.wait(0.005)

    def _exchange(self) -> None:
        """Take up another version, which says in the next report which probe the gatherer has to read."""
        if self._run is None:
            self._slot.between_runs()
        else:
            self._slot.exchange(another_probe=self._run.state == "final")

    def _news(self) -> tuple[Any, ...]:
        run = self._run
        if run is None:
            return self._followed, self._slot.card, *self._refused.items()
        return self._followed, self._slot.card, run.state, len(run.image), run.spoiled

    def _follow(self) -> None:
        wanted = self._wanted
        if wanted is None or wanted is self._followed:
            return
        self._followed = wanted
        if self._run is not None and self._run.goes_on_with(wanted):
            self._run.follow(wanted)
            return
        self._run, self._refused = None, {}
        if wanted.phase != "run":  # too late, or nothing to do
            return
        self._slot.between_runs()
        try:
            self._run = ShareRun(wanted, self._engine, self._bad_pixels, self.number, **self._memory)
        except ValueError as error:
            logger.warning("run %s is refused: %s", wanted.run_uid, error)
            self._refused = {"run_uid": wanted.run_uid, "state": "refused", "message": str(error)}

    def _report(self, publish: Callable[[Any], None]) -> None:
        import pvaccess

        self._reports += 1
        own = {"uniqueId": self._reports, "consumer": self.number, "pid": os.getpid(), "state": "idle"}
        card = self._slot.card
        own |= {"engine": self._engine.name, "model_version": card.version if card else ""}
        own |= {"model_hash": card.sha256 if card else ""}
        said = self._run.report() if self._run is not None else self._refused
        self._last = blank(REPORT) | own | said
        structure = pva_structure(REPORT)
        publish(fill(pvaccess.PvObject(structure), structure, self._last))


def make_processor(consumer: Consumer) -> Any:
    """Wrap a consumer for pvapy's streaming framework.

    pvapy is imported here, not with this module: PVA opens on first use.

    Parameters
    ----------
    consumer : Consumer

    Returns
    -------
    pvapy.hpc.adImageProcessor.AdImageProcessor
    """
    import pvaccess
    from pvapy.hpc.adImageProcessor import AdImageProcessor

    class PtychoProcessor(AdImageProcessor):
        """Frames in, sums of the stitched image out."""

        def start(self) -> None:
            consumer.start(self.updateOutputChannel)

        def process(self, pvObject: Any) -> Any:
            consumer.take(pvObject)
            return pvObject

        def stop(self) -> None:
            consumer.close()

        def getStats(self) -> dict[str, Any]:
            return consumer.stats()

        def getStatsPvaTypes(self) -> dict[str, Any]:
            return pva_structure({name: REPORT.get(name, "int") for name in STATS})

        def getOutputPvObjectType(self, pvObject: Any) -> Any:
            return pvaccess.PvObject(pva_structure(REPORT))

    return PtychoProcessor()

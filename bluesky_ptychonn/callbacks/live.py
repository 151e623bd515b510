"""Live image: tell the edge which run comes and how it ended, and keep its picture; the pixels go over PVA."""

import logging
import queue
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from bluesky.callbacks.core import make_class_safe
from event_model import DocumentRouter
from event_model.documents import EventDescriptor, EventPage, RunStart, RunStop

from bluesky_ptychonn.callbacks.picture import save_picture
from bluesky_ptychonn.core.beam import with_flux
from bluesky_ptychonn.io.edge_channels import PositionsMessage, as_message
from bluesky_ptychonn.io.ntndarray import read_image
from bluesky_ptychonn.io.pva import PvaChannel
from bluesky_ptychonn.io.run_message import run_message

logger = logging.getLogger(__name__)

FINAL_S = 10.0


@make_class_safe(logger=logger)  # a broken view must never stop a scan
class LiveImage(DocumentRouter):
    """Send the edge one ``run`` and one ``positions`` message per ptychography run, and save the last image.

    Everything that talks to the network happens in one thread of its own; a document is handled in microseconds.

    Parameters
    ----------
    prefix : str
        Prefix of the edge's channels.
    picture_directory : Path, optional
        Where a PNG per run goes; none without it.
    open_channel : callable
        Opens a channel by its name; for tests.
    """

    def __init__(
        self,
        prefix: str,
        picture_directory: Path | None = None,
        open_channel: Callable[[str], Any] = PvaChannel,
    ) -> None:
        super().__init__()
        self._prefix = prefix
        self._directory = picture_directory
        self._open_channel = open_channel
        self._channels: dict[str, Any] = {}
        self._run: RunStart | None = None
        self._token = uuid.uuid4().hex  # the same for all runs: one that never ended gives way to the next
        self._forget()
        self._jobs: queue.Queue[tuple[str, Callable[[], None]]] = queue.Queue(maxsize=100)
        threading.Thread(target=self._work, name="live image", daemon=True).start()

    def _forget(self) -> None:
        self._streams: dict[str, str] = {}
        self._captured: dict[str, list[Any]] = {}
        self._flux: dict[str, list[float]] = {}
        self._told_end = False

    # documents

    def start(self, doc: RunStart) -> None:
        self._run = doc if "ptycho" in doc else None
        self._forget()
        if self._run is not None:
            message = as_message(run_message(doc, self._token))
            self._hand_over("run message", lambda: self._put("run", message))

    def descriptor(self, doc: EventDescriptor) -> None:
        self._streams[doc["uid"]] = doc.get("name", "")

    def event_page(self, doc: EventPage) -> EventPage:
        stream = self._streams.get(doc["descriptor"]) if self._run is not None else None
        if stream == "positions":
            for key, values in doc["data"].items():
                self._captured.setdefault(key, []).extend(values)
        elif stream == "flux":
            for key in ("trigger_index", "flux"):
                self._flux.setdefault(key, []).extend(doc["data"].get(key, ()))
        elif stream == "counters":
            self._tell_end({key: values[-1] for key, values in doc["data"].items()})
        return doc

    def stop(self, doc: RunStop) -> None:
        if self._run is None:
            return
        if not self._told_end:
            self._tell_end({"outcome": doc["exit_status"]})
        if self._directory is not None:
            run, directory = self._run, self._directory
            self._hand_over("picture", lambda: self._keep_picture(run, directory))
        self._run = None

    def _tell_end(self, figures: Mapping[str, Any]) -> None:
        """Send the captured positions and the counts, once per run."""
        if self._run is None or self._told_end:
            return
        self._told_end = True
        y_key, x_key = self._run["motors"]  # type: ignore[typeddict-item]
        triggers = "pulses" if self._run["ptycho"]["fly"] else "triggers_sent"  # type: ignore[typeddict-item]
        message = as_message(
            PositionsMessage(
                run_uid=self._run["uid"],
                token=self._token,
                exit_status=figures.get("outcome", "fail"),
                trigger_index=self._captured.get("trigger_index", []),  # type: ignore[arg-type]
                y_um=self._captured.get(y_key, []),  # type: ignore[arg-type]
                x_um=self._captured.get(x_key, []),  # type: ignore[arg-type]
                triggered=int(figures.get(triggers, -1)),
                lost_in_detector=int(figures.get("lost_in_detector", -1)),
                lost_in_plugin=int(figures.get("lost_in_plugin", -1)),
                no_beam_trigger=self._without_flux(float(self._run["ptycho"].get("min_flux", 0))),  # type: ignore[typeddict-item]
            )
        )
        self._hand_over("positions message", lambda: self._put("positions", message))

    def _without_flux(self, min_flux: float) -> np.ndarray:
        """Triggers whose frames had no beam by what the monitor says."""
        index, flux = (np.array(self._flux.get(key, ())) for key in ("trigger_index", "flux"))
        return index[~with_flux(flux, min_flux)].astype(np.int64)

    # in the thread

    def _hand_over(self, what: str, job: Callable[[], None]) -> None:
        try:
            self._jobs.put_nowait((what, job))
        except queue.Full:
            logger.warning("the edge does not take its messages in time; the %s of this run is left out", what)

    def _work(self) -> None:
        while True:
            what, job = self._jobs.get()
            try:
                job()
            except TimeoutError as error:
                logger.warning("no live image (%s): %s", what, error)
            except Exception:
                logger.exception("%s failed; the scan is not affected", what)
            finally:
                self._jobs.task_done()

    def _channel(self, name: str) -> Any:
        if name not in self._channels:
            self._channels[name] = self._open_channel(self._prefix + name)
        return self._channels[name]

    def _put(self, channel: str, message: dict[str, Any]) -> None:
        self._channel(channel).put(message)

    def _keep_picture(self, run: RunStart, directory: Path) -> None:
        deadline = time.monotonic() + FINAL_S
        while True:
            stats = self._channel("stats").get()
            final = stats.get("final_uid") == run["uid"]
            over = stats.get("run_uid") != run["uid"] or stats.get("state") == "failed"
            if final or over or not self._jobs.empty() or time.monotonic() > deadline:
                break  # the next run must not wait for this picture
            time.sleep(0.1)
        image, attributes = read_image(self._channel("final" if final else "stitched").get())
        if not image.size or attributes.get("run_uid", run["uid"]) != run["uid"]:
            logger.warning("the edge has no image of run %s; no picture is kept", run["uid"][:8])
            return
        path = directory / f"{run.get('scan_id', 0):05d}_{run['uid'][:8]}.png"
        save_picture(path, image, attributes, run, stats)
        logger.info("picture of run %s: %s", run["uid"][:8], path)

    def wait(self, timeout_s: float) -> bool:
        """Wait until everything handed over is done; False if that takes longer."""
        deadline = time.monotonic() + timeout_s
        while self._jobs.unfinished_tasks and time.monotonic() < deadline:
            time.sleep(0.01)
        return not self._jobs.unfinished_tasks

"""The edge's PVA server: two channels to write, the others to read."""

import logging
import queue
from collections.abc import Mapping
from typing import Any

import numpy as np

from bluesky_ptychonn.core.stitch import Canvas
from bluesky_ptychonn.io.edge_channels import (
    MAX_FRAMES,
    POSITIONS,
    RUN,
    STATS,
    PositionsMessage,
    RunMessage,
    blank,
    pva_structure,
)
from bluesky_ptychonn.io.ntndarray import make_image
from bluesky_ptychonn.io.pva_values import fill

logger = logging.getLogger(__name__)
MESSAGES_WAITING = 16
IMAGES = ("stitched", "coverage", "final")


class EdgeChannels:
    """Serve the edge's channels; collect the messages that others write.

    Parameters
    ----------
    prefix : str
        Such as ``"ptychonn:"``.
    """

    def __init__(self, prefix: str) -> None:
        import pvaccess

        self._pva = pvaccess
        self.prefix = prefix
        self.refused = 0
        """Messages which could not be taken."""
        self._received: queue.Queue[RunMessage | PositionsMessage] = queue.Queue(MESSAGES_WAITING)
        self._problem = ""
        self._count: dict[str, int] = dict.fromkeys(IMAGES, 0)
        self._stats_structure = pva_structure(STATS)
        self._server = pvaccess.PvaServer()
        for name, structure, kind in (("run", RUN, RunMessage), ("positions", POSITIONS, PositionsMessage)):
            record = pvaccess.PvObject(pva_structure(structure))
            self._server.addRecord(prefix + name, record, lambda written, kind=kind: self._take(written, kind))
        self._server.addRecord(prefix + "stats", self._stats(blank(STATS)), None)
        for name in IMAGES:
            self._server.addRecord(prefix + name, pvaccess.NtNdArray(), None)

    def next_message(self, timeout_s: float) -> RunMessage | PositionsMessage | None:
        """Return the oldest message that was written, or None after so long."""
        try:
            return self._received.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def take_problem(self) -> str:
        """Return what was last refused and why, once."""
        problem, self._problem = self._problem, ""
        return problem

    def refuse(self, why: str) -> None:
        """Count a refused message."""
        self.refused += 1
        self._problem = why
        logger.warning("refused: %s", why)

    def publish_stats(self, values: Mapping[str, Any]) -> None:
        """Publish `STATS`; every field must be given."""
        self._server.update(self.prefix + "stats", self._stats(values))

    def publish_image(self, name: str, image: np.ndarray, canvas: Canvas, attributes: Mapping[str, Any]) -> None:
        """Publish one of the images with where it lies on the sample."""
        y_um, x_um = canvas.origin_um
        place = {"pixel_size_um": canvas.pixel_size_um, "origin_y_um": y_um, "origin_x_um": x_um}
        self._count[name] += 1
        self._server.update(self.prefix + name, make_image(image, {**attributes, **place}, self._count[name]))

    def close(self) -> None:
        """End the server."""
        self._server.stop()

    def _stats(self, values: Mapping[str, Any]) -> Any:
        return fill(self._pva.PvObject(self._stats_structure), self._stats_structure, values)

    def _take(self, written: Any, kind: type[RunMessage] | type[PositionsMessage]) -> None:
        what = kind.__name__
        try:
            if written["y_um"].size > MAX_FRAMES or written["x_um"].size > MAX_FRAMES:  # before anything is copied
                raise ValueError(f"{written['y_um'].size} positions; at most {MAX_FRAMES} are taken")
            self._received.put_nowait(kind(**written.toDict()))
        except queue.Full:
            self.refuse(f"{what}: {MESSAGES_WAITING} messages are waiting already")
        except Exception as error:  # in a thread of PVA: the writer hears nothing of it, the stats say it
            self.refuse(f"{what}: {error}")

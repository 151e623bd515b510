"""What the edge shows at this moment, gathered from its channels."""

import threading
import time
from typing import Any

import numpy as np

from bluesky_ptychonn.io.ntndarray import read_image
from bluesky_ptychonn.io.pva import PvaChannel

CHANNELS = ("stats", "stitched", "coverage", "final")
SILENT_S = 3.0


class EdgeFeed:
    """The last stats and images of an edge; survives its restarts.

    Parameters
    ----------
    prefix : str
        Of the edge's channels.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self._lock = threading.Lock()
        self._latest: dict[str, dict[str, Any]] = {}
        self._heard_s = 0.0
        self._channels = [PvaChannel(prefix + name) for name in CHANNELS]
        for channel, name in zip(self._channels, CHANNELS):
            channel.monitor(lambda update, name=name: self._take(name, update.toDict()), queue_size=2)

    @property
    def answers(self) -> bool:
        """Whether the edge has said something lately."""
        return time.monotonic() - self._heard_s < SILENT_S

    def wait(self, timeout_s: float) -> bool:
        """Wait until the edge has told its stats and images, at most so long."""
        deadline_s = time.monotonic() + timeout_s
        while len(self._latest) < len(CHANNELS) and time.monotonic() < deadline_s:
            time.sleep(0.02)
        return len(self._latest) == len(CHANNELS)

    def now(self) -> tuple[dict[str, Any], np.ndarray, np.ndarray, dict[str, Any]]:
        """Return stats, phase, coverage and the phase's attributes; images are (0, 0) before the first.

        The final image takes the place of the live one as soon as there is one of the same run.
        """
        with self._lock:
            latest = dict(self._latest)
        stats = latest.get("stats", {})
        empty = np.empty((0, 0), np.float32)
        images = {name: read_image(latest[name]) for name in latest if name != "stats"}
        phase, attributes = images.get("stitched", (empty, {}))
        coverage, _ = images.get("coverage", (empty, {}))
        final, about = images.get("final", (empty, {}))
        uid = stats.get("run_uid", "")
        if final.size and uid and about.get("run_uid") == uid == stats.get("final_uid"):
            phase, attributes = final, {**about, "final": True}
        if attributes.get("run_uid") != uid:
            phase, coverage, attributes = empty, empty, {}  # of an earlier run
        return stats, phase, coverage, attributes

    def close(self) -> None:
        """Listen no more."""
        for channel in self._channels:
            channel.close()

    def _take(self, name: str, values: dict[str, Any]) -> None:
        with self._lock:
            self._latest[name] = values
            if name == "stats":
                self._heard_s = time.monotonic()

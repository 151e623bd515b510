"""What the consumers of a run have told their gatherer, those that have ended included."""

import logging
import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from bluesky_ptychonn.core.pairing import FOREIGN
from bluesky_ptychonn.edge.roll import UNKNOWN, FrameRoll
from bluesky_ptychonn.io.pva import PvaChannel

logger = logging.getLogger(__name__)
SILENT_S = 5.0
"""After so long without a word a consumer counts as ended."""
LARGE = ("unique_id", "time_s", "trigger_index", "spoiled_id", "total", "coverage")


@dataclass(frozen=True, eq=False)
class Report:
    """One report of a consumer; see `io.share_channels.REPORT`.

    Parameters
    ----------
    said : dict
        The fields which are not arrays.
    ids, times_s, indices : (n,) arrays
        Frames that were inferred, and where they lie in the sums.
    spoiled : (m,) int64
    total, coverage : (H, W) float64
    """

    said: dict[str, Any]
    ids: np.ndarray
    times_s: np.ndarray
    indices: np.ndarray
    spoiled: np.ndarray
    total: np.ndarray
    coverage: np.ndarray

    @classmethod
    def of_update(cls, update: Any) -> "Report":
        """Read a report; arrays are read-only views."""
        values = update.toDict()
        shape = tuple(int(side) for side in values["canvas_shape"]) or (0, 0)
        ids, times_s, indices, spoiled, total, coverage = (np.asarray(values.pop(name)) for name in LARGE)
        if not len(ids) == len(times_s) == len(indices):
            raise ValueError(f"{len(ids)} ids, {len(times_s)} times and {len(indices)} triggers in one report")
        return cls(values, ids, times_s, indices, spoiled, total.reshape(shape), coverage.reshape(shape))

    @property
    def who(self) -> tuple[int, int]:
        """Consumer and process."""
        return self.said["consumer"], self.said["pid"]

    @property
    def frames(self) -> int:
        """Frames of which something is known."""
        return len(self.ids) + len(self.spoiled) + self.said["waiting"]


class Share:
    """What one process has told of one run."""

    def __init__(self, report: Report) -> None:
        self.latest = report
        self.good: Report | None = None
        """The last report whose frames all lie where they belong."""


class Shares:
    """Follow the channels of all consumers.

    Parameters
    ----------
    prefix : str
        Of the gatherer's channels; consumer k reports on ``PREFIXshare:k``.
    consumers : int
        How many there may be.
    """

    def __init__(self, prefix: str, consumers: int) -> None:
        self.expected = consumers
        self._lock = threading.Lock()
        self._heard: dict[int, tuple[Report, float]] = {}
        self._of_run: dict[tuple[int, int], Share] = {}
        self._run_uid = ""
        self._channels = {number: PvaChannel(f"{prefix}share:{number}") for number in range(1, consumers + 1)}
        for number, channel in self._channels.items():
            channel.monitor(lambda update, number=number: self._take(number, update), queue_size=4)

    def close(self) -> None:
        """Follow no more."""
        for channel in self._channels.values():
            channel.close()

    def begin(self, run_uid: str) -> None:
        """From now on collect what belongs to this run."""
        with self._lock:
            self._run_uid, self._of_run = run_uid, {}

    def present(self) -> list[Report]:
        """The last word of each consumer that is there."""
        with self._lock:
            heard = list(self._heard.items())
        now = time.monotonic()
        return [
            report for number, (report, at_s) in heard if self._channels[number].connected and now - at_s < SILENT_S
        ]

    def of_run(self) -> list[Share]:
        """All shares of the run, by process; those of ended processes come first."""
        alive = {report.who for report in self.present()}
        with self._lock:
            shares = sorted(self._of_run.items())
        return [share for _, share in sorted(shares, key=lambda item: item[0] in alive)]

    def alive(self) -> list[Share]:
        """Shares of the run whose processes are there."""
        alive = {report.who for report in self.present()}
        with self._lock:
            return [share for who, share in sorted(self._of_run.items()) if who in alive]

    def _take(self, number: int, update: Any) -> None:
        try:
            report = Report.of_update(update)
        except Exception:  # in a thread of PVA
            logger.exception("a report of consumer %d cannot be read", number)
            return
        with self._lock:
            if not report.said["pid"]:  # a new process with an open channel, which has said nothing yet
                self._heard.pop(number, None)
                return
            self._heard[number] = report, time.monotonic()
            if not self._run_uid or report.said["run_uid"] != self._run_uid or not report.total.size:
                return
            if report.who in self._of_run:
                self._of_run[report.who].latest = report
            else:
                self._of_run[report.who] = Share(report)


def judge(shares: list[Share], roll: FrameRoll, at_the_end: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the good reports, and the frames that must go from the others.

    Parameters
    ----------
    shares : list of Share
        A frame that several have belongs to the first.
    roll : FrameRoll
    at_the_end : bool
        Whether frames that the roll has not seen will not be seen any more.

    Returns
    -------
    consumer, unique_id, time_s : (m,) arrays
        Frames that are of another run, or another's; for `io.share_channels.Task`.
    """
    whose, ids, times_s = [np.empty(0, int)], [np.empty(0, int)], [np.empty(0)]
    owned = np.empty(0, np.int64)
    for share in shares:
        latest, good = share.latest, share.good
        share.good = None
        for report in (latest, good):
            if report is None:
                continue
            found = roll.judge(report.ids, report.times_s)
            if at_the_end:
                found[found == UNKNOWN] = FOREIGN
            foreign = (found == FOREIGN) | ((found >= 0) & np.isin(report.ids, owned))
            if report is latest:
                whose.append(np.full(np.count_nonzero(foreign), report.who[0]))
                ids.append(report.ids[foreign])
                times_s.append(report.times_s[foreign])
            inside = report.indices >= 0
            elsewhere = (report.indices != found) & (found != UNKNOWN)
            if not np.any(inside & (foreign | elsewhere)):
                share.good = report
                owned = np.concatenate([owned, report.ids[inside]])
                break
    return np.concatenate(whose), np.concatenate(ids), np.concatenate(times_s)

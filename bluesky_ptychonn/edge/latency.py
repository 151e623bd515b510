"""How long frames take: a histogram, so that a run of any length needs no more memory."""

from typing import Any

import numpy as np

EDGES_MS = 0.1 * 10 ** (np.arange(121) / 20)
"""Upper edges of the bins, 12 % apart: 0.1 ms to 100 s; one more bin holds what takes longer."""


class Latencies:
    """Counts latencies; the first ones, while things warm up, do not count.

    Parameters
    ----------
    warm_up : int
        How many do not, unless there are fewer than twice as many.
    """

    def __init__(self, warm_up: int) -> None:
        self._warm_up = warm_up
        self._first = np.empty(0)
        self.counts = np.zeros(len(EDGES_MS) + 1, np.int64)
        self._largest_ms = 0.0

    def add(self, latencies_s: np.ndarray) -> None:
        """Count latencies, s, in the order in which they came."""
        latencies_ms = 1e3 * np.asarray(latencies_s, np.float64)
        if (room := 2 * self._warm_up - len(self._first)) > 0:
            before, self._first = len(self._first), np.append(self._first, latencies_ms[:room])
            latencies_ms = np.concatenate([self._first[max(before, self._warm_up) :], latencies_ms[room:]])
        if len(latencies_ms):
            self.counts += np.bincount(np.searchsorted(EDGES_MS, latencies_ms), minlength=len(self.counts))
            self._largest_ms = max(self._largest_ms, float(latencies_ms.max()))

    def percentiles_ms(self, *shares: float) -> list[float]:
        """Latencies, ms, that so many percent do not exceed, to the width of a bin; exact while there are few."""
        if len(self._first) < 2 * self._warm_up:
            few = self._first[len(self._first) // 2 :]
            return [float(np.percentile(few, share)) for share in shares] if len(few) else [0.0] * len(shares)
        reached, edges_ms = np.cumsum(self.counts), np.append(EDGES_MS, np.inf)
        bins = [int(np.searchsorted(reached, share / 100 * reached[-1])) for share in shares]
        return [min(float(edges_ms[place]), self._largest_ms) for place in bins]

    @property
    def max_ms(self) -> float:
        """The largest latency, ms; 0 before there is one."""
        if len(self._first) < 2 * self._warm_up:
            return float(self._first[len(self._first) // 2 :].max(initial=0.0))
        return self._largest_ms

    def figures(self, name: str) -> dict[str, Any]:
        """What `stats` says of them."""
        p50, p99 = self.percentiles_ms(50, 99)
        return {
            f"{name}_ms_p50": p50,
            f"{name}_ms_p99": p99,
            f"{name}_ms_max": self.max_ms,
            f"{name}_counts": self.counts.tolist(),
        }

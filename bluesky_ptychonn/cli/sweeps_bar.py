"""A progress bar of phase retrieval."""

import math
import time
from types import TracebackType
from typing import Any

BAR = "{l_bar}{bar:20}| {n_fmt}/{total_fmt} [{elapsed}, {remaining} left{postfix}]"


class SweepsBar:
    """A bar of the sweeps: error, error on held-out frames, seconds per sweep, time left.

    Parameters
    ----------
    sweeps : int
        How many there will be.
    """

    def __init__(self, sweeps: int) -> None:
        self._sweeps = sweeps
        self._times_s: list[float] = []
        self._begin_s = 0.0
        self.seconds_total = 0.0

    def __enter__(self) -> "SweepsBar":
        from tqdm import tqdm

        self._bar = tqdm(total=self._sweeps, desc="sweeps", bar_format=BAR)
        self._begin_s = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds_total = time.monotonic() - self._begin_s
        self._bar.close()

    def show(self, sweep: Any) -> None:
        """Take note of a sweep, `training.retrieval.reconstruct.Progress`."""
        self._times_s.append(time.monotonic())
        held_out = "" if math.isnan(sweep.error_heldout) else f", held out {sweep.error_heldout:.4f}"
        each = "" if self.seconds_per_sweep is None else f", {self.seconds_per_sweep:.2f} s/sweep"
        self._bar.set_postfix_str(f"error {sweep.error:.4f}{held_out}{each}", refresh=False)
        self._bar.update()

    @property
    def seconds_per_sweep(self) -> float | None:
        """Mean time from sweep to sweep, s, without the preparation; None before the second."""
        intervals = len(self._times_s) - 1
        return (self._times_s[-1] - self._times_s[0]) / intervals if intervals > 0 else None

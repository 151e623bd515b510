"""Pairing: which trigger a frame belongs to, or that nobody can know.

A driver numbers the frames it *handles*. What was lost in front of it (in the detector, or a trigger that never came)
leaves no gap: the frames behind it are renumbered silently. So ``unique_id - first_unique_id`` is a hypothesis, and

* **between two frames** the detector's own clock proves it: triggers have a fixed period, so k periods are an
  advance of k triggers. The IOC's clock cannot (it is late by as much as the machine is busy); there a frame is
  confirmed by a count of lost frames which has not moved half a second after it;
* **before the first frame** no interval tells. The anchor is proved when the last index reaches the last slot (then
  nothing is missing), or when the totals leave no room for a hidden loss.

What is not proved is withheld. A frame is never shifted.
"""

from array import array

UNPAIRED = -1
FOREIGN = -2
SETTLING_S = 0.5
"""A lost frame is in the detector's count at the latest this long after the next frame has arrived."""
TOLERANCE = 0.25
PERIOD_ERROR = 1e-3
"""Largest relative error of the announced period: it limits how long a gap the clock can bridge."""


class Pairing:
    """Pair the frames of one run with its triggers, frame by frame.

    Parameters
    ----------
    frames : int
        Planned triggers.
    first_unique_id : int
        Id of the run's first frame by the driver's rule.
    clock : {"detector", "ioc"}
        Whose time the frames carry.
    dwell_s : float
        Period of the triggers, s; 0 if they have none, and then no clock can help.
    frames_after_s : float
        With the IOC's clock: frames older than this belong to an earlier run; 0 if unknown.

    Examples
    --------
    >>> pairing = Pairing(4, clock="detector", dwell_s=0.5)
    >>> [pairing.add(unique_id, time_s, 0.0) for unique_id, time_s in ((0, 7.0), (1, 7.5), (2, 8.5))]  # 2 was lost
    [0, 1, 3]
    """

    def __init__(
        self,
        frames: int,
        *,
        first_unique_id: int = 0,
        clock: str = "ioc",
        dwell_s: float = 0.0,
        frames_after_s: float = 0,
    ) -> None:
        if clock not in ("detector", "ioc"):
            raise ValueError(f"clock = {clock!r}; allowed is 'detector' or 'ioc'")
        self.frames = frames
        self.received = 0
        """Frames of this run, each id once."""
        self.foreign = 0
        """Updates which are no frame of this run: of an earlier one, repeated, beyond the plan."""
        self.missing_ids = 0
        """Ids which never came, up to the last that did: lost in the plugin or on the wire."""
        self.hidden = 0
        """Triggers without a frame which the clock has found between two frames."""
        self._first_id = first_unique_id
        self._timed = clock == "detector" and dwell_s > 0
        self._dwell_s = dwell_s
        self._frames_after_s = frames_after_s if clock == "ioc" else 0.0
        self._last_id = first_unique_id - 1
        self._last_index = -1
        self._last_time_s = 0.0
        self._phase_s = 0.0
        self._indices = array("q")
        self._arrivals = array("d")
        self._confirmed = 0
        self._kept = 0
        self._lost_at_start: int | None = None
        self._none_lost_before_first = False
        self._rise_seen = 0
        self._rise: tuple[float, int] | None = None
        self._doubt = ""

    @property
    def doubt(self) -> str:
        """Why some frames are unpaired; empty while there is no reason to doubt."""
        return self._doubt

    @property
    def unpaired(self) -> int:
        """Frames of this run that have no index, or had one and lost it."""
        return self.received - self._kept

    @property
    def kept(self) -> int:
        """How many frames hold their index: the first so many that were given one."""
        return self._kept

    @property
    def kept_indices(self) -> list[int]:
        """Trigger indices which hold, in order of arrival."""
        return list(self._indices[: self._kept])

    def add(self, unique_id: int, time_s: float, arrival_s: float) -> int:
        """Return the trigger index of the next frame, or ``UNPAIRED``, or ``FOREIGN``.

        Parameters
        ----------
        unique_id : int
        time_s : float
            Time the frame carries, s.
        arrival_s : float
            When it arrived, on the clock of `note_dropped`, s.
        """
        guess = unique_id - self._first_id
        if guess < 0 or guess >= self.frames or time_s < self._frames_after_s:
            self.foreign += 1
            return FOREIGN
        ids = unique_id - self._last_id
        if ids <= 0:
            self.foreign += 1
            if ids < 0 or time_s != self._last_time_s:  # not just the same update again
                self.doubt_all(f"unique ids went back from {self._last_id} to {unique_id}: two runs are mixed")
            return FOREIGN
        first = not self.received
        self.received += 1
        self.missing_ids += ids - 1
        self._last_id = unique_id
        self._last_time_s = time_s
        if self._doubt:
            return UNPAIRED
        index = guess
        if self._timed:
            if first:
                self._phase_s = time_s
            else:
                index = self._timed_index(time_s, ids)
                if index < 0:
                    return UNPAIRED
        self._last_index = index
        self._indices.append(index)
        self._arrivals.append(arrival_s)
        self._kept += 1
        return index

    def _timed_index(self, time_s: float, ids: int) -> int:
        periods = (time_s - self._phase_s) / self._dwell_s
        advance = round(periods)
        error = periods - advance
        index = self._last_index + advance
        if abs(error) + advance * PERIOD_ERROR > TOLERANCE:
            self._doubt = f"a frame came {periods:.2f} periods after the last one: the clock cannot tell which it is"
        elif advance < ids:
            self._doubt = f"{ids} frames in {advance} periods: there were more frames than triggers"
        elif index >= self.frames:
            self.doubt_all(f"the clock says trigger {index} of {self.frames}")
        else:
            self.hidden += advance - ids
            self._phase_s = time_s - 0.8 * error * self._dwell_s  # follows a slow drift, averages jitter
            return index
        return UNPAIRED

    def note_dropped(self, lost: int, asked_s: float) -> None:
        """Take note of the detector's count of lost frames, read not before ``asked_s``.

        A first reading before the first frame is the count to compare with; without it the readings prove nothing.
        """
        if not self.received and (
            self._lost_at_start is None or lost < self._lost_at_start
        ):  # it may be reset by arming
            self._lost_at_start = lost
        if self._lost_at_start is None:
            return
        rise = self._rise_seen = lost - self._lost_at_start
        if not self.received or self._doubt:
            return
        settled_s = asked_s - SETTLING_S
        if rise == 0:
            self._none_lost_before_first |= self._arrivals[0] <= settled_s
            while self._confirmed < self._kept and self._arrivals[self._confirmed] <= settled_s:
                self._confirmed += 1
        elif self._timed:
            if rise <= self.hidden:
                self._rise = None
            elif self._rise is None or self._rise[1] != rise:
                self._rise = (asked_s, rise)
            elif self._arrivals[-1] > self._rise[0] + SETTLING_S:  # frames went on, and no interval explains it
                self.doubt_all(f"the detector lost {rise} frame(s), the clock finds {self.hidden}")
        elif self._last_index < self.frames - 1:
            self._keep(self._confirmed, f"the detector's count of lost frames rose by {rise}")

    def break_off(self, reason: str) -> None:
        """Pair no further frame; those before stay until `finish` judges them."""
        self._doubt = self._doubt or reason

    def doubt_all(self, reason: str) -> None:
        """Withdraw every frame of the run and pair no further one."""
        self._keep(0, reason)

    def finish(self, slots: int | None, lost_in_detector: int | None, lost_in_plugin: int | None) -> None:
        """Judge with the totals what may stay.

        Parameters
        ----------
        slots : int, optional
            Trigger slots which the stage went through, whether or not a pulse reached the detector; None if unknown.
        lost_in_detector, lost_in_plugin : int, optional
            Counts over the run; None if unknown.
        """
        if not self._kept or (slots is not None and self._last_index == slots - 1):
            return
        if slots is None or lost_in_detector is None or lost_in_plugin is None:
            self._keep(0, "the last trigger has no frame, and the totals which could tell why are unknown")
            return
        on_wire = max(0, self.missing_ids - lost_in_plugin)
        missing = slots - self.received - lost_in_detector - lost_in_plugin - on_wire
        if missing:  # a trigger that never came, or a frame lost unseen: it may have been the first
            self._keep(0, f"{abs(missing)} of {slots} triggers are {'unaccounted for' if missing > 0 else 'too few'}")
        elif lost_in_detector == self.hidden:
            return  # every slot is accounted for, so no loss hides before the first frame
        elif not (self._none_lost_before_first and self._rise_seen == lost_in_detector):
            self._keep(0, f"the detector lost {lost_in_detector} frame(s), possibly the first")
        elif not self._timed:
            self._keep(self._confirmed, f"the detector lost {lost_in_detector} frame(s)")

    def _keep(self, count: int, reason: str) -> None:
        self._kept = min(self._kept, count)
        self._doubt = self._doubt or reason

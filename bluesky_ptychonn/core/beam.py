"""Frames without beam: the one rule by which the edge, reconstructions, labels and replays leave them out."""

from collections.abc import Sequence

import numpy as np

FIRST_FRAMES = 64
"""Frames which say what is typical of a run; from so many its probe is measured, too (`optics.PROBE_FRAMES`)."""

MIN_COUNTS = 0.02
"""Unless the settings say otherwise. Hardly a sample lets so little through; a closed shutter lets less than 0.001."""

NO_BEAM = -4
"""In place of the trigger of a frame that is in no image because it has no beam."""
MOST_WORDS = 100


def threshold_of(first_counts: Sequence[float] | np.ndarray, min_counts: float) -> float:
    """Counts which a frame must have.

    Parameters
    ----------
    first_counts : (n,) float
        Counts of the first frames of a run with any counts, in any order.
    min_counts : float
        From 1 on, these counts; below 1, this part of the typical frame, the median of those of ``first_counts`` that
        have beam themselves; 0 switches the rule off.

    Examples
    --------
    >>> threshold_of([100.0, 2.0, 120.0, 80.0], 0.05)
    5.0
    """
    if min_counts >= 1 or not min_counts or not len(first_counts):
        return float(min_counts if min_counts >= 1 else 0.0)
    counts = np.asarray(first_counts, np.float64)
    return float(min_counts * np.median(counts[counts >= min_counts * counts.max()]))


class Beam:
    """Tells frames with beam from those without, in the order in which they come.

    The first `FIRST_FRAMES` frames with any counts say what is typical of a run; until then the threshold changes with
    each of them, and so may the verdict on earlier ones. Of the rest, neither order nor batching matters.

    Parameters
    ----------
    min_counts : float
        As for `threshold_of`.

    Examples
    --------
    >>> beam = Beam(0.5)
    >>> beam.see(np.array([3.0, 0.0, 100.0]))
    True
    >>> beam.has(np.array([3.0, 0.0, 100.0, 60.0])).tolist()
    [False, False, True, True]
    """

    def __init__(self, min_counts: float) -> None:
        self._min_counts = min_counts
        self._first: list[float] = []
        self.threshold = threshold_of((), min_counts)
        """Counts which a frame must have, as known so far; 0 if all will do."""

    @property
    def judges(self) -> bool:
        """Whether there is a rule at all."""
        return self._min_counts > 0

    @property
    def settled(self) -> bool:
        """Whether the threshold will stay."""
        return not 0 < self._min_counts < 1 or len(self._first) >= FIRST_FRAMES

    def see(self, counts: np.ndarray) -> bool:
        """Take the counts (B,) of the next frames into account; whether the threshold has changed."""
        if self.settled:
            return False
        self._first += counts[counts >= 1][: FIRST_FRAMES - len(self._first)].tolist()
        before, self.threshold = self.threshold, threshold_of(self._first, self._min_counts)
        return self.threshold != before

    def has(self, counts: np.ndarray) -> np.ndarray:
        """Which frames (B,) have beam, by their counts."""
        return counts >= max(self.threshold, 1.0) if self.judges else np.ones(len(counts), bool)


def with_beam(counts: np.ndarray, min_counts: float) -> np.ndarray:
    """Which frames (N,) of a whole run have beam, by their counts in the order of the triggers.

    Examples
    --------
    >>> with_beam(np.array([100.0, 90.0, 0.0, 1.0]), 0.02).tolist()
    [True, True, False, False]
    """
    beam = Beam(min_counts)
    beam.see(counts)
    return beam.has(counts)


def with_flux(flux: np.ndarray, min_flux: float) -> np.ndarray:
    """Which triggers (N,) had at least the part ``min_flux`` of the run's median flux.

    A monitor that is not there, or does not work, says nothing against a frame: NaN passes, and so do all if the median
    is not positive.

    Examples
    --------
    >>> with_flux(np.array([10.0, 9.0, 1.0, np.nan, 11.0]), 0.5).tolist()
    [True, True, False, True, True]
    """
    known = flux[np.isfinite(flux)]
    typical = float(np.median(known)) if known.size else 0.0
    return ~(flux < min_flux * typical) if typical > 0 else np.ones(len(flux), bool)


def left_out_text(triggers: np.ndarray) -> str:
    """What a user is told of the triggers (n,) whose frames have no beam; nothing if there are none."""
    if not len(triggers):
        return ""
    return f"{len(triggers)} frames had no beam and are not in the image: triggers {named(triggers)}"


def named(numbers: np.ndarray) -> str:
    """Whole numbers, ascending, in few words; so many that they do not fit end in "...".

    Examples
    --------
    >>> named(np.array([3, 5, 6, 7, 11]))
    '3, 5-7, 11'
    """
    parts = np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1) if len(numbers) else []
    words = [f"{part[0]}" if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts]
    return ", ".join([*words[:MOST_WORDS], "..."] if len(words) > MOST_WORDS else words)

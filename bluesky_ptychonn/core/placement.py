"""Which trigger a frame belongs to, said in so few numbers that several processes can be told at every change."""

from dataclasses import dataclass, field

import numpy as np

from bluesky_ptychonn.core.pairing import UNPAIRED


def _no_ids() -> np.ndarray:
    return np.empty(0, np.int64)


@dataclass(frozen=True)
class Placement:
    """What a `Pairing` has found so far, for those who see only a part of the frames.

    Parameters
    ----------
    first_unique_id, frames : int
        Id of the run's first frame, and planned triggers.
    shift_ids, shifts : (n,) int64
        From each of these ids on, ascending, the trigger index is so much larger than ``unique_id - first_unique_id``:
        frames lost in the detector leave no gap in the ids.
    withheld_from_id : int
        This frame and those behind it have no index; -1 if there are none such.

    Examples
    --------
    >>> placement = Placement(10, 8, shift_ids=np.array([12]), shifts=np.array([1]), withheld_from_id=14)
    >>> placement.indices(np.array([10, 11, 12, 13, 14, 99])).tolist()
    [0, 1, 3, 4, -1, -1]
    """

    first_unique_id: int
    frames: int
    shift_ids: np.ndarray = field(default_factory=_no_ids)
    shifts: np.ndarray = field(default_factory=_no_ids)
    withheld_from_id: int = -1

    def indices(self, unique_ids: np.ndarray) -> np.ndarray:
        """Trigger indices (n,) int64 of frames; `UNPAIRED` where there is none."""
        unique_ids = np.asarray(unique_ids, np.int64)
        shift = np.concatenate([[0], self.shifts])[np.searchsorted(self.shift_ids, unique_ids, side="right")]
        indices = (unique_ids - self.first_unique_id + shift).astype(np.int64)
        indices[(unique_ids < self.first_unique_id) | (indices >= self.frames)] = UNPAIRED
        if self.withheld_from_id >= 0:
            indices[unique_ids >= self.withheld_from_id] = UNPAIRED
        return indices

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Placement):
            return NotImplemented
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in self.__dataclass_fields__)

    __hash__ = None  # type: ignore[assignment]

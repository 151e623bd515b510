"""Where the probe really was: captured positions where they can be believed, planned ones elsewhere."""

from typing import NamedTuple

import numpy as np

LEAST_STRAY_UM = 1.0
"""A captured position this little outside the planned field is believed however small the field."""


class BestPositions(NamedTuple):
    """The position of each trigger, and how it is known."""

    positions_um: np.ndarray
    """(N, 2) float64, (y, x)."""
    source: str
    """``"planned"``, ``"captured"``, or ``"captured, else planned"``."""
    astray: int
    """Captured positions which were not believed."""

    @property
    def warning(self) -> str:
        """What the user should know; empty if nothing."""
        if not self.astray:
            return ""
        return (
            f"{self.astray} captured positions lie outside the field and were not used; "
            "check the encoders and the stage's readbacks"
        )


def best_positions(planned_um: np.ndarray, trigger_index: np.ndarray, captured_um: np.ndarray) -> BestPositions:
    """Put captured positions in the place of planned ones.

    Parameters
    ----------
    planned_um : (N, 2) float64
        By trigger, (y, x).
    trigger_index : (n,) int
        Trigger of each captured position; those beyond the plan are passed over.
    captured_um : (n, 2) float64

    Examples
    --------
    >>> planned_um = np.array([[0.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
    >>> found = best_positions(planned_um, np.array([0, 2]), np.array([[0.1, 0.0], [0.0, 99.0]]))
    >>> found.positions_um[:, 0].tolist(), found.source, found.astray
    ([0.1, 0.0, 0.0], 'captured, else planned', 1)
    """
    positions_um = np.array(planned_um, np.float64)
    planned = trigger_index < len(positions_um)
    index, captured_um = trigger_index[planned], captured_um[planned]
    astray = goes_astray(captured_um, positions_um)
    positions_um[index[~astray]] = captured_um[~astray]
    used = np.count_nonzero(~astray)
    source = "planned" if not used else "captured" if used == len(positions_um) else "captured, else planned"
    return BestPositions(positions_um, source, int(np.count_nonzero(astray)))


def goes_astray(captured_um: np.ndarray, planned_um: np.ndarray) -> np.ndarray:
    """Which captured positions (n, 2) cannot be: further outside the planned field than half its size."""
    low, high = planned_um.min(axis=0), planned_um.max(axis=0)
    limit_um = np.maximum((high - low) / 2, LEAST_STRAY_UM)
    return np.any((captured_um < low - limit_um) | (captured_um > high + limit_um), axis=1)

"""How long the loop waits: for jobs, between attempts, in an outage."""

from dataclasses import dataclass

LONGEST_S = 600.0
"""Between two attempts at anything."""


@dataclass(frozen=True)
class Patience:
    """How long something is waited for, s.

    Parameters
    ----------
    job_s : float
        From handing a job out to its result; then it is cancelled.
    marker_s : float
        For the marker of a job that is gone, or for a sign of life: file systems show them late.
    cancel_s : float
        For a job that was cancelled to be gone.
    again_s : float
        Before the second attempt; three times that before each further one.
    ask_s : float
        Between two questions to the scheduler about one job.
    outage_s : float
        For what may pass by itself, such as a catalog that does not answer.
    """

    job_s: float = 90000.0
    marker_s: float = 15.0
    cancel_s: float = 120.0
    again_s: float = 5.0
    ask_s: float = 2.0
    outage_s: float = 86400.0

    def before_attempt(self, failures: int) -> float:
        """Wait after so many failures, s."""
        return min(self.again_s * 3.0 ** max(failures - 1, 0), LONGEST_S)

    def in_outage(self, lasts_s: float) -> float:
        """Wait in an outage that lasts so long already, s: as long again, so that its end is found in good time."""
        return min(max(lasts_s, self.again_s), LONGEST_S)


def is_due(next_check_s: float, now_s: float, longest_s: float) -> bool:
    """Whether a time has come; one that is further off than it can be was written before the clock was set back."""
    return now_s >= next_check_s or next_check_s > now_s + longest_s

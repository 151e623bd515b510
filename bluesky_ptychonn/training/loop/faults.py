"""Numbered places where a test ends the service, to see that it goes on from there."""

import os
import signal

VARIABLE = "BLUESKY_PTYCHONN_FAULT"
SAID = "killed at fault point "

FAULTS = {
    1: "documents are taken over from the spill, nothing was looked at",
    2: "the journal says that a job is being handed out, the scheduler does not have it",
    3: "the scheduler has the job, the journal does not know its name",
    4: "the journal knows the job's name",
    5: "a job's result was read, the journal does not have it",
    6: "the journal has a job's result",
    7: "a scan was decided on, the journal does not know",
    8: "the journal knows the decision",
    9: "a failed attempt is counted, the job's marker still stands",
    10: "the failed marker is set aside, the job is not handed out again",
    11: "the journal knows which scans a training answers, the training is not queued",
    12: "a training is queued, its job is not handed out",
    13: "one of the scans that a training answers knows how it ended, the others do not",
    14: "all scans know how their training ended, the training itself does not",
    15: "a training has ended",
}
"""Number of each place, and what has happened there and what has not."""


class Fault(BaseException):
    """Stands for a kill, in tests within one process."""


def fault(number: int) -> None:
    """Nothing, unless the variable ``BLUESKY_PTYCHONN_FAULT`` names this place: then it ends the process (SIGKILL).

    Several places are named as ``2,3,13``; which one it was is said to standard error. With ``raise:NUMBER`` it raises
    `Fault` instead.
    """
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    if str(number) in wanted.split(","):
        os.write(2, f"{SAID}{number}\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)
    if wanted == f"raise:{number}":
        raise Fault(FAULTS[number])

"""How Slurm and PBS are asked for jobs, and told to end one.

PSI/J submits; it is not asked here: it takes a job which is gone for one that is done, waits for ever, and does not
understand a queue in which a job waits for a node that is down.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Job:
    """A job as its scheduler shows it."""

    name: str
    state: str


@dataclass(frozen=True)
class Queue:
    """A scheduler's commands.

    Parameters
    ----------
    ask : tuple of str
        For the jobs of this user, or, if ``one_by_one``, for one whose number follows.
    cancel : tuple of str
        To end one, whose number follows.
    parse : callable
        Jobs by number, of what ``ask`` says; raises `ValueError` or `KeyError` if it makes no sense.
    ended, ending : frozenset of str
        States of jobs that are over, and of those that will be, or will be queued again.
    one_by_one : bool
    unknown : tuple of str
        How it complains of a job that is not there.
    """

    ask: tuple[str, ...]
    cancel: tuple[str, ...]
    parse: Callable[[str], dict[str, Job]]
    ended: frozenset[str]
    ending: frozenset[str]
    one_by_one: bool = False
    unknown: tuple[str, ...] = ()


def of_squeue(told: str) -> dict[str, Job]:
    """Jobs of Slurm.

    Examples
    --------
    >>> of_squeue("17|R|scan-5f3a\\n")
    {'17': Job(name='scan-5f3a', state='R')}
    """
    rows = (line.split("|", 2) for line in told.splitlines() if line.strip())
    return {number: Job(name, state) for number, state, name in rows}


def of_qstat(told: str) -> dict[str, Job]:
    """One job of PBS.

    PBS does not escape what the user's environment holds, so its JSON may be none; then the first of each key counts.

    Examples
    --------
    >>> of_qstat('{"Jobs": {"17.pbs": {"Job_Name": "scan-5f3a", "job_state": "R"}}}')
    {'17.pbs': Job(name='scan-5f3a', state='R')}
    >>> of_qstat('{"Jobs": {"17.pbs": {"Job_Name": "scan-5f3a", "job_state": "R", "A": "not "closed"}}}')
    {'17.pbs': Job(name='scan-5f3a', state='R')}
    """
    try:
        found = json.loads(told, strict=False)["Jobs"]
    except ValueError:
        values = [re.search(pattern, told) for pattern in BROKEN]
        number, name, state = (value.group(1) for value in values if value is not None)
        found = {number: {"Job_Name": name, "job_state": state}}
    return {number: Job(job["Job_Name"], job["job_state"]) for number, job in found.items()}


BROKEN = (r'"Jobs"\s*:\s*\{\s*"([^"]+)"', r'"Job_Name"\s*:\s*"([^"]*)"', r'"job_state"\s*:\s*"(\w)"')
"""Number, name and state in JSON that cannot be read."""
QUEUES = {
    "slurm": Queue(
        ask=("squeue", "--me", "--noheader", "--states=all", "--format=%i|%t|%j"),
        cancel=("scancel", "--quiet"),
        parse=of_squeue,
        ended=frozenset({"BF", "CA", "CD", "DL", "F", "NF", "OOM", "PR", "RV", "TO"}),
        ending=frozenset({"CG"}),
    ),
    "pbs": Queue(  # all jobs of a large machine are too much to ask for
        ask=("qstat", "-f", "-F", "json"),
        cancel=("qdel",),
        parse=of_qstat,
        ended=frozenset({"F", "X", "C"}),
        ending=frozenset({"E"}),
        one_by_one=True,
        unknown=("Unknown Job", "Job has finished"),
    ),
}
"""By the name of the runner."""

"""What the loop does next, and why: pure functions on rows of the journal, with the time as an argument.

The policy of Babu et al. (2023): the first scans of an experiment are always reconstructed; each trusted reconstruction
judges the live model, and offers its probe as a new version; a mismatch of 0.10 or more asks for a training on the
whole corpus; within tolerance, reconstruction and training are suspended for an interval, after which the next scan is
a check again. Beyond the paper, the label-free residual of every scan is computed meanwhile, and a drift of it ends the
suspension early; and at the beginning of an experiment earlier versions are compared with the live one by their
residual, the best goes live. A reconstruction that is not trusted changes none of this.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bluesky_ptychonn.io.journal_rows import ScanRow

FINAL = ("validated", "published", "suspended", "parked")
"""States in which nothing more is done for a scan; all others are passed through."""
NO_STOP = "its stop document did not come within a day; it is taken up when it comes, or by `loop retry`"
EARLIER_VERSIONS = 8
"""With which the live one is compared at the beginning of an experiment, the newest ones."""
RUN_S = 86400.0
"""After which a run without a stop document is given up."""


@dataclass(frozen=True)
class Terms:
    """What the settings say.

    Parameters
    ----------
    first_scans : int
        Trusted reconstructions that an experiment begins with, suspended or not.
    mismatch : float
        From which on a training is asked for.
    suspend_s : float
        How long nothing is checked after a scan within tolerance.
    residual_drift : float
        Relative rise of the residual that ends a suspension.
    attempts : int
        Failures of one job after which it is given up.
    """

    first_scans: int = 2
    mismatch: float = 0.10
    suspend_s: float = 3600.0
    residual_drift: float = 0.25
    attempts: int = 3


@dataclass(frozen=True)
class Standing:
    """What the journal remembers beside its rows, each a fact of this name.

    Attributes
    ----------
    paused : bool
        By the user: no job is handed out.
    suspended_until_s : float, optional
        End of the suspension; when it has passed the next scan is a check. None: every scan is reconstructed.
    reference : mapping
        ``residual`` of the live model ``version`` when it was last within tolerance, to which later ones are compared.
    alarm : mapping
        ``uid`` of the scan whose residual ended a suspension, and ``suspended_until_s`` that it ended; empty if none.
    """

    paused: bool = False
    suspended_until_s: float | None = None
    reference: Mapping[str, Any] = field(default_factory=dict)
    alarm: Mapping[str, Any] = field(default_factory=dict)

    def is_suspended(self, now_s: float, terms: Terms) -> bool:
        """Whether scans are left alone now; a clock that was set back does not make it longer than the interval."""
        until_s = self.suspended_until_s
        return until_s is not None and now_s < until_s <= now_s + terms.suspend_s + 1


@dataclass(frozen=True)
class Decision:
    """What is done with a scan.

    Parameters
    ----------
    what : str
        ``wait``, a kind of job (``residual``, ``scan``, ``probe``), or a state into which the scan goes.
    sentence : str
        Why, for the user.
    columns, facts : mapping
        What changes in the row and in the journal's facts with it.
    options : mapping
        For the job.
    """

    what: str
    sentence: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


WAIT = Decision("wait")


def decide(
    row: ScanRow, rows: Sequence[ScanRow], standing: Standing, terms: Terms, now_s: float, *, has_probe: bool = False
) -> Decision:
    """What is next for a scan that has no job.

    Parameters
    ----------
    row : ScanRow
    rows : sequence of ScanRow
        All scans.
    standing : Standing
    terms : Terms
    now_s : float
        s since 1970.
    has_probe : bool
        Its reconstruction refined the probe, which was not offered to the gate yet.
    """
    if row.state == "running" and now_s - row.started_s > RUN_S:
        return Decision("parked", NO_STOP)
    if row.state == "parked" and row.sentence == NO_STOP and row.stopped_s is not None:
        return Decision("received", "its stop document came after all")
    if row.state == "received":
        return _for_a_new_scan(row, rows, standing, terms, now_s)
    again = f"attempt {row.attempts + 1} of {terms.attempts}" if row.attempts else ""
    if row.state == "reconstructing":
        return Decision("scan", again or row.sentence)
    if row.state == "labelled" and has_probe:
        return Decision("probe", again or "its probe is offered to the gate beside the unchanged network")
    if row.state == "labelled":
        return judge(row, rows, terms, now_s)
    return WAIT


def _for_a_new_scan(row: ScanRow, rows: Sequence[ScanRow], standing: Standing, terms: Terms, now_s: float) -> Decision:
    if row.exit_status != "success":
        return Decision("parked", f"the run ended with {row.exit_status or 'no status'}, so it is not reconstructed")
    earlier = [other for other in rows if is_same_experiment(row, other) and _before(other, row)]
    if not earlier and row.job is None and row.residual is None and any(_before(other, row) for other in rows):
        told = "the first scan of an experiment: is an earlier version better for it than the live one?"
        return Decision("residual", told, options={"earlier": EARLIER_VERSIONS})
    trusted = sum(other.trusted is True or _may_become_trusted(other) for other in earlier)
    if trusted < terms.first_scans:
        first = (
            "scan of an experiment is" if terms.first_scans == 1 else f"{terms.first_scans} scans of an experiment are"
        )
        return Decision("scan", f"the first {first} always reconstructed")
    until_s = standing.suspended_until_s
    if until_s is None:
        return Decision("scan", "the loop is not suspended, so it is reconstructed")
    if not standing.is_suspended(now_s, terms):
        return Decision("scan", f"the suspension ended at {clock(until_s)}, so it is reconstructed as a check")
    until = f"suspended until {clock(until_s)}"
    if row.residual is None and row.job:
        return Decision("scan", f"{until}, but its residual cannot be told, so it is reconstructed as a check")
    if row.residual is None:
        return Decision("residual", f"{until}: its residual is compared with that of the last check")
    reference = standing.reference.get("residual")
    remember = {"residual": row.residual, "version": row.live_version, "uid": row.uid}
    if reference is None:
        told = f"{until}; its residual {row.residual:.4g} is what the next ones are compared with"
        return Decision("suspended", told, facts={"reference": remember})
    rise = row.residual / max(reference, 1e-12) - 1
    told = f"its residual {row.residual:.4g} is {_as_rise(rise, terms)} that of the last check, {reference:.4g}"
    if rise > terms.residual_drift:
        alarm = {"uid": row.uid, "suspended_until_s": until_s}
        return Decision(
            "scan",
            f"{told}; more than {terms.residual_drift:.0%} ends the suspension, so it is reconstructed",
            facts={"alarm": alarm, "suspended_until_s": None},
        )
    changed = standing.reference.get("version") != row.live_version
    return Decision("suspended", f"{until}; {told}", facts={"reference": remember} if changed else {})


def judge(row: ScanRow, rows: Iterable[ScanRow], terms: Terms, now_s: float) -> Decision:
    """What a trusted reconstruction says about the live model; the newest scan alone decides on the suspension."""
    done = "published" if row.published_version else "validated"
    if row.mismatch is None and row.live_version:
        return Decision(done, f"version {row.live_version} could not be judged: there is no live image of this scan")
    if row.mismatch is None:
        return Decision("training", "no model of the store is live, so a training is asked for")
    newest = not any(_is_evidence(other) and _before(row, other) for other in rows)
    found = f"mismatch {beside(row.mismatch, terms.mismatch)}"
    if row.mismatch >= terms.mismatch:
        told = f"{found} is {terms.mismatch:g} or more: a training on the whole corpus is asked for"
        return Decision("training", told, facts={"suspended_until_s": None, "alarm": {}} if newest else {})
    told = f"{found} is below {terms.mismatch:g}"
    if not newest:
        return Decision(done, f"{told}; a later scan decides whether the loop is suspended")
    until_s = now_s + terms.suspend_s
    reference = {"residual": row.residual, "version": row.live_version, "uid": row.uid}
    return Decision(
        done,
        f"{told}: reconstruction and training are suspended until {clock(until_s)}",
        facts={"reference": reference, "alarm": {}, "suspended_until_s": until_s},
    )


def experiment_of(start: Mapping[str, Any]) -> str:
    """Name of a scan's experiment: ``experiment`` of its start document, else ``proposal``; "" is one, too.

    Examples
    --------
    >>> experiment_of({"uid": "a1", "proposal": 77})
    '77'
    """
    return str(start.get("experiment") or start.get("proposal") or "")


def is_same_experiment(row: ScanRow, other: ScanRow) -> bool:
    """Whether two scans belong together."""
    return experiment_of(row.start) == experiment_of(other.start)


def clock(time_s: float) -> str:
    """Local date and time for a sentence."""
    return time.strftime("%d %b %H:%M:%S", time.localtime(time_s))


def beside(value: float, limit: float, *, decimals: int = 3) -> str:
    """A number with as many decimals as it needs to stand on its own side of a limit.

    Examples
    --------
    >>> beside(0.0312, 0.1), beside(0.09998, 0.1), beside(0.1, 0.1)
    ('0.031', '0.09998', '0.100')
    """
    sides = (value < limit, value > limit)
    texts = (f"{value:.{number}f}" for number in range(decimals, 18))
    return next((text for text in texts if (float(text) < limit, float(text) > limit) == sides), repr(value))


def _before(row: ScanRow, other: ScanRow) -> bool:
    return (row.started_s, row.scan_id, row.uid) < (other.started_s, other.scan_id, other.uid)


def _may_become_trusted(row: ScanRow) -> bool:
    return row.state in ("received", "reconstructing") and row.trusted is None


def _is_evidence(row: ScanRow) -> bool:
    """Whether it was judged: trusted, with a mismatch, and past the probe."""
    return row.trusted is True and row.mismatch is not None and row.state not in ("labelled", "reconstructing")


def _as_rise(rise: float, terms: Terms) -> str:
    if abs(rise) < 0.005:
        return "about"
    percent = beside(100 * rise, 100 * terms.residual_drift, decimals=0)
    return f"{percent.lstrip('-')}% {'above' if rise > 0 else 'below'}"

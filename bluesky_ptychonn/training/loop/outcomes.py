"""What the end of a job means for a scan, or a user who asks for another try; pure functions, as in `policy`."""

import math
from collections.abc import Mapping
from typing import Any

from bluesky_ptychonn.io.journal_rows import ScanRow
from bluesky_ptychonn.training.loop.policy import FINAL, Decision, Standing, Terms, clock


def after_residual(row: ScanRow, result: Mapping[str, Any]) -> Decision:
    """What a residual job found; `decide` compares it.

    Raises
    ------
    ValueError
        If it found none.
    """
    residual, earlier = number(result, "residual"), str(result.get("earlier_told") or "")
    if residual is None and earlier:  # it was asked for that alone
        return Decision("received", earlier, columns={"attempts": 0})
    if residual is None:
        raise ValueError(f"the job gave residual = {result.get('residual')!r}; a finite number is needed")
    version = str(result.get("live_version") or row.live_version)
    told = f"{earlier}; " * bool(earlier) + f"the residual of the live model is {residual:.4g}"
    return Decision("received", told, columns={"residual": residual, "live_version": version, "attempts": 0})


def after_reconstruction(row: ScanRow, result: Mapping[str, Any], standing: Standing) -> Decision:
    """What a reconstruction found: labels in the corpus, or, where it is not trusted, nothing."""
    mismatch, ssim = number(result, "mismatch"), number(result, "ssim")
    columns: dict[str, Any] = {
        "mismatch": 1 - ssim if mismatch is None and ssim is not None else mismatch,
        "ssim": 1 - mismatch if ssim is None and mismatch is not None else ssim,
        "trusted": result.get("trusted") is True,
        "live_version": str(result.get("live_version", row.live_version) or ""),
        "attempts": 0,
    }
    if (residual := number(result, "residual_live")) is not None:
        columns["residual"] = residual
    if columns["trusted"]:
        shard = str(result.get("shard") or "")
        labels = f"its labels are shard {shard[:12]} of the corpus" if shard else "no labels came of it"
        return Decision("labelled", f"reconstructed and trusted; {labels}", columns=columns)
    why = result.get("verdict") or result.get("reason") or "no reason was given"
    told = f"the reconstruction is not trusted ({why}): no labels, nothing is triggered, no suspension ends"
    facts: dict[str, Any] = {}
    if standing.alarm.get("uid") == row.uid:
        facts["alarm"] = {}
        if standing.suspended_until_s is None:
            facts["suspended_until_s"] = standing.alarm.get("suspended_until_s")
            told += "; the suspension that its residual ended goes on"
    return Decision("validated", told, columns=columns, facts=facts)


def after_probe(result: Mapping[str, Any]) -> Decision:
    """What the gate said to a refined probe; the scan is judged next."""
    if result.get("published") and result.get("version"):
        version = str(result["version"])
        told = f"its probe beside the unchanged network is live as version {version}{_gain(result)}"
        return Decision("labelled", told, columns={"published_version": version})
    return Decision(
        "labelled", f"its probe changes nothing for the better: {result.get('reason') or 'no reason given'}"
    )


def after_training(row: ScanRow, result: Mapping[str, Any]) -> Decision:
    """What a training brought to a scan which asked for it."""
    if result.get("published") and result.get("version"):
        version = str(result["version"])
        told = f"retrained: version {version} is live{_gain(result)}"
        return Decision("published", told, columns={"published_version": version})
    return without_training(row, f"the retrained model was refused: {result.get('reason') or 'no reason given'}")


def without_training(row: ScanRow, reason: str) -> Decision:
    """What a scan becomes whose training brought no version."""
    kept = f"; version {row.published_version} with its probe stays live" if row.published_version else ""
    return Decision("published" if row.published_version else "validated", reason + kept)


def after_failure(attempts: int, terms: Terms, reason: str, again_s: float) -> Decision:
    """Whether a job that failed is tried again, at a time, or given up; attempts counts this failure."""
    if attempts >= terms.attempts:
        return Decision("parked", f"given up after {attempts} attempts: {reason}")
    told = f"attempt {attempts} of {terms.attempts} failed: {reason}; the next one at {clock(again_s)}"
    return Decision("again", told, columns={"attempts": attempts, "next_check_s": again_s, "outage_s": None})


def after_outage(since_s: float, until_s: float, reason: str, now_s: float, again_s: float) -> Decision:
    """The same for a job that failed for something that may pass by itself: no attempt is used up, but not for ever.

    Parameters
    ----------
    since_s, until_s : float
        First failure of this kind in a row, and when it is given up; the sentence is the same until then.
    reason : str
    now_s, again_s : float
    """
    if now_s >= until_s:
        return Decision("parked", f"given up after {(now_s - since_s) / 3600:.2g} h in which it did not pass: {reason}")
    told = f"{reason}; that may pass by itself, so it is tried until {clock(until_s)} and no attempt is used up"
    return Decision("again", told, columns={"outage_s": since_s, "next_check_s": again_s})


def retried(row: ScanRow, terms: Terms) -> Decision:
    """What `loop retry` makes of a scan.

    Raises
    ------
    ValueError
        If there is nothing to try again.
    """
    fresh: dict[str, Any] = {"attempts": 0, "next_check_s": 0.0, "job": None, "outage_s": None}
    if row.state not in FINAL:
        raise ValueError(f"scan {row.scan_id} is {row.state} ({row.sentence}); only what has ended is tried again")
    if row.trusted and (row.mismatch is None or row.mismatch >= terms.mismatch):
        return Decision("training", "the user asked for a training", columns=fresh)
    if row.trusted:
        raise ValueError(f"scan {row.scan_id} was judged: {row.sentence}; there is nothing to try again")
    if row.stopped_s is None:
        raise ValueError(f"scan {row.scan_id} has no stop document yet: {row.sentence}")
    return Decision("reconstructing", "the user asked for it to be reconstructed again", columns=fresh)


def number(result: Mapping[str, Any], name: str) -> float | None:
    """A finite number of a result, None if it holds none."""
    value = result.get(name)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


def _gain(result: Mapping[str, Any]) -> str:
    """Mismatch before and after, as far as the gate knows it."""
    before, after = number(result, "mismatch_before"), number(result, "mismatch_after")
    if after is None:
        return ""
    return f"; mismatch {after:.3f}" if before is None else f"; mismatch {before:.3f} before, {after:.3f} after"

"""Runs which the catalog has and the journal has not: the trigger was not there, or its machine died."""

from typing import Any

from bluesky_ptychonn.io.journal import Journal


def sweep(catalog: Any, journal: Journal, *, since_s: float = 0.0) -> int:
    """Note each ptychography run of the catalog which the journal does not know, or does not know to have ended.

    Parameters
    ----------
    catalog : tiled client
        Catalog of runs; see `io.catalog.connect`.
    journal : Journal
    since_s : float
        Runs that started earlier are left alone, s since 1970; default: none are.

    Returns
    -------
    int
        How many runs were noted. What was noted before an error of the catalog's stays.
    """
    ended = {uid: stopped_s is not None for uid, stopped_s in journal.read("SELECT uid, stopped_s FROM scans")}
    noted = 0
    for run in _runs_since(catalog, since_s).values():
        start, stop = run.metadata.get("start"), run.metadata.get("stop")
        if not start or "ptycho" not in start or ended.get(start["uid"]):
            continue
        if start["uid"] not in ended or stop:
            journal.note([("start", start), *([("stop", stop)] if stop else [])])
            noted += 1
    return noted


def _runs_since(catalog: Any, since_s: float) -> Any:
    if not since_s:
        return catalog
    from tiled.queries import Key

    return catalog.search(Key("start.time") >= since_s)

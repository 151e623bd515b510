"""What happened to a scan, for plots: read from the sentences of its history, which `policy` and `outcomes` write."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from bluesky_ptychonn.io.journal_rows import LIVE_AGAIN, HistoryLine

NUMBER = r"([0-9.]+(?:e[+-]?\d+)?)"
AFTER = rf"(?:.*?(?:mismatch|,) {NUMBER} after)?"
PATTERNS = {
    "compared": rf"that of the last check, {NUMBER}",
    "alarm": "ends the suspension, so it is reconstructed",
    "not trusted": "the reconstruction is not trusted",
    "probe": rf"its probe beside the unchanged network is live as version (\w+){AFTER}",
    "retrained": rf"retrained: version (\w+) is live{AFTER}",
    "earlier": rf"version (\w+) {LIVE_AGAIN}",
    "refused": "the retrained model was refused",
    "no training": "the training was given up",
    "suspends": "reconstruction and training are suspended until",
}
VERSIONS = ("earlier", "probe", "retrained")


class Event(NamedTuple):
    """One thing that happened.

    Attributes
    ----------
    kind : str
        One of `PATTERNS`: ``compared`` with the residual of the last check, while suspended; ``alarm``, the suspension
        was ended by it; a version from its ``probe``, from a training (``retrained``) or from an ``earlier``
        experiment; and so on.
    version : str
        That went live; "" if none.
    value : float, optional
        Residual of the last check, or mismatch with the new version, as the gate saw it.
    """

    kind: str
    version: str = ""
    value: float | None = None


def events_of(history: Iterable[HistoryLine]) -> list[Event]:
    """What happened, in its order; what happened twice, as in a second attempt, is told once.

    Examples
    --------
    >>> events_of([HistoryLine(0.0, "training", "published", "retrained: version 000002 is live; mismatch 0.10 after")])
    [Event(kind='retrained', version='000002', value=0.1)]
    """
    events: dict[tuple[str, str], Event] = {}
    for line in history:
        for kind, pattern in PATTERNS.items():
            found = re.search(pattern, line.sentence)
            if found is None:
                continue
            groups = list(found.groups())
            version = groups.pop(0) if kind in VERSIONS else ""
            value = float(groups[0]) if groups and groups[0] else None
            events[kind, version] = Event(kind, version, value)
    return list(events.values())

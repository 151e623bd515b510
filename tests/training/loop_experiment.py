"""Scans of a scripted experiment, and what plays them to the service."""

OLD = {"feature": "gratings", "focus": 0.0}
NEW = {"feature": "stars", "focus": 0.0}
DRIFTED = {"feature": "stars", "focus": 0.3}
EXPERIMENT = (  # the scan, and the state in which it ends
    (OLD, "validated"),  # the first scans are always reconstructed
    (OLD, "validated"),
    (OLD, "suspended"),
    (OLD, "suspended"),
    ({**OLD, "dark": True}, "validated"),  # its residual rises, but it is not trusted: the suspension goes on
    (OLD, "suspended"),
    (NEW, "published"),  # alarm, mismatch, training
    (NEW, "validated"),  # no longer suspended; within tolerance again
    (NEW, "suspended"),
    ({**DRIFTED, "sparse": True}, "validated"),  # alarm; ePIE fails
    (DRIFTED, "published"),  # alarm, mismatch: probe, then training
    (DRIFTED, "validated"),
)


def play(world, scans=EXPERIMENT):
    """Scan after scan, each when the loop has done with the one before; their uids."""
    uids = []
    for about, _ in scans:
        uids.append(world.scan(**about))
        world.settle()
    return uids

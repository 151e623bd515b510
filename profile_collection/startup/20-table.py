"""A line per scan and a table of positions while it runs; the picture is the edge's business."""

from bluesky.callbacks.best_effort import BestEffortCallback

bec = BestEffortCallback()
bec.disable_plots()
RE.subscribe(bec)  # noqa: F821 (made in 00-session.py)

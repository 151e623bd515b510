"""At the beginning of an experiment: is an earlier version of the store better for it than the one that is live?

As in fairDMS (Ali et al., arXiv:2204.09805): what was learned for a like probe and sample is found again, here by the
label-free residual on the first frames.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bluesky_ptychonn.cli.job_models import holding_store
from bluesky_ptychonn.cli.job_run import JobRun
from bluesky_ptychonn.io.journal_rows import LIVE_AGAIN

if TYPE_CHECKING:
    from bluesky_ptychonn.core.scan_data import ScanData

FRAMES = 256
GAIN = 0.05
"""Relative fall of the residual from which on an earlier version is better; the gate's margin is one of the SSIM."""
DECISION = "earlier.json"


def make_best_live(job: JobRun, scan: "ScanData") -> dict[str, Any]:
    """Make the best of the newest versions live, if it is better than what is; an earlier attempt's word holds.

    Returns
    -------
    dict
        For the marker: ``earlier``, the version that is live again, or ""; ``replaced``; ``earlier_told``, why; and
        ``residuals`` of each version, None where it cannot do such a scan.
    """
    from bluesky_ptychonn.io.durable import replace_file
    from bluesky_ptychonn.io.model_store import live_version, set_current

    path = job.directory / DECISION
    with holding_store(job.store, job.make_room):
        if not path.is_file():
            replace_file(path, json.dumps(_compared(job, scan), indent=1).encode())
        decision = json.loads(path.read_bytes())
        job.reached("compared")
        if decision["earlier"] and live_version(job.store) == decision["replaced"]:
            set_current(job.store, decision["earlier"])
    job.say(decision["earlier_told"])
    return decision


def _compared(job: JobRun, scan: "ScanData") -> dict[str, Any]:
    import numpy as np

    from bluesky_ptychonn.io.model_store import VERSIONS, live_version, versions
    from bluesky_ptychonn.training.learning.apart import rows_of

    first = rows_of(scan, np.arange(min(FRAMES, len(scan.patterns))))
    live = live_version(job.store)
    names = [name for name in reversed(versions(job.store)) if name != live][: int(job.option("earlier"))]
    residuals: dict[str, float | None] = {}
    for name in filter(None, [live, *names]):
        try:
            residuals[name] = _residual(job, job.store / VERSIONS / name, first)
        except Exception as error:  # whatever is wrong with it, an earlier version is not needed
            residuals[name] = None
            job.say(f"version {name}: {error}")
    able = {name: value for name, value in residuals.items() if value is not None}
    told = {"earlier": "", "replaced": live, "residuals": residuals}
    if len(able) < 2 or live not in able:
        return {**told, "earlier_told": "there is no earlier version to compare the live one with"}
    best, frames = min(able, key=able.__getitem__), f"on the first {len(first.patterns)} frames"
    if able[best] > (1 - GAIN) * able[live]:
        return {**told, "earlier_told": f"{frames} none of {len(able) - 1} earlier versions is better than {live}"}
    why = f"{frames} its residual is {able[best]:.4g}, that of version {live} {able[live]:.4g}"
    return {**told, "earlier": best, "earlier_told": f"version {best} {LIVE_AGAIN}: {why}"}


def _residual(job: JobRun, folder: Path, scan: "ScanData") -> float:
    from bluesky_ptychonn.io.model_probe import probe_of
    from bluesky_ptychonn.io.model_store import open_model
    from bluesky_ptychonn.training.learning.validate import as_used, validate

    model = open_model(folder)
    engine = job.open_engine(folder)
    return validate(engine, as_used(scan, engine, probe_of(model))).residual

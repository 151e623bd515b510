"""The job of a training: what to learn from and what to judge by, learn, make a model, and offer it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bluesky_ptychonn.cli.job_learning import PLAN, TRAINING, learn_in
from bluesky_ptychonn.cli.job_models import (
    CANDIDATE,
    JOB,
    LEARNED_RUNS,
    fresh_folder,
    offer,
    reconstructed_scan,
    with_origin,
)
from bluesky_ptychonn.cli.job_run import PROBE, RECONSTRUCTION, JobRun, Live

if TYPE_CHECKING:
    import numpy as np

    from bluesky_ptychonn.cli.job_models import Evidence
    from bluesky_ptychonn.training.learning.corpus import Shard

START, PARTS = "start", "parts"
JUDGING_SCANS = 3
"""Scans that judge, where the options name none: those that asked for the training, and the newest others."""
SHARES = (0.25, 0.4)
"""Of the frames of such a scan that judge: the first one that leaves two parts large enough."""
ALIKE = 1.02
"""Ratio of pixel sizes, or energies, up to which they are taken for one."""
LIKE_PROBES = 0.95
"""Correlation of their probes from which on two scans are of one beamline as it stands; 25 % of defocus leave 0.8."""
FEW_RUNS = 10
"""Below so many runs in a snapshot none is kept from the network for its curves: the gate judges it."""


@dataclass(frozen=True)
class Judge:
    """A scan that judges the candidate: whole (share 1), or a strip of it."""

    run: str
    share: float


def run_train(job: JobRun) -> dict[str, Any]:
    """Learn from the corpus, make a model, and offer it to the gate."""
    live = job.live()
    plan = _plan(job, live)
    job.reached("planned")
    figures = learn_in(job)
    job.reached("learned")
    judges = [Judge(**judge) for judge in plan["judges"]]
    candidate = _candidate(job, plan, live, judges)
    job.reached("made")
    told = offer(job, candidate, _evidence(job, judges), plan[LEARNED_RUNS])
    return {
        **told,
        "error_rad": figures.get("mae_rad"),
        "steps": figures.get("step"),
        "started_from": plan["started_from"],
        "snapshot": plan["snapshot"],
        LEARNED_RUNS: plan[LEARNED_RUNS],
        "judged_by": plan["judges"],
    }


def _plan(job: JobRun, live: Live | None) -> dict[str, Any]:
    """What is learned, from what and how; the same in every attempt, whatever comes into the corpus meanwhile."""
    from bluesky_ptychonn.io.durable import replace_file
    from bluesky_ptychonn.training.learning.corpus import Corpus

    path = job.directory / PLAN
    if path.is_file():
        return json.loads(path.read_bytes())
    shards = Corpus(job.corpus).open(job.option("snapshot"))
    if not shards:
        raise ValueError(f"{job.corpus} holds no shards; a training needs a scan whose reconstruction is trusted")
    judges, learned = _divided(job, shards)
    start, started_from = _start(job, live)
    frame_px = int(shards[0].manifest["frame_px"])
    runs = sorted({shard.run for shard in learned})
    recipe = str(job.option("recipe", "tune" if start else "robust"))
    few = {"held_out": "frame"} if len(runs) < FEW_RUNS else {}
    minutes, epochs = job.option("minutes"), job.option("epochs")
    plan = {
        "snapshot": [shard.name for shard in shards],
        "shards": [str(shard.directory) for shard in learned],
        "judges": [vars(judge) for judge in judges],
        LEARNED_RUNS: runs,
        "frame_px": frame_px,
        "recipe": recipe,
        "recipe_changes": {**few, **job.option("recipe_changes", {})},
        "network": str(job.option("network", "ptychonn-lift")),
        "configuration": job.option("configuration") or _configuration(job, frame_px),
        "start": start,
        "started_from": started_from,
        "minutes": None if epochs else float(minutes or 15),
        "epochs": epochs,
        "seed": int(job.option("seed", 0)),
        "threads": job.threads if int(job.option("ranks", 1)) == 1 else int(job.option("threads", 1)),
    }
    _refuse_unknown(plan)
    replace_file(path, (json.dumps(plan, indent=1) + "\n").encode())
    return plan


def _refuse_unknown(plan: dict[str, Any]) -> None:
    from bluesky_ptychonn.training.learning.recipes import RECIPES

    if plan["recipe"] not in RECIPES:
        raise ValueError(f"recipe = {plan['recipe']!r}; allowed is one of {', '.join(RECIPES)}")


def _configuration(job: JobRun, frame_px: int) -> dict[str, Any] | None:
    """Of a new network for small patterns; else its own defaults."""
    if job.option("network", "ptychonn-lift") != "ptychonn-lift" or frame_px >= 64:
        return None
    return {"patch_px": frame_px // 16 * 16}


def _start(job: JobRun, live: Live | None) -> tuple[str, str]:
    """Folder of the checkpoint to start from, or "", and in words where from."""
    from bluesky_ptychonn.training.learning.warm import start_from

    named = job.option("start")
    if named:
        return str(named), f"the training in {named}"
    if not job.option("warm", True) or live is None:
        return "", "scratch"
    try:
        start_from(live.model, job.directory / START)
    except ValueError as error:
        return "", f"scratch, for {error}"
    return str(job.directory / START), f"version {live.version}"


def _divided(job: JobRun, shards: "list[Shard]") -> "tuple[list[Judge], list[Shard]]":
    """Which scans judge, and what is left to learn from."""
    from bluesky_ptychonn.training.learning.corpus import Corpus

    of_run = {shard.run: shard for shard in shards}
    judges, learned = [], dict(of_run)
    for run in job.option("held_out") or _newest(job, list(of_run)):
        if run not in of_run:  # it was never to be learned from
            reconstructed_scan(job, run)  # raises before anything is learned
            judges.append(Judge(run, 1.0))
            continue
        share, part = _largest_part(job, of_run[run])
        if part is not None:
            learned[run] = Corpus(job.directory / PARTS).add(part)
        elif share == 0:
            continue
        elif len(learned) > 1:
            del learned[run]
        else:
            job.say(f"run {run} is too small to be divided, and the only one left to learn from: it does not judge")
            continue
        judges.append(Judge(run, share))
    return judges, list(learned.values())


def _newest(job: JobRun, runs: list[str]) -> list[str]:
    """Runs of the corpus that this loop has reconstructed: those that asked for the training, then the newest.

    Those with another probe than the first of them, from before the beamline drifted, would judge that and not the
    network: the candidate brings the probe of the first.
    """
    asked = set(job.option("runs", ()))
    files = {run: job.folder_of_scan(run) / RECONSTRUCTION for run in runs}
    there = {run: (run in asked, file.stat().st_mtime) for run, file in files.items() if file.is_file()}
    newest = sorted(there, key=there.__getitem__, reverse=True)
    probe = _probe_of(job, newest[0]) if newest else None
    return [run for run in newest if _are_alike(probe, _probe_of(job, run))][:JUDGING_SCANS]


def _are_alike(probe: "np.ndarray | None", other: "np.ndarray") -> bool:
    """Whether a scan with one probe can judge a model that brings the other one; where they lie does not matter."""
    import numpy as np

    if probe is None or probe.shape != other.shape:
        return False
    overlap = np.fft.ifft2(np.fft.fft2(probe) * np.conj(np.fft.fft2(other)))
    return float(np.abs(overlap).max()) >= LIKE_PROBES * float(np.linalg.norm(probe) * np.linalg.norm(other))


def _largest_part(job: JobRun, shard: "Shard") -> "tuple[float, Any]":
    """Share of a scan that judges, and what of its shard may be learned from.

    1 and None if it cannot be divided, 0 and None if there is nothing to judge by where it is.
    """
    from bluesky_ptychonn.training.learning.apart import NothingSeenError, apart, judging_part, part_of_shard

    if job.option("share") == 1:
        return 1.0, None
    scan, reconstruction = reconstructed_scan(job, shard.run)
    empty = False
    for share in [job.option("share")] if job.option("share") else SHARES:
        try:
            learned, judged = apart(scan, shard.probe, float(share))
            judging_part(scan, reconstruction, judged, shard.run)
            return float(share), part_of_shard(shard, scan, learned)
        except ValueError as error:
            empty = isinstance(error, NothingSeenError)
            job.say(f"run {shard.run}, {share:g} of it to judge by: {error}")
    return 0.0 if empty else 1.0, None


def _evidence(job: JobRun, judges: list[Judge]) -> "Iterator[Evidence]":
    """Scans and strips that judge, one after another."""
    from bluesky_ptychonn.training.learning.apart import apart, judging_part

    for judge in judges:
        scan, reconstruction = reconstructed_scan(job, judge.run)
        if judge.share == 1:
            yield scan, reconstruction
        else:
            rows = apart(scan, _probe_of(job, judge.run), judge.share)[1]
            yield judging_part(scan, reconstruction, rows, f"{judge.run} (strip of {judge.share:g})")


def _probe_of(job: JobRun, run: str) -> "np.ndarray":
    from bluesky_ptychonn.io.scan_files import read_array

    return read_array(job.folder_of_scan(run) / PROBE, "the refined probe")


def _candidate(job: JobRun, plan: dict[str, Any], live: Live | None, judges: list[Judge]) -> Path:
    """Make a model of what was learned, with the probe of the newest scan."""
    from bluesky_ptychonn.io.scan_files import read_array
    from bluesky_ptychonn.training.learning.export import export

    pixel_size_um, energy_kev = _of_corpus(plan)
    if live is not None and plan["start"]:
        pixel_size_um, energy_kev = live.model.card.pixel_size_um, live.model.card.energy_kev
    folder = fresh_folder(job.directory / CANDIDATE)
    name = str(job.option("name", "loop"))
    card = export(
        job.directory / TRAINING,
        folder,
        name=name,
        version=f"{name}-{job.spec.key}",
        frame_px=plan["frame_px"],
        pixel_size_um=pixel_size_um,
        energy_kev=energy_kev,
    )
    if job.option("probe"):
        probe = read_array(job.option("probe"), "option probe")
    elif judges:
        probe = _probe_of(job, judges[0].run)
    else:
        probe = None if live is None else live.probe
    with_origin(folder, card, probe, **{JOB: job.spec.name, LEARNED_RUNS: plan[LEARNED_RUNS]})
    return folder


def _of_corpus(plan: dict[str, Any]) -> tuple[float | None, float | None]:
    """Pixel size (um) and energy (keV) of what was learned from; None where they are not known, or not one."""
    from bluesky_ptychonn.training.learning.corpus import open_shard

    about = [open_shard(Path(folder)).manifest["about"] for folder in plan["shards"]]

    def common(name: str) -> float | None:
        values = [entry[name] for entry in about if entry.get(name)]
        alike = len(values) == len(about) and max(values) <= ALIKE * min(values)
        return sum(values) / len(values) if alike else None

    return common("pixel_size_um"), common("energy_kev")

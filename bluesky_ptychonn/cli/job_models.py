"""Jobs that offer a version to the gate: a refined probe beside the unchanged network, or what a training made."""

import contextlib
import fcntl
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bluesky_ptychonn.cli.job_run import PROBE, JobRun, read_reconstruction_of, read_scan

if TYPE_CHECKING:
    import numpy as np

    from bluesky_ptychonn.core.model_card import ModelCard
    from bluesky_ptychonn.core.reconstruction import Reconstruction
    from bluesky_ptychonn.core.scan_data import ScanData

    Evidence = tuple[ScanData, Reconstruction]

CANDIDATE = "candidate"
JOB = "job"
"""Entry of a card's ``training``: the job that made the version."""
LEARNED_RUNS = "learned_runs"
"""Entry of a card's ``training``: the runs that the network learned from."""
STORE_LOCK = ".publishing"
WAIT_S = 600.0


def run_probe(job: JobRun) -> dict[str, Any]:
    """Offer the probe that a scan's reconstruction refined, beside the network that is live."""
    from bluesky_ptychonn.io.model_probe import give_probe
    from bluesky_ptychonn.io.scan_files import read_array

    live = job.live()
    if live is None:
        return not_offered(f"nothing is live in {job.store}, so there is no network to which a probe could be added")
    probe_file = Path(job.option("probe") or job.folder_of_scan(job.spec.key) / PROBE)
    probe = read_array(probe_file, "the refined probe")
    if probe.shape != 2 * (live.model.card.frame_px,):
        return not_offered(
            f"the probe has {probe.shape} px, version {live.version} takes patterns of {live.model.card.frame_px} px"
        )
    job.reached("read")
    candidate = fresh_folder(job.directory / CANDIDATE)
    for name in live.model.card.files:
        shutil.copyfile(live.model.directory / name, candidate / name)
    training = {**live.model.card.training, JOB: job.spec.name}
    training.pop("validation", None)
    card = replace(live.model.card, version="probe", training=training)
    give_probe(candidate, card, probe)
    job.reached("made")
    runs = [str(run) for run in job.option("held_out", [job.spec.key])]
    return offer(job, candidate, whole_scans(job, runs))  # the network is the same, whatever it learned from


def whole_scans(job: JobRun, runs: Sequence[str]) -> "Iterator[Evidence]":
    """Scans that the loop has reconstructed, one after another."""
    for run in runs:
        yield reconstructed_scan(job, run)


def reconstructed_scan(job: JobRun, run: str) -> "Evidence":
    """A scan that the loop has reconstructed, as its own job read it.

    Raises
    ------
    ValueError
        If it was not.
    """
    from bluesky_ptychonn.training.loop.jobs import read_spec

    folder = job.folder_of_scan(run)
    try:
        spec = read_spec(folder)
    except FileNotFoundError as error:
        raise ValueError(f"run {run} was not reconstructed by this loop: {error}") from error
    scan, _ = read_scan(spec.source, spec.settings_file, run, job.record_of(run))
    return scan, read_reconstruction_of(folder)


def offer(
    job: JobRun, candidate: Path, held_out: "Iterator[Evidence]", learned_runs: Sequence[str] = ()
) -> dict[str, Any]:
    """Offer a candidate to the gate; one that an earlier attempt offered is not offered again.

    Returns
    -------
    dict
        For the marker: ``published``, ``version``, ``reason``, ``decision``, and the mean mismatch with the evidence
        before and after, as far as there is some.
    """
    from bluesky_ptychonn.training.learning.gate import MARGIN, gate

    with holding_store(job.store, job.make_room):
        earlier = _offered_before(job)
        if earlier is not None:
            job.say("offered by an earlier attempt")
            return earlier
        decision = gate(
            candidate,
            job.store,
            held_out,
            margin=float(job.option("margin", MARGIN)),
            learned_runs=set(learned_runs),
            open_=job.open_engine,
            on_step=job.say,
        )
    job.reached("offered")
    return _told(decision.published, decision.version or "", decision.reason, decision.figures, decision.kept)


def not_offered(reason: str) -> dict[str, Any]:
    """What is said where there is nothing to offer."""
    return _told(False, "", reason, [])


def fresh_folder(path: Path) -> Path:
    """An empty folder, whatever was there."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    return path


def with_origin(folder: Path, card: "ModelCard", probe: "np.ndarray | None", **training: Any) -> "ModelCard":
    """Write into the card of a candidate where it comes from, and put a probe beside it."""
    from bluesky_ptychonn.io.model_probe import give_probe

    return give_probe(folder, replace(card, training={**card.training, **training}), probe)


def _told(
    published: bool, version: str, reason: str, figures: Sequence[Mapping[str, Any]], kept: str = ""
) -> dict[str, Any]:
    evidence = [entry for entry in figures if entry.get("judged_by") == "ssim"]
    before = [1 - entry["live_ssim"] for entry in evidence if entry.get("live_ssim") is not None]
    after = [1 - entry["ssim"] for entry in evidence]
    gains = [entry["gain"] for entry in figures if entry.get("gain") is not None]
    return {
        "published": published,
        "version": version,
        "reason": reason,
        "mismatch_before": sum(before) / len(before) if before else None,
        "mismatch_after": sum(after) / len(after) if after else None,
        "decision": {
            "published": published,
            "reason": reason,
            "kept": kept,
            "gain": sum(gains) / len(gains) if gains else None,
            "scans": list(figures),
        },
    }


def _offered_before(job: JobRun) -> dict[str, Any] | None:
    """What the gate said to this job's candidate, if it was killed before it could write that down.

    A version that was added, but not made current before the kill, is made current now, unless another one was.
    """
    from bluesky_ptychonn.core.protocols import EngineMismatch
    from bluesky_ptychonn.io.model_store import (
        REFUSED,
        VERSIONS,
        live_version,
        read_card,
        read_decision,
        refused,
        set_current,
        versions,
    )

    for part, names in ((VERSIONS, versions(job.store)), (REFUSED, refused(job.store))):
        for name in reversed(names):
            folder = job.store / part / name
            try:
                card = read_card(folder)
            except (FileNotFoundError, EngineMismatch):
                continue
            if card.training.get(JOB) != job.spec.name:
                continue
            if part == REFUSED:
                decision = read_decision(folder)
                return _told(False, "", decision["reason"], decision.get("figures", []), name)
            if live_version(job.store) == card.parent:
                set_current(job.store, name)
            validation = card.training.get("validation", {})
            return _told(True, name, validation.get("reason", "published"), validation.get("scans", []))
    return None


@contextlib.contextmanager
def holding_store(store: Path, on_wait: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Hold the store, so that no two candidates are compared with the same live model.

    Where locks do not reach other machines, the loop hands out one such job at a time.
    """
    store.mkdir(parents=True, exist_ok=True)
    with open(store / STORE_LOCK, "wb") as file:
        end_s = time.monotonic() + WAIT_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end_s:
                    raise TimeoutError(f"another job has published into {store} for {WAIT_S:g} s") from None
            except OSError:  # a file system without locks
                break
            time.sleep(0.2)
            on_wait()
        yield

"""Jobs on one scan: reconstruct it, label it, judge the live model by it; or the live model's residual alone."""

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bluesky_ptychonn.cli.job_run import PROBE, RECONSTRUCTION, JobRun, Live, read_reconstruction_of

if TYPE_CHECKING:
    import numpy as np

    from bluesky_ptychonn.core.reconstruction import Reconstruction
    from bluesky_ptychonn.core.scan_data import ScanData
    from bluesky_ptychonn.training.learning.corpus import LabelledScan

SPEC_SHA256 = "job_spec_sha256"
"""Setting of a reconstruction: the hash of what it was asked for with."""


def run_scan(job: JobRun) -> dict[str, Any]:
    """Reconstruct, label, keep the probe, judge; what an earlier attempt has done is not done again."""
    from bluesky_ptychonn.io.model_probe import write_probe

    _use_threads(job)
    scan, orientation = job.scan()
    for note in scan.notes:
        job.say(f"note: {note}")
    job.reached("read")
    reconstruction = _judged(job, scan, _reconstructed(job, scan, orientation))
    report = reconstruction.report
    if report is None:
        raise RuntimeError("the reconstruction was not judged")
    told: dict[str, Any] = {
        "trusted": report.trusted,
        "verdict": report.reason,
        "reconstruction": str(job.directory / RECONSTRUCTION),
        "error_heldout": report.error_heldout,
        "frc_nm": report.frc_nm,
        "shard": "",
        "probe": "",
    }
    if report.trusted:
        labelled, told["shard"], added = label_once(job, scan, reconstruction)
        job.say(f"shard {told['shard']} of {job.corpus} {'added' if added else 'was there'}")
        job.reached("labelled")
        write_probe(job.directory / PROBE, labelled.probe)
        told["probe"] = str(job.directory / PROBE)
        job.reached("probe")
    told |= judge_live(job, scan, reconstruction if report.trusted else None)
    job.reached("validated")
    return told


def run_residual(job: JobRun) -> dict[str, Any]:
    """The label-free residual of the live model; before, the best of some earlier versions may become that."""
    from bluesky_ptychonn.cli.job_earlier import make_best_live

    _use_threads(job)
    scan, _ = job.scan()
    job.reached("read")
    earlier = make_best_live(job, scan) if job.option("earlier") else {}
    found = judge_live(job, scan, None)
    if found["residual"] is None and not earlier:
        raise ValueError(found["live_skipped"])
    job.reached("validated")
    return {**found, **earlier}


def judge_live(job: JobRun, scan: "ScanData", reconstruction: "Reconstruction | None") -> dict[str, Any]:
    """Figures of the live model on a scan, as the edge uses it.

    Returns
    -------
    dict
        ``residual`` and ``residual_live`` ask no reconstruction, so that they can be compared with those of scans that
        have none; ``ssim`` and ``mismatch`` are None without a trusted one, and where nothing is live. A live model
        which cannot do the scan mismatches by 1.
    """
    from bluesky_ptychonn.core.protocols import EngineMismatch
    from bluesky_ptychonn.training.learning.validate import as_used, validate

    told: dict[str, Any] = dict.fromkeys(("ssim", "mismatch", "residual", "residual_live", "residual_blank"))
    live: Live | None = job.live()
    if live is None:
        return {**told, "live_version": "", "live_skipped": f"nothing is live in {job.store}"}
    told |= {"live_version": live.version, "live_skipped": "", "live_probe": live.probe is not None}
    try:
        seen = as_used(scan, live.engine, live.probe)
        if seen.probe is None and reconstruction is None:
            raise ValueError("the scan has no probe, and the live version brings none; name one in the source")
        if seen.probe is None and reconstruction is not None:
            seen = replace(seen, probe=reconstruction.probe[0])
        free = validate(live.engine, seen)
        told |= {"residual": free.residual, "residual_live": free.residual, "residual_blank": free.residual_blank}
        if reconstruction is not None:
            found = validate(live.engine, seen, reconstruction)
            told |= {"ssim": found.ssim, "mismatch": found.mismatch, "frc_cycles_per_px": found.frc_cycles_per_px}
    except EngineMismatch as error:
        told |= {"live_skipped": str(error), "mismatch": None if reconstruction is None else 1.0}
    return told


def label_once(job: JobRun, scan: "ScanData", reconstruction: "Reconstruction") -> "tuple[LabelledScan, str, bool]":
    """Label a scan into the corpus, unless its run is there.

    Returns
    -------
    labelled : LabelledScan
    name : str
        Of the shard.
    added : bool
    """
    from bluesky_ptychonn.training.learning.corpus import Corpus, CorpusError
    from bluesky_ptychonn.training.learning.labels import label_scan

    labelled = label_scan(scan, reconstruction, about={"run": job.spec.key})
    corpus = Corpus(job.corpus)
    for name in corpus.names():
        with contextlib.suppress(CorpusError):  # a harmed shard is no reason to label nothing
            shard = corpus.open([name])[0]
            if shard.run == job.spec.key:
                return labelled, name, False
            if shard.manifest["frame_px"] != labelled.patterns.shape[-1]:
                raise ValueError(
                    f"{job.corpus} holds patterns of {shard.manifest['frame_px']} px, these have "
                    f"{labelled.patterns.shape[-1]} px; cut them to the same side (crop_px), or use another corpus"
                )
    if not job.lease.is_mine():
        raise RuntimeError("another machine took this job over")
    return labelled, corpus.add(labelled).name, True


def _reconstructed(job: JobRun, scan: "ScanData", orientation: str) -> "Reconstruction":
    """The reconstruction of an earlier attempt, or a new one."""
    from bluesky_ptychonn.io.reconstruction_files import write_reconstruction
    from bluesky_ptychonn.training.retrieval.reconstruct import reconstruct

    before = _earlier(job)
    if before is not None:
        job.say("reconstructed by an earlier attempt")
        return before
    start = _starting_probe(job, scan)
    sweeps = int(job.option("sweeps", 60))
    every = max(1, sweeps // 10)
    found = reconstruct(
        scan if start is None else replace(scan, probe=start),
        method=job.option("method", "poisson"),
        sweeps=sweeps,
        modes=job.option("modes"),
        position_bound_px=job.option("correct_positions"),
        holdout_every=int(job.option("holdout", 20)),
        batch=job.option("batch"),
        seed=int(job.option("seed", 0)),
        on_sweep=lambda at: (
            job.say(f"sweep {at.number} of {at.total}: error {at.error:.4f}, held out {at.error_heldout:.4f}")
            if at.number % every == 0
            else job.make_room()
        ),
    )
    settings = {**found.settings, SPEC_SHA256: job.spec.sha256, "orientation": orientation}
    found = replace(found, settings=settings)
    write_reconstruction(job.directory / RECONSTRUCTION, found)
    job.reached("reconstructed")
    return found


def _judged(job: JobRun, scan: "ScanData", reconstruction: "Reconstruction") -> "Reconstruction":
    """The reconstruction with its report."""
    from bluesky_ptychonn.io.reconstruction_files import write_reconstruction
    from bluesky_ptychonn.training.retrieval.report import judge

    if reconstruction.report is None:
        start = _starting_probe(job, scan)
        reconstruction = judge(
            scan if start is None else replace(scan, probe=start),
            reconstruction,
            trusted_probe=bool(job.option("trusted_probe", True)),
            on_step=job.say,
        )
        write_reconstruction(job.directory / RECONSTRUCTION, reconstruction)
    report = reconstruction.report
    job.say(f"verdict: {'' if report is None else report.verdict}: {'' if report is None else report.reason}")
    job.reached("judged")
    return reconstruction


def _earlier(job: JobRun) -> "Reconstruction | None":
    """What an earlier attempt at the same job has reconstructed."""
    try:
        found = read_reconstruction_of(job.directory)
    except ValueError:  # there is none, or it is torn
        return None
    return found if found.settings.get(SPEC_SHA256) == job.spec.sha256 else None


def _starting_probe(job: JobRun, scan: "ScanData") -> "np.ndarray | None":
    """Another probe to start from than that of the scan, which the edge is given."""
    named = job.option("start_probe")
    if not named:
        return None
    from bluesky_ptychonn.io.scan_files import read_array

    return read_array(named, "start_probe")


def _use_threads(job: JobRun) -> None:
    import torch

    torch.set_num_threads(job.threads)

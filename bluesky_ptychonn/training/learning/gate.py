"""The gate before the model store: a candidate goes live only if it is unharmed and better than what is live.

Held-out scans are the evidence. On each the candidate gains something or loses it: the difference of the SSIM with the
reconstruction, or, where there is none that is trusted, the share by which the residual falls. The mean gain in SSIM
must reach the margin; where no scan has a reconstruction, that in residual. No scan may lose more than `LARGEST_LOSS`:
a model that is better on the mean must not be bought with a sample on which the live image becomes worse. What is
refused is kept beside the versions, with the reason.

A model that brings its probe is judged with it, one that does not with that of the scan: as the edge would use them.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bluesky_ptychonn.core.protocols import Engine, EngineMismatch
from bluesky_ptychonn.core.reconstruction import Reconstruction
from bluesky_ptychonn.core.scan_data import ScanData
from bluesky_ptychonn.engines.registry import open_engine
from bluesky_ptychonn.io.model_probe import probe_of
from bluesky_ptychonn.io.model_store import (
    VERSIONS,
    StoredModel,
    keep_refused,
    live_version,
    open_model,
    publish,
    sha256_of,
)
from bluesky_ptychonn.training.learning.validate import Validation, as_used, validate

MARGIN = 0.01
"""Mean gain from which on a candidate is better."""
LARGEST_LOSS = 0.02
"""Loss on one scan that is allowed: four times what counting noise changes, a fifth of a mismatch.

Between repetitions of one simulated scan of 225 frames of 1e4 to 1e6 photons, the SSIM of a network's image has a
standard deviation of 0.0008 to 0.005, the residual one of 0.15 to 0.3 %.
"""


@dataclass(frozen=True)
class Decision:
    """What the gate decided.

    Parameters
    ----------
    published : bool
    version : str, optional
        That the candidate has now; None if it was refused.
    reason : str
    figures : list of dict
        One for each held-out scan, flat; what was no evidence has ``skipped``.
    kept : str
        Number among the refused ones; empty if it was published or could not be kept.
    """

    published: bool
    version: str | None
    reason: str
    figures: list[dict[str, Any]]
    kept: str = ""


def open_on_cpu(directory: Path) -> Engine:
    """Open a model in the engine of the CPU, which checks its hashes and its golden pair."""
    return open_engine("openvino", directory)


def gate(
    candidate: Path,
    store: Path,
    held_out: Iterable[tuple[ScanData, Reconstruction | None]],
    *,
    margin: float = MARGIN,
    learned_runs: Collection[str] = (),
    open_: Callable[[Path], Engine] = open_on_cpu,
    on_step: Callable[[str], object] = lambda text: None,
) -> Decision:
    """Judge a candidate and publish it or keep it as refused.

    Where nothing is live yet, it needs only be unharmed and give finite figures.

    Parameters
    ----------
    candidate : Path
        Folder with card, graphs and golden pair.
    store : Path
        Model store; its current version is the live model.
    held_out : iterable of (ScanData, Reconstruction or None)
        Scans of which no frame was learned from. A reconstruction that is not trusted is left aside.
    margin : float
        Mean gain that is asked, in SSIM or as a share of the residual.
    learned_runs : collection of str
        Runs in the candidate's corpus (`corpus.Shard.run`); such a scan is no evidence.
    open_ : callable
        Opens a folder in an engine, and raises `EngineMismatch` if hashes or golden pair do not hold.
    on_step : callable
        Is told of each scan.

    Returns
    -------
    Decision

    Raises
    ------
    FileNotFoundError
        If there is no candidate.
    EngineMismatch
        If the live model is harmed; nothing has changed then.
    ValueError
        If a scan cannot be judged with any model.
    OSError
        If a candidate which is good cannot be written; the live model stays.
    """
    live = live_version(store)
    live_side = _side(open_model(Path(store) / VERSIONS / live), open_) if live else None
    terms = {"margin": margin, "largest_loss": LARGEST_LOSS, "against": live}
    figures: list[dict[str, Any]] = []
    try:
        model = open_model(candidate)
        files = _files(model)
        side = _side(model, open_)
        for scan, reconstruction in held_out:
            found = _judged(side, live_side, scan, reconstruction, learned_runs)
            figures.append(found)
            on_step(told(found))
        verdict, reason = _verdict(figures, live, margin)
    except EngineMismatch as error:
        verdict, reason = False, str(error)
    if not verdict:
        return _refused(store, candidate, {"published": False, "reason": reason, **terms, "figures": figures})
    validation = {"reason": reason, **terms, **_means(figures), "engine": side.engine.name, "scans": figures}
    card = replace(model.card, training={**model.card.training, "validation": validation})
    version = publish(store, card, files)
    return Decision(True, version, reason, figures)


def told(figures: Mapping[str, Any]) -> str:
    """One line on one held-out scan."""
    name = figures["scan"]
    if "skipped" in figures:
        return f"{name}: no evidence, {figures['skipped']}"
    what, by = ("SSIM", "ssim") if figures["judged_by"] == "ssim" else ("residual", "residual")
    line = f"{name}: {what} {figures[by]:.4f}"
    if figures["gain"] is None:
        return line if figures["live_skipped"] is None else f"{line}; the live model cannot: {figures['live_skipped']}"
    return f"{line}, live model {figures[f'live_{by}']:.4f}; gain {figures['gain']:+.4f}"


class _Side(NamedTuple):
    """A model and the probe that it brings, if any."""

    engine: Engine
    probe: np.ndarray | None


def _side(model: StoredModel, open_: Callable[[Path], Engine]) -> _Side:
    return _Side(open_(model.directory), probe_of(model))


def _judged(
    side: _Side,
    live: _Side | None,
    scan: ScanData,
    reconstruction: Reconstruction | None,
    learned_runs: Collection[str],
) -> dict[str, Any]:
    """Figures of the candidate on one scan beside those of the live model, and the gain."""
    names = {key: scan.provenance[key] for key in ("run_uid", "sha256") if scan.provenance.get(key)}
    run = next(iter(names.values()), "")
    about = {"scan": scan.provenance.get("file") or run[:8] or "unnamed", "run": run}
    if set(names.values()) & set(learned_runs):
        return {**about, "skipped": "the candidate learned from it"}
    trusted = reconstruction is not None and (reconstruction.report is None or reconstruction.report.trusted)
    truth = reconstruction if trusted else None
    before, why_not = None, None
    if live is not None:
        try:
            before = _on(about["scan"], live, scan, truth)
        except EngineMismatch as error:
            why_not = str(error)
    after = _on(about["scan"], side, scan, truth)
    own = after.as_figures()
    bad = [name for name, value in own.items() if isinstance(value, float) and not math.isfinite(value)]
    if bad:
        raise EngineMismatch(f"{about['scan']}: {', '.join(bad)} of the candidate is not finite")
    by = "residual" if truth is None else "ssim"
    told_of_live = {f"live_{name}": getattr(before, name, None) for name in ("ssim", "residual")}
    gain = None if before is None else _gain(after, before)
    return {**about, "judged_by": by, "gain": gain, **own, **told_of_live, "live_skipped": why_not}


def _on(name: str, side: _Side, scan: ScanData, truth: Reconstruction | None) -> Validation:
    """Validate; what goes wrong is told with the name of the scan."""
    try:
        return validate(side.engine, as_used(scan, side.engine, side.probe), truth)
    except EngineMismatch as error:
        raise EngineMismatch(f"{name}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _gain(after: Validation, before: Validation) -> float:
    if after.ssim is not None and before.ssim is not None:
        return after.ssim - before.ssim
    return 1 - after.residual / max(before.residual, 1e-12)


def _verdict(figures: Sequence[Mapping[str, Any]], live: str, margin: float) -> tuple[bool, str]:
    """Whether the candidate may go live, and why."""
    if not live:
        return True, "nothing was live; hashes and golden pair hold, and all figures are finite"
    evidence = [entry for entry in figures if "skipped" not in entry]
    if not evidence:
        learned = "; the candidate learned from those that were given" if figures else ""
        return False, f"there is no held-out scan to compare it with version {live} on{learned}; give other scans"
    gains = _gains(evidence)
    if not gains:
        return True, f"version {live} can do none of the {len(evidence)} held-out scans"
    mean = sum(gains) / len(gains)
    worst, where = min((entry["gain"], entry["scan"]) for entry in evidence if entry["gain"] is not None)
    found = f"the mean gain over version {live} is {mean:+.4f} on {len(gains)} held-out scan{'s' * (len(gains) > 1)}"
    if not mean >= margin:
        return False, f"{found}; at least {margin:g} is asked"
    if not worst >= -LARGEST_LOSS:
        return False, f"{where} loses {-worst:.4f} against version {live}; at most {LARGEST_LOSS:g} is allowed"
    return True, f"{found}; {margin:g} was asked"


def _gains(figures: Sequence[Mapping[str, Any]]) -> list[float]:
    """Gains whose mean decides: those in SSIM, or in residual where there are no others."""
    gains: dict[str, list[float]] = {"ssim": [], "residual": []}
    for entry in figures:
        if entry.get("gain") is not None:
            gains[entry["judged_by"]].append(entry["gain"])
    return gains["ssim"] or gains["residual"]


def _means(figures: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean gain, SSIM and residual, as far as there are some."""
    values = {name: [entry[name] for entry in figures if entry.get(name) is not None] for name in ("ssim", "residual")}
    return {name: sum(some) / len(some) for name, some in {"gain": _gains(figures), **values}.items() if some}


def _files(model: StoredModel) -> dict[str, bytes]:
    """Files of a candidate as they are judged; what happens to its folder meanwhile does not matter."""
    files = {name: (model.directory / name).read_bytes() for name in model.card.files}
    for name, data in files.items():
        if sha256_of(data) != model.card.files[name]:
            raise EngineMismatch(f"{model.directory / name} changes while it is read; offer the candidate again")
    return files


def _refused(store: Path, candidate: Path, decision: Mapping[str, Any]) -> Decision:
    kept, reason = "", decision["reason"]
    try:
        kept = keep_refused(store, candidate, decision)
    except OSError as error:
        reason = f"{reason} (the store cannot keep it: {error})"
    return Decision(False, None, reason, list(decision["figures"]), kept)

"""What the doctor finds, and its checks of files: settings, probe, mask, and whether the model fits the geometry."""

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np

from bluesky_ptychonn.config import Settings, settings_path
from bluesky_ptychonn.core.model_card import ModelCard
from bluesky_ptychonn.core.optics import Geometry

Level = Literal["ok", "warn", "bad"]
NO_PROBE = "set probe.file to a .npy of complex64 (frame_px, frame_px): that of a reconstruction of a dense scan"


@dataclass(frozen=True)
class Finding:
    """What was looked at, how it is, and what to do about it.

    Parameters
    ----------
    name : str
        What was looked at.
    level : {"ok", "warn", "bad"}
        With "bad" a scan or its live image fails; "warn" is worth knowing.
    what : str
        How it is.
    remedy : str
        Empty if nothing has to be done.
    """

    name: str
    level: Level
    what: str
    remedy: str = ""


def file_findings(settings: Settings, named: Path | None = None) -> list[Finding]:
    """Check the settings and the files that they name; nothing else is asked.

    Parameters
    ----------
    settings : Settings
        As loaded.
    named : Path, optional
        The file that was asked for, see `config.settings_path`.
    """
    path = settings_path(named)
    where = f"{path}" if path is not None else "none; defaults, which fit the simulated beamline"
    remedy = "" if path is not None else "begin one with `bluesky-ptychonn config init`"
    probe, probe_finding = _probe(settings)
    return [
        Finding("settings", "ok" if path is not None else "warn", where, remedy),
        probe_finding,
        _mask(settings),
        model_finding(settings, probe),
    ]


def _probe(settings: Settings) -> tuple[np.ndarray | None, Finding]:
    from bluesky_ptychonn.cli.edge import settings_probe
    from bluesky_ptychonn.cli.main import Problem
    from bluesky_ptychonn.core.optics import probe_diameter_um

    try:
        probe = settings_probe(settings)
    except (Problem, ValueError) as error:
        return None, Finding("probe", "bad", str(error).partition("; ")[0], NO_PROBE)
    size = f"{probe_diameter_um(probe, settings.geometry.optics.pixel_size_um):.3g} um (90 % of its power)"
    if settings.probe.file is not None:
        return probe, Finding("probe", "ok", f"{settings.probe.file.name}: {size}")
    what = f"that of an ideal zone plate, {settings.probe.defocus_um:g} um behind its focus: {size}"
    return probe, Finding("probe", "warn", what, "measure it: RE(probe_check(...)) on a test pattern")


def _mask(settings: Settings) -> Finding:
    name, path = "bad pixels", settings.geometry.bad_pixels_file
    if path is None:
        remedy = "find them with `bluesky-ptychonn center --live --write`"
        return Finding(name, "warn", "no mask: dead and hot pixels count as measured", remedy)
    mask = read_mask(path)
    if isinstance(mask, str):
        return Finding(name, "bad", mask, "write it anew with `bluesky-ptychonn center --live --write`")
    return Finding(name, "ok", f"{path.name}: {int(mask.sum())} of {mask.shape[0]} x {mask.shape[1]} px")


def read_mask(path: Path) -> np.ndarray | str:
    """Mask (H, W) bool of a ``.npy`` file, or what is wrong with it."""
    try:
        mask = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        return f"{path} cannot be read: {error}"
    if mask.ndim != 2 or mask.dtype.kind not in "biu":
        return f"{path} holds {mask.dtype} of shape {mask.shape}; bool of a frame's (rows, columns) is needed"
    return mask.astype(bool)


def model_finding(settings: Settings, probe: np.ndarray | None) -> Finding:
    """Whether the model of the settings takes their patterns, as the edge asks before it arms."""
    from bluesky_ptychonn.cli.edge import stored_model
    from bluesky_ptychonn.core.protocols import EngineMismatch
    from bluesky_ptychonn.io.model_probe import probe_of

    if settings.edge.engine == "lift":
        return geometry_finding(settings, None, probe)
    try:
        model = stored_model(settings.edge.model)
        own = probe_of(model)
    except (OSError, ValueError, EngineMismatch) as error:
        remedy = "set edge.model to a model store, one of its versions, 'starter' or 'large'"
        return Finding("model", "bad", str(error), remedy)
    return geometry_finding(settings, model.card, probe if own is None else own)


def geometry_finding(settings: Settings, card: ModelCard | None, probe: np.ndarray | None) -> Finding:
    """Whether patterns of the settings fit a model, or with none the lift, and hold the probe."""
    from bluesky_ptychonn.engines.checks import check_run

    geometry, optics = settings.geometry, settings.geometry.optics
    frame_px = geometry.frame_px if card is None else card.frame_px
    side = (geometry.frame_px, geometry.frame_px)
    run = SimpleNamespace(geometry=optics, crop_px=geometry.frame_px, binning=geometry.binning)
    engine: Any = SimpleNamespace(frame_px=frame_px, card=card)
    try:
        check_run(run, engine, _narrow(side) if probe is None else probe)  # type: ignore[arg-type]
    except ValueError as error:
        what, _, remedy = str(error).rpartition("; ")
        return Finding("model", "bad", what, remedy)
    name = "no model (engine lift)" if card is None else f"{card.version} takes {frame_px} x {frame_px} px"
    return Finding("model", "ok", f"{name}; {_described(optics)}")


def _narrow(side: tuple[int, int]) -> np.ndarray:
    """A probe which every field holds, where the real one is not known."""
    probe = np.zeros(side, np.complex64)
    probe[side[0] // 2, side[1] // 2] = 1
    return probe


def _described(optics: Geometry) -> str:
    return f"object pixels of {1e3 * optics.pixel_size_um:.3g} nm, field of {optics.field_um:.3g} um"


def as_warning(finding: Finding) -> Finding:
    """The same, where it is no reason to stop."""
    return replace(finding, level="warn") if finding.level == "bad" else finding

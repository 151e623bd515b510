"""Put what a probe check found into the settings, and its probe through the gate into the model store."""

import io
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bluesky_ptychonn.cli.probe_check_result import MASK, PROBE, RECONSTRUCTION, Result
from bluesky_ptychonn.io.durable import replace_file

if TYPE_CHECKING:
    from bluesky_ptychonn.config import Settings

CHECK = "probe_check"
"""Entry of a card's ``training``: the check that made the version."""


def write_result(folder: Path, result: Result, settings: "Settings", path: Path) -> str:
    """Write settings, mask and probe beside them, and offer the probe to the gate; tells what was done."""
    from bluesky_ptychonn.cli.center_output import MASK_FILE, change_settings, with_known

    found = result.found
    mask, kept = with_known(np.load(folder / MASK, allow_pickle=False), settings)
    probe_file = f"probe_{result.name}.npy"
    beside = path.resolve().parent
    buffer = io.BytesIO()
    np.save(buffer, mask, allow_pickle=False)
    replace_file(beside / MASK_FILE, buffer.getbuffer())
    replace_file(beside / probe_file, (folder / PROBE).read_bytes())
    geometry = {
        "beam_center_px": list(found.beam_center_px),
        "orientation": found.orientation,
        "bad_pixels_file": MASK_FILE,
    }
    probe = {
        "file": probe_file,
        "defocus_um": round(found.defocus_um, 1),
        "astigmatism_um": round(found.astigmatism_um, 1),
        "astigmatism_angle_rad": round(found.astigmatism_angle_rad, 3),
    }
    change_settings(path, {"geometry": geometry, "probe": probe})
    written = ", ".join(f"{key} = {value!r}" for key, value in {**geometry, **probe}.items())
    also = ", those of the mask before among them" if kept else ""
    return f"{path}: {written}; {int(mask.sum())} bad pixels{also}\n{_offer(folder, result, mask, settings)}"


def _offer(folder: Path, result: Result, mask: np.ndarray, before: "Settings") -> str:
    """Offer the probe to the gate, beside the network that is live; what came of it.

    The evidence is the scan itself: the network is the same, whatever it learned from. A live version without a probe
    of its own is judged with that of the settings ``before``.
    """
    from bluesky_ptychonn.cli.edge import settings_probe
    from bluesky_ptychonn.cli.job_models import holding_store
    from bluesky_ptychonn.cli.probe_check_source import open_source
    from bluesky_ptychonn.edge.follow import is_store
    from bluesky_ptychonn.io.model_probe import give_probe
    from bluesky_ptychonn.io.model_store import open_model
    from bluesky_ptychonn.io.reconstruction_files import read_reconstruction
    from bluesky_ptychonn.training.learning.gate import gate

    store, found = before.edge.model, result.found
    if store is None or not is_store(store):
        return "edge.model names no model store; the edge uses the probe of the settings"
    probe = np.load(folder / PROBE, allow_pickle=False)
    scan = open_source(result.source, before).cut(found.beam_center_px, mask, found.orientation)
    scan = replace(scan, probe=settings_probe(before))
    with holding_store(store), tempfile.TemporaryDirectory() as made:
        live, candidate = open_model(store), Path(made)
        for name in live.card.files:
            shutil.copyfile(live.directory / name, candidate / name)
        training = {key: value for key, value in live.card.training.items() if key != "validation"}
        give_probe(candidate, replace(live.card, version="probe", training={**training, CHECK: result.name}), probe)
        decision = gate(
            candidate,
            store,
            [(scan, read_reconstruction(folder / RECONSTRUCTION))],
            margin=before.learning.gate_margin,
            on_step=lambda text: print(f"  {text}", flush=True),
        )
    if decision.published:
        return f"{store}: version {decision.version} is live, with this probe; {decision.reason}"
    return f"{store}: the probe is not published, the live version stays: {decision.reason}"

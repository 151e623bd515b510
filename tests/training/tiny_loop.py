"""A loop small enough for a test: scans of 64 frames of 32 x 32 px, a network of a few weights, a store, a corpus."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from simulated_scan import simulate

from bluesky_ptychonn.core.optics import Geometry
from bluesky_ptychonn.training.loop.jobs import JobSpec, prepare

GEOMETRY = Geometry(frame_px=32, distance_m=0.225)
NETWORK = {"patch_px": 32, "first": [4, 8, 8], "refine": [4, 8, 8]}
OPTICS = {"width_um": 0.47, "step_um": 0.06, "defocus_um": 30.0, "photons": 1e6}
QUICK = {"sweeps": 8, "engine": "onnxruntime", "threads": 1}


def write_scan(path: Path, seed: int = 1, **changes: Any) -> dict[str, str]:
    """Simulate a scan into an NPZ file; returns the source of a job that names it."""
    scan, _ = simulate(seed, geometry=GEOMETRY, **{**OPTICS, **changes})
    known = {name: getattr(GEOMETRY, name) for name in ("energy_kev", "distance_m", "detector_pixel_um")}
    places_um = scan.positions_px * GEOMETRY.pixel_size_um
    np.savez(path, patterns=scan.patterns, positions_um=places_um, probe=scan.probe, **known)
    return {"file": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def make_store(store: Path, seed: int = 0) -> Path:
    """A store in which a network is live that never learned anything."""
    import torch

    from bluesky_ptychonn.io.model_store import open_model, publish
    from bluesky_ptychonn.training.learning import export as module
    from bluesky_ptychonn.training.learning.checkpoint import write_checkpoint
    from bluesky_ptychonn.training.learning.networks import build_network

    torch.manual_seed(seed)
    network = build_network("ptychonn-lift", NETWORK).eval()
    with torch.no_grad():
        for values in network.parameters():
            values.mul_(0.5)
    conditions = {"network": "ptychonn-lift", "configuration": network.configuration, "snapshot": 64 * "5"}
    figures = {"command": "train", "conditions": conditions, "results": []}
    out = store.with_name(f"{store.name}-first")
    out.mkdir(parents=True)
    write_checkpoint(out, {**conditions, "kept": network.state_dict(), "figures": figures})
    module.export(out, out / "model", name="tiny", version="tiny-1", frame_px=GEOMETRY.frame_px)
    model = open_model(out / "model")
    publish(store, model.card, {name: (model.directory / name).read_bytes() for name in model.card.files})
    return store


class TinyLoop:
    """Folder of a loop with its store; scans are made when they are asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.directory, self.store = folder / "loop", folder / "store"
        self.directory.mkdir(parents=True)
        make_store(self.store)

    def prepare(self, kind: str, key: str, source: dict[str, str] | None = None, **options: Any) -> Path:
        """Prepare a job; returns its folder."""
        options = {**QUICK, "store": str(self.store), "corpus": str(self.directory / "corpus"), **options}
        return prepare(self.directory, JobSpec(kind, key, source=source or {}, options=options))

    def scan(self, key: str, seed: int = 1, **changes: Any) -> Path:
        """Write a scan and prepare the job that reconstructs it; returns its folder."""
        file = self.folder / f"{key}.npz"
        source = {"file": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()} if file.exists() else None
        return self.prepare("scan", key, source or write_scan(file, seed, **changes))

    def shards(self) -> list[str]:
        """Names of the shards in the corpus."""
        from bluesky_ptychonn.training.learning.corpus import Corpus

        return Corpus(self.directory / "corpus").names()

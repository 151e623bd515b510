"""Publish a model through the gate, and go back to an earlier one.

A model store holds versions that never change, and CURRENT, which names the live one; an edge that follows the store
takes a change up between two batches, in the middle of a scan if need be. So nothing may get in unasked: the gate opens
a candidate only if its hashes and its golden pair (an input with its output) hold, lets it and the live model make the
image of scans that the candidate never learned from, and wants a mean gain of 0.01 and no loss of more than 0.02 on any
of them. What is refused is kept beside the versions with the reason, where no edge looks.

As commands: `bluesky-ptychonn models publish MODEL --store models --scan a.npz`, `models list`, `models rollback`.
"""

from pathlib import Path

from bluesky_ptychonn.cli.pictures import save_comparison
from bluesky_ptychonn.core.optics import Geometry, zone_plate_probe
from bluesky_ptychonn.engines.registry import PACKAGED, open_engine
from bluesky_ptychonn.io.model_store import current_version, rollback
from bluesky_ptychonn.simulation.scans import simulated_scan
from bluesky_ptychonn.training.learning.gate import gate
from bluesky_ptychonn.training.learning.validate import validate

store = Path("models")
geometry = Geometry()  # 10 keV, 0.9 m, 75 um pixels, 128 px
probe = zone_plate_probe(geometry, defocus_um=170.0)
scans = [simulated_scan("etched", probe, geometry, width_um=1.2, step_um=0.15, seed=seed) for seed in (1, 2)]
held_out = [(scan, None) for scan in scans]  # without reconstructions the residual decides

shown = []


def look(what: str) -> None:
    """Print what happened, and keep the live image of the first scan for the picture."""
    version = current_version(store)
    found = validate(open_engine("openvino", store), scans[0])
    print(f"{what} -> version {version} is live, residual {found.residual:.4f}")
    shown.append((f"{what}\nlive: {version}, residual {found.residual:.4f}", found.image))


for name in ("starter", "large", "starter"):
    decision = gate(PACKAGED[name], store, held_out)
    print(decision.reason)
    look(f"{name} {'published' if decision.published else 'refused'}")
print(f"rolled back to {rollback(store)}")
look("rolled back")
save_comparison(Path("published.png"), shown, None, geometry.pixel_size_um, "the live image after each step")

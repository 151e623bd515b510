"""Compare: the live image of two models, of no model at all, and a reconstruction beside them.

Every live image begins with the lift: with the known probe, a single pattern is turned into a rough phase patch by
arithmetic alone. A network (`starter` on a CPU or Jetson, `large` on a GPU) turns that into a good one. The measure is
SSIM with a reconstruction of the same frames; a mismatch, 1 - SSIM, of 0.10 or more makes the loop train. What phase
retrieval cannot know (a constant, a ramp, a shift by a fraction of a pixel) is removed before.

The residual asks no reconstruction at all: it is how badly the stitched image explains the patterns. It is at hand
after every scan within seconds, and watches over the model while reconstruction and training are suspended.

As commands: `bluesky-ptychonn replay -1 --model large --reconstruction FILE`, `bluesky-ptychonn models validate`.
"""

from pathlib import Path

from bluesky_ptychonn.cli.pictures import save_comparison
from bluesky_ptychonn.core.optics import Geometry, zone_plate_probe
from bluesky_ptychonn.engines.registry import PACKAGED, open_engine
from bluesky_ptychonn.simulation.scans import simulated_scan
from bluesky_ptychonn.training.learning.validate import validate
from bluesky_ptychonn.training.retrieval.reconstruct import reconstruct

geometry = Geometry()  # 10 keV, 0.9 m, 75 um pixels, 128 px
probe = zone_plate_probe(geometry, defocus_um=170.0)
scan = simulated_scan("letters", probe, geometry, width_um=1.4)
reconstruction = reconstruct(scan, sweeps=30)

engines = {
    "lift": open_engine("lift"),
    "starter": open_engine("openvino", PACKAGED["starter"]),
    "large": open_engine("openvino", PACKAGED["large"]),
}
shown, mismatch = [], {}
for name, engine in engines.items():
    found = validate(engine, scan, reconstruction)
    mismatch[name] = found.mismatch
    print(f"{name:8} SSIM {found.ssim:.3f}, mean error {found.mae_rad:.3f} rad, residual {found.residual:.4f}")
    shown.append((f"{name}: SSIM {found.ssim:.3f}", found.image))
shown.append(("reconstruction", found.reference))
best = min(mismatch, key=mismatch.get)
caption = f"{len(scan.patterns)} frames of 1e6 photons; {best} has the least mismatch, {mismatch[best]:.3f}"
save_comparison(Path("compared.png"), shown, None, geometry.pixel_size_um, caption)

"""Train: teach the starter model a sample that it has never seen.

The starter has learned from random objects under random probes, so it works on the first scan. It works better once it
has seen scans of your kind of sample: a trusted reconstruction says what lies under the probe at each frame, and these
pairs of pattern and label go into the corpus, one immutable shard per scan. `train --start starter` learns on from
there, gently (recipe `tune`); `--export` makes of it a model, with a card that says what it learned from.

Whether it is better is asked on a scan of which no frame was learned from, never on frames of the same scan: neighbours
overlap. After each scan the loop does all of this by itself, see `bluesky-ptychonn loop --help`.
"""

import subprocess
from pathlib import Path

from bluesky_ptychonn.cli.pictures import save_comparison
from bluesky_ptychonn.core.optics import Geometry, zone_plate_probe
from bluesky_ptychonn.engines.registry import STARTER, open_engine
from bluesky_ptychonn.simulation.scans import simulated_scan
from bluesky_ptychonn.training.learning.corpus import Corpus
from bluesky_ptychonn.training.learning.labels import label_scan
from bluesky_ptychonn.training.learning.validate import validate
from bluesky_ptychonn.training.retrieval.reconstruct import reconstruct
from bluesky_ptychonn.training.retrieval.report import judge

MINUTES = 1.0  # for a beginning; the loop trains for 15


def command(line: str) -> None:
    """What one would type in a terminal."""
    print(f"$ {line}", flush=True)
    subprocess.run(line.split(), check=True)


geometry = Geometry()  # 10 keV, 0.9 m, 75 um pixels, 128 px
probe = zone_plate_probe(geometry, defocus_um=170.0)
places = [simulated_scan("letters", probe, geometry, width_um=1.4, photons=4e6, seed=seed) for seed in (1, 2, 3)]
results = [judge(scan, reconstruct(scan, sweeps=30)) for scan in places]
for scan, result in zip(places[:2], results[:2], strict=True):
    Corpus(Path("corpus")).add(label_scan(scan, result))
command("bluesky-ptychonn corpus list corpus")
command(f"bluesky-ptychonn train tuned --corpus corpus --start starter --recipe tune --minutes {MINUTES}")
command("bluesky-ptychonn train tuned --export model --name letters")

held_out, truth = places[2], results[2]
images = {}
for name, folder in (("starter", STARTER), ("tuned", Path("model"))):
    found = validate(open_engine("openvino", folder), held_out, truth)
    print(f"{name}: SSIM {found.ssim:.3f} on a place that it has not seen")
    images[f"{name}: SSIM {found.ssim:.3f}"] = found.image
shown = [*images.items(), ("reconstruction", found.reference)]
save_comparison(Path("trained.png"), shown, None, geometry.pixel_size_um, "a place that was not learned from")

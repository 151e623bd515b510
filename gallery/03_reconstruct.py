"""Reconstruct a scan, and ask whether to believe the result.

Phase retrieval finds the object and the probe that explain all patterns at once. It always ends with a picture; whether
the picture is true is another question, and the numbers that it minimises do not answer it. So a reconstruction is
judged by what it was not given: frames that took no part, two halves of the data against each other, the coverage, and
trials of other orientations and scales. Out comes a verdict with its reason. Only what is trusted labels frames, judges
a live model, or gives its probe to the edge.

Here a dense scan is trusted, and a sparse one of the same place is not.

The command does the same to a file or a run, `bluesky-ptychonn reconstruct scan.npz` or `reconstruct -1`.
"""

from pathlib import Path

from bluesky_ptychonn.cli.reconstruction_picture import save_reconstruction
from bluesky_ptychonn.core.optics import Geometry, zone_plate_probe
from bluesky_ptychonn.io.reconstruction_files import write_reconstruction
from bluesky_ptychonn.simulation.scans import simulated_scan
from bluesky_ptychonn.training.retrieval.reconstruct import reconstruct
from bluesky_ptychonn.training.retrieval.report import judge

geometry = Geometry(energy_kev=10.0, distance_m=0.9, detector_pixel_um=75.0, frame_px=128)
probe = zone_plate_probe(geometry, defocus_um=170.0)  # what retrieval starts from; it is refined as well

for name, step_um in (("dense", 0.1), ("sparse", 0.45)):
    scan = simulated_scan("etched", probe, geometry, width_um=1.4, step_um=step_um)
    result = judge(scan, reconstruct(scan, sweeps=30))
    report = result.report
    print(f"{name}: {len(scan.patterns)} frames; {report.verdict}: {report.reason}")
    print(f"  error {report.error:.4f}, held out {report.error_heldout:.4f}, counting noise {report.error_noise:.4f}")
    write_reconstruction(Path(f"{name}_reconstruction.cxi"), result)  # opens in ptychodus, PyNX and others
    save_reconstruction(Path(f"{name}.png"), result, name)

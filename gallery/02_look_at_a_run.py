"""Look at a run: open it in the catalog, and see its frames, its positions, its frame account and its live image.

A run is recorded as documents. They hold what is small: the recipe of the spiral, the geometry, the positions that the
stage's encoders latched, the account of the frames. Of the frames they hold where these lie. `read_run` puts frames and
positions together again: by the detector's number of each frame, never by its row in the file, because a frame that was
lost on its way shifts all those behind it.

The live image is made again by `replay` with the same model, bit by bit.

This script begins with a simulated beamline, a catalog and an edge of its own, and one scan. At your beamline leave
that out: `run = cat[-1]` in the profile, or `open_catalog(load_settings())["7d2f1c9e..."]` at your desk.
"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from bluesky_ptychonn.callbacks.replay import replay
from bluesky_ptychonn.cli.edge import probe_and_mask
from bluesky_ptychonn.cli.services import Services
from bluesky_ptychonn.cli.session import open_session
from bluesky_ptychonn.engines.registry import open_engine
from bluesky_ptychonn.io.runs import read_run, scan_from_run
from bluesky_ptychonn.plans.spiral import spiral_ptycho_scan

with Services(Path("beamline"), sample="letters") as services:
    settings = services.settings
    session = open_session(settings, progress=False, need_catalog=True, catalog_timeout_s=60)
    scan = {"width_um": 1.6, "overlap_ratio": 0.85, "exposure_s": 5e-4, "dwell_s": 2e-3, "sample_name": "letters"}
    (uid,) = session.RE(
        spiral_ptycho_scan(session.detector, session.stage, edge=session.edge, shutter=session.shutter, **scan)
    )
    session.recorder.wait(60)  # until the catalog has all of it

    run = session.cat[uid]
    start = run.metadata["start"]
    recorded = read_run(run)
    probe, bad_pixels = probe_and_mask(settings)
    patterns = scan_from_run(recorded, bad_pixels=bad_pixels)
    account = str(np.asarray(run["account"].read()["account_text"]).ravel()[-1])
    image = replay(run, open_engine("openvino"), probe, bad_pixels)
    session.close()

print(f"run {uid[:8]}, {start['sample_name']}: {start['num_points']} positions, {len(recorded.frames)} frames recorded")
print(f"from the catalog: {account.splitlines()[-1]}")
figure = Figure(figsize=(13, 4.6), layout="constrained")
where, mean, live = figure.subplots(1, 3)
where.plot(*recorded.positions_um.T[::-1], ".-", color="black", linewidth=0.4, markersize=2)
where.set(title="captured positions", xlabel="x (um)", ylabel="y (um)", aspect="equal")
where.invert_yaxis()  # as an image: rows go down
measured = np.ma.masked_array(patterns.patterns, ~patterns.valid)
mean.imshow(np.ma.log10(measured.mean(axis=0) + 0.1))
mean.set(title="mean pattern, decades", xlabel="column", ylabel="row")
live.imshow(image.phase, cmap="gray", vmin=-0.6, vmax=0.05, extent=image.canvas.extent_um)
live.set(
    title=f"live image, {image.counts['stitched']} frames, {image.model_version}", xlabel="x (um)", ylabel="y (um)"
)
figure.suptitle(f"{start['sample_name']}, run {uid[:8]}: {account.splitlines()[-1]}")
figure.savefig("run.png", dpi=100)

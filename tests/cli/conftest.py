import numpy as np
import pytest
from reconstruct_scan import KNOWN, PIXEL_UM, PROBE

from bluesky_ptychonn.cli.main import main
from bluesky_ptychonn.core.optics import intensities, with_counts
from bluesky_ptychonn.core.scan import fermat_spiral
from bluesky_ptychonn.simulation.sample import make_sample


@pytest.fixture(scope="module")
def simulated():
    """Arrays of a scan of some 60 frames, and the object in whose pixels the positions are."""
    positions_um = fermat_spiral(0.9, 0.9, 0.11)
    side_um = float(np.ptp(positions_um, axis=0).max()) + 84 * PIXEL_UM
    object_ = make_sample("etched", field_um=side_um, pixel_size_um=PIXEL_UM, seed=3)
    centres_px = positions_um / PIXEL_UM + len(object_) / 2
    counts = np.random.default_rng(1).poisson(intensities(object_, with_counts(PROBE, 1e6), centres_px))
    arrays = {"patterns": counts.astype(np.uint16), "positions_um": centres_px * PIXEL_UM, "probe": PROBE, **KNOWN}
    return arrays, object_


@pytest.fixture
def command(simulated, tmp_path, monkeypatch):
    """Runs the command on scan.npz in a folder of its own; arrays replace those of the file, None leaves one out."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BLUESKY_PTYCHONN_SETTINGS", "")

    def run(*arguments, source="scan.npz", **arrays):
        held = {name: value for name, value in {**simulated[0], **arrays}.items() if value is not None}
        np.savez(tmp_path / "scan.npz", **held)
        return main(["reconstruct", source, *map(str, arguments)])

    return run

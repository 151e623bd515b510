"""What the edge accepts from a detector: compressed and binned frames, from a real server to the stitched image."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
from edge_world import World, flat_probe

from bluesky_ptychonn.core.optics import Geometry
from bluesky_ptychonn.core.stitch import Canvas
from bluesky_ptychonn.io.codecs import CODECS
from bluesky_ptychonn.simulation.detector_kinds import EIGER2

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

FRAMES, FPS, GRID = 300, 500.0, 20
CASES = [
    *((codec, np.uint16, 1) for codec in CODECS),
    ("bslz4", np.uint32, 1),
    ("none", np.uint16, 4),
    ("blosc", np.uint32, 3),
]


@pytest.mark.parametrize(("codec", "dtype", "binning"), CASES)
def test_every_frame_is_understood(tmp_path, rng, codec, dtype, binning):
    """The first superpixel of each frame holds its number, which the stitched image shows at its position."""
    side = 16 * binning
    pool = rng.poisson(0.5, (FRAMES, side, side)).astype(dtype)
    pool[:, :binning, :binning] = 0
    pool[:, 0, 0] = np.arange(FRAMES)
    np.save(tmp_path / "pool.npy", pool)
    np.save(tmp_path / "probe.npy", flat_probe(16))
    centre = 8 * binning + (binning - 1) / 2
    pixel_um = Geometry(10.0, 0.9, 600.0, 16).pixel_size_um
    positions_um = 10 * pixel_um * np.stack(np.divmod(np.arange(FRAMES), GRID), axis=1)
    run = {
        "run_uid": codec, "token": "secret", "image_channel": EIGER2.image_channel, "frames": FRAMES,
        "y_um": positions_um[:, 0].tolist(), "x_um": positions_um[:, 1].tolist(),
        "energy_kev": 10.0, "distance_m": 0.9, "detector_pixel_um": 600.0 / binning,
        "exposure_s": 0.001, "dwell_s": 1 / FPS, "frame_shape": [side, side], "crop_px": 16, "binning": binning,
        "beam_center_px": [centre, centre], "orientation": "identity", "first_unique_id": 0, "clock": "detector",
        "frames_after_s": 0.0, "dropped_channel": EIGER2.counter_channels[0],
    }  # fmt: skip
    end = {
        "run_uid": codec, "token": "secret", "exit_status": "success", "trigger_index": [], "y_um": [], "x_um": [],
        "triggered": FRAMES, "lost_in_detector": 0, "lost_in_plugin": 0,
    }  # fmt: skip
    with contextlib.closing(World(str(Path(__file__).with_name("bare_world.py")))) as world:
        world.start("source", str(tmp_path / "pool.npy"), codec)
        world.start("edge", "stamp", str(tmp_path / "probe.npy"))
        world.start("client")
        world.call("client", put="run", values=run)
        world.until(armed_uid=codec)
        assert world.call("source", frames=FRAMES, fps=FPS)["sent"] == FRAMES
        world.call("client", put="positions", values=end)
        stats = world.until(final_uid=codec)
        where = world.call("client", image="final", file=str(tmp_path / "final.npy"))

    assert (stats["frames_stitched"], stats["frames_rejected"], stats["account"]) == (FRAMES, 0, "closed"), stats
    assert where["pixel_size_um"] == pytest.approx(pixel_um)
    image = np.load(tmp_path / "final.npy")
    canvas = Canvas(image.shape, (where["origin_y_um"], where["origin_x_um"]), where["pixel_size_um"])
    y, x = (canvas.corners_px(positions_um, 8) + 4).T
    np.testing.assert_array_equal(image[y, x], np.arange(FRAMES))

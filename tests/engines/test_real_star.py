"""The real Siemens star: no label, no training on it, only the analytic probe of its file."""

import numpy as np
import pytest
from scipy import ndimage

from bluesky_ptychonn.core.protocols import EngineUnavailable
from bluesky_ptychonn.engines.offline import stitch_scan
from bluesky_ptychonn.engines.registry import AUTO, open_engine

PIXEL_UM = 0.01  # nominal; the file gives pixels
CENTRE_PX = (-4.0, -23.0)
SPOKES = 30


@pytest.mark.parametrize("name", [*AUTO, "lift"])
def test_star_is_plain_to_see(name, real_data):
    """Around the star's centre, half of the contrast and more repeats 30 times."""
    try:
        engine = open_engine(name)
    except (ImportError, EngineUnavailable) as error:
        pytest.skip(str(error))
    with np.load(real_data / "siemens_star_128.npz") as star:
        patterns, positions_um, probe = star["patterns"], star["positions_px"] * PIXEL_UM, star["probe"]
    image, _, canvas = stitch_scan(engine, patterns, positions_um, probe, PIXEL_UM)
    angle = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    y, x = np.array(CENTRE_PX) - np.array(canvas.origin_um) / PIXEL_UM
    radii = np.arange(80, 101, 3)[:, None]
    where = [y + radii * np.sin(angle), x + radii * np.cos(angle)]
    ring = ndimage.map_coordinates(np.nan_to_num(image), where, order=1).mean(axis=0)
    power = np.abs(np.fft.rfft(ring - ring.mean())) ** 2
    assert power.argmax() == SPOKES
    assert power[SPOKES] > 0.5 * power.sum()

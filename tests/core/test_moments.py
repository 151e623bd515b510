import numpy as np
import pytest

from bluesky_ptychonn.core.frames import no_data
from bluesky_ptychonn.core.moments import smooth_object
from bluesky_ptychonn.core.optics import Geometry, intensities, with_counts, zone_plate_probe
from bluesky_ptychonn.core.scan import fermat_spiral

GEOMETRY = Geometry(frame_px=64, distance_m=0.45)
PROBE = with_counts(zone_plate_probe(GEOMETRY, defocus_um=60.0), 1e6)


@pytest.fixture(scope="module")
def positions_px():
    return fermat_spiral(0.9, 0.9, 0.08) / GEOMETRY.pixel_size_um + 90


def hill(absorbing):
    y, x = np.mgrid[:180, :180] - 90
    height = np.exp(-(y**2 + x**2) / (2 * 25**2))
    return (1 - absorbing * height) * np.exp(-1j * height)


@pytest.mark.parametrize("absorbing", [0.0, 0.1])
@pytest.mark.parametrize("gap", [False, True])
def test_a_broad_phase_is_found_although_it_absorbs(positions_px, rng, absorbing, gap):
    object_ = hill(absorbing)
    patterns = rng.poisson(intensities(object_, PROBE, positions_px)).astype(np.uint32)
    if gap:
        patterns[:, :, 50:52] = no_data(patterns.dtype)
    guess = np.angle(smooth_object(patterns, positions_px, PROBE, object_.shape))
    seen = slice(55, 125), slice(55, 125)
    difference = (guess - np.angle(object_))[seen]
    assert difference.std() < 0.3 * np.angle(object_)[seen].std()


@pytest.mark.parametrize("where", ["line", "few"])
def test_positions_that_span_no_area_give_a_flat_object(where):
    positions_px = np.stack([np.full(9, 40.0), 40 + 3 * np.arange(9.0)], axis=1)[: 9 if where == "line" else 3]
    patterns = np.ones((len(positions_px), 64, 64), np.uint16)
    assert np.array_equal(smooth_object(patterns, positions_px, PROBE, (128, 128)), np.ones((128, 128)))

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from bluesky_ptychonn.core.optics import Geometry, intensities, with_counts, zone_plate_probe
from bluesky_ptychonn.core.scan import fermat_spiral
from bluesky_ptychonn.core.scan_checks import refuse_near_field, refuse_unfit
from bluesky_ptychonn.core.scan_data import ScanData
from bluesky_ptychonn.io.scan_files import read_scan_file
from bluesky_ptychonn.simulation.sample import make_sample

GEOMETRY = Geometry()
POSITIONS_PX = fermat_spiral(2.6, 2.6, 0.15) / GEOMETRY.pixel_size_um


def scan_at(positions_px, n=16, pixel_size_um=None):
    return ScanData(np.ones((len(positions_px), n, n), np.uint16), np.asarray(positions_px, float), pixel_size_um)


@pytest.fixture(scope="module", params=["etched", "letters"])
def far_field_means(request):
    """Mean patterns of a far-field scan, of one photon each."""
    sample = make_sample(request.param, field_um=4.6, pixel_size_um=GEOMETRY.pixel_size_um)
    return intensities(sample, with_counts(zone_plate_probe(GEOMETRY), 1.0), POSITIONS_PX + len(sample) / 2)


@pytest.mark.parametrize("photons", [1e3, 1e4, 1e5, 1e6, 1e7])
def test_far_field_scans_are_fit(far_field_means, photons, rng):
    refuse_unfit(ScanData(rng.poisson(photons * far_field_means).astype(np.uint32), POSITIONS_PX))


def test_the_real_far_field_star_is_fit(real_data):
    refuse_unfit(read_scan_file(real_data / "siemens_star_128.npz"))


def test_the_real_near_field_scan_is_refused_with_that_reason(real_data):
    scan = read_scan_file(real_data / "petra3_p25_nearfield.cxi")
    with pytest.raises(
        ValueError, match=r"near-field data: .* like a shadow.* a far-field pattern holds 100 px \(1.99 um\)"
    ):
        refuse_unfit(scan)


@pytest.mark.parametrize("n", [64, 160])
@pytest.mark.parametrize("magnification", [0.1, -0.25])
def test_shadows_of_any_size_and_sense_are_refused(magnification, n, rng):
    """Windows of one large image, moved with the sample: what a near-field detector sees."""
    image = 50 * np.exp(gaussian_filter(rng.standard_normal((4 * n, 4 * n)), 2) * 3)
    positions_px = rng.uniform(-6 * n, 6 * n, size=(80, 2)) * 0.5
    corners = np.rint(1.5 * n + magnification * positions_px).astype(int)
    windows = np.stack([image[y : y + n, x : x + n] for y, x in corners])
    with pytest.raises(ValueError, match="near-field data"):
        refuse_near_field(ScanData(rng.poisson(windows).astype(np.uint16), positions_px))


def test_a_scan_within_one_field_cannot_tell(rng):
    refuse_near_field(replace(scan_at(rng.uniform(0, 5, (20, 2))), pixel_size_um=0.01))


REFUSED = [
    ([[0.0, 0.0]], "the scan has 1 pattern; at least 2"),
    ([[3.0, 4.0]] * 5, r"all 5 positions are the same, \(3, 4\) px"),
    (
        4e3,
        r"positions are 4000 px \(40 um\) apart; allowed are 0.05 to 16 px, .* 1000 times too large, as nm given as um",
    ),
    (4e6, r"4e\+06 px .* 1,000,000 times too large, as um given as m; correct their unit"),
    (4e-3, r"0.004 px \(4e-05 um\) apart; .* 1000 times too small, as mm given as um"),
    (4e-6, r"4e-06 px .* 1,000,000 times too small, as m given as um"),
    (17.0, r"17 px \(0.17 um\) apart; allowed are 0.05 to 16 px, the field of a pattern; correct their unit"),
]


@pytest.mark.parametrize(("places", "message"), REFUSED)
def test_places_that_cannot_be_are_refused(places, message):
    if np.isscalar(places):
        places = places * np.stack(np.meshgrid(np.arange(6.0), np.arange(6.0)), axis=-1).reshape(-1, 2)
    with pytest.raises(ValueError, match=message):
        refuse_unfit(scan_at(places, pixel_size_um=0.01))


@pytest.mark.parametrize(("rows", "named"), [([17], "frame 17 lies"), ([3, 17], "frames 3, 17 lie")])
def test_positions_astray_are_named(rows, named, rng):
    positions_px = rng.uniform(0, 50, size=(40, 2))
    positions_px[rows] = 1e3, -1e3
    with pytest.raises(ValueError, match=rf"{named} \d+ px or more from every other position; at most 16 px"):
        refuse_unfit(scan_at(positions_px))


def test_a_field_too_large_is_refused(rng):
    positions_px = rng.uniform(0, 50, size=(40, 2))
    positions_px[17:19] = (1e5, -1e5), (1e5 + 3, -1e5)
    with pytest.raises(
        ValueError, match=r"the positions span .* at most 64000000 object pixels .*frame 17 is farthest"
    ):
        refuse_unfit(scan_at(positions_px))


@pytest.mark.parametrize("jitter_px", [0.0, 1e-3])
def test_several_frames_at_a_place_are_no_wrong_unit(jitter_px, rng):
    grid = np.stack(np.meshgrid(np.arange(5.0), np.arange(5.0)), axis=-1).reshape(-1, 2)
    places = np.repeat(2 * grid, 3, axis=0)
    refuse_unfit(scan_at(places + jitter_px * rng.standard_normal(places.shape)))

"""The frozen test sets are what they were, and scans of them are the same everywhere."""

import io
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage, stats
from skimage.measure import label

from bluesky_ptychonn.core.optics import Geometry, intensities, with_counts, zone_plate_probe
from bluesky_ptychonn.simulation import test_sets
from bluesky_ptychonn.simulation.draw_test_sets import draw

PACKAGE = Path(test_sets.__file__).parents[1]
GEOMETRY = Geometry()
PROBE = zone_plate_probe(GEOMETRY)


@pytest.fixture(scope="module")
def sets():
    return {name: test_sets.load_test_set(name) for name in test_sets.SHA256}


@pytest.mark.parametrize("name", ["letters", "etched"])
def test_frozen(sets, name):
    found = sets[name]
    assert found.object_.shape == (460, 460)
    assert found.object_.dtype == np.complex64
    assert found.pixel_size_um == pytest.approx(GEOMETRY.pixel_size_um)
    assert (found.phase_rad.min(), found.phase_rad.max()) == (pytest.approx(-0.6), 0)
    assert (np.abs(found.object_).min(), np.abs(found.object_).max()) == (pytest.approx(0.9), 1)
    assert found.sha256 in (PACKAGE / "test_sets" / "README.md").read_text()
    assert (PACKAGE / "test_sets" / f"{name}.npz").stat().st_size < 300_000


@pytest.mark.parametrize("name", ["letters", "etched"])
def test_drawn_as_told(sets, name):
    with np.load(io.BytesIO(draw(name))) as again:
        depth = again["depth"] / 255
    assert (
        np.mean(np.abs(depth - sets[name].phase_rad / -0.6) > 0.1) < 0.01
    )  # another version may draw an edge otherwise


def test_letters_are_fine(sets):
    whole = _whole_features(sets["letters"])
    heights_px = np.array([rows.stop - rows.start for rows, _ in whole])
    assert len(whole) > 40
    assert np.mean((heights_px >= 25) & (heights_px <= 55)) > 0.85  # a few touch their neighbour
    assert heights_px.min() >= 25


def test_etched_shapes_are_small_and_fill_a_third(sets):
    etched = sets["etched"].phase_rad < -0.3
    longest_px = [max(part.stop - part.start for part in place) for place in _whole_features(sets["etched"])]
    assert 0.30 < etched.mean() < 0.40
    assert min(longest_px) > 0.75 * 0.2 / GEOMETRY.pixel_size_um  # a turned bar's box is shorter than the bar
    assert np.median(longest_px) < 1.5 * 0.4 / GEOMETRY.pixel_size_um
    assert np.asarray(ndimage.distance_transform_edt(etched), float).max() < 0.25 / GEOMETRY.pixel_size_um


def _whole_features(found):
    """Boxes of the features which do not touch the border."""
    labelled = np.asarray(label(found.phase_rad < -0.3))
    side = len(labelled)
    return [box for box in ndimage.find_objects(labelled) if all(part.start > 0 and part.stop < side for part in box)]


def test_no_training_knows_them():
    assert not [path for path in (PACKAGE / "training").rglob("*.py") if "test_sets" in path.read_text()]


def test_a_changed_file_is_refused(tmp_path):
    file = bytearray((PACKAGE / "test_sets" / "etched.npz").read_bytes())
    file[1000] ^= 1
    (tmp_path / "etched.npz").write_bytes(file)
    with pytest.raises(ValueError, match=r"has SHA-256 .* the frozen test set 6a3209ff4cd7.*install the package anew"):
        test_sets.load_test_set("etched", tmp_path)
    with pytest.raises(ValueError, match="'sponge' is unknown; choose one of letters, etched"):
        test_sets.load_test_set("sponge")


@pytest.mark.parametrize("points", [1, 49, 256])
def test_scan_has_the_points_asked_for(sets, points):
    scan = test_sets.scan_of(sets["letters"], PROBE, points=points)
    assert scan.patterns.shape == (points, 128, 128)
    assert scan.patterns.dtype == np.uint16
    middle_um = 230 * scan.pixel_size_um
    assert np.all(np.abs(scan.positions_um - middle_um) <= test_sets.FIELD_UM / 2)


def test_steps_of_the_documented_scans(sets):
    steps_um = [test_sets._step_um(960, None, 0.7135), test_sets._step_um(None, 0.88, 0.7135)]
    assert steps_um == [pytest.approx(0.0884, abs=1e-4), pytest.approx(0.0856, abs=1e-4)]
    scan = test_sets.scan_of(sets["etched"], PROBE, overlap_ratio=0.5)
    assert (scan.points, scan.overlap_ratio) == (59, pytest.approx(0.5))


def test_frames_are_those_of_the_forward_model(sets):
    scan = test_sets.scan_of(sets["etched"], PROBE, points=9, photons=1e5)
    data = scan.for_retrieval()
    expected = intensities(sets["etched"].object_, with_counts(PROBE, 1e5), data.positions_px)
    assert data.patterns.sum() == pytest.approx(expected.sum(), rel=5e-3)
    assert np.sum((data.patterns - expected) ** 2) == pytest.approx(expected.sum(), rel=0.05)  # variance is the mean
    again = test_sets.scan_of(sets["etched"], PROBE, points=9, photons=1e5)
    np.testing.assert_array_equal(again.patterns, scan.patterns)
    other = test_sets.scan_of(sets["etched"], PROBE, points=9, photons=1e5, seed=1)
    assert np.any(other.patterns != scan.patterns)


def test_many_photons_take_wider_counts(sets):
    scan = test_sets.scan_of(sets["etched"], PROBE, points=1, photons=1e9)
    assert scan.patterns.dtype == np.uint32
    assert scan.patterns.max() > 65535


@pytest.mark.parametrize("mean", [1e-3, 0.3, 2, 8, 11.9, 12.1, 30, 300, 1e4])
def test_counts_are_quantiles_of_the_poisson_distribution(mean):
    counts = test_sets.poisson(np.full(20_000, mean), np.random.default_rng(5))
    exact = stats.poisson.ppf(np.random.default_rng(5).random(20_000), mean)
    assert np.abs(counts - exact).max() <= 1
    assert np.mean(counts != exact) < 0.015


def test_rounding_hardly_changes_the_counts(rng):
    """A processor that computes an intensity a little otherwise sees the same photons."""
    expected = rng.gamma(0.3, 30, 100_000)
    one = test_sets.poisson(expected, np.random.default_rng(3)).astype(int)
    other = test_sets.poisson(expected * (1 + 1e-6 * rng.standard_normal(expected.shape)), np.random.default_rng(3))
    assert np.abs(one - other).max() <= 1
    assert np.mean(one != other) < 1e-3


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "points = None and overlap_ratio = None; give one of them"),
        ({"points": 3, "overlap_ratio": 0.5}, "give one of them"),
        ({"points": 0}, "points = 0; it must be at least 1"),
        ({"overlap_ratio": 1.0}, "overlap_ratio = 1.0; it must be less than 1"),
    ],
)
def test_impossible_scans_are_refused(sets, asked, message):
    with pytest.raises(ValueError, match=message):
        test_sets.scan_of(sets["etched"], PROBE, **asked)

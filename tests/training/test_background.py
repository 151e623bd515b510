"""The background of an object: what of it is removed before it is learned."""

import numpy as np
import pytest
from simulated_scan import GEOMETRY

from bluesky_ptychonn.simulation.sample import make_sample
from bluesky_ptychonn.training.learning.background import Background, background_of

SIDE = 120
Y, X = np.mgrid[:SIDE, :SIDE]
KNOWN = np.ones((SIDE, SIDE), np.float32)
BARS = np.exp(-0.5j * (X % 40 < 23))


@pytest.fixture
def noise(rng):
    return 0.1 * (rng.standard_normal((SIDE, SIDE)) + 1j * rng.standard_normal((SIDE, SIDE)))


@pytest.mark.parametrize("slope", [(0.0, 0.0), (0.01, -0.05)])
@pytest.mark.parametrize("kind", ["etched", "letters"])
def test_the_background_of_samples_is_found(kind, slope, noise):
    """For every one of ten samples, under a constant, a slope, a factor and noise."""
    for seed in range(10):
        field_um = SIDE * GEOMETRY.pixel_size_um
        sample = make_sample(kind, field_um=field_um, pixel_size_um=GEOMETRY.pixel_size_um, seed=seed)[:SIDE, :SIDE]
        phase = 2.9 + slope[0] * (Y - SIDE // 2) + slope[1] * (X - SIDE // 2)
        object_ = 0.7 * np.exp(1j * phase) * (sample + noise)
        found = background_of(object_, KNOWN)
        assert found.found == "peak"
        assert found.amplitude == pytest.approx(0.7, rel=0.01)
        left = np.angle(found.removed_from(0.7 * np.exp(1j * phase)))
        assert np.abs(left).max() < 0.06


def test_of_two_plateaus_it_is_the_one_ahead(noise):
    """Even if it is the smaller one, because matter retards the phase."""
    found = background_of(BARS * np.exp(1j) + noise, KNOWN)
    assert (found.found, found.phase_rad) == ("peak", pytest.approx(1, abs=0.03))


def test_it_is_found_where_the_phase_wraps():
    for phase_rad in (-3.1, 3.1, np.pi):
        found = background_of(BARS * np.exp(1j * phase_rad), KNOWN)
        assert np.angle(np.exp(1j * (found.phase_rad - phase_rad))) == pytest.approx(0, abs=0.02)


def test_without_a_plateau_it_is_the_mean():
    """A bowl has every phase as often as any other."""
    bowl = ((Y - 59.5) ** 2 + (X - 59.5) ** 2) / 3600
    object_ = 1.5 * np.exp(1j * (2 + bowl - bowl.mean()))
    found = background_of(object_, KNOWN)
    assert (found.found, found.phase_rad) == ("mean", pytest.approx(2, abs=0.05))
    assert found.amplitude == pytest.approx(1.5, rel=0.01)
    assert (found.slope_y_rad_per_px, found.slope_x_rad_per_px) == (pytest.approx(0, abs=1e-3),) * 2


@pytest.mark.parametrize("rubbish", [5j, np.nan, np.inf])
def test_what_is_badly_known_does_not_move_it(rubbish):
    known = np.where((Y > 90) | (X < 20), 0, KNOWN)
    found = background_of(np.where(known > 0, BARS, rubbish), known)
    assert (found.phase_rad, found.amplitude) == (pytest.approx(0, abs=0.02), pytest.approx(1, rel=0.01))
    assert (found.slope_y_rad_per_px, found.slope_x_rad_per_px) == (pytest.approx(0, abs=1e-3),) * 2


def test_nothing_known_is_no_background():
    with pytest.raises(ValueError, match="no pixel of the object is well known"):
        background_of(BARS, 0.4 * KNOWN)


def test_what_the_object_loses_the_probe_gets(rng):
    """Exit waves change by a constant only, wherever the probe is."""
    object_ = rng.standard_normal((40, 48)) + 1j * rng.standard_normal((40, 48))
    probe = rng.standard_normal((16, 16)) + 1j
    background = Background(0.4, 1.3, 0.02, -0.05, "peak")
    level, tilted = background.removed_from(object_), background.given_to(probe)
    for y, x in ((0, 0), (7, 20), (24, 32)):
        before, after = (o[y : y + 16, x : x + 16] * p for o, p in ((object_, probe), (level, tilted)))
        ratio = after / before
        np.testing.assert_allclose(ratio, ratio[0, 0], atol=1e-5)
        assert np.abs(ratio[0, 0]) == pytest.approx(1 / 1.3, rel=1e-5)
    assert tilted.dtype == np.complex64
    assert tilted[8, 8] == pytest.approx(probe[8, 8], rel=1e-6)

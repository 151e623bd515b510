import numpy as np
import pytest
from scipy import ndimage

from bluesky_ptychonn.core.frc import fourier_ring_correlation, resolution


def test_noise_ends_the_agreement_where_it_outweighs_the_image(rng):
    image = ndimage.gaussian_filter(rng.normal(size=(128, 128)), 2)
    noisy = [image + 0.02 * rng.normal(size=image.shape) for _ in range(2)]
    frequencies, correlation = fourier_ring_correlation(*noisy)
    assert (frequencies[0], frequencies[-1], len(frequencies)) == (1 / 128, 0.5, 64)
    assert correlation[3] > 0.95
    assert abs(correlation[-10:].mean()) < 0.1
    assert 0.1 < resolution(frequencies, correlation) < 0.3


def test_noise_alone_agrees_nowhere(rng):
    frequencies, correlation = fourier_ring_correlation(*rng.normal(size=(2, 64, 64)))
    assert resolution(frequencies, correlation) < 0.05


def test_a_constant_and_a_factor_do_not_matter(rng):
    image = rng.normal(size=(48, 64)) + 1j * rng.normal(size=(48, 64))
    assert fourier_ring_correlation(3 * image + 5, image)[1] == pytest.approx(1)


@pytest.mark.parametrize(("shape", "other"), [((32, 32), (32, 30)), ((8, 64), (8, 64))])
def test_images_that_cannot_be_compared_are_refused(shape, other):
    with pytest.raises(ValueError, match=r"same \(H, W\)|at least 16 px"):
        fourier_ring_correlation(np.zeros(shape), np.zeros(other))

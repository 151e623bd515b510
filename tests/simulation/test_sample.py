import numpy as np
import pytest

from bluesky_ptychonn.simulation.sample import make_sample


@pytest.mark.parametrize("kind", ["etched", "letters", "islands"])
def test_sample_keeps_to_its_range_and_seed(kind):
    sample = make_sample(kind, field_um=3.0, pixel_size_um=0.0116, seed=3)

    assert sample.dtype == np.complex64
    assert sample.shape[0] == sample.shape[1] >= 3.0 / 0.0116
    assert np.angle(sample).min() == pytest.approx(-0.6, abs=0.01)
    assert np.angle(sample).max() <= 1e-6
    assert 0.899 < np.abs(sample).min() < np.abs(sample).max() <= 1.0001
    assert 0.1 < np.mean(np.angle(sample) < -0.3) < 0.7
    np.testing.assert_array_equal(sample, make_sample(kind, field_um=3.0, pixel_size_um=0.0116, seed=3))
    assert np.any(sample != make_sample(kind, field_um=3.0, pixel_size_um=0.0116, seed=4))


def test_unknown_sample_is_refused():
    with pytest.raises(ValueError, match="'sponge' is unknown; choose one of etched"):
        make_sample("sponge", field_um=3.0, pixel_size_um=0.0116)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be positive"):
        make_sample("etched", field_um=0, pixel_size_um=0.0116)

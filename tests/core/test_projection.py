import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bluesky_ptychonn.core.optics import Geometry, far_field, with_counts, zone_plate_probe
from bluesky_ptychonn.core.projection import FastProjection, light, project
from bluesky_ptychonn.core.transmission import LARGEST_LOG, transmission

GEOMETRY = Geometry()
FLAT = np.zeros((1, 2, 80, 80), np.float32)
PROBE = with_counts(zone_plate_probe(GEOMETRY, astigmatism_um=20.0), 1e6)


def random_case(seed, n, h, frames, dtype=np.uint16, counts=1e5):
    """Random probe, estimates of any phase, and patterns that know nothing of them, a tenth of them masked."""
    rng = np.random.default_rng(seed)
    probe = with_counts(rng.standard_normal((n, n)) + 1j * rng.standard_normal((n, n)), counts)
    patterns = rng.poisson(counts / n**2, (frames, n, n)).astype(dtype)
    patterns[rng.random(patterns.shape) < 0.1] = np.iinfo(dtype).max
    estimate = np.stack([rng.normal(-0.2, 0.3, (frames, h, h)), rng.uniform(-6.3, 6.3, (frames, h, h))], axis=1)
    return patterns, probe, estimate.astype(np.float32)


def modelled(probe, estimate):
    """Counts behind a patch, without noise."""
    edge = (len(probe) - estimate.shape[-1]) // 2
    inside = np.pad(np.exp(estimate[0] + 1j * estimate[1]) - 1, edge) + 1
    return np.abs(far_field(probe * inside)) ** 2


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    half=st.integers(2, 24),
    share=st.floats(0, 1),
    frames=st.integers(1, 5),
    dtype=st.sampled_from([np.uint8, np.uint16, np.uint32]),
)
def test_fast_form_equals_reference_at_any_size(seed, half, share, frames, dtype):
    h = max(2, 2 * round(share * half))
    patterns, probe, estimate = random_case(seed, 2 * half, h, frames, dtype, counts=1e2 * half**2)
    reference = project(patterns, probe, estimate)
    np.testing.assert_allclose(FastProjection(probe, h)(patterns, estimate), reference, atol=1e-4)


@pytest.mark.parametrize("patch_px", [128, 80, 90])  # the last one is not made in strips
def test_part_of_a_larger_array_is_filled(patch_px):
    """What an engine does: the answer goes straight into the input of the next graph."""
    patterns, probe, estimate = random_case(1, 128, patch_px, 3, counts=1e6)
    whole = np.full((3, 5, patch_px, patch_px), np.nan, np.float32)
    found = FastProjection(probe, patch_px)(patterns, estimate, whole[:, :2])
    assert np.shares_memory(found, whole)
    assert np.isnan(whole[:, 2:]).all()
    np.testing.assert_allclose(whole[:, :2], project(patterns, probe, estimate), atol=1e-4)


def test_frames_do_not_mix_and_inputs_stay():
    patterns, probe, estimate = random_case(2, 64, 32, 4)
    kept = patterns.copy(), estimate.copy()
    fast = FastProjection(probe, 32)
    one_by_one = np.concatenate([fast(patterns[k : k + 1], estimate[k : k + 1]) for k in range(4)])
    np.testing.assert_allclose(fast(patterns, estimate), one_by_one, atol=1e-6)
    np.testing.assert_array_equal(patterns, kept[0])
    np.testing.assert_array_equal(estimate, kept[1])


def test_transmission_is_exact_where_it_can_be_used():
    rng = np.random.default_rng(3)
    log, phase = rng.uniform(-8, 2, (300, 300)), rng.uniform(-2 * np.pi, 2 * np.pi, (300, 300))
    image = np.stack([log, phase]).astype(np.float32)
    wanted = np.exp(image[0].astype(float) + 1j * image[1])
    transmission(image)
    assert np.abs((image[0] + 1j * image[1]) / wanted - 1).max() < 3e-6
    large = np.array([1e9, 0], np.float32).reshape(2, 1, 1)
    transmission(large)
    assert large[0, 0, 0] == pytest.approx(np.exp(LARGEST_LOG), rel=1e-5)


def test_a_perfect_estimate_stays_and_a_wrong_one_is_bettered():
    """Along the change that is asked for, the misfit of the amplitudes falls."""
    y, x = np.mgrid[:80, :80] - 40
    true = np.stack([-0.05 * (np.hypot(y, x - 9) < 14), -0.4 * (np.hypot(y + 6, x) < 17)]).astype(np.float32)
    counts = modelled(PROBE, true)
    pattern = np.rint(counts).astype(np.uint32)[None]
    fast = FastProjection(PROBE, 80)
    assert np.abs(fast(pattern, true[None])).max() < 0.02

    def misfit(estimate):
        return np.sum((np.sqrt(modelled(PROBE, estimate) + 1) - np.sqrt(counts + 1)) ** 2)

    flat = np.zeros((2, 80, 80), np.float32)
    asked = fast(pattern, flat[None])[0]
    assert misfit(flat + asked) < 0.6 * misfit(flat)


def test_pixels_without_data_ask_nothing():
    _, probe, estimate = random_case(5, 64, 32, 2)
    assert not FastProjection(probe, 32)(np.full((2, 64, 64), 65535, np.uint16), estimate).any()


def test_light_is_zero_in_the_dark_and_one_at_a_thousand_photons():
    probe = np.zeros((8, 8), np.complex64)
    probe[4, 4] = np.sqrt(999)
    expected = np.zeros((4, 4))
    expected[2, 2] = 1
    np.testing.assert_allclose(light(probe, 4), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FastProjection(np.zeros((16, 16)), 8), "power"),
        (lambda: FastProjection(np.full((16, 16), np.nan), 8), "power"),
        (lambda: FastProjection(np.ones((16, 15)), 8), "square"),
        (lambda: FastProjection(np.ones((16, 16)), 18), "at most 16"),
        (lambda: FastProjection(PROBE, 80)(np.zeros((1, 64, 64), np.uint16), np.zeros((1, 2, 80, 80), "f4")), "asks"),
        (lambda: FastProjection(PROBE, 80)(np.zeros((1, 128, 128), np.uint16), np.zeros((2, 2, 80, 80), "f4")), "asks"),
        (lambda: FastProjection(PROBE, 80)(np.zeros((1, 128, 128)), np.zeros((1, 2, 80, 80), "f4")), "unsigned"),
        (lambda: FastProjection(PROBE, 80)(np.zeros((1, 128, 128), "u2"), FLAT, FLAT[:, :, :64]), "out has shape"),
        (lambda: FastProjection(PROBE, 80)(np.zeros((1, 128, 128), np.uint16), np.zeros((1, 2, 80, 80))), "float32"),
    ],
)
def test_impossible_values_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()

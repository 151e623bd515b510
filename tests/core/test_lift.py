import numpy as np
import pytest

from bluesky_ptychonn.core.lift import FastLift, lift
from bluesky_ptychonn.core.optics import Geometry, far_field, intensities, with_counts, zone_plate_probe

PROBE = with_counts(zone_plate_probe(Geometry(), astigmatism_um=20.0), 1e5)


READ_ONLY = np.broadcast_to(np.float32(0), (1, 2, 64, 64))


@pytest.fixture(scope="module")
def patterns():
    rng = np.random.default_rng(4)
    flat = np.broadcast_to(np.abs(far_field(PROBE)) ** 2, (3, 128, 128))
    return rng.poisson(flat * rng.uniform(0.5, 1.5, flat.shape)).astype(np.uint16)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
@pytest.mark.parametrize("patch_px", [128, 96, 90])  # the last one is not made in strips
def test_fast_form_equals_reference(patterns, dtype, patch_px):
    patterns = patterns.astype(dtype)
    patterns[:, 70:73] = np.iinfo(dtype).max
    edge = (128 - patch_px) // 2
    reference = lift(patterns, PROBE)[:, :, edge : 128 - edge, edge : 128 - edge]
    out = np.full((3, 2, patch_px, patch_px), np.nan, np.float32)
    fast = FastLift(PROBE, patch_px)(patterns, out)
    assert fast is out
    assert np.abs(reference).max() > 0.01
    np.testing.assert_allclose(fast, reference, atol=1e-6)


def test_a_part_of_a_larger_array_is_filled(patterns):
    """What an engine does: the answer goes straight into the input of its network."""
    whole = np.full((3, 5, 96, 96), np.nan, np.float32)
    FastLift(PROBE, 96)(patterns, whole[:, 1:3])
    assert np.isnan(whole[:, [0, 3, 4]]).all()
    np.testing.assert_allclose(whole[:, 1:3], FastLift(PROBE, 96)(patterns), atol=1e-7)
    turned = np.empty((3, 2, 96, 96), np.float32).swapaxes(-1, -2)
    np.testing.assert_allclose(FastLift(PROBE, 96)(patterns, turned), whole[:, 1:3], atol=1e-6)


def test_frames_do_not_mix(patterns):
    one_by_one = np.concatenate([FastLift(PROBE)(pattern[None]) for pattern in patterns])
    np.testing.assert_allclose(FastLift(PROBE)(patterns), one_by_one, atol=1e-6)


def test_weak_object_is_lifted():
    """Probe-weighted, the lift of a weak phase object resembles it, whatever the dose."""
    y, x = np.mgrid[:128, :128]
    phase = -0.2 * ((np.hypot(y - 60, x - 70) < 12) | (abs(y - x) < 4))
    weight = np.abs(PROBE) ** 2
    for counts in (1e5, 1e7):
        probe = with_counts(PROBE, counts)
        pattern = intensities(np.exp(1j * phase), probe, np.array([[64, 64]]))
        lifted = lift(np.rint(pattern).astype(np.uint32), probe)[0, 1]
        a, b = (v - np.average(v, weights=weight) for v in (lifted, phase))
        correlation = np.average(a * b, weights=weight) / np.sqrt(
            np.average(a * a, weights=weight) * np.average(b * b, weights=weight)
        )
        assert correlation > 0.6


def test_pixels_without_data_say_nothing(patterns):
    """A masked pixel is worth as much as one that measured exactly what the empty beam gives."""
    assert not lift(np.full((1, 128, 128), 65535, np.uint16), PROBE).any()
    masked, modelled = patterns.astype(np.uint32), patterns.astype(np.uint32)
    bright = (slice(None), slice(40, 60), slice(40, 80))
    masked[bright] = np.iinfo(np.uint32).max
    modelled[bright] = np.rint(np.abs(far_field(PROBE)) ** 2)[bright[1:]]
    assert np.abs(lift(masked, PROBE) - lift(modelled, PROBE)).max() < 0.1 * np.abs(lift(patterns, PROBE)).max()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FastLift(np.zeros((16, 16))), "power"),
        (lambda: FastLift(np.full((16, 16), np.nan)), "power"),
        (lambda: FastLift(np.ones((16, 15))), "square"),
        (lambda: FastLift(np.ones((16, 16)), 18), "at most 16"),
        (lambda: FastLift(PROBE)(np.zeros((1, 64, 64), np.uint16)), "asks for"),
        (lambda: FastLift(PROBE)(np.zeros((1, 128, 128), np.float32)), "unsigned"),
        (lambda: FastLift(PROBE, 64)(np.zeros((2, 128, 128), "u2"), np.zeros((1, 2, 64, 64), "f4")), "out has shape"),
        (lambda: FastLift(PROBE, 64)(np.zeros((1, 128, 128), "u2"), READ_ONLY), "writeable = False"),
    ],
)
def test_impossible_values_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluesky_ptychonn.core.beam import FIRST_FRAMES, Beam, named, with_beam, with_flux
from bluesky_ptychonn.core.optics import PROBE_FRAMES
from bluesky_ptychonn.core.totals import counts_of_frames

LIT = st.floats(500, 2000)
DARK = st.floats(0, 4)
COUNTS = st.lists(st.one_of(LIT, DARK), min_size=1, max_size=200).filter(lambda counts: max(counts) > 400)


@given(COUNTS, st.lists(st.integers(1, 40), min_size=1), st.randoms())
def test_batching_does_not_matter(counts, sizes, random):
    counts, beam, first = np.array(counts), Beam(0.02), 0
    while first < len(counts):
        size = random.choice(sizes)
        beam.see(counts[first : first + size])
        first += size
    np.testing.assert_array_equal(beam.has(counts), with_beam(counts, 0.02))


@given(COUNTS.filter(lambda counts: any(c > 400 for c in counts if c >= 1) and sum(c >= 1 for c in counts) <= 64))
def test_every_frame_without_beam_is_found_and_no_other(counts):
    counts = np.array(counts)
    np.testing.assert_array_equal(with_beam(counts, 0.02), counts > 400)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=99), st.floats(1, 1e5))
def test_a_number_of_counts_is_a_law_for_each_frame_alone(counts, least):
    counts = np.array(counts)
    np.testing.assert_array_equal(with_beam(counts, least), counts >= least)


def test_nought_takes_every_frame():
    assert with_beam(np.array([0.0, 1e6]), 0).all()


def test_a_sample_that_absorbs_is_no_loss_of_beam():
    """First frames beside the sample, in vacuum; then some through it, where 3 % is left."""
    assert with_beam(np.r_[np.full(80, 1e6), np.full(50, 3e4)], 0.02).all()
    assert with_beam(np.r_[np.full(80, 3e4), np.full(50, 1e6)], 0.02).all()


def test_stray_light_before_the_shutter_opens_is_no_beam():
    counts = np.r_[np.full(50, 3.0), np.full(100, 1e6)]
    np.testing.assert_array_equal(with_beam(counts, 0.02), counts > 3)


def test_as_many_frames_count_as_measure_the_probe():
    assert FIRST_FRAMES == PROBE_FRAMES


@pytest.mark.parametrize("flux", [[np.nan] * 3, [0.0, 0.0, 1.0], [-1.0, -2.0, 0.5], []])
def test_a_monitor_that_does_not_work_says_nothing(flux):
    assert with_flux(np.array(flux), 0.5).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64])
def test_pixels_without_data_do_not_count(dtype, rng):
    patterns = rng.integers(0, 200, (3, 8, 8)).astype(dtype)
    expected = patterns.sum(axis=(1, 2)) - patterns[:, 2, 3]
    patterns[:, 2, 3] = np.iinfo(dtype).max
    assert counts_of_frames(patterns).tolist() == expected.tolist()
    assert counts_of_frames(patterns[:, ::-1, ::-1]).tolist() == expected.tolist()


def test_many_triggers_end_in_dots():
    assert named(np.arange(0, 1000, 2)).endswith("198, ...")

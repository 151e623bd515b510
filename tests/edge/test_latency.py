"""Latencies as a histogram: what it says is what the values say."""

import numpy as np
import pytest

from bluesky_ptychonn.edge.latency import EDGES_MS, Latencies


def test_percentiles_are_those_of_the_values_to_the_width_of_a_bin(rng):
    values_s = rng.lognormal(-5, 1, 20_000)
    latencies = Latencies(64)
    for first in range(0, len(values_s), 7):
        latencies.add(values_s[first : first + 7])
    counted_ms = 1e3 * values_s[64:]
    assert latencies.counts.sum() == len(counted_ms)
    for share, found in zip((50, 99), latencies.percentiles_ms(50, 99), strict=True):
        assert 1 <= found / np.percentile(counted_ms, share) <= 1.13
    assert latencies.max_ms == pytest.approx(counted_ms.max())


def test_the_first_ones_warm_up():
    latencies = Latencies(10)
    latencies.add(np.full(15, 9.0))
    latencies.add(np.full(100, 0.001))
    assert latencies.counts.sum() == 105
    assert latencies.percentiles_ms(50)[0] == pytest.approx(1.0, rel=0.13)
    assert latencies.max_ms == pytest.approx(9000)


def test_few_are_told_exactly_and_none_as_zero():
    latencies = Latencies(64)
    assert (latencies.percentiles_ms(50, 99), latencies.max_ms) == ([0.0, 0.0], 0.0)
    latencies.add(np.array([5.0, 5.0, 0.010, 0.030]))
    assert latencies.percentiles_ms(50) == [pytest.approx(20)]
    assert latencies.max_ms == pytest.approx(30)


def test_what_takes_very_long_is_counted_too():
    latencies = Latencies(0)
    latencies.add(np.array([1e-6, 1e4]))
    assert latencies.counts[0] == latencies.counts[len(EDGES_MS)] == 1
    assert latencies.percentiles_ms(99) == [pytest.approx(1e7)]

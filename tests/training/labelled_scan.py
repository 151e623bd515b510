"""A small labelled scan, as good as any to keep."""

import numpy as np

from bluesky_ptychonn.training.learning.corpus import ARRAYS, LabelledScan

N = 16


def make_scan(seed, frames=5, seen=True):
    rng = np.random.default_rng(seed)
    return LabelledScan(
        patterns=rng.integers(0, 65536, (frames, N, N), np.uint16),
        labels=rng.standard_normal((frames, 2, N, N)).astype(np.float16),
        probe=(rng.standard_normal((N, N)) + 1j).astype(np.complex64),
        seen=rng.integers(0, 256, (frames, N, N), np.uint8) if seen else None,
        about={"run": f"run {seed}", "photons_per_frame": 1000.5, "removed": {"phase_rad": 0.1}},
    )


def assert_equal(shard, scan):
    for name in ARRAYS:
        stored, given = getattr(shard, name), getattr(scan, name)
        assert (stored is None) == (given is None)
        if given is not None:
            assert stored.dtype == given.dtype
            np.testing.assert_array_equal(stored, given)

import numpy as np
import pytest

from bluesky_ptychonn.core.bitshuffle import join_bits, split_bits


def split_slowly(counts, block):
    """Bit planes of each block, by numpy."""
    parts = []
    for start in range(0, counts.size, block):
        octets = counts[start : start + block].view(np.uint8).reshape(-1, counts.itemsize)
        parts.append(np.packbits(np.unpackbits(octets, axis=1, bitorder="little").T, axis=1, bitorder="little").ravel())
    return np.concatenate(parts)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
@pytest.mark.parametrize(("size", "block"), [(8, 8), (64, 64), (72, 32), (24, 64), (5000, 2048)])
def test_bits_are_sorted_and_joined_again(rng, dtype, size, block):
    counts = rng.integers(0, np.iinfo(dtype).max, size, dtype=dtype, endpoint=True)
    planes, joined = np.empty(counts.nbytes, np.uint8), np.empty_like(counts)
    split_bits(counts, planes, block)
    np.testing.assert_array_equal(planes, split_slowly(counts, block))
    join_bits(planes, joined, block)
    np.testing.assert_array_equal(joined, counts)

import tracemalloc

import numpy as np
import pytest

from bluesky_ptychonn.io import codecs
from bluesky_ptychonn.io.codecs import CODECS, compress, decompress

COMPRESSING = CODECS[1:]
TYPES = [np.uint16, np.uint32]
SHORT = np.arange(29) * 7 % 40
EVEN = np.full(128, 3)
REFERENCE = {
    ("lz4", np.uint16): (
        SHORT,
        "f02b000007000e0015001c00230002000900100017001e00250004000b00120019002000270006000d0014001b002200010008000f00"
        "16001d002400",
    ),
    ("bslz4", np.uint16): (
        SHORT,
        "0000001eff04aaaaaa6666661e1e1e94a42818c7302008430001000550000000000008000f0016001d002400",
    ),
    ("bslz4", np.uint32): (
        SHORT,
        "0000001eff04aaaaaa6666661e1e1e94a42818c73020084300010035500000000000080000000f000000160000001d00000024000000",
    ),
    ("blosc", np.uint16): (EVEN, "02010101000100000001000024000000140000000c0000002303000300e0f00302000300"),
    ("blosc", np.uint32): (
        EVEN,
        "0201910100020000000200002d000000140000001500000028b52ffd6000015d000020030000000100f9ab8e08",
    ),
}
"""What lz4 1.10, bitshuffle 0.5.2 and C-Blosc 1.21 (blosclz and zstd, bytes shuffled) write."""


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("count", [1, 7, 8, 100, 4096, 4099, 5000, 128 * 128])
def test_counts_come_back(rng, codec, dtype, count):
    for counts in (rng.poisson(2, count).astype(dtype), rng.integers(0, np.iinfo(dtype).max, count, dtype, True)):
        data = compress(counts, codec)
        assert (data.dtype, data.ndim) == (np.uint8, 1)
        found = decompress(data, codec, dtype, count)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, counts)


@pytest.mark.parametrize("codec", CODECS)
def test_frames_are_taken_row_by_row_in_any_memory_layout(rng, codec):
    frame = rng.poisson(2, (24, 30)).astype(np.uint16)
    for given in (frame, np.asfortranarray(frame), np.repeat(frame, 2, axis=1)[:, ::2]):
        np.testing.assert_array_equal(decompress(compress(given, codec), codec, np.uint16, 720), frame.ravel())
    strided = np.repeat(compress(frame, codec), 2)[::2]
    np.testing.assert_array_equal(decompress(strided, codec, np.uint16, 720), frame.ravel())


@pytest.mark.parametrize("codec", COMPRESSING)
@pytest.mark.parametrize("dtype", TYPES)
def test_faint_light_gets_smaller(rng, codec, dtype):
    assert compress(rng.poisson(0.5, (256, 256)).astype(dtype), codec).nbytes < 0.4 * 65536 * np.dtype(dtype).itemsize


@pytest.mark.parametrize(("codec", "dtype"), REFERENCE)
def test_what_the_reference_libraries_write_is_read(codec, dtype):
    counts, data = REFERENCE[codec, dtype]
    found = decompress(np.frombuffer(bytes.fromhex(data), np.uint8), codec, dtype, counts.size)
    np.testing.assert_array_equal(found, counts)


def test_bslz4_is_what_the_reference_library_writes():
    counts, data = REFERENCE["bslz4", np.uint32]
    assert compress(counts.astype(np.uint32), "bslz4").tobytes().hex() == data


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("dtype", TYPES)
def test_torn_and_oversized_data_are_refused(rng, codec, dtype):
    data = compress(rng.poisson(2, 5001).astype(dtype), codec)
    for size in {0, 1, 3, 4, 5, 15, 16, 17, data.size // 2, data.size - 5, data.size - 1}:
        with pytest.raises(ValueError, match=f"a frame compressed with {codec} cannot be used: .* torn"):
            decompress(data[:size], codec, dtype, 5001)
    for more in (1, 12):
        with pytest.raises(ValueError, match="cannot be used"):
            decompress(np.append(data, np.zeros(more, np.uint8)), codec, dtype, 5001)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    ("dtype", "count"), [(np.uint16, 5000), (np.uint16, 5008), (np.uint16, 2500), (np.uint32, 5001)]
)
def test_another_size_or_type_is_refused(rng, codec, dtype, count):
    data = compress(rng.poisson(2, 5001).astype(np.uint16), codec)
    with pytest.raises(ValueError, match="cannot be used"):
        decompress(data, codec, dtype, count)


def hostile(codec):
    """Data that ask for two gigabytes."""
    if codec == "lz4":
        return np.concatenate([np.array([0x1F, 0, 1, 0], np.uint8), np.full(8 << 20, 255, np.uint8)])
    data = compress(np.zeros(8192, np.uint16), codec).copy()
    places = {"blosc": (slice(4, 8), "<u4"), "bslz4": (slice(0, 4), ">u4")}
    place, order = places[codec]
    data[place] = np.frombuffer(np.array(2**31 - 64, order).tobytes(), np.uint8)
    return data


@pytest.mark.parametrize("codec", COMPRESSING)
def test_no_more_memory_is_taken_than_announced(codec):
    data = hostile(codec)
    decompress(compress(np.zeros(8192, np.uint16), codec), codec, np.uint16, 8192)  # loads the package
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="cannot be used"):
            decompress(data, codec, np.uint16, 8192)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("codec", COMPRESSING)
@pytest.mark.parametrize("dtype", TYPES)
def test_damaged_data_never_crash(rng, codec, dtype):
    """Counts that are wrong, or an error; a damaged C-Blosc header keeps its sizes, else nothing behind it is read."""
    count = 6001
    whole = compress(rng.poisson(3, count).astype(dtype), codec)
    for turn in range(3000):
        data = whole.copy()
        if turn % 3:
            data[rng.integers(0, whole.size if turn % 3 == 1 else 40, rng.integers(1, 8))] = rng.integers(256)
        else:
            data = rng.integers(0, 256, whole.size, np.uint8)
        if codec == "blosc":
            data[4:8], data[12:16] = whole[4:8], whole[12:16]
        try:
            found = decompress(data, codec, dtype, count)
        except ValueError:
            continue
        assert (found.dtype, found.shape) == (dtype, (count,))


@pytest.mark.parametrize(
    ("codec", "dtype", "message"),
    [
        ("jpeg", np.uint16, r"codec = 'jpeg' is unknown here; allowed is one of \('none', 'lz4', 'blosc', 'bslz4'\)"),
        ("lz4", np.uint8, "counts of type uint8; they must be unsigned integers of 16 or 32 bits"),
        ("bslz4", np.int16, "counts of type int16"),
        ("none", np.float32, "counts of type float32"),
    ],
)
def test_unknown_codecs_and_types_are_refused(codec, dtype, message):
    with pytest.raises(ValueError, match=message):
        compress(np.zeros(8, dtype), codec)
    with pytest.raises(ValueError, match=message):
        decompress(np.zeros(16, np.uint8), codec, dtype, 8)


@pytest.mark.parametrize(("codec", "package"), [("lz4", "lz4"), ("bslz4", "lz4"), ("blosc", "blosc")])
def test_a_missing_package_is_named_with_its_extra(codec, package, monkeypatch):
    data = compress(np.zeros(64, np.uint16), codec)
    monkeypatch.setitem(codecs.MODULES, package, f"{package}_is_not_here")
    codecs._package.cache_clear()
    try:
        with pytest.raises(ImportError, match=rf"need the package {package} .*bluesky-ptychonn\[edge\]"):
            decompress(data, codec, np.uint16, 64)
        codecs.warm_up()
    finally:
        codecs._package.cache_clear()

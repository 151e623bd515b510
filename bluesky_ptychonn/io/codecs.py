"""Compressed frames, as areaDetector's NDPluginCodec and ADEiger write them into an NTNDArray.

``lz4`` is one LZ4 block with no size in front; ``blosc`` a chunk of C-Blosc 1. ``bslz4`` is what bitshuffle's
``bshuf_compress_lz4`` makes: blocks of 8192 bytes, each bit-shuffled, compressed with LZ4 and preceded by its size in
four bytes, the most significant first; the last count % 8 counts follow as they are. The 12 bytes that HDF5 files and
an Eiger's own stream put in front of it do not travel over PVA.

Packages ``lz4`` and ``blosc`` are imported on first use. Both have wheels for x86-64 and for 64-bit Arm, where
bitshuffle has none: its bits are joined by `core.bitshuffle`.
"""

import contextlib
import functools
import importlib
import struct
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

CODECS = ("none", "lz4", "blosc", "bslz4")
MODULES = {"lz4": "lz4.block", "blosc": "blosc"}
BLOCK_BYTES = 8192
BLOSC_HEADER = 16
BLOSC_LEVEL = 3


def compress(counts: np.ndarray, codec: str) -> np.ndarray:
    """Compress counts as a detector's IOC does.

    Parameters
    ----------
    counts : uint16 or uint32 array
        Of any shape; taken row by row.
    codec : str
        One of `CODECS`.

    Returns
    -------
    (n,) uint8

    Raises
    ------
    ValueError
        If codec or type are unknown here.
    ImportError
        If the codec's package is missing.

    Examples
    --------
    >>> compress(np.zeros((128, 128), np.uint16), "bslz4").size < 32768 / 100
    True
    """
    counts = np.ascontiguousarray(counts).ravel()
    _check(codec, counts.dtype)
    if codec == "none":
        return counts.view(np.uint8)
    if codec == "blosc":
        blosc = _package("blosc")
        made = blosc.compress(
            counts, typesize=counts.itemsize, clevel=BLOSC_LEVEL, shuffle=blosc.BITSHUFFLE, cname="lz4"
        )
    elif codec == "lz4":
        made = _package("lz4").compress(counts, store_size=False)
    else:
        made = _compress_bslz4(counts)
    return np.frombuffer(made, np.uint8)


def decompress(data: np.ndarray, codec: str, dtype: DTypeLike, count: int) -> np.ndarray:
    """Decompress the counts of one frame; no more memory is taken than ``count`` of them need.

    Parameters
    ----------
    data : (n,) uint8
        All bytes of the compressed frame, and nothing else.
    codec : str
        One of `CODECS`.
    dtype : dtype
        uint16 or uint32.
    count : int
        How many counts a frame has.

    Returns
    -------
    (count,) of ``dtype``
        It may be read-only.

    Raises
    ------
    ValueError
        If the data are torn or hold something else than so many counts of this type.
    ImportError
        If the codec's package is missing.

    Examples
    --------
    >>> decompress(compress(np.arange(9, dtype=np.uint16), "bslz4"), "bslz4", np.uint16, 9).tolist()
    [0, 1, 2, 3, 4, 5, 6, 7, 8]
    """
    dtype = np.dtype(dtype)
    _check(codec, dtype)
    wanted = count * dtype.itemsize
    view = np.ascontiguousarray(data).view(np.uint8).ravel().data
    if codec == "none":
        made = view
    elif codec == "bslz4":
        return _decompress_bslz4(view, dtype, count)
    else:
        made = _decompress_lz4(view, wanted) if codec == "lz4" else _decompress_blosc(view, wanted)
    if len(made) != wanted:
        raise _wrong(codec, f"it holds {len(made)} bytes where {count} counts of {dtype} have {wanted}")
    return np.frombuffer(made, dtype)


def warm_up() -> None:
    """Load whatever is installed of what frames may need, so that no frame has to wait for it."""
    probe = np.zeros(16, np.uint16)
    for codec in CODECS:
        with contextlib.suppress(ImportError):
            decompress(compress(probe, codec), codec, probe.dtype, probe.size)


def _check(codec: str, dtype: np.dtype) -> None:
    if codec not in CODECS:
        raise ValueError(f"codec = {codec!r} is unknown here; allowed is one of {CODECS}")
    if dtype not in (np.uint16, np.uint32):
        raise ValueError(f"counts of type {dtype}; they must be unsigned integers of 16 or 32 bits")


@functools.cache
def _package(name: str) -> Any:
    try:
        found = importlib.import_module(MODULES[name])
    except ImportError as error:
        raise ImportError(
            f"frames compressed like these need the package {name} ({error}); pip install 'bluesky-ptychonn[edge]'"
        ) from error
    if name == "blosc":
        found.set_nthreads(1)  # the engine needs the other cores
    return found


def _wrong(codec: str, what: str) -> ValueError:
    return ValueError(
        f"a frame compressed with {codec} cannot be used: {what}; is it torn, or of another size or type?"
    )


def _decompress_lz4(data: memoryview, wanted: int, codec: str = "lz4") -> bytes:
    lz4 = _package("lz4")
    try:
        return lz4.decompress(data, uncompressed_size=wanted)
    except lz4.LZ4BlockError as error:
        raise _wrong(codec, str(error)) from error


def _decompress_blosc(data: memoryview, wanted: int) -> bytes:
    if len(data) < BLOSC_HEADER:
        raise _wrong("blosc", f"it has {len(data)} bytes, its header alone would have {BLOSC_HEADER}")
    holds, _, size = struct.unpack_from("<III", data, 4)
    if size != len(data):  # C-Blosc believes the header and would read on
        raise _wrong("blosc", f"it has {len(data)} bytes, and {size} according to its header")
    if holds != wanted:
        raise _wrong("blosc", f"it holds {holds} bytes where {wanted} are wanted")
    blosc = _package("blosc")
    try:
        return blosc.decompress(data)
    except blosc.blosc_extension.error as error:
        raise _wrong("blosc", str(error)) from error


def _decompress_bslz4(data: memoryview, dtype: np.dtype, count: int) -> np.ndarray:
    from bluesky_ptychonn.core.bitshuffle import join_bits

    whole = count - count % 8
    blocks, at = [], 0
    for start in range(0, whole * dtype.itemsize, BLOCK_BYTES):
        wanted = min(BLOCK_BYTES, whole * dtype.itemsize - start)
        size = int.from_bytes(data[at : at + 4], "big")
        at += 4
        if size > len(data) - at:
            raise _wrong("bslz4", f"it ends within block {len(blocks)}")
        blocks.append(_decompress_lz4(data[at : at + size], wanted, "bslz4"))
        at += size
        if len(blocks[-1]) != wanted:
            raise _wrong("bslz4", f"block {len(blocks) - 1} holds {len(blocks[-1])} bytes where {wanted} are wanted")
    if len(data) - at != (count - whole) * dtype.itemsize:
        raise _wrong("bslz4", f"{len(data) - at} bytes follow the last block of {count} counts of {dtype}")
    counts = np.empty(count, dtype)
    join_bits(np.frombuffer(b"".join(blocks), np.uint8), counts[:whole], BLOCK_BYTES // dtype.itemsize)
    counts[whole:] = np.frombuffer(data[at:], dtype)
    return counts


def _compress_bslz4(counts: np.ndarray) -> bytes:
    from bluesky_ptychonn.core.bitshuffle import split_bits

    lz4 = _package("lz4")
    whole = counts.size - counts.size % 8
    planes = np.empty(whole * counts.itemsize, np.uint8)
    split_bits(counts[:whole], planes, BLOCK_BYTES // counts.itemsize)
    made = []
    for start in range(0, planes.size, BLOCK_BYTES):
        block = lz4.compress(planes[start : start + BLOCK_BYTES], store_size=False)
        made += [len(block).to_bytes(4, "big"), block]
    return b"".join((*made, counts[whole:].tobytes()))

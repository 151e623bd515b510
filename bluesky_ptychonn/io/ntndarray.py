"""NTNDArray, areaDetector's image on pvAccess: read a frame, make an image.

An NTNDArray names its width first; here, and only here, that becomes (rows, columns).
"""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from bluesky_ptychonn.io.codecs import CODECS, compress, decompress

FRAME_FIELDS = {"ushortValue": np.uint16, "uintValue": np.uint32}
BYTE_FIELDS = ("ubyteValue", "byteValue")
TYPE_CODES = {
    2: {6: np.uint16, 3: np.uint16},
    4: {7: np.uint32, 5: np.uint32},
}
"""By bytes per pixel: what ``codec.parameters`` says of counts, as a scalar type of pvData (NDPluginPva), or as an
areaDetector type (NDPluginPvxs before 2026)."""


def frame_identity(update: Any, clock: str) -> tuple[int, float]:
    """Return ``uniqueId`` and time of an update, s.

    Parameters
    ----------
    update : pvaccess.PvObject
    clock : {"detector", "ioc"}
        ``dataTimeStamp`` is the array's own time, which the driver takes from the detector where it can;
        ``timeStamp`` is when the IOC handled it.
    """
    stamp = update.getStructure("dataTimeStamp" if clock == "detector" else "timeStamp")
    return update.getInt("uniqueId"), stamp["secondsPastEpoch"] + 1e-9 * stamp["nanoseconds"]


def frame_counts(update: Any, shape: tuple[int, int]) -> np.ndarray:
    """Return the frame of an update (H, W): a read-only view of it, or new memory if it was compressed.

    Raises
    ------
    ValueError
        If there is no array, or it has another type or size, or its codec is none of `codecs.CODECS`, or it is torn.
    ImportError
        If the package of its codec is missing.
    """
    name, codec = update.getSelectedUnionFieldName(), update.getString("codec.name")
    if name not in (BYTE_FIELDS if codec else FRAME_FIELDS):
        raise ValueError(
            f"frames of type {name or 'nothing'}; they must be unsigned integers of 16 or 32 bits, as they are or "
            f"compressed ({', '.join(CODECS[1:])}); set the detector to more bits"
        )
    sides = tuple(side["size"] for side in reversed(update.getStructureArray("dimension")))
    if sides != tuple(shape):
        raise ValueError(f"a frame of {_px(sides)} where {_px(shape)} were announced")
    data = update.getUnion("value").getScalarArray(name)
    counts = _decompressed(update, data, codec, shape[0] * shape[1]) if codec else data
    if counts.size != shape[0] * shape[1]:
        raise ValueError(f"a frame of {counts.size} px where {_px(shape)} were announced")
    return counts.reshape(shape)


def _px(sides: tuple[int, ...]) -> str:
    return f"{' x '.join(map(str, sides))} px"


def _decompressed(update: Any, data: np.ndarray, codec: str, pixels: int) -> np.ndarray:
    if codec not in CODECS[1:]:
        raise ValueError(
            f"frames compressed with {codec!r}; allowed is {', '.join(CODECS[1:])}; set Compressor of the codec "
            "plugin, or StreamDecompress of an Eiger to Enable"
        )
    holds, size, code = update["uncompressedSize"], update["compressedSize"], update["codec.parameters"][0].get("value")
    per_pixel, rest = divmod(holds, pixels)
    dtype = TYPE_CODES.get(per_pixel, {}).get(code) if not rest else None
    if dtype is None:
        raise ValueError(
            f"a frame of {holds} bytes and type {code} where {pixels} px were announced; "
            "they must be unsigned integers of 16 or 32 bits"
        )
    if not 0 < size <= data.size:
        raise ValueError(f"a frame of {data.size} bytes where compressedSize = {size}")
    return decompress(data[:size], codec, dtype, pixels)


def set_frame(image: Any, counts: np.ndarray, codec: str = "none") -> None:
    """Put a frame into an NTNDArray as areaDetector does: value, codec, type and sizes.

    Parameters
    ----------
    image : pvaccess.NtNdArray
        Identity, times and dimensions are left alone.
    counts : (H, W) uint16 or uint32
    codec : str
        One of `codecs.CODECS`.

    Raises
    ------
    ValueError
        If codec or type are unknown here.
    """
    import pvaccess

    data = compress(counts, codec)
    field, kind = ("ushortValue", pvaccess.USHORT) if counts.dtype == np.uint16 else ("uintValue", pvaccess.UINT)
    if codec == "none":
        image["value"] = {field: data.view(counts.dtype)}
    else:
        image["value"] = {"ubyteValue": data}
    image["codec"] = pvaccess.PvCodec("" if codec == "none" else codec, pvaccess.PvInt(int(kind)))
    image["compressedSize"], image["uncompressedSize"] = data.nbytes, counts.nbytes


def image_shape(update: Any) -> tuple[int, int]:
    """Return (rows, columns) of an update; (0, 0) if it has none."""
    dimension = update["dimension"]
    return (dimension[1]["size"], dimension[0]["size"]) if len(dimension) == 2 else (0, 0)


def _stamp(time_s: float) -> dict[str, int]:
    return {"secondsPastEpoch": int(time_s), "nanoseconds": int(time_s % 1 * 1e9), "userTag": 0}


def make_image(image: np.ndarray, attributes: Mapping[str, Any], unique_id: int = 0) -> Any:
    """Make an NTNDArray of an (H, W) float32 image.

    Parameters
    ----------
    image : (H, W) array
    attributes : dict
        Strings and numbers which travel with it, such as ``run_uid`` and ``pixel_size_um``.
    unique_id : int
    """
    import pvaccess

    height, width = image.shape
    made = pvaccess.NtNdArray()
    made["uniqueId"] = unique_id
    made["value"] = {"floatValue": np.ascontiguousarray(image, np.float32).ravel()}
    made["dimension"] = [
        {"size": size, "offset": 0, "fullSize": size, "binning": 1, "reverse": False} for size in (width, height)
    ]
    made["compressedSize"] = made["uncompressedSize"] = 4 * image.size
    made["dataTimeStamp"] = made["timeStamp"] = _stamp(time.time())
    made["attribute"] = [
        pvaccess.NtAttribute(
            name, pvaccess.PvString(value) if isinstance(value, str) else pvaccess.PvDouble(float(value))
        )
        for name, value in attributes.items()
    ]
    return made


def read_image(values: Mapping[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
    """Return image (H, W) and attributes of an NTNDArray read as a dictionary; the image is (0, 0) before the first.

    Raises
    ------
    ValueError
        If the array does not fill its dimensions.
    """
    union = values["value"][0]
    attributes = {entry["name"]: entry["value"][0]["value"] for entry in values["attribute"]}
    if not union or len(values["dimension"]) != 2:
        return np.empty((0, 0), np.float32), attributes
    width, height = (entry["size"] for entry in values["dimension"])
    flat = np.asarray(next(iter(union.values())))
    if flat.size != width * height:
        raise ValueError(f"an image of {flat.size} px in dimensions of {height} x {width} px")
    return flat.reshape(height, width), attributes

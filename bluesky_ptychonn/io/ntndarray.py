"""NTNDArray, areaDetector's image on pvAccess: read a frame, make an image.

An NTNDArray names its width first; here, and only here, that becomes (rows, columns).
"""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

FRAME_FIELDS = {"ushortValue": np.uint16, "uintValue": np.uint32}


def frame_identity(update: Any, clock: str) -> tuple[int, float]:
    """Return ``uniqueId`` and time of an update, s.

    Parameters
    ----------
    update : pvaccess.PvObject
    clock : {"detector", "ioc"}
        ``dataTimeStamp`` is the array's own time, which the driver takes from the detector where it can;
        ``timeStamp`` is when the IOC handled it.
    """
    stamp = update["dataTimeStamp" if clock == "detector" else "timeStamp"]
    return update["uniqueId"], stamp["secondsPastEpoch"] + 1e-9 * stamp["nanoseconds"]


def frame_counts(update: Any, shape: tuple[int, int]) -> np.ndarray:
    """Return the frame of an update as a read-only (H, W) view.

    Raises
    ------
    ValueError
        If there is no array, or it has another type or size, or is compressed.
    """
    name = update.getSelectedUnionFieldName()
    if name not in FRAME_FIELDS:
        raise ValueError(
            f"frames of type {name or 'nothing'}; they must be unsigned integers of 16 or 32 bits, not compressed "
            "(StreamDecompress of an Eiger: Enable)"
        )
    counts = update["value"][0][name]
    if counts.size != shape[0] * shape[1]:
        raise ValueError(f"a frame of {counts.size} px where {shape[0]} x {shape[1]} px were announced")
    return counts.reshape(shape)


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

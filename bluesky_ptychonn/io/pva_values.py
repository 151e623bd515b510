"""Python and numpy values in the types of PVA."""

from collections.abc import Mapping
from typing import Any

import numpy as np

_NUMPY_TYPES = {
    "BOOLEAN": "?",
    "BYTE": "i1",
    "UBYTE": "u1",
    "SHORT": "i2",
    "USHORT": "u2",
    "INT": "i4",
    "UINT": "u4",
    "LONG": "i8",
    "ULONG": "u8",
    "FLOAT": "f4",
    "DOUBLE": "f8",
}


def as_pva(kind: Any, value: Any) -> Any:
    """Convert one value to what pvapy takes for a field of this kind.

    pvapy refuses numpy scalars and arrays of a neighbouring type, and reads a strided array as if it were contiguous.

    Parameters
    ----------
    kind : pvaccess.ScalarType, or list of one
        Type of the field, as in a pvapy structure; other kinds pass unchanged.
    value : object
        Python or numpy value.

    Raises
    ------
    ValueError
        If the value does not fit the type, such as 1.5 for an integer field.
    """
    if isinstance(kind, list) and hasattr(kind[0], "name"):
        if kind[0].name == "STRING":
            return [str(item) for item in value]
        given = np.asarray(value)
        array = np.ascontiguousarray(given, dtype=_NUMPY_TYPES[kind[0].name]).ravel()
        if array.dtype.kind in "iu" and given.size and not np.array_equal(array, given.ravel()):
            raise ValueError(f"{value!r} does not fit {kind[0].name} elements")
        return array
    name = getattr(kind, "name", None)
    if name is None:
        return value
    if name == "STRING":
        return str(value)
    number = _NUMPY_TYPES[name]
    if number == "?":
        return bool(value)
    if number[0] == "f":
        return float(value)
    if int(value) != value or not np.iinfo(number).min <= int(value) <= np.iinfo(number).max:
        raise ValueError(f"{value!r} does not fit {name}")
    return int(value)


def fill(pv_object: Any, structure: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
    """Set top-level fields of a PvObject from Python or numpy values; returns the object.

    Raises
    ------
    ValueError
        If a field is unknown or a value does not fit; the message names the field.
    """
    for field, value in values.items():
        if field not in structure:
            raise ValueError(f"there is no field {field!r}; the fields are {sorted(structure)}")
        try:
            pv_object[field] = as_pva(structure[field], value)
        except Exception as error:
            raise ValueError(f"field {field!r}: {error}") from error
    return pv_object

"""Images as 32-bit TIFF, with what they show and how they were made."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from bluesky_ptychonn.io.durable import replace_file


def write_tiff(path: Path, image: np.ndarray, pixel_size_um: float | None, about: Mapping[str, Any]) -> None:
    """Write an image (H, W) as float32, in which NaN stays NaN; ImageJ shows it to scale, and ``about`` as its info.

    Raises
    ------
    OSError
        If it cannot be written; an older file of this name is unchanged then.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "phase.tiff"
    >>> write_tiff(file, np.eye(4), 0.01, {"engine": "lift"})
    >>> about_tiff(file)["engine"], tifffile.imread(file).dtype.name
    ('lift', 'float32')
    """
    scale: dict[str, Any] = {}
    if pixel_size_um is not None:
        scale = {"resolution": (1 / pixel_size_um, 1 / pixel_size_um)}
    told = {"Info": json.dumps(dict(about), indent=1), "unit": "um" if scale else "pixel", "axes": "YX"}
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.asarray(image, np.float32), imagej=True, metadata=told, **scale)
    replace_file(path, buffer.getbuffer())


def about_tiff(path: Path) -> dict[str, Any]:
    """Read what `write_tiff` was told about an image."""
    with tifffile.TiffFile(path) as file:
        return json.loads((file.imagej_metadata or {})["Info"])

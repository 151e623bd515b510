"""Reconstructions in files that other ptychography programs open: HDF5 in CXI layout.

::

    /cxi_version                                    160
    /entry_1/image_1/data                           probe (modes, y, x) complex64
    /entry_1/image_2/data                           object (y, x) complex64
    /entry_1/sample_1/geometry_1/translation        probe centres (x, y, 0) in m, where the pixel size is known
    /entry_1/process_1/                             program, version
    /entry_1/ptychodus/                             pixel sizes, object centre and errors, as ptychodus asks for them
    /entry_1/ptychonn/                              everything of `Reconstruction`, bit by bit, in its own units
    /entry_1/probe, /entry_1/object                 links to the images, as PyNX names them

In the user block before the HDF5 part stands the SHA-256 of that part, so that a torn or harmed file is never taken for
a reconstruction; HDF5 programs pass over it.

Where conventions differ: CXI leaves the numbers of the images open, ptychodus takes image_1 for the probe and image_2
for the object, and so is it here. ``translation`` in CXI is that of the sample along x and y; with the detector's
default axes its (y, x) is the probe's centre along rows and columns (`io.cxi`), which is how ptychodus takes it too.
Complex numbers are pairs (r, i), as CXI and h5py have them. PtyPy has no reader for CXI results; its containers are
(modes, y, x) as these arrays are, so that ``h5py.File(path)["entry_1/image_1/data"][()]`` starts it.
"""

import hashlib
import io
import json
from importlib import metadata
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from bluesky_ptychonn.core.reconstruction import Reconstruction, RetrievalReport
from bluesky_ptychonn.io.durable import replace_file

MARK = b"bluesky_ptychonn reconstruction, SHA-256 of what follows these 512 bytes: "
HEADER = 512
SCHEMA_VERSION = 1
CXI_VERSION = 160
PROBE, OBJECT = "entry_1/image_1/data", "entry_1/image_2/data"
TRANSLATION = "entry_1/sample_1/geometry_1/translation"
OWN = "entry_1/ptychonn"
ARRAYS = ("positions_px", "coverage", "trigger_index", "held_out", "errors", "errors_heldout")


def write_reconstruction(path: Path, reconstruction: Reconstruction) -> None:
    """Write a reconstruction; the file is there as a whole or not at all.

    Parameters
    ----------
    path : Path
    reconstruction : Reconstruction
        Settings and provenance hold what JSON holds; numpy numbers become plain ones, tuples lists.

    Raises
    ------
    OSError
        If the disk is full or the folder cannot be written; an older file of this name is unchanged.
    TypeError
        If settings or provenance hold something that cannot be written as JSON.
    """
    whole = io.BytesIO()
    with h5py.File(whole, "w", userblock_size=HEADER) as file:
        file["cxi_version"] = CXI_VERSION
        file["number_of_entries"] = 1
        file["entry_1/process_1/program"] = "bluesky_ptychonn"
        file["entry_1/process_1/version"] = metadata.version("bluesky-ptychonn")
        put_images(file, reconstruction, reconstruction.trigger_index)
        file["entry_1/data_1/data"] = h5py.SoftLink(f"/{OBJECT}")
        if reconstruction.pixel_size_um is not None:
            _put_positions(file, reconstruction, 1e-6 * reconstruction.pixel_size_um)
    data = whole.getbuffer()
    data[:HEADER] = _header(data)
    replace_file(path, data)


def is_reconstruction(path: Path) -> bool:
    """Whether a file begins as `write_reconstruction` begins it."""
    try:
        with open(path, "rb") as file:
            return file.read(len(MARK)) == MARK
    except OSError:
        return False


def read_reconstruction(path: Path) -> Reconstruction:
    """Read what `write_reconstruction` wrote, bit by bit.

    Raises
    ------
    ValueError
        If the file is not there, torn or changed, or was not written by this package.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}; name the file of a reconstruction") from error
    if not data.startswith(MARK):
        raise ValueError(
            f"{path} was not written as a reconstruction by this package, or is torn at its start; read its arrays "
            "with h5py, or reconstruct anew"
        )
    if data[:HEADER] != _header(memoryview(data)):
        raise ValueError(
            f"{path} was torn or changed after it was written: its SHA-256 is another; copy it again, or reconstruct "
            "anew"
        )
    with h5py.File(io.BytesIO(data), "r") as file:
        version = file[OWN].attrs["schema_version"]
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"{path} has schema_version = {version}, this version reads {SCHEMA_VERSION}; update bluesky-ptychonn"
            )
        return _get(file, file[OWN])


def _header(data: memoryview) -> bytes:
    return (MARK + hashlib.sha256(data[HEADER:]).hexdigest().encode() + b"\n").ljust(HEADER, b"\0")


def _put_own(own: h5py.Group, reconstruction: Reconstruction) -> None:
    own.attrs["schema_version"] = SCHEMA_VERSION
    for name in ARRAYS:
        own[name] = getattr(reconstruction, name)
    own["origin_px"] = np.array(reconstruction.origin_px, np.float64)
    if reconstruction.pixel_size_um is not None:
        own["pixel_size_um"] = float(reconstruction.pixel_size_um)
    own["settings"] = _json(reconstruction.settings)
    own["provenance"] = _json(reconstruction.provenance)
    if reconstruction.report is not None:
        own["report"] = _json(reconstruction.report.as_figures())


def put_images(file: h5py.File, reconstruction: Reconstruction, position_indexes: np.ndarray) -> None:
    """Put probe and object into a CXI file, and everything of `Reconstruction` beside them.

    Parameters
    ----------
    file : h5py.File
    reconstruction : Reconstruction
    position_indexes : (N,) int
        Which frame each position of the file's ``translation`` belongs to, for ptychodus.
    """
    file.create_dataset(PROBE, data=reconstruction.probe).attrs["axes"] = "incoherent:y:x"
    file.create_dataset(OBJECT, data=reconstruction.object_).attrs["axes"] = "y:x"
    _put_own(file.create_group(OWN), reconstruction)
    for image, name in ((PROBE, "probe"), (OBJECT, "object")):
        group = file[image].parent
        group["data_type"], group["data_space"] = "amplitude", "real"
        file[f"entry_1/{name}/data"] = h5py.SoftLink(f"/{image}")
    file["entry_1/instrument_1/source_1/illumination"] = h5py.SoftLink(f"/{PROBE}")
    if reconstruction.pixel_size_um is not None:
        _put_for_ptychodus(file, reconstruction, 1e-6 * reconstruction.pixel_size_um, position_indexes)


def _put_positions(file: h5py.File, reconstruction: Reconstruction, pixel_m: float) -> None:
    y_m, x_m = (pixel_m * (reconstruction.positions_px + np.array(reconstruction.origin_px))).T
    sample_m = np.stack([x_m, y_m, np.zeros_like(x_m)], axis=1)
    file.create_dataset(TRANSLATION, data=sample_m).attrs["units"] = "m"
    file["entry_1/data_1/translation"] = h5py.SoftLink(f"/{TRANSLATION}")


def _put_for_ptychodus(
    file: h5py.File, reconstruction: Reconstruction, pixel_m: float, position_indexes: np.ndarray
) -> None:
    """What ptychodus wants to know of pixels and object.

    ptychodus cuts the field of a probe from W/2 + (x - object centre) / pixel - n/2 on, this package from
    ``positions_px`` - n/2 on; the object's centre is that place on the sample for which both are the same.
    """
    for path, array in ((PROBE, reconstruction.probe), (OBJECT, reconstruction.object_)):
        height, width = array.shape[-2:]
        file[path].parent["image_size"] = np.array([width * pixel_m, height * pixel_m, 0.0])
    centre_m = pixel_m * (np.array(reconstruction.origin_px) + np.array(reconstruction.object_.shape) / 2)
    values = {
        "probe_position_indexes": position_indexes,
        "probe_photon_count": float(np.sum(np.abs(reconstruction.probe) ** 2, dtype=np.float64)),
        "object_center_y_m": centre_m[0],
        "object_center_x_m": centre_m[1],
        "loss_epochs": np.arange(len(reconstruction.errors)),
        "loss_values": reconstruction.errors,
    }
    values |= {f"{what}_pixel_{side}_m": pixel_m for what in ("probe", "object") for side in ("width", "height")}
    for name, value in values.items():
        file[f"entry_1/ptychodus/{name}"] = value


def _get(file: Any, own: Any) -> Reconstruction:
    texts = {name: json.loads(own[name].asstr()[()]) for name in ("settings", "provenance", "report") if name in own}
    report = texts.pop("report", None)
    y_px, x_px = own["origin_px"][()].tolist()
    return Reconstruction(
        object_=file[OBJECT][()],
        probe=file[PROBE][()],
        origin_px=(y_px, x_px),
        pixel_size_um=float(own["pixel_size_um"][()]) if "pixel_size_um" in own else None,
        report=None if report is None else RetrievalReport.from_figures(report),
        **texts,
        **{name: own[name][()] for name in ARRAYS},
    )


def _json(values: Any) -> str:
    return json.dumps(dict(values), default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(
        f"{value!r} cannot be written to a reconstruction's settings; give numbers, text, lists or mappings"
    )

"""A whole scan in one file for other programs: NeXus application definition NXcxi_ptycho, which is CXI 1.6 as well.

::

    /cxi_version                                     160
    /entry_1/definition                              NXcxi_ptycho
    /entry_1/instrument_1/{source_1, beam_1}         energies in J
    /entry_1/instrument_1/detector_1/                data (N, n, n), pixel sizes, distance, translation, mask
    /entry_1/{data, data_1}                          links to them: for NeXus, for CXI
    /entry_1/sample_1/{transformations, geometry_1}  probe centres x, y in m
    /entry_1/image_1, image_2                        probe and object of a reconstruction, if there is one
    /entry_1/image_3 (image_1 without one)           stitched phase, rad, and its coverage; also /entry_1/stitched
    /entry_1/process_1                               program, version, and how the images were made, as JSON

Everything is in SI units, with the axes of `io.reconstruction_files` and `io.cxi`, which reads the scan back. The
patterns are cut, binned and oriented: zero frequency at pixel (n/2, n/2), rows along +y, columns along +x.

Where the definition and CXI differ: ``source_1/energy`` is the machine's energy in NeXus and the photons' in CXI; here
it is the photons', as every CXI reader takes it. What nobody recorded, but the definition requires, is NaN or "not
recorded".

References
----------
NeXus definitions, NXcxi_ptycho; Maia, Nat. Methods 9, 854 (2012).
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from bluesky_ptychonn.core.frames import no_data
from bluesky_ptychonn.core.optics import Geometry, probe_diameter_um
from bluesky_ptychonn.core.reconstruction import Reconstruction
from bluesky_ptychonn.core.scan_data import ScanData
from bluesky_ptychonn.core.stitch import Canvas
from bluesky_ptychonn.io.cxi import DETECTOR, ENTRY, KEV_J, SOURCE
from bluesky_ptychonn.io.reconstruction_files import CXI_VERSION, put_images

BEAM, SAMPLE = f"{ENTRY}/instrument_1/beam_1", f"{ENTRY}/sample_1"
BAD = 0x1
"""Bit of the mask: the pixel is invalid."""
NOT_RECORDED = "not recorded"
CLASSES = {
    ENTRY: "NXentry",
    f"{ENTRY}/instrument_1": "NXinstrument",
    SOURCE: "NXsource",
    BEAM: "NXbeam",
    DETECTOR: "NXdetector",
    f"{DETECTOR}/transformations": "NXtransformations",
    f"{ENTRY}/data": "NXdata",
    f"{ENTRY}/data_1": "NXcollection",
    SAMPLE: "NXsample",
    f"{SAMPLE}/transformations": "NXtransformations",
    f"{SAMPLE}/geometry_1": "NXcollection",
    f"{ENTRY}/process_1": "NXprocess",
}


@dataclass(frozen=True)
class StitchedImage:
    """A stitched phase image, and how it was made.

    Parameters
    ----------
    phase : (H, W) float32
        rad; NaN where nothing was seen.
    coverage : (H, W) float32
        Sum of stitching weights.
    canvas : Canvas
    about : mapping
        Plain values: engine, model, frames.
    """

    phase: np.ndarray
    coverage: np.ndarray
    canvas: Canvas
    about: Mapping[str, Any] = field(default_factory=dict)


def write_nxcxi(
    path: Path,
    scan: ScanData,
    stitched: StitchedImage,
    reconstruction: Reconstruction | None = None,
    start: Mapping[str, Any] | None = None,
    stop: Mapping[str, Any] | None = None,
) -> None:
    """Write a scan with its images; the file is there as a whole or not at all.

    Parameters
    ----------
    path : Path
    scan : ScanData
        With its geometry.
    stitched : StitchedImage
    reconstruction : Reconstruction, optional
        Of the same scan.
    start, stop : mapping, optional
        Documents of the run.

    Raises
    ------
    ValueError
        If energy, distance or detector pixel are not known, which the format requires.
    OSError
        If it cannot be written; an older file of this name is unchanged then.
    """
    if scan.geometry is None or scan.pixel_size_um is None:
        raise ValueError(
            "NXcxi_ptycho asks for photon energy, distance and detector pixel, which this scan does not tell; give "
            "energy_kev, distance_m and detector_pixel_um, or leave cxi out"
        )
    start, stop = start or {}, stop or {}
    partial = path.with_name(f".{path.name}.part")
    try:
        with h5py.File(partial, "w") as file:
            file.attrs["default"] = ENTRY
            file["cxi_version"], file["number_of_entries"] = CXI_VERSION, 1
            for group, name in CLASSES.items():
                file.require_group(group).attrs["NX_class"] = name
            _put_entry(file, scan, stitched, start, stop)
            _put_instrument(file, scan, scan.geometry, start.get("ptycho", {}))
            _put_positions(file, 1e-6 * scan.pixel_size_um * scan.positions_px)
            _put_data(file)
            if reconstruction is not None:
                put_images(file, reconstruction, np.arange(len(scan.patterns)))
            elif scan.probe is not None:
                file[f"{SOURCE}/illumination"] = scan.probe
            _put_stitched(file, stitched, 3 if reconstruction is not None else 1)
        with open(partial, "rb+") as written:
            os.fsync(written.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _put_entry(
    file: Any, scan: ScanData, stitched: StitchedImage, start: Mapping[str, Any], stop: Mapping[str, Any]
) -> None:
    entry = file[ENTRY]
    entry.attrs["default"] = "data"
    entry["definition"] = "NXcxi_ptycho"
    entry["title"] = str(start.get("title") or f"{start.get('plan_name', 'ptychography scan')} {_name(scan, start)}")
    for name, document in (("start_time", start), ("end_time", stop)):
        if "time" in document:
            entry[name] = datetime.fromtimestamp(document["time"], timezone.utc).isoformat()
    if "uid" in start:
        entry["entry_identifier_uuid"] = start["uid"]
    file[f"{SAMPLE}/name"] = str(start.get("sample_name") or NOT_RECORDED)
    process = file[f"{ENTRY}/process_1"]
    process["program"], process["version"] = "bluesky_ptychonn", metadata.version("bluesky-ptychonn")
    process["date"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
    process["note"] = json.dumps({**scan.provenance, **stitched.about, "notes": list(scan.notes)})


def _name(scan: ScanData, start: Mapping[str, Any]) -> str:
    return str(start.get("scan_id") or scan.provenance.get("file") or start.get("uid", ""))


def _put_instrument(file: Any, scan: ScanData, geometry: Geometry, block: Mapping[str, Any]) -> None:
    energy_j, pixel_m, n = geometry.energy_kev * KEV_J, 1e-6 * geometry.detector_pixel_um, geometry.frame_px
    source, beam, detector = file[SOURCE], file[BEAM], file[DETECTOR]
    source["name"], source["type"], source["probe"] = NOT_RECORDED, "Synchrotron X-ray Source", "x-ray"
    _put(source, "energy", energy_j, "J")
    for name, value in (("energy", energy_j), ("incident_beam_energy", energy_j), ("incident_energy_spread", np.nan)):
        _put(beam, name, value, "J")
    _put(beam, "incident_wavelength", 1e-6 * geometry.wavelength_um, "m")
    if scan.probe is not None and scan.pixel_size_um is not None:
        probe = scan.probe if scan.probe.ndim == 2 else scan.probe[0]
        _put(beam, "extent", 1e-6 * probe_diameter_um(probe, scan.pixel_size_um), "m")
    detector.attrs["axes"], detector.attrs["signal"] = "[, data]", "data"
    detector["transformations/vector"] = np.array([0.0, 0.0, 1.0])
    for name, value in (("x_pixel_size", pixel_m), ("y_pixel_size", pixel_m), ("distance", geometry.distance_m)):
        _put(detector, name, value, "m")
    for name in ("beam_center_x", "beam_center_y"):
        _put(detector, name, n / 2 * pixel_m, "m")
    if "exposure_s" in block:
        _put(detector, "count_time", float(block["exposure_s"]), "s")
    missing = scan.patterns == no_data(scan.patterns.dtype)
    never = missing.all(axis=0)
    data = detector.create_dataset(
        "data",
        scan.patterns.shape,
        scan.patterns.dtype,
        chunks=(1, n, n),
        compression="gzip",
        compression_opts=1,
        shuffle=True,
    )
    for row, pattern in enumerate(scan.patterns):
        data[row] = np.where(never, 0, pattern)
    data.attrs["signal"], data.attrs["interpretation"] = 1, "image"
    data.attrs["no_data"] = no_data(scan.patterns.dtype)
    detector["data_1"] = h5py.SoftLink(f"/{DETECTOR}/data")
    detector["mask"] = np.where(never, BAD, 0).astype(np.uint32)
    detector["frame_trigger_index"] = scan.trigger_index


def _put_positions(file: Any, centres_m: np.ndarray) -> None:
    """Probe centres (N, 2), (y, x): for CXI as (x, y, 0), for NeXus as two motors of the sample."""
    y_m, x_m = centres_m.T
    translation = f"{DETECTOR}/translation"
    _put(file, translation, np.stack([x_m, y_m, np.zeros_like(x_m)], axis=1), "m")
    file[translation].attrs["axes"], file[translation].attrs["interpretation"] = "translation:y:x", "image"
    file[f"{SAMPLE}/geometry_1/translation"] = h5py.SoftLink(f"/{translation}")
    motors = file[f"{SAMPLE}/transformations"]
    motors.attrs["vector"] = np.array([0.0, 0.0, 0.0])
    for name, values, vector, depends_on in (("x", x_m, (1.0, 0.0, 0.0), "y"), ("y", y_m, (0.0, 1.0, 0.0), ".")):
        _put(motors, name, values, "m")
        motors[name].attrs.update(vector=vector, transformation_type="translation", depends_on=depends_on)


def _put_data(file: Any) -> None:
    data = file[f"{ENTRY}/data"]
    data.attrs["axes"], data.attrs["signal"] = ["x", ".", "."], "data"
    data["data"] = h5py.SoftLink(f"/{DETECTOR}/data")
    for axis in ("x", "y"):
        data[axis] = h5py.SoftLink(f"/{SAMPLE}/transformations/{axis}")
        data[f"{axis}_indices"] = "0"
        data.attrs[f"{axis}_indices"] = 0
    for name in ("data", "translation"):
        file[f"{ENTRY}/data_1/{name}"] = h5py.SoftLink(f"/{DETECTOR}/{name}")


def _put_stitched(file: Any, stitched: StitchedImage, number: int) -> None:
    canvas, group = stitched.canvas, file.create_group(f"{ENTRY}/image_{number}")
    group.attrs.update(NX_class="NXdata", signal="data", axes=["y", "x"])
    group["data"] = stitched.phase
    group["data"].attrs["units"] = "rad"
    group["coverage"] = stitched.coverage
    group["data_type"], group["data_space"] = "phase", "real"
    pixel_m = 1e-6 * canvas.pixel_size_um
    for axis, first_um, size in zip("yx", canvas.origin_um, canvas.shape):
        _put(group, axis, 1e-6 * first_um + pixel_m * np.arange(size), "m")
    group["image_size"] = np.array([canvas.shape[1] * pixel_m, canvas.shape[0] * pixel_m, 0.0])
    file[f"{ENTRY}/stitched"] = h5py.SoftLink(f"/{group.name.lstrip('/')}")


def _put(group: Any, name: str, value: Any, unit: str) -> None:
    group[name] = np.asarray(value, np.float64)
    group[name].attrs["units"] = unit

"""Softioc records from their specifications, and the values with which they start."""

from collections.abc import Callable
from typing import Any

import numpy as np

from bluesky_ptychonn.core.optics import Geometry
from bluesky_ptychonn.simulation.detector_kinds import DetectorKind
from bluesky_ptychonn.simulation.detector_state import Settings
from bluesky_ptychonn.simulation.records import RecordSpec
from bluesky_ptychonn.simulation.source import Source

ACT_ON_EVERY_PUT = ("ArrayCounter", "DroppedArrays", "Trigger", "FilePath", "WriteData")
"""Ends of names whose puts count even if they do not change the value."""
INPUTS = {
    "ai": "aIn",
    "bi": "boolIn",
    "ints": "WaveformIn",
    "longin": "longIn",
    "mbbi": "mbbIn",
    "stringin": "stringIn",
    "textin": "longStringIn",
}
OUTPUTS = {
    "ao": "aOut",
    "bo": "boolOut",
    "longout": "longOut",
    "mbbo": "mbbOut",
    "stringout": "stringOut",
    "text": "longStringOut",
}


def make_record(builder: Any, prefix: str, spec: RecordSpec, value: Any, on_put: Callable[[Any], None]) -> Any:
    """Create one softioc record."""
    kind, choices = spec.type, list(spec.choices)
    options: dict[str, Any] = {}
    if kind in ("ao", "ai"):
        options = {"initial_value": float(value or 0), "PREC": 6}
    elif kind in ("text", "textin"):
        options = {"initial_value": str(value), "length": 1024}
    elif kind in ("stringout", "stringin"):
        options = {"initial_value": str(value)}
    elif kind == "ints":
        options = {"initial_value": np.zeros(10, np.int32)}
    else:
        options = {"initial_value": int(value or 0)}
    if kind in OUTPUTS:
        options |= {"on_update": on_put, "always_update": spec.name.endswith(ACT_ON_EVERY_PUT)}
    return getattr(builder, {**INPUTS, **OUTPUTS}[kind])(prefix + spec.name, *choices, **options)


def start_values(kind: DetectorKind, source: Source, settings: Settings, geometry: Geometry) -> dict[str, Any]:
    """Start values which depend on the detector, by record name; the others are in `records`."""
    height, width = source.frame_shape
    values: dict[str, Any] = {
        "cam1:AcquireTime": settings.exposure_s,
        "cam1:AcquirePeriod": settings.period_s,
        "cam1:SizeX": kind.sensor_px[1],
        "cam1:SizeY": kind.sensor_px[0],
        "ROI1:MinX": kind.corner_px[1],
        "ROI1:MinY": kind.corner_px[0],
        "ROI1:SizeX": width,
        "ROI1:SizeY": height,
        "ROI1:Name": "diffraction",
        "ROI1:NDArrayAddress": kind.address,
        **_eiger_values(kind, source, geometry),
    }
    values |= {name + "_RBV": value for name, value in values.items()}
    values |= {
        "cam1:Manufacturer_RBV": kind.manufacturer,
        "cam1:Model_RBV": kind.model,
        "Pva1:PvName_RBV": kind.image_channel,
        "ROI1:MaxX": kind.sensor_px[1],
        "ROI1:MaxY": kind.sensor_px[0],
    }
    for axis, size in zip("YX", kind.sensor_px, strict=True):
        values |= {f"cam1:ArraySize{axis}_RBV": size, f"cam1:MaxSize{axis}_RBV": size, f"ROI1:MaxSize{axis}_RBV": size}
    kinds = {"ROI1:": "NDPluginROI", "Pva1:": "NDPluginPva", "HDF1:": "NDFileHDF5"}
    ports = {"cam1:": kind.port, "ROI1:": "ROI1", "Pva1:": "PVA1", "HDF1:": "FileHDF1"}
    inputs = {"ROI1:": kind.port, "Pva1:": "ROI1", "HDF1:": "ROI1"}
    values |= {plugin + "PortName_RBV": port for plugin, port in ports.items()}
    values |= {plugin + "PluginType_RBV": name for plugin, name in kinds.items()}
    values |= {f"{plugin}NDArrayPort{end}": port for plugin, port in inputs.items() for end in ("", "_RBV")}
    return values


def _eiger_values(kind: DetectorKind, source: Source, geometry: Geometry) -> dict[str, Any]:
    """Those of records which only an Eiger has; for others, they are not used."""
    beam_y, beam_x = np.add(kind.corner_px, source.beam_center_px)
    return {
        "cam1:PhotonEnergy": 1e3 * geometry.energy_kev,
        "cam1:Wavelength": 1e4 * geometry.wavelength_um,
        "cam1:DetDist": geometry.distance_m,
        "cam1:BeamX": float(beam_x),
        "cam1:BeamY": float(beam_y),
        "cam1:XPixelSize": 1e-6 * geometry.detector_pixel_um,
        "cam1:YPixelSize": 1e-6 * geometry.detector_pixel_um,
        "cam1:CountCutoff": kind.most_counts,
        "cam1:DeadTime": kind.dead_time_s,
        "cam1:Temp0": 22.5,
        "cam1:TemperatureActual": 22.5,
        "cam1:Humid0": 4.0,
        "cam1:FWFree": 100.0,
    }

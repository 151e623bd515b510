"""Softioc records from their specifications, and the values with which they start."""

from collections.abc import Callable
from typing import Any

import numpy as np

from bluesky_ptychonn.core.optics import Geometry
from bluesky_ptychonn.simulation.detector import DEAD_TIME_S
from bluesky_ptychonn.simulation.detector_state import Settings
from bluesky_ptychonn.simulation.image_server import IMAGE
from bluesky_ptychonn.simulation.names import DETECTOR
from bluesky_ptychonn.simulation.records import RecordSpec
from bluesky_ptychonn.simulation.source import NO_DATA, Source

SENSOR_PX = (512, 1028)
ROI_CORNER_PX = (190, 450)
"""Where the simulated region lies on the sensor (y, x); it cannot be moved."""
ACT_ON_EVERY_PUT = ("ArrayCounter", "DroppedArrays", "Trigger", "FilePath")
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


def make_record(builder: Any, spec: RecordSpec, value: Any, on_put: Callable[[Any], None]) -> Any:
    """Create one softioc record."""
    kind, choices = spec.type, list(spec.choices)
    options: dict[str, Any] = {}
    if kind in ("ao", "ai"):
        options = {"initial_value": float(value or 0), "PREC": 6}
    elif kind in ("text", "textin"):
        options = {"initial_value": str(value), "length": 1024}
    elif kind in ("stringout", "stringin"):
        options = {"initial_value": str(value).replace("_", " ")}
    elif kind == "ints":
        options = {"initial_value": np.zeros(10, np.int32)}
    else:
        options = {"initial_value": int(value or 0)}
    if kind in OUTPUTS:
        options |= {"on_update": on_put, "always_update": spec.name.endswith(ACT_ON_EVERY_PUT)}
    return getattr(builder, {**INPUTS, **OUTPUTS}[kind])(DETECTOR + spec.name, *choices, **options)


def start_values(source: Source, settings: Settings, geometry: Geometry) -> dict[str, Any]:
    """Start values which depend on the detector, by record name; the others are in `records`."""
    beam_y, beam_x = np.add(ROI_CORNER_PX, source.beam_center_px)
    height, width = source.frame_shape
    values: dict[str, Any] = {
        "cam1:AcquireTime": settings.exposure_s,
        "cam1:AcquirePeriod": settings.period_s,
        "cam1:PhotonEnergy": 1e3 * geometry.energy_kev,
        "cam1:Wavelength": 1e4 * geometry.wavelength_um,
        "cam1:DetDist": geometry.distance_m,
        "cam1:BeamX": float(beam_x),
        "cam1:BeamY": float(beam_y),
        "ROI1:MinX": ROI_CORNER_PX[1],
        "ROI1:MinY": ROI_CORNER_PX[0],
        "ROI1:SizeX": width,
        "ROI1:SizeY": height,
        "ROI1:Name": "diffraction",
    }
    values |= {name + "_RBV": value for name, value in values.items()}
    values |= {
        "cam1:XPixelSize_RBV": 1e-6 * geometry.detector_pixel_um,
        "cam1:YPixelSize_RBV": 1e-6 * geometry.detector_pixel_um,
        "cam1:CountCutoff_RBV": NO_DATA - 1,
        "cam1:DeadTime_RBV": DEAD_TIME_S,
        "cam1:Manufacturer_RBV": "Dectris (simulated)",
        "cam1:Model_RBV": "Eiger2 500K",
        "cam1:Temp0_RBV": 22.5,
        "cam1:TemperatureActual": 22.5,
        "cam1:Humid0_RBV": 4.0,
        "cam1:FWFree_RBV": 100.0,
        "cam1:ArraySizeX_RBV": SENSOR_PX[1],
        "cam1:ArraySizeY_RBV": SENSOR_PX[0],
        "Pva1:PvName_RBV": IMAGE,
    }
    kinds = {"ROI1:": "NDPluginROI", "Pva1:": "NDPluginPva", "HDF1:": "NDFileHDF5"}
    ports = {"cam1:": "EIG", "ROI1:": "ROI1", "Pva1:": "PVA1", "HDF1:": "FileHDF1"}
    inputs = {"ROI1:": "EIG", "Pva1:": "ROI1", "HDF1:": "ROI1"}
    values |= {plugin + "PortName_RBV": port for plugin, port in ports.items()}
    values |= {plugin + "PluginType_RBV": kind for plugin, kind in kinds.items()}
    values |= {f"{plugin}NDArrayPort{end}": port for plugin, port in inputs.items() for end in ("", "_RBV")}
    return values

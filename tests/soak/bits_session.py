"""The BITS instrument of the documentation, started beside apsbits in its own environment: a scan, told as JSON."""

import json
import sys
from importlib.metadata import version

from bits_instrument import startup

documents = []
plan = startup.spiral_ptycho_scan(
    startup.detector,
    startup.stage,
    width_um=1.0,
    step_um=0.15,
    exposure_s=5e-4,
    dwell_s=2e-3,
    edge=startup.edge,
    shutter=startup.oregistry["shutter"],
)
(uid,) = startup.RE(plan, lambda name, doc: documents.append((name, doc)))
told = {
    "apsbits": version("apsbits"),
    "devices": {device.name: device.connected for device in startup.oregistry.root_devices},
    "catalog": startup.cat[uid].metadata["start"]["uid"],
    "uid": uid,
    "documents": documents,
}
with open(sys.argv[1], "w") as file:
    json.dump(told, file, default=str)

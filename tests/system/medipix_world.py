"""Scans with the simulated Medipix3, from the plan to the live image, in a process with its own EPICS environment.

``python medipix_world.py DIRECTORY`` leaves ``told.json`` and an image per scan there.
"""

import json
import sys
from pathlib import Path

import numpy as np

SCAN = {"width_um": 0.4, "step_um": 0.08, "exposure_s": 0.008, "dwell_s": 0.012}
PREFIX = "SIM:MPX:"


def main(directory: Path) -> None:
    from bluesky_ptychonn.cli.services import Services
    from bluesky_ptychonn.cli.session import open_session

    with Services(directory, catalog=False, engine="lift", detector="medipix3", field_um=2.5, seed=3) as services:
        session = open_session(services.settings, progress=False)
        try:
            told = {"walk": walk(session.detector)}
            told |= {name: scan(session, directory / name, **case) for name, case in CASES.items()}
            told["put back"] = at_rest(session)
        finally:
            session.close()
    (directory / "told.json").write_text(json.dumps(told))


CASES = {
    "whole": {},
    "lost": {"lose": [0, 7, 8]},
    "step": {"fly": False},
    "start": {"triggering": "start"},
    "file": {"image_path": "file:/tmp"},
}


def walk(detector):
    from device_walk import changed_by_staging, silent

    from bluesky_ptychonn.core.request import ScanRequest

    request = ScanRequest(0.5, 0.5, 0.1, 0.008, 0.012, 10.0, probe_diameter_um=0.5)
    return silent(detector), changed_by_staging(detector, request)


def scan(session, image: Path, *, triggering="pulse", lose=(), image_path="", **arguments):
    """One scan; documents' figures, the live image, and what the user was told."""
    import epics

    from bluesky_ptychonn.io.ntndarray import read_image
    from bluesky_ptychonn.io.pva import PvaChannel
    from bluesky_ptychonn.plans.spiral import spiral_ptycho_scan

    detector, docs = session.detector, []
    detector.triggering.put(triggering)
    before = detector.cam.image_path.get()
    if image_path:
        epics.caput(PREFIX + "cam1:ImgFilePath", image_path, wait=True)
    epics.caput(PREFIX + "Sim:StampIndex", 1, wait=True)
    if lose:
        epics.caput(PREFIX + "Sim:DropInDetector", lose, wait=True)
    plan = spiral_ptycho_scan(
        detector, session.stage, edge=session.edge, shutter=session.shutter, **{**SCAN, **arguments}
    )
    try:
        (uid,) = session.RE(plan, lambda name, doc: docs.append((name, doc)))
    except ValueError as error:
        return {"refused": str(error), "documents": len(docs)}
    finally:
        epics.caput(PREFIX + "cam1:ImgFilePath", before, wait=True)
    phase, attributes = read_image(PvaChannel("ptychonn:final").get())
    np.save(image, phase)
    events = {key: value for name, doc in docs if name == "event" for key, value in doc["data"].items()}
    start = next(doc for name, doc in docs if name == "start")
    return {
        "points": start["num_points"],
        "ptycho": start["ptycho"],
        "file": next(doc["uri"] for name, doc in docs if name == "stream_resource").removeprefix("file://localhost"),
        "final": attributes.get("run_uid") == uid,
        "pixel_size_um": float(attributes["pixel_size_um"]),
        "origin_um": [float(attributes[f"origin_{axis}_um"]) for axis in "yx"],
        "events": {key: value for key, value in events.items() if isinstance(value, (int, float, str))},
        "mode": next(
            value["data"]["detector_cam_trigger_mode"]
            for name, doc in docs
            if name == "descriptor" and "detector" in doc["configuration"]
            for value in [doc["configuration"]["detector"]]
        ),
    }


def at_rest(session):
    cam = session.detector.cam
    return {name: getattr(cam, name).get() for name in ("acquire", "trigger_mode", "image_write", "num_images")}


if __name__ == "__main__":
    main(Path(sys.argv[1]))

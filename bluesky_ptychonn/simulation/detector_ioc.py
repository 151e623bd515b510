"""Detector IOC: Eiger2 records over Channel Access, frames over PVA, in one process.

``python -m bluesky_ptychonn.simulation.detector_ioc DIRECTORY``; EPICS ports come from the environment.
"""

import argparse
import json
import logging
import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np

from bluesky_ptychonn.core.optics import Geometry, zone_plate_probe
from bluesky_ptychonn.simulation.cable import CableIn
from bluesky_ptychonn.simulation.detector import Detector
from bluesky_ptychonn.simulation.detector_records import DetectorRecords
from bluesky_ptychonn.simulation.image_server import ImageServer
from bluesky_ptychonn.simulation.sample import make_sample
from bluesky_ptychonn.simulation.source import PhysicsSource, RecordedSource, Source
from bluesky_ptychonn.simulation.writer import FileSettings, FileWriter

READY_NAME = "detector.ready"


def make_source(source: str, sample: str, *, geometry: Geometry, field_um: float, seed: int, **probe: float) -> Source:
    """``physics`` with a sample of ``field_um``, or the file of a recorded scan; ``probe`` as `zone_plate_probe`."""
    if source != "physics":
        return RecordedSource(Path(source))
    if sample not in ("etched", "letters"):
        raise ValueError(f"sample = {sample!r} is unknown; choose 'etched' or 'letters'")
    drawn = make_sample(sample, field_um=field_um, pixel_size_um=geometry.pixel_size_um, seed=seed)
    return PhysicsSource(drawn, zone_plate_probe(geometry, **probe), geometry, seed)


def write_truth(source: Source, directory: Path) -> None:
    """Leave the sample, the probe and the mask in the state directory."""
    if isinstance(source, PhysicsSource):
        np.savez(
            directory / "truth.npz",
            object=source.object,
            pixel_size_um=source.pixel_size_um,
            origin_um=source.origin_um,
        )
    if source.probe is not None:
        np.save(directory / "probe.npy", source.probe)
    np.save(directory / "bad_pixels.npy", source.bad_pixels)


def describe(source: Source, geometry: Geometry) -> dict[str, Any]:
    """What a client has to know about the frames."""
    return {
        "frame_shape": source.frame_shape,
        "beam_center_px": source.beam_center_px,
        "stamp_pixel": source.stamp_pixel,
        "energy_kev": geometry.energy_kev,
        "distance_m": geometry.distance_m,
        "detector_pixel_um": geometry.detector_pixel_um,
        "pixel_size_um": geometry.pixel_size_um,
    }


def serve(source: Source, geometry: Geometry, directory: Path, photons: float) -> None:
    """Serve until SIGTERM or SIGINT."""
    from softioc import asyncio_dispatcher, builder, softioc

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    images = ImageServer(source.frame_shape)
    writer = FileWriter(FileSettings(), on_change=lambda: records.show())
    detector = Detector(source, images.publish, writer, on_change=lambda: records.show())
    detector.settings.photons = photons
    records = DetectorRecords(detector, images, geometry)
    dispatcher = asyncio_dispatcher.AsyncioDispatcher()
    builder.LoadDatabase()
    softioc.iocInit(dispatcher, enable_pva=False)
    records.show()
    images.serve()
    threading.Thread(target=detector.listen, args=(CableIn(directory),), name="cable", daemon=True).start()
    (directory / READY_NAME).write_text(json.dumps(describe(source, geometry)))
    while not stop.wait(0.05):
        records.show_counters()
    detector.disarm()
    writer.stop()
    logging.shutdown()
    os._exit(0)  # the EPICS libraries keep threads of their own


def main(arguments: list[str] | None = None) -> None:
    """Command line of the detector IOC."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", type=Path, help="state directory shared with the stage IOC")
    parser.add_argument("--source", default="physics", help="'physics', or an NPZ file of a recorded scan")
    parser.add_argument("--sample", default="etched", help="'etched' or 'letters', for --source physics")
    parser.add_argument("--field-um", type=float, default=12.0, help="side of the sample, um")
    parser.add_argument("--frame-px", type=int, default=128, help="side of a frame, px")
    parser.add_argument("--photons", type=float, default=1e6, help="photons per frame in vacuum, at the start")
    parser.add_argument("--defocus-um", type=float, default=170.0, help="sample behind the focus, um")
    parser.add_argument("--astigmatism-um", type=float, default=0.0, help="distance of the line foci, um")
    parser.add_argument("--seed", type=int, default=0, help="of the sample, the detector face and the noise")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    geometry = Geometry(frame_px=options.frame_px)
    source = make_source(
        options.source,
        options.sample,
        geometry=geometry,
        field_um=options.field_um,
        seed=options.seed,
        defocus_um=options.defocus_um,
        astigmatism_um=options.astigmatism_um,
    )
    write_truth(source, options.directory)
    serve(source, geometry, options.directory, options.photons)


if __name__ == "__main__":
    main()

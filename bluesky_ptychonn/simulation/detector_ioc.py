"""Detector IOC: records of an Eiger2 or a Medipix3 over Channel Access, frames over PVA, in one process.

``python -m bluesky_ptychonn.simulation.detector_ioc DIRECTORY``; EPICS ports come from the environment.
"""

import argparse
import json
import logging
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bluesky_ptychonn.core.frames import ORIENTATIONS
from bluesky_ptychonn.core.optics import Geometry, zone_plate_probe
from bluesky_ptychonn.simulation.cable import CableIn
from bluesky_ptychonn.simulation.camera_records import EigerRecords, MedipixRecords
from bluesky_ptychonn.simulation.detector import Detector
from bluesky_ptychonn.simulation.detector_kinds import KINDS as DETECTORS
from bluesky_ptychonn.simulation.detector_kinds import MEDIPIX3, DetectorKind
from bluesky_ptychonn.simulation.image_server import ImageServer
from bluesky_ptychonn.simulation.sample import KINDS, make_sample
from bluesky_ptychonn.simulation.source import DetectorFace, PhysicsSource, RecordedSource, Source
from bluesky_ptychonn.simulation.writer import FileSettings, FileWriter

READY_NAME = "detector.ready"


def make_source(
    kind: DetectorKind,
    source: str,
    sample: str,
    *,
    geometry: Geometry,
    field_um: float,
    seed: int,
    beam_offset_px: tuple[int, int] = (0, 0),
    orientation: str = "identity",
    **probe: float,
) -> Source:
    """``physics`` with a sample of ``field_um``, or the file of a recorded scan; ``probe`` as `zone_plate_probe`.

    ``beam_offset_px`` moves the beam (y, x) from where it usually is; ``orientation`` as of `PhysicsSource`.
    """
    if source != "physics":
        return RecordedSource(Path(source))
    if sample not in KINDS:
        raise ValueError(f"sample = {sample!r} is unknown; choose one of {', '.join(KINDS)}")
    drawn = make_sample(sample, field_um=field_um, pixel_size_um=geometry.pixel_size_um, seed=seed)
    n = geometry.frame_px
    face = DetectorFace.quad(n, kind.most_counts, seed) if kind is MEDIPIX3 else DetectorFace.of(n, seed)
    face = face.with_beam_moved(beam_offset_px)
    return PhysicsSource(drawn, zone_plate_probe(geometry, **probe), geometry, seed, face, orientation)


def binned(geometry: Geometry, binning: int) -> Geometry:
    """Geometry of the patterns that clients make of the frames: a multiple of four superpixels."""
    if binning == 1:
        return geometry
    return replace(
        geometry,
        frame_px=geometry.frame_px // (4 * binning) * 4,
        detector_pixel_um=geometry.detector_pixel_um * binning,
    )


def write_truth(source: Source, probe: np.ndarray | None, directory: Path) -> None:
    """Leave the sample, the probe on the grid of the patterns, and the mask in the state directory."""
    if isinstance(source, PhysicsSource):
        np.savez(
            directory / "truth.npz",
            object=source.object,
            pixel_size_um=source.pixel_size_um,
            origin_um=source.origin_um,
        )
    if probe is not None:
        np.save(directory / "probe.npy", probe)
    np.save(directory / "bad_pixels.npy", source.bad_pixels)


def describe(kind: DetectorKind, source: Source, geometry: Geometry, binning: int) -> dict[str, Any]:
    """What a client has to know about the frames."""
    pattern = binned(geometry, binning)
    return {
        "kind": kind.name,
        "prefix": kind.prefix,
        "frame_shape": source.frame_shape,
        "pattern_px": pattern.frame_px if isinstance(source, PhysicsSource) else source.frame_shape[0],
        "binning": binning,
        "beam_center_px": source.beam_center_px,
        "orientation": source.orientation,
        "stamp_pixel": source.stamp_pixel,
        "energy_kev": geometry.energy_kev,
        "distance_m": geometry.distance_m,
        "detector_pixel_um": geometry.detector_pixel_um,
        "pixel_size_um": pattern.pixel_size_um,
    }


def serve(kind: DetectorKind, source: Source, geometry: Geometry, directory: Path, told: dict, photons: float) -> None:
    """Serve until SIGTERM or SIGINT; what is ``told`` to clients is left in the state directory once they can come."""
    from softioc import asyncio_dispatcher, builder, softioc

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    images = ImageServer(source.frame_shape, kind=kind)
    writer = FileWriter(FileSettings(), on_change=lambda: records.show())
    detector = Detector(source, images.publish, writer, on_change=lambda: records.show())
    detector.settings.photons = photons
    camera = MedipixRecords if kind is MEDIPIX3 else EigerRecords
    records = camera(kind, detector, images, geometry)
    dispatcher = asyncio_dispatcher.AsyncioDispatcher()
    builder.LoadDatabase()
    softioc.iocInit(dispatcher, enable_pva=False)
    records.show()
    images.serve()
    threading.Thread(target=detector.listen, args=(CableIn(directory),), name="cable", daemon=True).start()
    (directory / READY_NAME).write_text(json.dumps(told))
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
    parser.add_argument("--detector", choices=DETECTORS, default="eiger2", help="whose records are served")
    parser.add_argument("--source", default="physics", help="'physics', or an NPZ file of a recorded scan")
    parser.add_argument("--sample", default="etched", help=f"{', '.join(KINDS)}; for --source physics")
    parser.add_argument("--field-um", type=float, default=12.0, help="side of the sample, um")
    parser.add_argument("--frame-px", type=int, default=None, help="side of a frame, px; the detector's if left out")
    parser.add_argument("--photons", type=float, default=1e6, help="photons per frame in vacuum, at the start")
    parser.add_argument("--defocus-um", type=float, default=170.0, help="sample behind the focus, um")
    parser.add_argument("--astigmatism-um", type=float, default=0.0, help="distance of the line foci, um")
    parser.add_argument("--astigmatism-angle-rad", type=float, default=0.0, help="its direction, from +x towards +y")
    parser.add_argument("--beam-offset-y-px", type=int, default=0, help="beam further down the frame, px")
    parser.add_argument("--beam-offset-x-px", type=int, default=0, help="beam further right in the frame, px")
    parser.add_argument("--orientation", choices=ORIENTATIONS, default="identity", help="that turns frames right")
    parser.add_argument("--seed", type=int, default=0, help="of the sample, the detector face and the noise")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    kind = DETECTORS[options.detector]
    geometry = kind.geometry(options.frame_px)
    wave = {
        "defocus_um": options.defocus_um,
        "astigmatism_um": options.astigmatism_um,
        "astigmatism_angle_rad": options.astigmatism_angle_rad,
    }
    source = make_source(
        kind,
        options.source,
        options.sample,
        geometry=geometry,
        field_um=options.field_um,
        seed=options.seed,
        beam_offset_px=(options.beam_offset_y_px, options.beam_offset_x_px),
        orientation=options.orientation,
        **wave,
    )
    physics = options.source == "physics"
    binning = kind.binning if physics else 1
    probe = zone_plate_probe(binned(geometry, binning), **wave) if physics else source.probe
    write_truth(source, probe, options.directory)
    told = describe(kind, source, geometry, binning)
    serve(kind, source, geometry, options.directory, told, options.photons)


if __name__ == "__main__":
    main()

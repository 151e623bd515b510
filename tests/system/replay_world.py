"""Runs as the beamline records them, made in a moment: documents, and the detector's file beside them."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from detector_documents import ATTRIBUTES, FRAMES, STAGE, record_frames
from event_model import compose_run

from bluesky_ptychonn.core.optics import Geometry, intensities, zone_plate_probe
from bluesky_ptychonn.core.scan import SPIRAL_ORDER, fermat_spiral
from bluesky_ptychonn.simulation.source import DetectorFace

DWELL_S, FIRST_ID = 0.002, 100
N = 64
GEOMETRY = Geometry(frame_px=N)
PROBE = zone_plate_probe(GEOMETRY, defocus_um=40.0, outermost_zone_nm=60.0)
FACE = DetectorFace.of(N, 3)
RECIPE = {"width_um": 1.0, "height_um": 0.9, "step_um": 0.09, "order": SPIRAL_ORDER}


@dataclass
class MadeRun:
    """A fly scan: its documents, its frames as the detector gave them, and where the probe was."""

    documents: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    frames: np.ndarray = field(default_factory=lambda: np.empty((0, N, N), np.uint16))
    planned_um: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))
    captured_um: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))

    @property
    def start(self) -> dict[str, Any]:
        return self.documents[0][1]

    def write_lines(self, path: Path) -> Path:
        """The documents as recorders write them when there is no catalog."""
        path.write_text("".join(json.dumps({"name": name, "doc": doc}) + "\n" for name, doc in self.documents))
        return path


def make_run(
    path: Path,
    *,
    lost_in_file: tuple[int, ...] = (),
    lost_in_detector: tuple[int, ...] = (),
    not_captured: tuple[int, ...] = (),
    dark: tuple[int, ...] = (),
    no_flux: tuple[int, ...] = (),
    clock: str = "detector",
    seed: int = 0,
) -> MadeRun:
    """Record a scan whose detector file is ``path``; triggers may be lost in the detector or before the file."""
    rng = np.random.default_rng(seed)
    run = MadeRun(planned_um=fermat_spiral(*(RECIPE[name] for name in ("width_um", "height_um", "step_um"))))
    points = len(run.planned_um)
    run.captured_um = run.planned_um + rng.normal(0, 0.01, run.planned_um.shape)
    y, x = np.indices((260, 260))
    object_ = np.exp(0.5j * np.sin(y / 5) * np.cos(x / 7))
    centres_px = run.captured_um / GEOMETRY.pixel_size_um + 130
    patterns = rng.poisson(2e5 * intensities(object_, PROBE, centres_px))
    patterns[list(dark)] = 0
    run.frames = FACE.read(patterns)
    arrived = np.setdiff1d(np.arange(points), lost_in_detector)  # the driver numbers what it handles
    kept = ~np.isin(arrived, lost_in_file)
    with h5py.File(path, "w") as file:
        file.create_dataset(FRAMES, data=run.frames[arrived[kept]], chunks=(1, N, N))
        file[f"{ATTRIBUTES}/NDArrayUniqueId"] = (FIRST_ID + np.arange(len(arrived)))[kept].astype(np.int32)
        file[f"{ATTRIBUTES}/NDArrayTimeStamp"] = 50.0 + DWELL_S * arrived[kept]
    counted = {"trigger_slots": points, "pulses": points}
    counted |= {"lost_in_detector": len(lost_in_detector), "lost_before_file": len(lost_in_file)}
    flux = [0.0 if trigger in no_flux else 100.0 for trigger in range(points)] if no_flux else []
    _emit(run, path, not_captured, counted, clock, flux)
    return run


def _emit(run: MadeRun, path: Path, not_captured: Any, counted: dict[str, int], clock: str, flux: list[float]) -> None:
    def take(name: str, doc: Any) -> None:
        run.documents.append((name, json.loads(json.dumps(doc))))

    start, descriptor, _, stop, *_ = compose_run(metadata=_about(run, clock))
    take("start", start)
    record_frames(take, start, descriptor, path, blocks=2)
    captured = np.setdiff1d(np.arange(len(run.captured_um)), not_captured)
    columns = {"trigger_index": captured.tolist(), **dict(zip(STAGE, run.captured_um[captured].T.tolist()))}
    _page(take, descriptor, "positions", columns)
    if flux:
        _page(take, descriptor, "flux", {"trigger_index": list(range(len(flux))), "flux": flux})
    _page(take, descriptor, "counters", {key: [value] for key, value in counted.items()})
    take("stop", stop())


def _about(run: MadeRun, clock: str) -> dict[str, Any]:
    block = {
        "schema_version": 1,
        "energy_kev": GEOMETRY.energy_kev,
        "distance_m": GEOMETRY.distance_m,
        "detector_pixel_um": GEOMETRY.detector_pixel_um,
        "frame_shape": [N, N],
        "crop_px": N,
        "binning": 1,
        "beam_center_px": list(FACE.beam_center_px),
        "orientation": "identity",
        "exposure_s": 0.8 * DWELL_S,
        "dwell_s": DWELL_S,
        "fly": True,
        "center_um": [0.0, 0.0],
        "image_channel": "SIM:EIG:Pva1:Image",
        "dropped_channel": "",
        "first_unique_id": FIRST_ID,
        "clock": clock,
        "frames_after_s": 0.0,
        "min_flux": 0.5,
    }
    return {
        "num_points": len(run.planned_um),
        "motors": list(STAGE),
        "plan_name": "spiral_ptycho_scan",
        "plan_pattern_args": RECIPE,
        "sample_name": "waves",
        "scan_id": 7,
        "ptycho": block,
    }


def _page(take: Any, descriptor: Any, name: str, columns: dict[str, list[Any]]) -> None:
    keys = {
        key: {"source": "SIM:", "dtype": "number" if key in (*STAGE, "flux") else "integer", "shape": []}
        for key in columns
    }
    stream = descriptor(name=name, data_keys=keys, object_keys={name: list(keys)})
    take("descriptor", stream.descriptor_doc)
    count = len(next(iter(columns.values())))
    page = stream.compose_event_page(
        data=columns, timestamps={key: [0.0] * count for key in columns}, seq_num=list(range(1, count + 1))
    )
    take("event_page", {**page, "time": [0.0] * count})

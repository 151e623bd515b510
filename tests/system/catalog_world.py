"""A Tiled server of one's own, and runs recorded into it as the beamline records them, without EPICS."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from detector_documents import ATTRIBUTES, FRAMES, STAGE, record_frames
from event_model import compose_run

from bluesky_ptychonn.core.frames import ORIENTATIONS
from bluesky_ptychonn.io.catalog import connect, embedded_address

DWELL_S = 0.01


class Server:
    """A Tiled server in its own process, which can be killed and started again."""

    def __init__(self, directory: Path, *readable: Path) -> None:
        self.directory, self.readable = directory, readable or (directory,)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Any:
        """Start it; returns its catalog of runs."""
        command = [sys.executable, "-m", "bluesky_ptychonn.cli.main", "catalog", "serve"]
        command += ["--directory", str(self.directory)]
        for folder in self.readable:
            command += ["--readable", str(folder)]
        self.process = subprocess.Popen(command)
        deadline = time.monotonic() + 90
        while not embedded_address(self.directory):
            assert self.process.poll() is None
            assert time.monotonic() < deadline, "the server wrote no address"
            time.sleep(0.1)
        return connect(*embedded_address(self.directory))

    def end(self, kill: bool = False) -> None:
        """End it, in order or not."""
        if self.process and self.process.poll() is None:
            (self.process.kill if kill else self.process.terminate)()
            self.process.wait(30)

    def settings(self) -> dict[str, Any]:
        """Table ``catalog`` of the settings; its key goes into a file."""
        uri, key = embedded_address(self.directory)
        (self.directory / "key").write_text(key)
        return {"uri": uri, "api_key_file": str(self.directory / "key")}


def in_frames(patterns: np.ndarray, orientation: str, pad_px: int = 5) -> np.ndarray:
    """Frames of a detector from which patterns (N, n, n) are cut: turned back, and with a rim of other counts."""
    inverse = {"rot90": "rot270", "rot270": "rot90"}.get(orientation, orientation)
    n = patterns.shape[-1]
    frames = np.full((len(patterns), n + 2 * pad_px, n + 3 * pad_px), 7, patterns.dtype)
    frames[:, pad_px : pad_px + n, pad_px : pad_px + n] = ORIENTATIONS[inverse](patterns)
    return frames


def beam_of(n: int, orientation: str, pad_px: int = 5) -> tuple[float, float]:
    """Row and column of the beam in the frames of `in_frames`."""
    place = ORIENTATIONS[orientation](np.arange(n * n).reshape(n, n))[n // 2, n // 2]
    return float(pad_px + place // n), float(pad_px + place % n)


def write_frames(path: Path, frames: np.ndarray, lost: tuple[int, ...] = ()) -> None:
    """The file of a detector; frames ``lost`` (rows) never reached it."""
    kept = np.setdiff1d(np.arange(len(frames)), lost)
    with h5py.File(path, "w") as file:
        file.create_dataset(FRAMES, data=frames[kept], chunks=(1, *frames.shape[1:]))
        file[f"{ATTRIBUTES}/NDArrayUniqueId"] = (100 + kept).astype(np.int32)
        file[f"{ATTRIBUTES}/NDArrayTimeStamp"] = 50.0 + DWELL_S * kept


def record(
    take: Any, path: Path, positions_um: np.ndarray, *, lost: tuple[int, ...] = (), stopped: bool = True, **block: Any
) -> str:
    """Emit the documents of a fly scan whose frames are in a file; returns the run's uid."""
    points = len(positions_um)
    about = {"first_unique_id": 100, "clock": "detector", "dwell_s": DWELL_S, "fly": True, **block}
    run = compose_run(
        metadata={"num_points": points, "motors": list(STAGE), "plan_name": "spiral_ptycho_scan", "ptycho": about}
    )
    start, descriptor = run.start_doc, run.compose_descriptor
    take("start", start)
    record_frames(take, start, descriptor, path)
    _events(take, descriptor, "positions", {"trigger_index": range(points), **dict(zip(STAGE, positions_um.T))})
    counted = {"trigger_slots": [points], "lost_in_detector": [0], "lost_before_file": [len(lost)]}
    _events(take, descriptor, "counters", counted)
    if stopped:
        take("stop", run.compose_stop())
    return start["uid"]


def _events(take: Any, descriptor: Any, name: str, columns: dict[str, Any]) -> None:
    kinds = {"stage_y": "number", "stage_x": "number"}
    keys = {key: {"source": "SIM:", "dtype": kinds.get(key, "integer"), "shape": []} for key in columns}
    stream = descriptor(name=name, data_keys=keys, object_keys={name: list(keys)})
    take("descriptor", stream.descriptor_doc)
    for values in zip(*columns.values(), strict=True):
        data = {key: float(value) if key in kinds else int(value) for key, value in zip(columns, values)}
        take("event", stream.compose_event(data=data, timestamps=dict.fromkeys(data, time.time())))

"""An edge and a bare stream of frames for it, without a beamline: what `bench stream --detector bare` measures with."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from bluesky_ptychonn.cli.child import Child
from bluesky_ptychonn.cli.services import SETTINGS_FILE, edge_answers
from bluesky_ptychonn.config import VARIABLE, Settings, load_settings, write_settings

POOL = {128: 1000, 512: 200}
"""Distinct frames that are sent over and over, by their side."""
MEDIPIX: dict[str, Any] = {
    "distance_m": 1.55,
    "detector_pixel_um": 55.0,
    "binning": 4,
    "beam_center_px": [259.5, 259.5],
}
"""Geometry of the large frames: 516 x 516 px, of which 512 x 512 are binned to the 128 of a pattern."""
MEDIPIX_PX = 516
PHOTONS = 1e6
PATIENCE_S = 30.0


class BareDetector:
    """A process that sends the frames of a file, with the part of a detector that `cli.stream` asks for.

    Parameters
    ----------
    pool_file : Path
        ``.npy`` of (N, H, W) uint16.
    codec : str
        One of `io.codecs.CODECS`.
    """

    def __init__(self, pool_file: Path, codec: str = "none") -> None:
        from bluesky_ptychonn.simulation.detector_kinds import EIGER2

        self.image_channel, self.dropped_channel = EIGER2.image_channel, EIGER2.counter_channels[0]
        shape = np.load(pool_file, mmap_mode="r").shape
        self.frame_shape = int(shape[1]), int(shape[2])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bluesky_ptychonn.simulation.bare_stream", str(pool_file), codec],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        if self._answer() != "ready":
            raise RuntimeError("the bare stream does not start")
        self._asked: dict[str, float] = {}
        self._waiting: threading.Thread | None = None
        self.sent: dict[str, float] = {}
        """What the stream says of its last series: frames sent, and how late the latest was, ms."""

    @property
    def pid(self) -> int:
        """Of the process that sends."""
        return self._process.pid

    def _answer(self) -> str:
        return self._process.stdout.readline().strip() if self._process.stdout else ""

    def prepare(self, frames: int, fps: float) -> None:
        """Remember a series."""
        self._asked = {"frames": frames, "fps": fps}

    def acquire(self) -> None:
        """Start the series."""
        if self._process.stdin is None:
            raise RuntimeError("the bare stream was not started")
        self.sent = {}
        self._process.stdin.write(json.dumps(self._asked) + "\n")
        self._process.stdin.flush()
        self._waiting = threading.Thread(target=lambda: self.sent.update(json.loads(self._answer() or "{}")))
        self._waiting.start()

    def finished(self) -> bool:
        """Whether every frame was sent."""
        return self._waiting is not None and not self._waiting.is_alive()

    def lost(self) -> tuple[int, int]:
        """Frames lost before the wire: none, it has nowhere to lose them."""
        return 0, 0

    def stop(self) -> None:
        """Nothing is to be closed after a series."""

    def end(self) -> None:
        """End the process."""
        if self._process.stdin:
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(3)
        self._process.kill()
        self._process.wait(PATIENCE_S)


class BareEdge:
    """Settings, frames of a simulated sample and an edge in a state directory; a context manager that ends them.

    Parameters
    ----------
    directory : Path
    engine : str
    model : Path, optional
        Model or store of the edge.
    engine_core : int, optional
        A core for inference alone: this process, and what it starts, leaves it.
    size : int
        Side of the frames, px: 128, or 512, which are binned.
    codec : str
        Of the frames, one of `io.codecs.CODECS`.
    """

    def __init__(
        self,
        directory: Path,
        engine: str = "openvino",
        model: Path | None = None,
        engine_core: int | None = None,
        size: int = 128,
        codec: str = "none",
    ) -> None:
        from bluesky_ptychonn.core.optics import Geometry, zone_plate_probe
        from bluesky_ptychonn.simulation.beamline import loopback_environment
        from bluesky_ptychonn.simulation.test_sets import load_test_set, scan_of

        probe = zone_plate_probe(Geometry())
        scan = scan_of(load_test_set("letters"), probe, points=POOL[size], photons=PHOTONS)
        np.save(directory / "pool.npy", scan.patterns.astype(np.uint16) if size == 128 else _unbinned(scan.patterns))
        np.save(directory / "probe.npy", probe)
        tables: dict[str, dict[str, Any]] = {
            "epics": {"environment": loopback_environment()},
            "edge": {"engine": engine, **({"model": str(model)} if model else {})},
            "probe": {"file": "probe.npy"},
            "geometry": {} if size == 128 else MEDIPIX,
        }
        if engine_core is not None:
            tables["edge"]["engine_core"] = engine_core
        self.settings_file = directory / SETTINGS_FILE
        write_settings(tables, self.settings_file)
        self._directory, self._engine_core, self._codec = directory, engine_core, codec
        positions_px = (scan.positions_um - scan.positions_um.mean(axis=0)) / Geometry().pixel_size_um
        self.positions_um = positions_px * self.settings.geometry.optics.pixel_size_um
        self.detector: Any = None
        self._edge = Child("edge", ["edge", "--settings", str(self.settings_file)], directory)

    @property
    def pids(self) -> dict[str, int]:
        """Processes by what they do."""
        return {"edge": self._edge.pid, "detector": self.detector.pid}

    @property
    def settings(self) -> Settings:
        """What clients need to know."""
        return load_settings(self.settings_file)

    def __enter__(self) -> "BareEdge":
        from bluesky_ptychonn.edge.cores import leave_core

        os.environ[VARIABLE] = str(self.settings_file)
        self.settings.apply_epics_environment()
        self._edge.start()
        try:
            if self._engine_core is not None:
                leave_core(self._engine_core)
            self.detector = BareDetector(self._directory / "pool.npy", self._codec)
            self._edge.wait_until(lambda: edge_answers(self.settings))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._edge.end()
        if self.detector is not None:
            self.detector.end()


def _unbinned(patterns: np.ndarray) -> np.ndarray:
    """Frames (N, 516, 516) uint16 of a Medipix that are binned to something like patterns (N, 128, 128)."""
    rng, binning = np.random.default_rng(1), MEDIPIX["binning"]
    frames = np.zeros((len(patterns), MEDIPIX_PX, MEDIPIX_PX), np.uint16)
    edge = (MEDIPIX_PX - patterns.shape[-1] * binning) // 2
    for frame, pattern in zip(frames, patterns):
        spread = np.repeat(np.repeat(pattern / binning**2, binning, axis=0), binning, axis=1)
        frame[edge:-edge, edge:-edge] = rng.poisson(spread)
    return frames

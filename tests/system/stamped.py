"""Scans whose image says which trigger each of its patches came from.

The detector writes the trigger's number into a pixel of its module gap. An edge of its own, without a mask, has an
engine which turns that number into the patch. Positions are so far apart that patches never touch.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from edge_world import flat_probe

PREFIX = "stamped:"
NOT_STAMPED = 65535
PATCH_PX = 8
FAULTS = {
    "detector": "SIM:EIG:Sim:DropInDetector",
    "plugin": "SIM:EIG:Sim:DropInPlugin",
    "writer": "SIM:EIG:Sim:DropInWriter",
    "unsent": "SIM:STAGE:Sim:SuppressTrigger",
}
FAST = {"width_um": 2.3, "step_um": 0.24, "exposure_s": 1e-3, "dwell_s": 2e-3}
"""About 100 points."""
FASTEST = {"exposure_s": 0.5e-3, "dwell_s": 1e-3}


class StampEngine:
    """Patches that show one pixel of the pattern."""

    name, card, max_batch, patch_px = "stamp", None, 8, PATCH_PX

    def __init__(self, frame_px: int, row: int, column: int) -> None:
        self.frame_px, self._row, self._column = frame_px, row, column

    def set_probe(self, probe: np.ndarray) -> None:
        pass

    def infer(self, patterns: np.ndarray) -> np.ndarray:
        stamps = patterns[:, self._row, self._column]
        return np.broadcast_to(stamps[:, None, None], (len(stamps), PATCH_PX, PATCH_PX)).astype(np.float32)


@dataclass
class Told:
    """What a scan left behind."""

    uid: str
    documents: list[tuple[str, dict[str, Any]]]
    error: str
    stats: dict[str, Any]
    shown: np.ndarray
    """Stamp at each position of the final image, -1 where there is none."""
    elsewhere: int
    """Pixels of the final image which belong to no patch."""

    def last(self, stream: str) -> dict[str, Any]:
        names = {doc["uid"]: doc["name"] for name, doc in self.documents if name == "descriptor"}
        events = [doc for name, doc in self.documents if name in ("event", "event_page")]
        return [doc["data"] for doc in events if names[doc["descriptor"]] == stream][-1]

    def start(self) -> dict[str, Any]:
        return next(doc for name, doc in self.documents if name == "start")

    def stop(self) -> dict[str, Any]:
        return next(doc for name, doc in self.documents if name == "stop")

    def check_places(self) -> None:
        """No patch lies at a wrong position."""
        (here,) = np.nonzero(self.shown >= 0)
        np.testing.assert_array_equal(self.shown[here], here)
        assert self.elsewhere == 0
        assert len(here) == self.stats["frames_stitched"]

    def check_whole(self, points: int | None = None) -> None:
        """Every trigger has its patch."""
        self.check_places()
        np.testing.assert_array_equal(self.shown, np.arange(points or self.start()["num_points"]))
        assert (self.error, self.stats["pairing"], self.stats["account"]) == ("", "ok", "closed")
        assert self.stats["frames_unpaired"] == self.stats["frames_foreign"] == 0


class StampedScans:
    """A RunEngine with the devices of a session, and an edge which shows stamps."""

    def __init__(self, services: Any, session: Any) -> None:
        from bluesky import RunEngine

        from bluesky_ptychonn.callbacks.live import LiveImage
        from bluesky_ptychonn.devices.edge import Edge
        from bluesky_ptychonn.io.pva import PvaChannel

        self.beamline, self.session = services.beamline, session
        command = [sys.executable, __file__, str(services.settings_file)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        self.edge = Edge(PREFIX, name="edge")
        self.RE = RunEngine()
        self._live = LiveImage(PREFIX)
        self.RE.subscribe(self._live)
        self._final, self._stats = PvaChannel(f"{PREFIX}final"), PvaChannel(f"{PREFIX}stats")

    def close(self) -> None:
        self._live.wait(5)
        self.session.detector.stream_clock.put("detector")
        put("SIM:EIG:Sim:StampIndex", 0)
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def scan(
        self,
        faults: Mapping[str, Any] | None = None,
        *,
        clock: str = "detector",
        stamp: bool = True,
        when: Callable[[], bool] | None = None,
        then: Callable[[], object] | None = None,
        must_interfere: bool = True,
        **arguments: Any,
    ) -> Told:
        """One fly scan with these triggers lost; ``then`` is done as soon as ``when`` comes true."""
        from bluesky_ptychonn.plans.spiral import spiral_ptycho_scan

        session, documents, error = self.session, [], ""
        session.detector.stream_clock.put(clock)
        put("SIM:EIG:Sim:StampIndex", int(stamp))
        for kind, indices in (faults or {}).items():
            put(FAULTS[kind], [int(index) for index in np.atleast_1d(indices)])
        settings = {**FAST, "edge": self.edge, "shutter": session.shutter, **arguments}
        plan = spiral_ptycho_scan(session.detector, session.stage, **settings)
        with once(when, then, must=must_interfere):
            try:
                self.RE(plan, lambda name, doc: documents.append((name, doc)))
            except Exception as failure:
                error = f"{type(failure).__name__}: {failure}"
        return self._told(documents, error)

    def _told(self, documents: list[tuple[str, dict[str, Any]]], error: str) -> Told:
        from bluesky_ptychonn.io.ntndarray import read_image

        uid = next(doc["uid"] for name, doc in documents if name == "start")
        deadline = time.monotonic() + 20
        while (stats := self._stats.get())["final_uid"] != uid and time.monotonic() < deadline:
            time.sleep(0.05)
        assert stats["final_uid"] == uid, stats
        image, attributes = read_image(self._final.get())
        assert attributes["run_uid"] == uid
        shown, elsewhere = stamps_at(image, attributes, self._true_um(documents))
        return Told(uid, documents, error, stats, shown, elsewhere)

    def _true_um(self, documents: list[tuple[str, dict[str, Any]]]) -> np.ndarray:
        """Where the sample truly was at mid exposure of each trigger; known to the simulated stage only."""
        from bluesky_ptychonn.simulation.trajectory import MotionRecord

        exposure_s = next(doc["ptycho"]["exposure_s"] for name, doc in documents if name == "start")
        (path,) = self.beamline.directory.glob("trajectory_*.npz")
        motion = MotionRecord.load(path)
        return motion.at(motion.pulse_s + exposure_s / 2)

    def pulses(self) -> int:
        """Triggers of the present trajectory so far; 0 unless it runs."""
        return pulses(self.session)

    def check_safe(self) -> None:
        check_safe(self.session)


def abort_and_restart(scans: StampedScans, times: int) -> None:
    """Abort at 1 kHz; the frames of that run carry no stamp, so that any of them would be seen in the next image."""
    for attempt in range(times):
        aborted = scans.scan(
            **{**FASTEST, "width_um": 6.5},
            stamp=False,
            clock=("detector", "ioc")[attempt % 2],
            when=lambda attempt=attempt: scans.pulses() > 60 + 37 * (attempt % 10),
            then=scans.RE.abort,
        )
        assert aborted.stop()["exit_status"] == "abort"
        assert 0 < aborted.stats["frames_received"] < aborted.start()["num_points"]
        told = scans.scan(**FASTEST, clock=("detector", "ioc")[attempt // 2 % 2])
        assert NOT_STAMPED not in told.shown
        told.check_whole()


def start_again_and_again(scans: StampedScans, times: int) -> None:
    """Short scans: none loses its first frame, nor any other."""
    for attempt in range(times):
        told = scans.scan(width_um=0.6, clock=("detector", "ioc")[attempt % 2])
        assert told.shown[0] == 0
        told.check_whole()


def stamps_at(image: np.ndarray, attributes: Mapping[str, Any], positions_um: np.ndarray) -> tuple[np.ndarray, int]:
    """Value of the patch at each position, and how many pixels are in none of them."""
    pixel_um = attributes["pixel_size_um"]
    origin_um = attributes["origin_y_um"], attributes["origin_x_um"]
    shown, rest = np.full(len(positions_um), -1), np.isfinite(image)
    for index, (y, x) in enumerate(np.rint((positions_um - origin_um) / pixel_um).astype(int)):
        if 0 <= y < image.shape[0] and 0 <= x < image.shape[1] and np.isfinite(image[y, x]):
            shown[index] = round(float(image[y, x]))
            around = (
                slice(max(0, y - PATCH_PX + 2), y + PATCH_PX - 1),
                slice(max(0, x - PATCH_PX + 2), x + PATCH_PX - 1),
            )
            rest[around] &= image[around] != image[y, x]
    return shown, int(rest.sum())


def put(name: str, value: Any) -> None:
    from epics import caput

    deadline = time.monotonic() + 60  # a restarted server is found after some seconds
    while caput(name, value, wait=True, timeout=2, connection_timeout=2) != 1:
        assert time.monotonic() < deadline, f"{name} does not take {value!r}"


def pulses(session: Any) -> int:
    """Triggers of the present trajectory so far; 0 unless it runs."""
    profile = session.stage.profile
    return int(profile.actual_pulses.get()) if profile.execute_state.get() == "Executing" else 0


def check_safe(session: Any, home_um: tuple[float, float] = (0.0, 0.0)) -> None:
    """Shutter closed, detector disarmed, stage at rest where it began."""
    cam, stage = session.detector.cam, session.stage
    assert session.shutter.get() == "Close"
    assert (int(cam.acquire.get()), int(session.detector.hdf1.capture.get())) == (0, 0)
    assert stage.profile.execute_state.get() == "Done"
    assert all(motor.motor_done_move.get(use_monitor=False) for motor in (stage.y, stage.x))
    np.testing.assert_allclose(stage.locate()["readback"], home_um, atol=0.05)


class once:  # noqa: N801
    """Do something in a thread when a condition comes true while the block runs; the block fails if it never did."""

    def __init__(
        self, when: Callable[[], bool] | None, then: Callable[[], object] | None, *, must: bool = True
    ) -> None:
        self._when, self._then, self._over, self._done = when, then, threading.Event(), not must
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        assert self._when is not None
        assert self._then is not None
        while not self._over.wait(0.03):
            if self._when():
                self._done = True
                self._then()
                return

    def __enter__(self) -> "once":
        if self._when is not None:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        if self._when is not None:
            self._thread.join(30)
            assert self._done, "the moment to interfere never came"


def serve(settings_file: Path) -> None:
    """The edge with the engine that shows stamps."""
    from bluesky_ptychonn.config import load_settings

    settings = load_settings(settings_file)
    settings.apply_epics_environment()
    from bluesky_ptychonn.edge import serving

    frame_px = settings.geometry.frame_px
    row, column = (
        stamp + frame_px // 2 - round(center)
        for stamp, center in zip((0, 104), settings.geometry.beam_center_px, strict=True)
    )
    engine = StampEngine(frame_px, row, column)
    serving.serve(PREFIX, engine, flat_probe(frame_px), on_ready=lambda: print("ready", flush=True))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = "1"
    serve(Path(sys.argv[1]))

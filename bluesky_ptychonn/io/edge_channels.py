"""The edge's channels: their names and the structure of each message.

Written once here for the edge, the callbacks, the devices and the view. Kinds are those of PVA: a name, or a name with
``[]`` for an array.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from bluesky_ptychonn.core.frames import MAX_BINNING, FrameGeometry
from bluesky_ptychonn.core.optics import Geometry

CHANNELS = ("run", "positions", "stats", "stitched", "coverage", "final")
MAX_FRAMES = 1_000_000
MAX_FRAME_PX = 4096
MAX_WORD = 255
CLOCKS = ("detector", "ioc")
EXIT_STATUS = ("success", "abort", "fail")

RUN = {
    "run_uid": "string",
    "token": "string",
    "image_channel": "string",
    "frames": "int",
    "y_um": "double[]",
    "x_um": "double[]",
    "energy_kev": "double",
    "distance_m": "double",
    "detector_pixel_um": "double",
    "exposure_s": "double",
    "dwell_s": "double",
    "frame_shape": "int[]",
    "crop_px": "int",
    "binning": "int",
    "beam_center_px": "double[]",
    "orientation": "string",
    "first_unique_id": "long",
    "clock": "string",
    "frames_after_s": "double",
    "dropped_channel": "string",
    "min_counts": "double",
}

POSITIONS = {
    "run_uid": "string",
    "token": "string",
    "exit_status": "string",
    "trigger_index": "int[]",
    "y_um": "double[]",
    "x_um": "double[]",
    "triggered": "int",
    "lost_in_detector": "int",
    "lost_in_plugin": "int",
    "no_beam_trigger": "int[]",
}

STATS = {
    "state": "string",
    "run_uid": "string",
    "armed_uid": "string",
    "final_uid": "string",
    "frames_planned": "int",
    "frames_triggered": "int",
    "frames_received": "int",
    "frames_stitched": "int",
    "frames_no_beam": "int",
    "frames_unpaired": "int",
    "frames_shed": "int",
    "frames_rejected": "int",
    "frames_guessed": "int",
    "frames_foreign": "int",
    "frames_lost_detector": "int",
    "frames_lost_plugin": "int",
    "frames_lost_wire": "int",
    "account": "string",
    "pairing": "string",
    "fps": "double",
    "queue_used": "int",
    "queue_size": "int",
    "latency_ms_p50": "double",
    "latency_ms_p99": "double",
    "latency_ms_max": "double",
    "latency_counts": "int[]",
    "published_ms_p50": "double",
    "published_ms_p99": "double",
    "published_ms_max": "double",
    "published_counts": "int[]",
    "gap_ms_max": "double",
    "cpu_us_per_frame": "double",
    "engine": "string",
    "model_version": "string",
    "model_hash": "string",
    "model_swaps": "int",
    "models_refused": "int",
    "probe_swaps": "int",
    "intensity_scale": "double",
    "masked_fraction": "double",
    "positions_source": "string",
    "no_beam_triggers": "string",
    "runs_refused": "int",
    "message": "string",
}
"""Counts are -1 where they are not known; latencies, rates and the scale are 0 before there are any.

A latency is from the monitor callback to stitched, or to published; its counts are of bins 12 % wide from 0.1 ms on.
"""


def blank(structure: Mapping[str, str]) -> dict[str, Any]:
    """Return a message with every field empty, zero or the empty string."""
    empty = {"string": "", "int": 0, "long": 0, "double": 0.0}
    return {name: [] if kind.endswith("[]") else empty[kind] for name, kind in structure.items()}


def pva_structure(structure: Mapping[str, str]) -> dict[str, Any]:
    """Return the same structure in pvapy's types."""
    import pvaccess

    kinds = {"string": pvaccess.STRING, "int": pvaccess.INT, "long": pvaccess.LONG, "double": pvaccess.DOUBLE}
    return {name: [kinds[k[:-2]]] if k.endswith("[]") else kinds[k] for name, k in structure.items()}


def _vector(values: Any) -> np.ndarray:
    array = np.array(values, dtype=np.float64).ravel()
    array.flags.writeable = False
    return array


def _check_words(message: Any, *names: str) -> None:
    for name in names:
        if len(getattr(message, name)) > MAX_WORD:
            raise ValueError(f"{name} has {len(getattr(message, name))} characters; at most {MAX_WORD} are allowed")


@dataclass(frozen=True)
class RunMessage:
    """What the edge must know before the first trigger.

    Parameters
    ----------
    run_uid, token : str
        The run, and the secret of who may replace or end it.
    image_channel : str
        PVA name of the NTNDArray stream.
    y_um, x_um : (frames,) float64
        Planned positions, um, in trigger order.
    dwell_s : float
        Time between triggers, s; 0 where the triggers have no fixed period (a step scan).
    frame_shape : (int, int)
        Rows and columns of a frame, px.
    crop_px : int
        Side of a diffraction pattern, px, after binning.
    beam_center_px : (float, float)
        Row and column of the beam in the frame, px.
    binning : int
        Side of a superpixel in detector pixels: a pixel of the pattern. 0, as in a message that leaves it out, is 1.
    first_unique_id : int
        ``uniqueId`` of the first frame of the run by the driver's rule.
    clock : {"detector", "ioc"}
        Whose time the frames carry.
    frames_after_s : float
        IOC time of the counter's reset, s since 1970; older frames are foreign (``clock="ioc"``); 0 if unknown.
    dropped_channel : str
        PVA name of the detector's count of lost frames; "" if there is none.
    min_counts : float
        What a frame with beam has, as for `core.beam.threshold_of`; 0 takes every frame.

    Raises
    ------
    ValueError
        If a value cannot be; the message names it, what is allowed, and the remedy.
    """

    run_uid: str
    image_channel: str
    frames: int
    y_um: np.ndarray = field(repr=False)
    x_um: np.ndarray = field(repr=False)
    energy_kev: float
    distance_m: float
    detector_pixel_um: float
    exposure_s: float
    dwell_s: float
    frame_shape: tuple[int, int]
    crop_px: int
    beam_center_px: tuple[float, float]
    token: str = ""
    orientation: str = "identity"
    binning: int = 1
    first_unique_id: int = 0
    clock: str = "ioc"
    frames_after_s: float = 0.0
    dropped_channel: str = ""
    min_counts: float = 0.0

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "y_um", _vector(self.y_um))
        set_(self, "x_um", _vector(self.x_um))
        set_(self, "frame_shape", tuple(int(n) for n in self.frame_shape))
        set_(self, "beam_center_px", tuple(float(n) for n in self.beam_center_px))
        set_(self, "binning", self.binning or 1)
        if not self.run_uid or not self.image_channel:
            raise ValueError("run_uid and image_channel must not be empty")
        _check_words(self, "run_uid", "token", "image_channel", "orientation", "dropped_channel")
        if not 1 <= self.frames <= MAX_FRAMES:
            raise ValueError(f"frames = {self.frames}; allowed is 1 to {MAX_FRAMES}; split the scan")
        if not self.frames == self.y_um.size == self.x_um.size:
            raise ValueError(
                f"{self.y_um.size} y_um and {self.x_um.size} x_um for {self.frames} frames; send one of each"
            )
        if not (np.isfinite(self.y_um).all() and np.isfinite(self.x_um).all()):
            raise ValueError("y_um and x_um must be finite numbers (um)")
        for name in ("energy_kev", "distance_m", "detector_pixel_um"):
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name} = {getattr(self, name)}; it must be a positive number")
        for name, unit in (("exposure_s", "s"), ("dwell_s", "s"), ("frames_after_s", "s"), ("min_counts", "counts")):
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"{name} = {getattr(self, name)} {unit}; it must not be negative")
        if len(self.frame_shape) != 2 or not all(1 <= n <= MAX_FRAME_PX for n in self.frame_shape):
            raise ValueError(f"frame_shape = {self.frame_shape} px; it must be two sides of 1 to {MAX_FRAME_PX} px")
        if not 8 <= self.crop_px <= MAX_FRAME_PX or self.crop_px % 2:
            raise ValueError(f"crop_px = {self.crop_px} px; it must be even, 8 to {MAX_FRAME_PX} px")
        if not 1 <= self.binning <= MAX_BINNING or self.crop_px * self.binning > MAX_FRAME_PX:
            raise ValueError(
                f"binning = {self.binning} px; allowed is 1 to {MAX_BINNING} px, and at most {MAX_FRAME_PX} px of a "
                f"frame, for crop_px = {self.crop_px} px"
            )
        if len(self.beam_center_px) != 2 or not np.isfinite(self.beam_center_px).all():
            raise ValueError(f"beam_center_px = {self.beam_center_px}; it must be a row and a column in px")
        if self.clock not in CLOCKS:
            raise ValueError(f"clock = {self.clock!r}; allowed is one of {CLOCKS}")

    @property
    def positions_um(self) -> np.ndarray:
        """Planned positions (N, 2), (y, x), um."""
        return np.stack([self.y_um, self.x_um], axis=1)

    @property
    def geometry(self) -> Geometry:
        """Far-field geometry of the patterns, whose pixels are superpixels."""
        return Geometry(self.energy_kev, self.distance_m, self.detector_pixel_um * self.binning, self.crop_px)

    def frame_geometry(self, bad_pixels: np.ndarray | None = None) -> FrameGeometry:
        """Return what makes patterns of the run's frames; ``bad_pixels`` is (H, W) bool of a frame."""
        return FrameGeometry(
            self.frame_shape, self.crop_px, self.beam_center_px, bad_pixels, self.orientation, self.binning
        )


@dataclass(frozen=True)
class PositionsMessage:
    """What is known at the end of a run; sent once, after an abort too.

    Parameters
    ----------
    exit_status : {"success", "abort", "fail"}
    trigger_index : (n,) int
        Which trigger each captured position belongs to.
    y_um, x_um : (n,) float64
        Captured positions at mid exposure, um; empty where there are none.
    triggered : int
        Trigger slots which the stage went through, a pulse lost in its cable included; -1 if unknown.
    lost_in_detector, lost_in_plugin : int
        Differences of the counters of lost frames over the run; -1 if unknown.
    no_beam_trigger : (m,) int
        Triggers without incident flux, by the beamline's monitor: their frames do not stay in the image.
    """

    run_uid: str
    token: str = ""
    exit_status: str = "success"
    trigger_index: np.ndarray = field(default_factory=lambda: np.empty(0, int), repr=False)
    y_um: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False)
    x_um: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False)
    triggered: int = -1
    lost_in_detector: int = -1
    lost_in_plugin: int = -1
    no_beam_trigger: np.ndarray = field(default_factory=lambda: np.empty(0, int), repr=False)

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "no_beam_trigger", np.array(self.no_beam_trigger, dtype=np.int64).ravel())
        if self.no_beam_trigger.size > MAX_FRAMES:
            raise ValueError(f"{self.no_beam_trigger.size} no_beam_trigger; at most {MAX_FRAMES} are allowed")
        set_(self, "trigger_index", np.array(self.trigger_index, dtype=np.int64).ravel())
        set_(self, "y_um", _vector(self.y_um))
        set_(self, "x_um", _vector(self.x_um))
        _check_words(self, "run_uid", "token")
        if self.exit_status not in EXIT_STATUS:
            raise ValueError(f"exit_status = {self.exit_status!r}; allowed is one of {EXIT_STATUS}")
        if not self.trigger_index.size == self.y_um.size == self.x_um.size <= MAX_FRAMES:
            raise ValueError(
                f"{self.trigger_index.size} trigger_index, {self.y_um.size} y_um and {self.x_um.size} x_um; "
                f"send equally many, at most {MAX_FRAMES}"
            )
        if not (np.isfinite(self.y_um).all() and np.isfinite(self.x_um).all()):
            raise ValueError("y_um and x_um must be finite numbers (um)")
        if np.any(self.trigger_index < 0) or np.unique(self.trigger_index).size != self.trigger_index.size:
            raise ValueError("trigger_index must be different numbers from 0")


def as_message(message: RunMessage | PositionsMessage) -> dict[str, Any]:
    """Return the message as plain values, ready for `PvaChannel.put`."""
    return {f.name: getattr(message, f.name) for f in fields(message)}

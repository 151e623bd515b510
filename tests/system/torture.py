"""Random runs of the edge: drawn from a seed, with the truth of what was sent."""

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from edge_world import DROPPED, IMAGE
from torture_world import BAD_FRAMES, DARK, ODD, POISON, SLOW

from bluesky_ptychonn.core.optics import Geometry
from bluesky_ptychonn.io.edge_channels import MAX_FRAMES

GEOMETRY = {"energy_kev": 10.0, "distance_m": 0.9, "detector_pixel_um": 600.0, "crop_px": 16}
PIXEL_UM = Geometry(10.0, 0.9, 600.0, 16).pixel_size_um
PATCH_PX = 8
GRID = 40
UNSENT, DETECTOR, PLUGIN, WIRE, OK = "unsent", "detector", "plugin", "wire", "ok"
PHANTOM_STAMP = 61_000
"""Of frames which no trigger of the run has made."""
THEMES = (
    "whole", "lossy", "malformed", "disordered", "slow", "lossy", "aborted", "dark", "restart", "longer", "lossy",
    "empty", "unfinished", "poison", "contested", "lies", "odd", "early", "lossy",
)  # fmt: skip
"""What befalls a run; one after the other, so that a few runs meet all of it."""
PLAIN = "plain"
"""A run like any other of its kind, with nothing drawn."""
SCRAPS = ("disordered", "slow", "dark", "malformed", "poison")


def places_um(count: int) -> np.ndarray:
    """Positions on a grid so wide that patches never touch."""
    return 10 * PIXEL_UM * np.stack(np.divmod(np.arange(count), GRID), axis=1)


@dataclass
class Run:
    """One run: what is told to the edge, what is sent, and what is true.

    Parameters
    ----------
    seed, number : int
        The run is the same for the same two.
    theme : str
        `PLAIN`, or one of `THEMES`; by default the number's turn.
    """

    seed: int
    number: int
    theme: str = ""
    token: str = "secret"
    fates: list[str] = field(default_factory=list)
    """Of each trigger slot that the stage went through."""
    segments: list[list[list[Any]]] = field(default_factory=list)
    """Updates; between two segments something else happens."""
    captured: dict[int, tuple[float, float]] = field(default_factory=dict)
    bad_runs: list[dict[str, Any]] = field(default_factory=list)
    bad_positions: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = self.rng = random.Random(f"{self.seed}/{self.number}")
        self.theme = self.theme or THEMES[self.number % len(THEMES)]
        self.uid = f"run-{self.theme}-{self.seed}-{self.number}"
        self.frames = self._one_of(64, 64, 64, 1, 1, 7, 7, 8, 8, 9, 9, 963)
        self.clock = self._one_of("detector", "ioc")
        self.dwell_s = self._one_of(1e-3, 1e-3, 5e-4, 2e-3, 0.0)
        self.shape, self.dtype = self._one_of((24, 32), (16, 16)), self._one_of("uint16", "uint16", "uint32")
        self.codec = self._one_of("none", "none", "none", "lz4", "blosc", "bslz4")
        if self.theme == "slow":  # more frames than the ring holds
            self.frames, self.shape, self.dtype = 963, (24, 32), "uint32"
        if self.theme == "dark":
            self.frames = rng.choice((9, 64, 64, 963))
        self.first_id = self._one_of(0, 0, 1, 5000, 2**31 - 2000)
        self.offset = 1 + rng.randrange(60) * 1000
        self.image_channel = IMAGE
        self.dropped_channel = self._one_of(DROPPED, DROPPED, DROPPED, "")
        self.ends = self.number % 2 == 0 if self.theme == PLAIN else self.theme != "unfinished"
        self.hasty = self._happens(0.5)
        """Whether a run without an end is left at once."""
        self.delay_s = self._one_of(*12 * [0.0], 0.1, 0.4)
        """Between the last frame and the positions."""
        self._draw_fates()
        self._draw_updates()
        self._draw_end()
        self.bad_runs = [bad_run(rng) for _ in range(self._one_of(0, 0, 0, 1, 1))]
        self.bad_positions = [bad_positions(rng) for _ in range(self._one_of(0, 0, 0, 1, 1))]

    def _one_of(self, plain: Any, *others: Any) -> Any:
        return plain if self.theme == PLAIN else self.rng.choice((plain, *others))

    def _happens(self, probability: float) -> bool:
        return self.theme != PLAIN and self.rng.random() < probability

    @property
    def timed(self) -> bool:
        """Whether the detector's clock can tell triggers apart."""
        return self.clock == "detector" and self.dwell_s > 0

    def message(self, frames_after_s: float) -> dict[str, Any]:
        """The run message, whole."""
        place = places_um(self.frames)
        return {
            "run_uid": self.uid, "token": self.token, "image_channel": self.image_channel, "frames": self.frames,
            "y_um": place[:, 0].tolist(), "x_um": place[:, 1].tolist(), "exposure_s": 5e-4, "dwell_s": self.dwell_s,
            "frame_shape": list(self.shape), "binning": 1, "beam_center_px": [n / 2 for n in self.shape],
            "orientation": "identity", "first_unique_id": self.first_id, "clock": self.clock,
            "frames_after_s": frames_after_s, "dropped_channel": self.dropped_channel, **GEOMETRY,
        }  # fmt: skip

    def positions(self) -> dict[str, Any]:
        """The positions message, whole."""
        place = list(self.captured.values())
        return {
            "run_uid": self.uid, "token": self.token, "exit_status": self.status,
            "trigger_index": list(self.captured), "y_um": [y for y, _ in place], "x_um": [x for _, x in place],
            "triggered": self.triggered, "lost_in_detector": self.lost_in_detector,
            "lost_in_plugin": self.lost_in_plugin,
        }  # fmt: skip

    def _draw_fates(self) -> None:
        rng, slots = self.rng, self.frames
        if self.theme in ("aborted", "unfinished") or (self.theme == "dark" and rng.random() < 0.5):
            slots = rng.randint(0, self.frames)
        elif self.theme == "empty":
            slots = 0
        elif self.theme == "longer":
            slots += rng.choice((1, 2, 20))
        self.fates = [OK] * slots
        if self.theme in ("lossy", "aborted", "restart", "early", "contested", "unfinished"):
            for fate in (UNSENT, DETECTOR, PLUGIN, WIRE):
                if self._happens(0.35):
                    self._strike(fate, *self._somewhere(rng.randint(1, 3)))
        for theme in dict.fromkeys((self.theme, *(scrap for scrap in SCRAPS if self._happens(0.05)))):
            if theme == "dark" and slots:
                first = rng.choice((0, 7, 12, rng.randrange(min(slots, 64))))  # the first 64 tell the probe
                self._strike(DARK, *range(first, first + rng.choice((1, 5, 30, 963))))
            elif theme == "slow":
                for slot in range(rng.randrange(100), slots, 8)[:12]:  # one in each of some batches
                    self._strike(SLOW, slot)
            elif theme == "poison":
                self._strike(POISON, *self._somewhere(rng.choice((1, 5))))
            elif theme == "malformed":
                kinds = BAD_FRAMES if self.shape[0] != self.shape[1] else sorted({*BAD_FRAMES} - {"transposed"})
                for _ in range(rng.randint(1, 4)):
                    self._strike(f"bad {rng.choice(kinds)}", *self._somewhere(rng.randint(1, 3)))

    def _somewhere(self, count: int) -> list[int]:
        """Slots, near the ends more often than elsewhere."""
        slots = len(self.fates)
        within = [self.rng.randrange(slots or 1) for _ in range(6)]
        return self.rng.sample([0, 1, slots // 2, slots - 2, slots - 1, *within], count)

    def _strike(self, fate: str, *slots: int) -> None:
        for slot in slots:
            if 0 <= slot < len(self.fates) and self.fates[slot] == OK:
                self.fates[slot] = fate

    def _draw_updates(self) -> None:
        rng, unique_id, updates = self.rng, self.first_id, []
        began_s = rng.uniform(1e3, 1e6)
        for slot, fate in enumerate(self.fates):
            time_s = began_s + (slot + rng.uniform(-0.04, 0.04)) * self.dwell_s
            if fate == DETECTOR:
                updates.append(["lost", 0, 0, 0.0, 0.0])
            if fate in (UNSENT, DETECTOR):
                continue
            if fate not in (PLUGIN, WIRE):
                updates.append([fate, self.offset + slot, unique_id, time_s, 0.0])
            unique_id += 1
        self.disordered = False
        if self.theme == "disordered" or self._happens(0.05):
            self._disorder(updates)
        if self.theme == "odd":
            self._make_odd()
            if self.image_channel == ODD["odd"]:
                updates = [["odd", number, 0, 0.0, 0.0] for number in range(rng.choice((1, 9)))]
        parts = 2 if self.theme in ("restart", "contested", "early") else 1
        cut = rng.choice((0, 1, len(updates) // 2, len(updates))) if parts == 2 else len(updates)
        self.segments = [updates[:cut], updates[cut:]][:parts]
        self.in_order = rng.random() < 0.5
        self.pause_s = rng.choice((0.0, 3.0))

    def _disorder(self, updates: list[list[Any]]) -> None:
        """Frames come twice, in another order, late from an earlier run, or with an id that cannot be.

        What can be told for sure to be no frame of the run harms nothing.
        """
        rng = self.rng
        for _ in range(rng.randint(1, 3)):
            if not updates:
                return
            at, what = rng.randrange(len(updates)), rng.choice(("twice", "again", "swapped", "earlier", "beyond"))
            if what == "twice" and updates[at][0] != "lost":
                updates.insert(at, list(updates[at]))
                continue
            strange = [OK, PHANTOM_STAMP, self.first_id + rng.randrange(self.frames), rng.uniform(0, 900), 1e4]
            if what == "beyond":
                strange[2] = rng.choice((self.first_id - 1, -5, min(self.first_id + self.frames + 30, 2**31 - 1)))
                updates.insert(at, strange)
                continue
            if what == "earlier" and (self.clock == "ioc" or self.fates[0] == OK):
                updates.insert(0, strange)  # the detector's clock cannot tell it from a first frame which got lost
                if self.clock == "ioc":
                    continue
            elif what == "again":
                updates.append(list(updates[at]))
            elif what == "swapped" and at:
                updates[at - 1 : at + 1] = updates[at], updates[at - 1]
            self.disordered = True

    def _make_odd(self) -> None:
        wrong = self.rng.choices(list(ODD), (3, 3, 3, 1))[0]  # what is missing takes a second to be missed
        if wrong in ("odd", "missing") and self.rng.random() < 0.5:
            self.image_channel = ODD[wrong]
            self.ends = wrong != "missing"
        else:
            self.dropped_channel = ODD[wrong]

    def _draw_end(self) -> None:
        rng = self.rng
        self.status = "abort" if len(self.fates) < self.frames else "success"
        self.triggered = min(len(self.fates), self.frames)
        self.lost_in_detector, self.lost_in_plugin = self.fates.count(DETECTOR), self.fates.count(PLUGIN)
        for name in ("triggered", "lost_in_detector", "lost_in_plugin"):
            if self._happens(0.07):
                setattr(self, name, -1)
        if self._happens(0.3):
            slots = rng.sample(range(self.triggered), rng.randint(0, self.triggered)) if self.triggered > 0 else []
            place = places_um(self.frames)
            for slot in slots:
                moved = place[slot] + [rng.choice((-1, 0, 1)) * PIXEL_UM for _ in range(2)]
                self.captured[slot] = (float(moved[0]), float(moved[1]))
        if self.theme == "lies":
            name = rng.choice(("triggered", "lost_in_detector", "lost_in_plugin", "trigger_index"))
            if name == "trigger_index":
                self.captured[rng.choice((self.frames, 2**31 - 1))] = (0.0, 0.0)
            else:
                setattr(self, name, rng.choice((-(2**31), -5, 0, 1, self.frames + 5, 2**31 - 1)))
        if self._happens(0.05):
            self.captured[0] = (1e4, -1e4)  # cannot be, and is not used


def bad_run(rng: random.Random) -> dict[str, Any]:
    """What to change in a run message to make it one that must be refused: values, and types of fields."""
    nan, endless = float("nan"), float("inf")
    numbers = [nan, endless, -endless, -1.0, 0.0, 1e308, 5e-324]
    field_, values = rng.choice(
        [
            ("frames", [0, -1, -(2**31), 2**31 - 1, MAX_FRAMES, 10]),
            ("y_um", [[], [nan] * 9, [endless] * 9, [0.0] * 8 + [1e308], [0.0] * 8 + [-1e9], [1.0] * 8]),
            ("x_um", [[nan] * 9, [0.0] * 10, {"count": MAX_FRAMES + 1, "of": 0.5}]),
            ("energy_kev", numbers),
            ("distance_m", numbers),
            ("detector_pixel_um", numbers),
            ("exposure_s", [nan, endless, -1e-9]),
            ("dwell_s", [nan, endless, -1.0]),
            ("frames_after_s", [nan, -1.0]),
            ("frame_shape", [[], [16], [0, 16], [-16, -16], [16, 16, 1], [5000, 16], [2**31 - 1, 2**31 - 1]]),
            ("crop_px", [0, -16, 7, 17, 32, 2**31 - 1]),
            ("beam_center_px", [[], [8.0], [nan, 8.0], [99.0, 8.0], [-1.0, 8.0], [1e300, 8.0], [8.0, 8.0, 8.0]]),
            ("binning", [-1, 9, 2**31 - 1]),
            ("orientation", ["", "upside down", "x" * 300]),
            ("clock", ["", "sundial", "DETECTOR"]),
            ("run_uid", ["", "u" * 256]),
            ("image_channel", ["", "c" * 70_000]),
            ("token", ["t" * 300]),
        ]
    )
    types = {}
    value = rng.choice(values)
    if rng.random() < 0.15:
        field_, value, kind = rng.choice(
            [("frames", "nine", "STRING"), ("frames", nan, "DOUBLE"), ("crop_px", 1e30, "DOUBLE"),
             ("energy_kev", "bright", "STRING"), ("clock", 3.5, "DOUBLE"), ("beam_center_px", 8.0, "DOUBLE")]
        )  # fmt: skip
        types = {field_: kind}
    return {"values": {field_: value}, "types": types}


def bad_positions(rng: random.Random) -> dict[str, Any]:
    """What to change in a positions message of two positions to make it one that must be refused."""
    nan = float("nan")
    field_, value = rng.choice(
        [("exit_status", ""), ("exit_status", "splendid"), ("y_um", [nan, 0.0]), ("x_um", [0.0, float("-inf")]),
         ("y_um", [0.0]), ("x_um", [0.0] * 3), ("trigger_index", [0, 0]), ("trigger_index", [-1, 0]),
         ("trigger_index", []), ("y_um", {"count": MAX_FRAMES + 1, "of": 0.0}), ("token", "guess"),
         ("token", "t" * 300), ("run_uid", "nobody's"), ("run_uid", ""), ("run_uid", "u" * 256)]
    )  # fmt: skip
    return {"values": {field_: value}, "types": {}}

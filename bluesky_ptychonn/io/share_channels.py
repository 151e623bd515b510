"""The channels between a gatherer and its consumers: what is to be done, and what each has of the image.

Both say the whole present state at every update, so that one that is lost, or a consumer that comes late, changes
nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from bluesky_ptychonn.core.placement import Placement
from bluesky_ptychonn.core.stitch import Canvas
from bluesky_ptychonn.io.edge_channels import RUN, RunMessage, as_message, blank

PHASES = ("idle", "run", "end", "final")
"""Nothing to do; take frames; take no more, finish those you have; stitch at the final positions."""

TASK = {
    **{name: kind for name, kind in RUN.items() if name != "token"},
    "phase": "string",
    "unit_probe": "double[]",
    "probe": "double[]",
    "probe_settled": "int",
    "shift_ids": "long[]",
    "shifts": "long[]",
    "withheld_from_id": "long",
    "out_consumer": "int[]",
    "out_id": "long[]",
    "out_time_s": "double[]",
    "final_y_um": "double[]",
    "final_x_um": "double[]",
    "canvas_shape": "int[]",
    "canvas_origin_um": "double[]",
    "canvas_pixel_um": "double",
    "beam_threshold": "double",
    "no_beam_trigger": "long[]",
}
"""Probes are complex, as real and imaginary parts in turn."""

STATES = ("idle", "refused", "armed", "running", "ended", "final")
REPORT = {
    "uniqueId": "int",
    "consumer": "int",
    "pid": "int",
    "run_uid": "string",
    "state": "string",
    "message": "string",
    "unique_id": "long[]",
    "time_s": "double[]",
    "trigger_index": "long[]",
    "spoiled_id": "long[]",
    "shed": "int",
    "rejected": "int",
    "foreign": "int",
    "waiting": "int",
    "ring_size": "int",
    "total": "double[]",
    "coverage": "double[]",
    "canvas_shape": "int[]",
    "patch_px": "int",
    "engine": "string",
    "model_version": "string",
    "model_versions": "string",
    "model_hash": "string",
    "intensity_scale": "double",
    "masked_fraction": "double",
    "fps": "double",
    "latency_ms_p50": "double",
    "latency_ms_p99": "double",
    "latency_ms_max": "double",
    "latency_counts": "int[]",
    "gap_ms_max": "double",
    "cpu_us_per_frame": "double",
}
"""``trigger_index`` is where a frame lies in the sums, below 0 where it is inferred but not in them, and there
`core.beam.NO_BEAM` if the reason is that it has no beam; ``spoiled_id`` are the frames that were shed or rejected;
``uniqueId`` counts the reports."""


def _as_numbers(probe: np.ndarray | None) -> np.ndarray:
    return np.empty(0) if probe is None else np.ascontiguousarray(probe, np.complex64).view(np.float32).ravel()


def _as_probe(numbers: np.ndarray) -> np.ndarray | None:
    numbers = np.array(numbers, np.float32)
    side = int(np.sqrt(numbers.size // 2))
    return numbers.view(np.complex64).reshape(side, side) if numbers.size else None


@dataclass(frozen=True, eq=False)
class Task:
    """What a gatherer wants of its consumers.

    Parameters
    ----------
    phase : str
        One of `PHASES`.
    message : RunMessage, optional
        The run; its token stays with the gatherer.
    unit_probe, probe : (N, N) complex64, optional
        As the file has it; as measured from the first frames.
    probe_settled : bool
        Whether it will not be measured again in this run.
    placement : Placement, optional
    left_out : tuple of (m,) arrays
        Consumer, ``unique_id`` and time of frames which must not be in its image: of another run, or another's.
    final_um : (N, 2) float64, optional
        Position (y, x) of each trigger, um, in phase "final".
    canvas : Canvas, optional
        Of the final image.
    beam_threshold : float
        Counts which a frame must have, as known so far.
    no_beam_trigger : (m,) int
        Triggers without incident flux, in phase "final".
    """

    phase: str = "idle"
    message: RunMessage | None = None
    unit_probe: np.ndarray | None = None
    probe: np.ndarray | None = None
    probe_settled: bool = False
    placement: Placement | None = None
    left_out: tuple[np.ndarray, np.ndarray, np.ndarray] = field(
        default_factory=lambda: (np.empty(0, int), np.empty(0, int), np.empty(0))
    )
    final_um: np.ndarray | None = None
    canvas: Canvas | None = None
    beam_threshold: float = 0.0
    no_beam_trigger: np.ndarray = field(default_factory=lambda: np.empty(0, int))

    @property
    def run_uid(self) -> str:
        """Of the run; empty if there is none."""
        return self.message.run_uid if self.message is not None else ""

    def left_out_of(self, consumer: int) -> set[tuple[int, float]]:
        """Id and time of the frames that a consumer must not show."""
        whose, ids, times_s = self.left_out
        mine = np.asarray(whose) == consumer
        return set(zip(np.asarray(ids)[mine].tolist(), np.asarray(times_s)[mine].tolist()))

    def as_values(self) -> dict[str, Any]:
        """Plain values for the structure `TASK`."""
        values = blank(TASK) | {"phase": self.phase, "unit_probe": _as_numbers(self.unit_probe)}
        if self.message is None or self.placement is None:
            return values
        run = as_message(self.message)
        run.pop("token")
        placed = {name: getattr(self.placement, name) for name in ("shift_ids", "shifts", "withheld_from_id")}
        values |= {**run, **placed, "probe": _as_numbers(self.probe), "probe_settled": int(self.probe_settled)}
        values |= {"beam_threshold": self.beam_threshold, "no_beam_trigger": self.no_beam_trigger}
        values |= dict(zip(("out_consumer", "out_id", "out_time_s"), self.left_out))
        if self.final_um is not None and self.canvas is not None:
            values |= {
                "final_y_um": self.final_um[:, 0],
                "final_x_um": self.final_um[:, 1],
                "canvas_shape": self.canvas.shape,
                "canvas_origin_um": self.canvas.origin_um,
                "canvas_pixel_um": self.canvas.pixel_size_um,
            }
        return values

    @classmethod
    def of_values(cls, values: Mapping[str, Any]) -> "Task":
        """Make the task of an update as a dictionary.

        Raises
        ------
        ValueError
            If the run cannot be.
        """
        unit_probe = _as_probe(values["unit_probe"])
        if not values["run_uid"]:
            return cls(values["phase"] or "idle", unit_probe=unit_probe)
        message = RunMessage(**{name: values[name] for name in RUN if name != "token"})
        shifts = {name: np.array(values[name], np.int64) for name in ("shift_ids", "shifts")}
        final_um, canvas = None, None
        if len(values["canvas_shape"]):
            final_um = np.stack([np.array(values[f"final_{axis}_um"], np.float64) for axis in "yx"], axis=1)
            shape, origin_um = (tuple(values[f"canvas_{what}"]) for what in ("shape", "origin_um"))
            canvas = Canvas(shape, origin_um, values["canvas_pixel_um"])
        return cls(
            values["phase"],
            message,
            unit_probe,
            _as_probe(values["probe"]),
            bool(values["probe_settled"]),
            Placement(
                message.first_unique_id, message.frames, **shifts, withheld_from_id=int(values["withheld_from_id"])
            ),
            (np.array(values["out_consumer"], int), np.array(values["out_id"], int), np.array(values["out_time_s"])),
            final_um,
            canvas,
            float(values["beam_threshold"]),
            np.array(values["no_beam_trigger"], int),
        )

    def same_as(self, other: "Task") -> bool:
        """Whether nothing has changed."""
        return all(_same(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, tuple) and isinstance(other, tuple):
        return all(np.array_equal(a, b) for a, b in zip(one, other))
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one is other or np.array_equal(one, other)
    if isinstance(one, RunMessage):
        return one is other  # its arrays have no simple equality
    return bool(one is other or one == other) if (one is None) == (other is None) else False

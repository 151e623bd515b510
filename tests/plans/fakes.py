"""Devices of no beamline at all: they note what happens to them, in order, and fail on demand."""

import threading
from typing import Any

import numpy as np
from ophyd.status import Status


class Fake:
    """Base of the fakes; ``log`` is shared by all of them."""

    parent = None

    def __init__(self, name: str, log: list[str], fail: str = "") -> None:
        self.name, self.log, self.fail = name, log, fail

    def _done(self, action: str, wait_for: threading.Event | None = None) -> Status:
        self.log.append(f"{self.name} {action}")
        status = Status(timeout=20)
        if self.fail == action:
            status.set_exception(RuntimeError(f"{self.name} cannot {action}"))
        elif wait_for is None:
            status.set_finished()
        else:
            threading.Thread(target=lambda: (wait_for.wait(15), status.set_finished()), daemon=True).start()
        return status

    def check(self, request):
        return [f"{self.name} is broken"] if self.fail == "check" else []

    def ptycho_block(self) -> dict[str, Any]:
        return {}

    def stage(self):
        self.log.append(f"{self.name} stage")
        if self.fail == "stage":
            raise RuntimeError(f"{self.name} cannot stage")
        return [self]

    def unstage(self):
        self.log.append(f"{self.name} unstage")
        return [self]

    def prepare(self, request):
        self.request = request
        return self._done("prepare")

    def kickoff(self):
        return self._done("kickoff")

    def complete(self):
        return self._done("complete")

    def stop(self, *, success=False):
        self.log.append(f"{self.name} stop")


class Counts(Fake):
    """Counters with plain keys."""

    def __init__(self, name: str, log: list[str], values: dict[str, int]) -> None:
        super().__init__(name, log)
        self.values = values

    def trigger(self):
        return self._done("trigger")

    def read(self):
        return {key: {"value": value, "timestamp": 0.0} for key, value in self.values.items()}

    def describe(self):
        return {key: {"source": self.name, "dtype": "integer", "shape": []} for key in self.values}


class FakeDetector(Fake):
    def __init__(self, log: list[str], fail: str = "", hold: threading.Event | None = None) -> None:
        super().__init__("camera", log, fail)
        self.hold = hold
        self.counters = Counts("camera_counters", log, {"triggers_sent": 0, "written": 0, "lost_in_detector": 0})
        self.counters.values["lost_before_file"] = 0

    def ptycho_block(self):
        return {"energy_kev": 10.0, "probe_diameter_um": 0.5, "dead_time_s": 1e-5, "first_unique_id": 0}

    def complete(self):
        return self._done("complete", self.hold)

    def stop(self, *, success=False):
        super().stop()
        if self.hold is not None:
            self.hold.set()

    def trigger(self):
        self.counters.values["triggers_sent"] += 1
        self.counters.values["written"] += 1
        return self._done("trigger")

    def describe_collect(self):
        return {"camera_image": {"source": "x", "dtype": "array", "shape": [2, 2], "external": "STREAM:"}}

    def get_index(self):
        return 0

    def collect_asset_docs(self, index=None):
        self.log.append("camera collect")
        yield from ()


class FakeStage(Fake):
    def __init__(self, log: list[str], fail: str = "") -> None:
        super().__init__("stage", log, fail)
        self.counters = Counts("stage_counters", log, {"pulses": -1})
        self.at = (1.0, 2.0)
        self.visited: list[tuple[float, float]] = []
        self.hints = {"fields": ["stage_y", "stage_x"]}

    def locate(self):
        return {"setpoint": self.at, "readback": self.at}

    def set(self, position):
        self.at = tuple(position)
        self.visited.append(self.at)
        return self._done("set")

    def read(self):
        return {key: {"value": value, "timestamp": 0.0} for key, value in zip(("stage_y", "stage_x"), self.at)}

    def describe(self):
        return {key: {"source": "x", "dtype": "number", "shape": []} for key in ("stage_y", "stage_x")}

    def describe_collect(self):
        return {**self.describe(), "trigger_index": {"source": "x", "dtype": "integer", "shape": []}}

    def collect_pages(self):
        self.log.append("stage collect")
        points = np.asarray(self.request.positions_um)
        times = [0.0] * len(points)
        data = {"stage_y": points[:, 0].tolist(), "stage_x": points[:, 1].tolist()}
        data["trigger_index"] = list(range(len(points)))
        yield {"time": times, "data": data, "timestamps": dict.fromkeys(data, times)}


class FakeShutter(Fake):
    def set(self, value):
        return self._done(value)

"""A gatherer, its consumers, and one process alone, with everything but PVA between them."""

from types import SimpleNamespace

import numpy as np
from edge_world import StampEngine

from bluesky_ptychonn.core.optics import Geometry
from bluesky_ptychonn.edge import first_frames, gathered_run, intake, roll, shares
from bluesky_ptychonn.edge.gathered_run import GatheredRun
from bluesky_ptychonn.edge.share_run import ShareRun
from bluesky_ptychonn.io.edge_channels import PositionsMessage, RunMessage, blank
from bluesky_ptychonn.io.share_channels import REPORT, Task

N, GRID, DWELL_S = 120, 12, 0.01
PIXEL_UM = Geometry(10.0, 0.9, 600.0, 16).pixel_size_um
PLACES_UM = 10 * PIXEL_UM * np.stack(np.divmod(np.arange(N), GRID), axis=1)  # patches never touch
PROBE = np.exp(-np.sum((np.mgrid[:16, :16] - 8) ** 2, axis=0) / 40).astype(np.complex64)


class Channel:
    """Stands for `PvaChannel`: what is published reaches every monitor."""

    monitors: list = []
    connected = True
    overruns = 0

    def __init__(self, name, timeout_s=0.0):
        self.name = name

    def monitor(self, callback, queue_size=0, **_):
        self.monitors.append((self, callback))

    def close(self):
        self.monitors[:] = [entry for entry in self.monitors if entry[0] is not self]

    @classmethod
    def publish(cls, update):
        for channel, callback in list(cls.monitors):
            if channel.name == "image":
                callback(update)


class Update(dict):
    """A frame with its number in the first pixel, as pvapy gives it."""

    def __init__(self, unique_id, time_s, stamp, level=10):
        counts = np.full(256, level, np.uint16)
        counts[0] = stamp
        time = {"secondsPastEpoch": int(time_s), "nanoseconds": round(time_s % 1 * 1e9)}
        super().__init__(uniqueId=unique_id, dataTimeStamp=time, timeStamp=time, value=self, ushortValue=counts)
        self |= {"codec.name": "", "dimension": [{"size": 16}] * 2}
        self.getInt = self.getStructure = self.getUnion = self.getScalarArray = self.__getitem__
        self.getString = self.getStructureArray = self.__getitem__

    def getSelectedUnionFieldName(self):
        return "ushortValue"


class ProbeEngine(StampEngine):
    """Patches whose corner says which probe they were inferred with."""

    def set_probe(self, probe):
        self.power = np.sum(np.abs(probe) ** 2)

    def infer(self, patterns):
        patches = super().infer(patterns).copy()
        patches[:, 0, 0] = self.power
        return patches


def run_message(min_counts=0.0):
    return RunMessage(
        "uid", "image", N, *PLACES_UM.T, 10.0, 0.9, 600.0, 0.001, DWELL_S, (16, 16), 16, (8.0, 8.0), "secret",
        clock="detector", min_counts=min_counts,
    )  # fmt: skip


def shown_in(phase, canvas, at_um=PLACES_UM):
    """Which frame each place of an image shows, -1 for none."""
    y, x = (canvas.corners_px(at_um, 8) + 4).T
    return np.where(np.isnan(phase[y, x]), -1, phase[y, x]).astype(int)


def without_pva(monkeypatch):
    """Let nothing in `edge` open a channel, and nobody wait."""
    monkeypatch.setattr(Channel, "monitors", [])
    for module in (roll, first_frames, shares, intake):
        monkeypatch.setattr(module, "PvaChannel", Channel)
    monkeypatch.setattr(gathered_run, "QUIET_S", 0.0)
    monkeypatch.setattr(gathered_run, "BUSY_PART", 1e9)


class Party:
    """A gatherer and its consumers; the frames of the triggers ``dark`` have hardly any counts."""

    def __init__(self, consumers=2, dark=(), min_counts=0.0):
        self.dark = set(dark)
        self.shares = shares.Shares("p:", consumers)
        self.run = GatheredRun(run_message(min_counts), PROBE, None, self.shares)
        Channel.publish(Update(77, 1.0, 7))  # of an earlier run
        self.consumers = {}
        for number in range(1, consumers + 1):
            self.join(number)
        self.talk()

    def join(self, number):
        self.consumers[number] = ShareRun(self.told(), ProbeEngine(), None, number)

    def told(self):
        return Task.of_values(self.run.task().as_values())

    def give(self, number, *frame):
        self.consumers[number].take(Update(*frame))

    def send(self, first, last, to=None, unique_id=None):
        """Publish these triggers in turn; each goes to one consumer."""
        for trigger in range(first, last):
            frame = (trigger if unique_id is None else unique_id + trigger - first, 5.0 + DWELL_S * trigger, trigger)
            frame = (*frame, 0 if trigger in self.dark else 10)
            Channel.publish(Update(*frame))
            numbers = sorted(self.consumers)
            self.give(to or numbers[trigger % len(numbers)], *frame)

    def talk(self):
        """Everybody does what there is to do, and says so."""
        for _ in range(4):
            task = self.told()
            for number, consumer in self.consumers.items():
                consumer.follow(task)
                while consumer.step():
                    pass
                report = blank(REPORT) | consumer.report() | {"pid": id(consumer)}
                self.shares._take(number, SimpleNamespace(toDict=lambda report=report: dict(report)))

    def end(self, triggered=N, **change):
        self.run.end(PositionsMessage("uid", triggered=triggered, **{**LOST_NONE, **change}))
        for _ in range(200):
            if self.run.done:
                break
            self.talk()
        assert self.run.done

    def kill(self, number):
        del self.consumers[number]
        self.shares._heard.pop(number)

    def shown(self, at_um=PLACES_UM):
        """Which frame each place of the image shows, -1 for none."""
        phase, _, canvas = self.run.image()
        return shown_in(phase, canvas, at_um)


LOST_NONE = {"lost_in_detector": 0, "lost_in_plugin": 0}

"""A consumer with its thread, and what pvapy asks of it; the gatherer's channel is a stand-in."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
from edge_world import StampEngine

from bluesky_ptychonn.core.model_card import ModelCard
from bluesky_ptychonn.core.placement import Placement
from bluesky_ptychonn.edge import consumer as module
from bluesky_ptychonn.edge.consumer import Consumer, make_processor
from bluesky_ptychonn.edge.swap import EngineSlot
from bluesky_ptychonn.io.edge_channels import RunMessage
from bluesky_ptychonn.io.share_channels import Task

PROBE = np.exp(-np.sum((np.mgrid[:16, :16] - 8) ** 2, axis=0) / 40).astype(np.complex64)


class Gatherer:
    """Stands for the channel ``task``."""

    def __init__(self, name, timeout_s=0.0):
        assert name == "p:task"

    def monitor(self, callback, queue_size):
        Gatherer.tell = lambda task: callback(SimpleNamespace(toDict=task.as_values))
        Gatherer.tell(Task())

    def close(self):
        pass


def run(uid, **change):
    values = {"energy_kev": 10.0, "distance_m": 0.9, "detector_pixel_um": 600.0, "crop_px": 16}
    values |= {"frame_shape": (16, 16), "beam_center_px": (8, 8), **change}
    message = RunMessage(
        uid, "image", 2, np.zeros(2), np.zeros(2), exposure_s=0.001, dwell_s=0.01, **values,
    )  # fmt: skip
    return Task("run", message, PROBE, placement=Placement(0, 2))


@pytest.fixture
def working(monkeypatch):
    """A consumer at work, and its reports."""
    pytest.importorskip("pvaccess")
    monkeypatch.setattr(module, "PvaChannel", Gatherer)
    consumer, reports = Consumer("p:", EngineSlot(StampEngine()), None, 3), []
    consumer.start(lambda report: reports.append(report.toDict()))
    yield consumer, reports
    consumer.close()


def until(reports, **wanted):
    deadline = time.monotonic() + 20
    while not reports or any(reports[-1][name] != value for name, value in wanted.items()):
        assert time.monotonic() < deadline, reports[-1:]
        time.sleep(0.01)
    return reports[-1]


def test_it_says_who_it_is_and_what_it_does(working):
    _, reports = working
    assert until(reports, state="idle", run_uid="")["consumer"] == 3
    Gatherer.tell(run("one"))
    assert until(reports, state="armed", run_uid="one")["patch_px"] == 8
    Gatherer.tell(run("two"))
    until(reports, state="armed", run_uid="two")
    Gatherer.tell(Task())
    until(reports, state="idle", run_uid="")


def test_a_run_that_it_cannot_do_is_refused_and_the_next_one_taken(working):
    _, reports = working
    Gatherer.tell(run("large", crop_px=32, frame_shape=(64, 64), beam_center_px=(32, 32)))
    assert "crop_px = 32 px" in until(reports, state="refused", run_uid="large")["message"]
    Gatherer.tell(run("good"))
    until(reports, state="armed", run_uid="good")


def test_pvapy_finds_what_it_asks_for(working):
    import pvaccess

    consumer, reports = working
    processor = make_processor(consumer)
    until(reports, state="idle")
    types = processor.getStatsPvaTypes()
    assert pvaccess.PvObject(types, processor.getStats()).toDict()["stitched"] == 0
    structure = processor.getOutputPvObjectType(None).getStructureDict()
    assert structure.keys() == reports[-1].keys()
    update = pvaccess.NtNdArray()  # what a server holds before its first frame
    assert processor.process(update) is update


def test_between_runs_it_takes_up_a_version_and_says_so(working):
    """With another probe not within a run: the gatherer has given the probe of the version that it was told of."""
    consumer, reports = working
    slot = consumer._slot
    files = {"model.onnx": 64 * "0", "golden.npz": 64 * "0"}

    def version(number, probe=""):
        held = {**files, "probe.npy": probe} if probe else files
        return ModelCard("test", number, held, 16, 8, None, None, probe_sha256=probe)

    engine = StampEngine()
    engine.card = version("000001")
    slot.offer(engine)
    until(reports, model_version="000001")
    Gatherer.tell(run("one"))
    until(reports, state="armed", run_uid="one")
    slot.offer(engine, card=version("000002"))
    until(reports, model_version="000002")
    slot.offer(engine, card=version("000003", 64 * "1"))
    time.sleep(0.3)
    assert until(reports, run_uid="one")["model_version"] == "000002"
    Gatherer.tell(Task())
    assert until(reports, model_version="000003")["state"] == "idle"

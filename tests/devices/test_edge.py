import pytest
from event_model import DocumentNames, schema_validators

from bluesky_ptychonn.devices import signals
from bluesky_ptychonn.devices.edge import Edge
from bluesky_ptychonn.devices.signals import PvaSignal
from bluesky_ptychonn.io.edge_channels import STATS, blank


class FakeChannel:
    """Stands for `PvaChannel`."""

    answer: dict | None = None
    puts: list

    def __init__(self, name, timeout_s):
        self.name, self.connected = name, True
        FakeChannel.puts = []

    def get(self, field=""):
        if FakeChannel.answer is None:
            raise TimeoutError(f"PVA channel {self.name!r} got no answer")
        return {field: FakeChannel.answer[field]} if field else dict(FakeChannel.answer)

    def put(self, values):
        FakeChannel.puts.append(values)

    def close(self):
        pass


@pytest.fixture
def edge(monkeypatch):
    monkeypatch.setattr(signals, "PvaChannel", FakeChannel)
    FakeChannel.answer = None
    edge = Edge("e:", name="edge")
    edge.arm_timeout_s.put(0.1)
    edge.final_timeout_s.put(0.1)
    return edge


def test_a_signal_fails_as_an_epics_signal_does(edge):
    with pytest.raises(TimeoutError, match="e:stats"):
        edge.stats.get()


def test_it_is_connected_when_it_answers(edge):
    with pytest.raises(TimeoutError, match="e:stats"):
        edge.wait_for_connection()
    FakeChannel.answer = blank(STATS)
    edge.wait_for_connection()
    assert edge.connected


def test_a_signal_reads_and_writes_a_field(edge):
    FakeChannel.answer = {"fps": 500.0}
    signal = PvaSignal("e:stats", field="fps", name="fps", read_only=False)
    assert signal.get() == 500.0
    signal.put(3.0)
    assert FakeChannel.puts == [{"fps": 3.0}]
    assert signal.describe()["fps"]["source"] == "PVA:e:stats"


def test_stats_are_read_only(edge):
    with pytest.raises(Exception, match="read only"):
        edge.stats.put({"fps": 1.0})


@pytest.mark.parametrize("armed_uid", ["this run", "another run", None])
def test_waiting_for_the_edge_never_fails_a_scan(edge, armed_uid):
    FakeChannel.answer = None if armed_uid is None else {**blank(STATS), "armed_uid": armed_uid}
    edge.prepare("this run").wait(5)
    edge.kickoff().wait(5)
    assert edge.arming.get() == ("armed" if armed_uid == "this run" else "absent")


def test_nobody_waits_for_the_image_of_an_edge_that_was_not_armed(edge):
    edge.final_timeout_s.put(60)
    edge.prepare("this run").wait(5)
    edge.kickoff().wait(5)
    edge.complete().wait(1)
    assert edge.finishing.get() == "absent"


def test_the_final_image_ends_the_wait(edge):
    FakeChannel.answer = {**blank(STATS), "armed_uid": "this run", "final_uid": "this run"}
    edge.prepare("this run").wait(5)
    edge.kickoff().wait(5)
    edge.complete().wait(5)
    assert edge.finishing.get() == "final"


def test_figures_of_another_run_are_not_those_of_this_one(edge):
    FakeChannel.answer = {**blank(STATS), "run_uid": "another run", "state": "running", "frames_received": 12}
    edge.prepare("this run").wait(5)
    edge.trigger().wait(5)
    reading = edge.read()
    assert reading["edge_frames_received"]["value"] == -1
    assert reading["edge_state"]["value"] == "running"


@pytest.mark.parametrize("answers", [True, False])
def test_readings_match_their_description(edge, answers):
    FakeChannel.answer = {**blank(STATS), "state": "running", "frames_stitched": 12} if answers else None
    edge.trigger().wait(5)
    reading, description = edge.read(), edge.describe()
    assert set(reading) == set(description)
    assert reading["edge_state"]["value"] == ("running" if answers else "absent")
    assert reading["edge_frames_stitched"]["value"] == (12 if answers else -1)
    for key, item in reading.items():
        kind = {"string": str, "integer": int, "number": float}[description[key]["dtype"]]
        assert isinstance(item["value"], kind), key
    schema = schema_validators[DocumentNames.descriptor]
    schema.validate({"data_keys": description, "uid": "u", "run_start": "r", "time": 0.0, "name": "account"})

"""Gatherer and consumers with everything but PVA between them: which frame lies where, whatever is lost or ends."""

from types import SimpleNamespace

import numpy as np
import pytest
from edge_world import StampEngine

from bluesky_ptychonn.core.optics import PROBE_FRAMES, Geometry, measured_probe
from bluesky_ptychonn.edge import first_frames, gathered_run, roll, shares
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

    def __init__(self, unique_id, time_s, stamp):
        counts = np.full(256, 10, np.uint16)
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


class Party:
    """A gatherer and its consumers."""

    def __init__(self, consumers=2):
        self.shares = shares.Shares("p:", consumers)
        message = RunMessage(
            "uid", "image", N, *PLACES_UM.T, 10.0, 0.9, 600.0, 0.001, DWELL_S, (16, 16), 16, (8.0, 8.0), "secret",
            clock="detector",
        )  # fmt: skip
        self.run = GatheredRun(message, PROBE, None, self.shares)
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
        y, x = (canvas.corners_px(at_um, 8) + 4).T
        return np.where(np.isnan(phase[y, x]), -1, phase[y, x]).astype(int)


LOST_NONE = {"lost_in_detector": 0, "lost_in_plugin": 0}


@pytest.fixture
def party(monkeypatch):
    monkeypatch.setattr(Channel, "monitors", [])
    for module in (roll, first_frames, shares):
        monkeypatch.setattr(module, "PvaChannel", Channel)
    monkeypatch.setattr(gathered_run, "QUIET_S", 0.0)
    monkeypatch.setattr(gathered_run, "BUSY_PART", 1e9)
    return Party()


def test_two_consumers_show_every_frame_once_where_it_belongs(party):
    party.send(0, N)
    party.talk()
    np.testing.assert_array_equal(party.shown(), np.arange(N))
    party.end()
    np.testing.assert_array_equal(party.shown(), np.arange(N))
    assert (party.run.account.state, party.run.account.stitched, party.run.missing) == ("closed", N, "")


def test_all_use_the_probe_of_the_first_frames(party):
    party.send(0, 10)
    party.talk()
    early = party.run.first.probe
    party.send(10, N)
    party.talk()
    patterns = np.stack([Update(0, 0, trigger)["ushortValue"] for trigger in range(PROBE_FRAMES)])
    wanted = measured_probe(PROBE, patterns.reshape(-1, 16, 16))
    assert not np.array_equal(early, wanted)
    for consumer in party.consumers.values():
        np.testing.assert_array_equal(consumer._probe, wanted)
        corners = consumer.image._patches[: len(consumer.image), 0, 0]
        np.testing.assert_allclose(corners, np.sum(np.abs(wanted) ** 2), rtol=1e-6)  # those of less were inferred anew


def test_an_open_channel_is_no_consumer_yet(party):
    """What a channel holds until its consumer has spoken: every field blank."""
    before = party.shares.present()
    party.shares._take(3, SimpleNamespace(toDict=lambda: blank(REPORT)))
    assert party.shares.present() == before


def test_frames_lost_in_the_detector_shift_nobody(party):
    """Ids go on where triggers are missing; each consumer alone could not tell."""
    party.send(0, 40)
    party.send(41, 80, unique_id=40)
    party.send(83, N, unique_id=79)
    party.talk()
    wanted = np.where(np.isin(np.arange(N), [40, 80, 81, 82]), -1, np.arange(N))
    np.testing.assert_array_equal(party.shown(), wanted)
    party.end(lost_in_detector=4)
    np.testing.assert_array_equal(party.shown(), wanted)
    assert (party.run.account.state, party.run.account.received) == ("closed", N - 4)


def test_what_nobody_can_know_is_withdrawn_by_all(party):
    party.send(0, 60)
    party.talk()
    party.end(triggered=100)
    assert set(party.shown()) == {-1}
    assert party.run.account.unpaired == 60
    assert party.run.account.state == "wrong"  # 40 triggers are unaccounted for


def test_captured_positions_move_every_patch(party):
    party.send(0, N)
    moved_um = PLACES_UM[::-1] - 30 * PIXEL_UM
    party.end(trigger_index=np.arange(N), y_um=moved_um[:, 0], x_um=moved_um[:, 1])
    assert party.run.positions_source == "captured"
    np.testing.assert_array_equal(party.shown(moved_um), np.arange(N))


def test_a_frame_given_to_two_is_shown_once(party):
    party.send(0, 30)
    party.give(1, 29, 5.0 + DWELL_S * 29, 29)
    party.give(2, 28, 5.0 + DWELL_S * 28, 28)
    party.send(30, N)
    party.end()
    np.testing.assert_array_equal(party.shown(), np.arange(N))
    _, coverage, _ = party.run.image()
    assert coverage.max() == 1.0
    assert (party.run.account.state, party.run.counts().foreign) == ("closed", 2)


@pytest.mark.parametrize("to", [1, 2])
def test_a_late_frame_of_another_run_is_not_shown(party, to):
    """It has an id of this run, and comes first; its time tells."""
    party.give(to, 50, 1.5, 999)
    party.send(0, 50)
    party.talk()
    party.send(50, N)
    party.end()
    np.testing.assert_array_equal(party.shown(), np.arange(N))
    assert (party.run.account.state, party.run.counts().foreign) == ("closed", 1)


def test_a_consumer_that_ends_leaves_what_it_had_reported(party):
    party.send(0, 60)
    party.talk()
    party.send(60, 80)  # of these consumer 2 reports none
    party.kill(2)
    party.send(80, N)
    party.end()
    gone = np.arange(61, 80, 2)
    np.testing.assert_array_equal(party.shown(), np.where(np.isin(np.arange(N), gone), -1, np.arange(N)))
    assert party.run.missing == ", ".join(map(str, gone))
    assert party.run.text.startswith("consumer 2 ended in the run; 10 frames that were sent are in no consumer")
    assert (party.run.account.state, party.run.account.lost_on_wire) == ("closed", 10)


def test_what_an_ended_consumer_has_stays_at_its_planned_positions(party):
    party.send(0, 60)
    party.talk()
    party.kill(2)
    party.send(60, N)
    moved_um = PLACES_UM - 80 * PIXEL_UM  # at most a field's half is believed; so the fields overlap
    party.end(trigger_index=np.arange(N), y_um=moved_um[:, 0], x_um=moved_um[:, 1])
    dead, alone = np.isin(np.arange(N), np.arange(1, 60, 2)), np.all(PLACES_UM > 40 * PIXEL_UM, axis=1)
    np.testing.assert_array_equal(party.shown()[alone], np.where(dead, np.arange(N), -1)[alone])
    alone = np.any(moved_um < -10 * PIXEL_UM, axis=1)
    np.testing.assert_array_equal(party.shown(moved_um)[alone], np.where(dead, -1, np.arange(N))[alone])


def test_what_an_ended_consumer_shows_at_a_wrong_place_goes(party):
    party.send(0, 60)
    party.talk()
    party.kill(2)
    party.send(60, N - 2)
    party.end(triggered=N - 3)  # more frames than triggers: nothing is sure
    assert set(party.shown()) == {-1}
    assert party.run.account.stitched == 0


def test_a_consumer_may_come_late_or_come_back(party):
    party.send(0, 40, to=1)
    party.talk()
    party.kill(2)
    party.send(40, 60)
    party.join(2)
    party.give(2, 59, 5.0 + DWELL_S * 59, 59)  # a server gives its last frame to those who come
    party.send(60, N)
    party.end()
    np.testing.assert_array_equal(party.shown(), np.arange(N))
    assert party.run.account.state == "closed"


def test_frames_that_come_after_the_end_or_do_not_fit_are_counted(party):
    party.send(0, N - 1)
    wrong = Update(N - 1, 5.0 + DWELL_S * (N - 1), 0)
    wrong["ushortValue"] = np.zeros(7, np.uint16)
    Channel.publish(wrong)
    party.consumers[1].take(wrong)
    party.end()
    account = party.run.account
    assert (account.state, account.stitched, account.rejected) == ("closed", N - 1, 1)


def test_a_frame_given_once_more_after_the_end_changes_nothing(party):
    party.send(0, N)
    party.talk()
    party.run.end(PositionsMessage("uid", triggered=N, **LOST_NONE))
    for consumer in party.consumers.values():
        consumer.follow(party.told())
        consumer.take(Update(0, 5.0, 0))
    party.end()
    np.testing.assert_array_equal(party.shown(), np.arange(N))
    assert (party.run.account.state, party.run.account.shed) == ("closed", 0)


def test_a_run_without_frames_or_without_consumers_ends(party):
    party.kill(1)
    party.kill(2)
    party.end(triggered=0, exit_status="abort")
    assert set(party.shown()) == {-1}
    assert party.run.account.state == "closed"


def test_a_probe_of_another_size_is_refused_with_a_remedy(party):
    with pytest.raises(ValueError, match=r"crop_px = 16 px, but the probe has \(8, 8\) px; set geometry.frame_px"):
        GatheredRun(party.run.message, PROBE[:8, :8], None, party.shares)

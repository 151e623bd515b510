"""Gatherer and consumers with everything but PVA between them: which frame lies where, whatever is lost or ends."""

from types import SimpleNamespace

import numpy as np
import pytest
from party_world import DWELL_S, LOST_NONE, PIXEL_UM, PLACES_UM, PROBE, Channel, N, Party, Update, without_pva

from bluesky_ptychonn.core.optics import PROBE_FRAMES, measured_probe
from bluesky_ptychonn.edge.gathered_run import GatheredRun
from bluesky_ptychonn.io.edge_channels import PositionsMessage, blank
from bluesky_ptychonn.io.share_channels import REPORT


@pytest.fixture
def party(monkeypatch):
    without_pva(monkeypatch)
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
    """What a channel holds until its consumer has spoken, every field blank: the one that was there before is gone."""
    _, other = party.shares.present()
    party.shares._take(1, SimpleNamespace(toDict=lambda: blank(REPORT)))
    assert party.shares.present() == [other]


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

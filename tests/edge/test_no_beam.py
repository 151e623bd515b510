"""Frames without beam, in any mix: the same ones are left out by one process, by several, and afterwards."""

import time

import numpy as np
import pytest
from party_world import (
    DWELL_S,
    LOST_NONE,
    PLACES_UM,
    PROBE,
    Channel,
    N,
    Party,
    ProbeEngine,
    Update,
    run_message,
    shown_in,
    without_pva,
)

from bluesky_ptychonn.core.raw_scan import RawScan, prepare_scan
from bluesky_ptychonn.core.stitch import run_canvas
from bluesky_ptychonn.edge.live_run import LiveRun
from bluesky_ptychonn.edge.swap import EngineSlot
from bluesky_ptychonn.engines.offline import stitch_run
from bluesky_ptychonn.io.edge_channels import PositionsMessage

PART, COUNTS = 0.1, 1000
"""Of a typical frame; where no frame has beam, only a number of counts can tell."""
MIXES = {
    "none": [],
    "a while in the middle": range(40, 60),
    "the shutter opens late": range(30),
    "the beam is lost for good": range(70, N),
    "now and then": [3, 4, 9, 31, 63, 64, 65, 90, 119],
    "every other": range(0, N, 2),
    "never any": range(N),
}


@pytest.fixture(params=MIXES.values(), ids=MIXES)
def dark(request, monkeypatch):
    without_pva(monkeypatch)
    return list(request.param)


def rule(dark):
    return COUNTS if len(dark) == N else PART


def frames_of(dark):
    return [Update(k, 5.0 + DWELL_S * k, k, 0 if k in dark else 10) for k in range(N)]


def expected(dark):
    return np.where(np.isin(np.arange(N), dark), -1, np.arange(N))


def one_process(dark, min_counts=PART, **change):
    """The run of an edge in one process, ended."""
    run = LiveRun(
        run_message(min_counts), EngineSlot(ProbeEngine(), PROBE), kept=np.empty(N * 64, np.float32), ring_bytes=1 << 20
    )
    Channel.publish(Update(77, 1.0, 7))  # of an earlier run
    for frame in frames_of(dark):
        Channel.publish(frame)
    deadline = time.monotonic() + 20
    while run.intake.queue_used and time.monotonic() < deadline:
        time.sleep(0.005)
    run.finish(PositionsMessage("uid", triggered=N, **LOST_NONE, **change))
    return run


def test_one_process_leaves_them_out(dark):
    run = one_process(dark, rule(dark))
    counts = run.frame_counts()
    assert (run.account.state, counts["stitched"], counts["no_beam"]) == ("closed", N - len(dark), len(dark))
    assert run.image.hidden.tolist() == dark
    assert (f"{len(dark)} frames had no beam" in run.message_text) == bool(dark)
    phase, _, canvas = run.image.final(PLACES_UM)
    np.testing.assert_array_equal(shown_in(phase, canvas), expected(dark))


def test_so_do_several(dark):
    party = Party(dark=dark, min_counts=rule(dark))
    party.send(0, N)
    party.talk()
    party.end()
    np.testing.assert_array_equal(party.shown(), expected(dark))
    account = party.run.account
    assert (account.state, account.stitched, account.no_beam) == ("closed", N - len(dark), len(dark))
    assert party.run.counts().no_beam_triggers.tolist() == dark


def test_so_do_replay_and_reconstruction(dark):
    frames = np.stack([frame["ushortValue"].reshape(16, 16) for frame in frames_of(dark)])
    canvas = run_canvas(PLACES_UM, run_message().geometry.pixel_size_um, 8)
    batches = [(np.arange(N)[k : k + 7], frames[k : k + 7]) for k in range(0, N, 7)]
    image = stitch_run(ProbeEngine(), PROBE, batches, PLACES_UM, canvas, min_counts=rule(dark))
    np.testing.assert_array_equal(shown_in(image.phase, canvas), expected(dark))
    assert (image.stitched, image.no_beam.tolist()) == (N - len(dark), dark)
    if len(dark) < N:
        scan = prepare_scan(RawScan(frames, PLACES_UM), pixel_size_um=0.1, min_counts=rule(dark))
        np.testing.assert_array_equal(scan.trigger_index, np.setdiff1d(np.arange(N), dark))


@pytest.mark.parametrize("dark", [[5, 6, 7]], indirect=True, ids=["few"])
def test_what_a_flux_monitor_says_is_left_out_in_the_end(dark):
    without_flux = [5, 50, 51, N + 3]
    run = one_process(dark, no_beam_trigger=without_flux)
    party = Party(dark=dark, min_counts=rule(dark))
    party.send(0, N)
    party.talk()
    party.end(no_beam_trigger=without_flux)
    gone = sorted({*dark, *without_flux[:-1]})
    assert party.run.counts().no_beam_triggers.tolist() == run.image.hidden.tolist() == gone
    assert (run.account.state, party.run.account.state) == ("closed", "closed")
    np.testing.assert_array_equal(party.shown(), expected(gone))


@pytest.mark.parametrize("dark", [range(40, 60)], indirect=True, ids=["a while"])
def test_without_the_rule_every_frame_is_stitched(dark):
    run = one_process(dark, min_counts=0.0)
    assert (run.account.state, run.account.stitched, run.account.no_beam) == ("closed", N, 0)


@pytest.mark.parametrize("dark", [range(40, 60)], indirect=True, ids=["a while"])
def test_a_frame_without_beam_and_without_place_is_unpaired(dark):
    """What the end of the run withdraws is not counted twice."""
    party = Party(dark=dark, min_counts=rule(dark))
    party.send(0, N - 1)
    party.talk()
    party.end(lost_in_detector=-1)
    account = party.run.account
    assert account.problems() == []
    assert account.received == account.stitched + account.no_beam + account.unpaired == N - 1

"""Laws of pairing: no frame ever ends at a wrong index; it may only be withheld."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bluesky_ptychonn.core.pairing import FOREIGN, UNPAIRED, Pairing

FATES = ("ok", "unsent", "detector", "plugin", "wire")


def play(
    fates,
    *,
    clock="detector",
    dwell_s=0.01,
    frames=None,
    polled=True,
    totals=True,
    noise=0.05,
    foreign=(),
    resets_at=None,
    seed=0,
):
    """Play a run; return the pairing, and (true index, index given) of every frame received."""
    rng = np.random.default_rng(seed)
    frames = frames or len(fates)
    pairing = Pairing(frames, clock=clock, dwell_s=dwell_s)
    lost, unique_id, given_ = 100, 0, []
    if polled:
        pairing.note_dropped(lost, -1.0)
    for id_, time_s in foreign:
        given_.append((-1, pairing.add(id_, time_s, -0.5)))
    poll_s, late_s = 0.0, 0.0
    for slot, fate in enumerate(fates):
        now = slot * dwell_s
        while polled and poll_s < now:
            pairing.note_dropped(lost, poll_s)
            poll_s += 0.17
        if resets_at == slot:
            unique_id = 0
        lost += fate == "detector"
        late_s = max(0, late_s - dwell_s) + (rng.exponential(5 * dwell_s) if rng.random() < 0.1 else 0)
        stamp = 1e9 + now + (rng.uniform(-noise, noise) * dwell_s if clock == "detector" else late_s)
        if fate == "ok":
            given_.append((slot, pairing.add(unique_id, stamp, now + late_s)))
        unique_id += fate in ("ok", "plugin", "wire")
    end = len(fates) * dwell_s + 0.1
    for asked in (end, end + 0.6, end + 1.2):
        if polled:
            pairing.note_dropped(lost, asked)
    if totals:
        pairing.finish(len(fates), fates.count("detector"), fates.count("plugin"))
    else:
        pairing.finish(None, None, None)
    return pairing, given_


def assert_lawful(pairing, given_):
    indices = [index for _, index in given_ if index >= 0]
    kept = pairing.kept_indices
    assert kept == indices[: len(kept)]
    wrong = [pair for pair in [p for p in given_ if p[1] >= 0][: len(kept)] if pair[0] != pair[1]]
    assert not wrong, pairing.doubt
    assert len(set(kept)) == len(kept)
    assert pairing.received == len(kept) + pairing.unpaired
    assert sum(index != FOREIGN for _, index in given_) == pairing.received


def mostly_ok(size):
    fate = st.sampled_from(FATES)
    return st.tuples(
        st.integers(1, size),
        st.lists(st.tuples(st.integers(0, size), fate), max_size=6),
        st.lists(st.tuples(st.sampled_from((0, 1, -1, -2)), fate), max_size=3),
    ).map(_fates)


def _fates(drawn):
    size, anywhere, ends = drawn
    fates = ["ok"] * size
    for place, fate in anywhere:
        fates[place % size] = fate
    for place, fate in ends:
        fates[place % size] = fate
    return fates


@settings(max_examples=300, deadline=None)
@given(
    fates=mostly_ok(250),
    clock=st.sampled_from(("detector", "ioc")),
    polled=st.booleans(),
    totals=st.booleans(),
    aborted=st.integers(0, 5),
    seed=st.integers(0, 1000),
)
def test_no_frame_at_a_wrong_index(fates, clock, polled, totals, aborted, seed):
    """Losses of every kind at every place, both clocks, readings and totals or none, aborted or complete."""
    played = play(fates, clock=clock, polled=polled, totals=totals, frames=len(fates) + aborted, seed=seed)
    assert_lawful(*played)


@settings(max_examples=200, deadline=None)
@given(
    fates=mostly_ok(60),
    clock=st.sampled_from(("detector", "ioc")),
    foreign=st.lists(st.integers(-5, 400), min_size=1, max_size=5),
    back_s=st.floats(0.001, 3),
    seed=st.integers(0, 1000),
)
def test_frames_of_an_earlier_run_never_enter(fates, clock, foreign, back_s, seed):
    """Late frames of another run, arriving first, are rejected or void the run."""
    frames = [(id_, 1e9 - back_s - (len(foreign) - i) * 0.01) for i, id_ in enumerate(sorted(foreign))]
    pairing, given_ = play(fates, clock=clock, foreign=frames, seed=seed)
    kept = [pair for pair in given_ if pair[1] >= 0][: len(pairing.kept_indices)]
    if fates[0] == "ok":  # else nothing at all may tell a late frame from the first
        assert all(true == index for true, index in kept)


@settings(max_examples=100, deadline=None)
@given(fates=mostly_ok(60), clock=st.sampled_from(("detector", "ioc")), after=st.integers(1, 60))
def test_a_counter_reset_in_the_run_voids_it(fates, clock, after):
    """Somebody else puts 0 into the counter, after a frame of the run has come."""
    assert_lawful(*play([*fates, "ok", *["ok"] * after], clock=clock, resets_at=len(fates) + 1))


@pytest.mark.parametrize("clock", ["detector", "ioc"])
def test_an_undisturbed_run_is_paired_completely(clock):
    for size in (1, 2, 963):
        pairing, given_ = play(["ok"] * size, clock=clock)
        assert [index for _, index in given_] == list(range(size))
        assert not pairing.doubt
        assert pairing.unpaired == 0


@pytest.mark.parametrize("clock", ["detector", "ioc"])
@pytest.mark.parametrize("fate", ["plugin", "wire"])
@pytest.mark.parametrize("at", [0, 100])
def test_gaps_in_ids_cost_only_what_was_lost(clock, fate, at):
    fates = ["ok"] * 200
    fates[at] = fate
    pairing, given_ = play(fates, clock=clock)
    assert len(pairing.kept_indices) == 199
    assert pairing.missing_ids == 1
    assert_lawful(pairing, given_)


@pytest.mark.parametrize("fate", ["detector", "unsent"])
def test_the_detectors_clock_locates_a_hidden_loss(fate):
    fates = ["ok"] * 200
    fates[40] = fates[41] = fates[150] = fate
    pairing, given_ = play(fates)
    assert len(pairing.kept_indices) == 197
    assert pairing.hidden == 3
    assert_lawful(pairing, given_)


@pytest.mark.parametrize("clock", ["detector", "ioc"])
def test_a_count_first_read_after_the_loss_proves_nothing(clock):
    """The edge came late: the first frame was lost already, and another at the end."""
    pairing = Pairing(300, clock=clock, dwell_s=0.01)
    pairing.note_dropped(1, 0.005)  # after the first trigger, before the first frame
    for index in range(1, 299):
        pairing.add(index - 1, index * 0.01, index * 0.01)
    pairing.note_dropped(1, 2.9)
    pairing.note_dropped(2, 3.1)
    pairing.finish(300, 2, 0)
    assert pairing.kept_indices == []


@pytest.mark.parametrize("fate", ["detector", "unsent"])
def test_a_lost_first_frame_is_never_passed_over(fate):
    """Without the first frame every id is off by one and every interval is right."""
    for clock in ("detector", "ioc"):
        pairing, _ = play([fate] + ["ok"] * 300, clock=clock)
        assert pairing.kept_indices == []
        assert pairing.doubt


def test_a_loss_in_the_detector_at_the_end_keeps_what_was_confirmed():
    fates = ["ok"] * 299 + ["detector"]
    timed, _ = play(fates, clock="detector")
    assert len(timed.kept_indices) == 299
    noisy, given_ = play(fates, clock="ioc")
    assert 200 <= len(noisy.kept_indices) < 299
    assert_lawful(noisy, given_)


def test_with_the_iocs_clock_a_loss_costs_what_follows_it():
    fates = ["ok"] * 400
    fates[200] = "detector"
    pairing, given_ = play(fates, clock="ioc")
    assert 100 <= len(pairing.kept_indices) <= 200
    assert_lawful(pairing, given_)


def test_repeated_and_unplanned_frames_are_rejected_without_harm():
    pairing = Pairing(3, first_unique_id=10, clock="detector", dwell_s=1.0)
    given_ = [pairing.add(*frame, 0.0) for frame in ((9, 4.0), (10, 5.0), (10, 5.0), (11, 6.0), (12, 7.0), (13, 8.0))]
    assert given_ == [FOREIGN, 0, FOREIGN, 1, 2, FOREIGN]
    assert pairing.foreign == 3
    assert not pairing.doubt


def test_frames_older_than_the_reset_are_foreign():
    pairing = Pairing(3, clock="ioc", frames_after_s=100.0)
    assert [pairing.add(0, 99.9, 0.0), pairing.add(0, 100.1, 0.1)] == [FOREIGN, 0]


def test_nothing_is_paired_after_the_image_server_was_lost():
    pairing = Pairing(5, clock="detector", dwell_s=1.0)
    assert pairing.add(0, 0.0, 0.0) == 0
    pairing.break_off("the image channel was lost")
    assert pairing.add(1, 1.0, 1.0) == UNPAIRED
    assert pairing.unpaired == 1


def test_a_slow_drift_of_the_period_is_followed():
    pairing = Pairing(20_000, clock="detector", dwell_s=1e-3)
    given_ = [pairing.add(i, 1e9 + i * 1.0005e-3, i * 1e-3) for i in range(20_000)]
    assert given_ == list(range(20_000))

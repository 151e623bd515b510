"""The service with a real journal and a scripted scheduler: an experiment, kills, trainings and a user."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loop_experiment import DRIFTED, EXPERIMENT, NEW, OLD, play
from loop_world import Sample, World

from bluesky_ptychonn.training.loop.faults import FAULTS
from bluesky_ptychonn.training.loop.outcomes import retried
from bluesky_ptychonn.training.loop.policy import FINAL


def test_an_experiment_of_12_scans(world):
    uids = play(world)
    assert [world.state(uid) for uid in uids] == [state for _, state in EXPERIMENT]
    desk, sample = world.desk, world.desk.work
    trusted = {uids[number] for number in (0, 1, 6, 7, 10, 11)}
    assert set(sample.corpus) == trusted
    assert [uid for uid in uids if desk.count("residual", uid)] == [uids[n] for n in (2, 3, 4, 5, 6, 8, 9, 10)]
    assert [uid for uid in uids if desk.count("scan", uid)] == [uids[n] for n in (0, 1, 4, 6, 7, 9, 10, 11)]
    assert [uid for uid in uids if desk.count("probe", uid)] == [uids[n] for n in (0, 1, 6, 7, 10, 11)]
    assert desk.count("train") == 2
    assert all(job.how == "ok" for job in desk.jobs.values())
    trainings = world.journal.trainings()
    assert [training.state for training in trainings] == ["published"] * 2
    assert world.journal.scan(uids[6]).published_version == "000002"
    assert world.journal.scan(uids[10]).published_version == "000004"  # after the probe's, 000003
    assert "as version 000003; mismatch 0.330 before, 0.030 after" in world.told(uids[10])
    assert "the suspension that its residual ended goes on" in world.told(uids[4])
    assert "not trusted" in world.told(uids[9])
    assert world.journal.fact("suspended_until_s") > world.now_s


def test_another_experiment_begins_with_a_look_at_earlier_versions(world):
    uids = play(world, [({**OLD, "experiment": name}, "validated") for name in ("a", "a", "b", "b")])
    compared = [job.key for job in world.desk.jobs.values() if job.kind == "residual" and job.options == {"earlier": 8}]
    assert compared == [uids[2]] == [uid for uid in uids if world.desk.count("residual", uid)]
    assert [world.state(uid) for uid in uids] == ["validated"] * 4


def test_the_probe_is_live_before_the_training_begins(world):
    uid = world.scan(**DRIFTED)
    while not world.desk.count("train"):
        world.tick()
    assert world.desk.markers["probe", uid]["published"]
    assert world.journal.scan(uid).published_version == "000002"


# kills


@pytest.fixture(scope="module")
def unspoiled(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("unspoiled"), Sample())
    return [(world.state(uid), world.journal.scan(uid).published_version) for uid in play(world)]


@pytest.mark.parametrize("number", FAULTS)
@pytest.mark.parametrize("times", [1, 4])
def test_killed_at_any_place_it_goes_on_to_the_same_end(tmp_path, unspoiled, number, times):
    rare = {"probe": "fail"} if number in (9, 10) else {}
    world = World(tmp_path, Sample(), how=lambda kind, key, count: "ok" if count else rare.get(kind, "ok"))
    scans = [] if number == 13 else EXPERIMENT
    world.faults = [number] * times
    uids = play(world, scans)
    if number == 13:  # it takes several scans that one training answers
        uids = [world.scan(**NEW) for _ in range(5)]
        world.settle()
        assert {world.state(uid) for uid in uids} == {"published"}
    else:
        assert [(world.state(uid), world.journal.scan(uid).published_version) for uid in uids] == unspoiled
    assert number in world.hit
    for job in world.desk.jobs.values():
        assert world.desk.count(job.kind, job.key) == 1 + (job.kind in rare)


EXAMPLES = int(os.environ.get("LOOP_EXAMPLES", "25"))
HOW = st.sampled_from(["ok"] * 6 + ["vanish", "hang", "late", "too late", "fail", "outage", "preempt"])


@pytest.mark.timeout(600)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    scans=st.lists(
        st.tuples(
            st.sampled_from([OLD, NEW, DRIFTED, {**OLD, "dark": True}, {**NEW, "sparse": True}]),
            st.sampled_from([0, 3, 40, 400, 4000]),
            st.sampled_from(["success"] * 5 + ["abort"]),
        ),
        min_size=1,
        max_size=8,
    ),
    hows=st.lists(HOW, max_size=40),
    faults=st.lists(st.sampled_from(list(FAULTS)), max_size=12),
    down=st.lists(st.tuples(st.integers(0, 4000), st.integers(1, 900)), max_size=3),
    jumps=st.lists(st.tuples(st.integers(0, 4000), st.sampled_from([-90000, -400, 400, 90000])), max_size=2),
    learned=st.booleans(),
)
def test_whatever_happens_nothing_is_lost_and_nothing_waits_for_ever(scans, hows, faults, down, jumps, learned):
    with tempfile.TemporaryDirectory() as folder:
        taken = iter(hows)
        world = World(Path(folder), Sample(learned=learned), how=lambda kind, key, number: next(taken, "ok"))
        world.faults = list(faults)
        begin_s, uids = world.now_s, []

        def tick(seconds=4.0):
            at_s = world.now_s - begin_s
            world.desk.down = any(since <= at_s < since + length for since, length in down)
            world.set_by_s = sum(jump for when, jump in jumps if at_s >= when)
            world.tick(seconds)

        for about, pause_s, status in scans:
            uids.append(world.scan(status=status, **about))
            world.stop(uids[-1], "fail")  # a second one, and another
            for _ in range(20):
                tick(pause_s / 20)
        while world.open() and world.now_s - begin_s < 60000:
            tick()
        assert not world.open()
        for uid in uids:
            row = world.journal.scan(uid)
            assert row.state in FINAL
            assert row.job is None
            assert row.sentence
            done = world.desk.markers.get(("scan", uid), {}).get("ok") is True
            assert (row.trusted is not None) == done, row
            if row.trusted:
                assert row.state in ("validated", "published")
            assert (uid in world.desk.work.corpus) == (row.trusted is True)
        assert all(training.state in ("published", "refused", "parked") for training in world.journal.trainings())
        published = [row for row in world.journal.scans() if row.published_version]
        assert all(int(row.published_version) <= world.desk.work.version for row in published)


# trainings


def test_requests_are_coalesced(world):
    first = world.scan(**NEW)
    while not world.desk.count("train"):
        world.tick()
    world.desk.work.features = frozenset({"gratings"})  # until the training ends the old model is live
    later = [world.scan(**NEW) for _ in range(3)]
    world.settle()
    assert world.desk.count("train") == 2
    assert {world.state(uid) for uid in (first, *later)} == {"published"}
    answered = [line.sentence for uid in later for line in world.journal.history(uid) if line.new == "published"]
    assert len(answered) == 3
    assert "asked for by scans 2, 3 and 4" in "|".join(
        line.sentence for line in world.journal.history(world.journal.trainings()[1].key)
    )


def test_a_refused_training_says_why_and_the_next_mismatch_asks_again(tmp_path):
    world = World(tmp_path, Sample(learned=False))
    uid = world.scan(**NEW)
    world.settle()
    assert world.state(uid) == "validated"
    assert "refused: the mean gain is -0.2" in world.told(uid)
    assert world.journal.trainings()[0].state == "refused"
    again = world.scan(**NEW)
    world.settle()
    assert world.desk.count("scan", again) == 1
    assert world.desk.count("train") == 2


def test_as_many_jobs_at_once_as_allowed(tmp_path):
    world = World(tmp_path, Sample(), at_once=2)
    for _ in range(6):
        world.scan(**OLD)
    most = 0
    while world.open():
        world.tick()
        alive = [job for job in world.desk.jobs.values() if job.state == "alive"]
        most = max(most, sum(job.kind != "train" for job in alive))
    assert most == 2


# the user


def test_paused_no_job_is_handed_out_and_running_ones_are_taken(world):
    first = world.scan(**NEW)
    world.tick()
    world.journal.set_fact("paused", True)
    second = world.scan(**NEW)
    for _ in range(500):
        world.tick()
    assert world.state(first) == "labelled"  # its probe waits
    assert world.state(second) == "received"
    assert len(world.desk.jobs) == 1
    world.journal.set_fact("paused", False)
    world.settle()
    assert world.state(second) == "published"


@pytest.mark.parametrize("kind", ["scan", "train"])
def test_retry_begins_anew(tmp_path, kind):
    world = World(tmp_path, Sample(), how=lambda k, key, number: "fail" if k == kind and number < 3 else "ok")
    uid = world.scan(**NEW)
    world.settle()
    assert world.state(uid) == ("parked" if kind == "scan" else "validated")
    decision = retried(world.journal.scan(uid), world.terms)
    if kind == "scan":
        assert decision.what == "reconstructing"
        world.desk.set_aside("scan", uid)
    else:
        assert decision.what == "training"
        world.desk.how = lambda k, key, number: "ok"
    world.journal.move(uid, decision.what, decision.sentence, **decision.columns)
    world.settle()
    assert world.state(uid) == "published"

"""The service with a real journal and a scripted scheduler: an experiment, and whatever may go wrong in it."""

import os
import tempfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loop_world import PATIENCE, Sample, World

from bluesky_ptychonn.training.loop import handout
from bluesky_ptychonn.training.loop.faults import FAULTS
from bluesky_ptychonn.training.loop.outcomes import retried
from bluesky_ptychonn.training.loop.policy import FINAL, NO_STOP, RUN_S, Terms

OLD = {"feature": "gratings", "focus": 0.0}
NEW = {"feature": "stars", "focus": 0.0}
DRIFTED = {"feature": "stars", "focus": 0.3}
EXPERIMENT = (  # the scan, and the state in which it ends
    (OLD, "validated"),  # the first scans are always reconstructed
    (OLD, "validated"),
    (OLD, "suspended"),
    (OLD, "suspended"),
    ({**OLD, "dark": True}, "validated"),  # its residual rises, but it is not trusted: the suspension goes on
    (OLD, "suspended"),
    (NEW, "published"),  # alarm, mismatch, training
    (NEW, "validated"),  # no longer suspended; within tolerance again
    (NEW, "suspended"),
    ({**DRIFTED, "sparse": True}, "validated"),  # alarm; ePIE fails
    (DRIFTED, "published"),  # alarm, mismatch: probe, then training
    (DRIFTED, "validated"),
)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path, Sample())


def play(world, scans=EXPERIMENT):
    """Scan after scan, each when the loop has done with the one before; their uids."""
    uids = []
    for about, _ in scans:
        uids.append(world.scan(**about))
        world.settle()
    return uids


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
HOW = st.sampled_from(["ok"] * 6 + ["vanish", "hang", "late", "too late", "fail", "preempt"])


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


# jobs


@pytest.mark.parametrize(("how", "counted"), [("late", 0), ("preempt", 0), ("vanish", 1), ("fail", 1), ("hang", 1)])
@pytest.mark.parametrize("kind", ["scan", "residual", "probe", "train"])
def test_a_job_that_ends_badly_is_done_once_more(tmp_path, kind, how, counted):
    world = World(tmp_path, Sample(), how=lambda k, key, number: how if (k, number) == (kind, 0) else "ok")
    scans = [OLD, OLD, OLD] if kind == "residual" else [DRIFTED]
    uids = play(world, [(about, "") for about in scans])
    assert world.state(uids[-1]) == ("suspended" if kind == "residual" else "published")
    first = next(job for job in world.desk.jobs.values() if job.kind == kind)
    assert world.desk.count(kind, first.key) == 1 + (how != "late")
    assert ("attempt 1 of 3 failed" in "|".join(line.sentence for line in world.journal.history(first.key))) == counted


@pytest.mark.parametrize(
    ("kind", "scan", "training"),
    [("scan", "parked", []), ("probe", "published", ["published"]), ("train", "published", ["parked"])],
)
def test_attempts_are_capped(tmp_path, kind, scan, training):
    world = World(tmp_path, Sample(), how=lambda k, key, number: "fail" if k == kind else "ok")
    uid = world.scan(**DRIFTED)
    world.settle()
    assert world.desk.count(kind) == 3
    assert world.state(uid) == scan  # with the probe's version, or the training's
    assert [row.state for row in world.journal.trainings()] == training
    assert "given up after 3 attempts: disk full" in world.told(uid)


def test_attempts_are_spaced(tmp_path):
    world = World(tmp_path, Sample(), how=lambda kind, key, number: "fail")
    world.scan(**OLD)
    world.settle()
    ends = [job.ends_s for job in world.desk.jobs.values()]
    waits = [later - 60 - earlier for earlier, later in pairwise(ends)]
    assert 5 <= waits[0] < 5 + 9
    assert 15 <= waits[1] < 15 + 9


def test_a_marker_which_comes_after_the_scan_was_given_up_is_believed(tmp_path):
    world = World(tmp_path, Sample(), how=lambda kind, key, number: "too late" if kind == "scan" else "ok")
    world.terms = Terms(attempts=1)
    world.restart()
    uid = world.scan(**OLD)
    world.settle()
    assert world.state(uid) == "parked"
    for _ in range(200):
        world.tick()
    assert world.state(uid) == "validated"
    assert world.desk.count("scan") == 1


def test_a_torn_marker_is_none(world):
    uid = world.scan(**OLD)
    world.desk.torn.add(("scan", uid))
    for _ in range(33):
        world.tick()
    assert ("scan", uid) in world.desk.markers
    assert world.state(uid) == "reconstructing"
    world.desk.torn.clear()
    world.settle()
    assert world.state(uid) == "validated"
    assert world.desk.count("scan") == 1


def test_a_marker_that_makes_no_sense_is_a_failure(world):
    play(world, EXPERIMENT[:2])
    honest = world.desk.work
    world.desk.work = lambda kind, key, start: {**honest(kind, key, start), "residual": "high"}
    uid = world.scan(**OLD)
    world.settle()
    assert world.state(uid) == "parked"
    assert "residual = 'high'" in world.told(uid)
    assert world.desk.count("residual", uid) == 3


def test_a_job_that_cannot_be_cancelled_does_not_wait_for_ever(tmp_path):
    world = World(tmp_path, Sample(), how=lambda kind, key, number: "zombie")
    world.check = lambda: None  # what cannot be cancelled is still there at the next attempt: its lock keeps them apart
    uid = world.scan(**OLD)
    world.settle()
    assert world.state(uid) == "parked"
    assert "no result within 0.28 h, so it was cancelled" in world.told(uid)


def test_what_no_one_foresaw_in_one_scan_does_not_hold_up_the_others(world, caplog):
    honest, bad = world.desk.submit, []

    def submit(kind, key, start, options):
        if key in bad:
            raise KeyError("surprise")
        return honest(kind, key, start, options)

    world.desk.submit = submit
    bad.append(world.scan(**OLD))
    good = world.scan(**OLD)
    world.settle()
    assert world.state(bad[0]) == "parked"
    assert "surprise" in world.told(bad[0])
    assert world.state(good) == "validated"
    assert "surprise" in caplog.text


def test_the_journal_knows_what_the_scheduler_calls_the_job(world):
    uid = world.scan(**OLD)
    world.tick()
    assert world.journal.scan(uid).job == "scan submitted 1"
    assert world.journal.scan(uid).next_check_s == world.now_s + PATIENCE.job_s
    world.desk.down = True
    other = world.scan(**OLD)
    world.tick()
    assert world.journal.scan(other).job is None
    assert world.journal.scan(other).next_check_s > world.now_s


def test_killed_before_a_second_attempt_was_handed_out_it_does_not_take_the_first_one_for_it(tmp_path):
    world = World(tmp_path, Sample(), how=lambda kind, key, number: "ok" if number else "vanish")
    uid = world.scan(**OLD)
    while "attempt 1" not in world.told(uid):
        world.tick()
    world.faults = [2]
    while world.state(uid) == "reconstructing":
        world.tick()
    assert world.hit == [2]
    assert world.desk.count("scan") == 2
    assert [line.sentence for line in world.journal.history(uid) if "failed" in line.sentence][1:] == []


@pytest.mark.parametrize("kind", ["scan", "train"])
def test_a_job_that_the_scheduler_has_forgotten_is_waited_for_while_it_gives_signs_of_life(tmp_path, kind):
    world = World(tmp_path, Sample(), how=lambda asked, key, number: "forgotten" if asked == kind else "ok")
    uid = world.scan(**NEW)
    world.faults = [6]  # and once by a service that has not seen it live before
    world.settle()
    assert world.desk.count(kind) == 1
    assert world.state(uid) == "published"
    assert "failed" not in world.told(uid)


def test_a_job_that_the_scheduler_puts_back_into_its_queue_is_alive(world):
    uid = world.scan(**OLD)
    world.tick()
    honest, until_s = world.desk.alive, world.now_s + 6
    world.desk.alive = lambda native: honest(native) and world.now_s > until_s
    for _ in range(50):
        world.tick(1.0)
    assert world.desk.count("scan") == 1
    assert world.journal.scan(uid).job == "scan submitted 1"
    world.settle()
    assert world.desk.count("scan") == 1


@pytest.mark.parametrize("how", ["vanish", "hang"])
def test_a_job_that_was_found_again_is_looked_after(tmp_path, how):
    world = World(tmp_path, Sample(), how=lambda kind, key, number: "ok" if number else how)
    world.faults = [3]
    uid = world.scan(**OLD)
    world.settle(limit_s=3000)
    assert world.hit == [3]
    assert world.state(uid) == "validated"
    assert world.desk.count("scan") == 2


# scheduler and disks


def test_a_scheduler_that_does_not_answer_changes_nothing(world):
    world.desk.down = True
    uid = world.scan(**OLD)
    for _ in range(1800):
        world.tick()
    assert world.journal.scan(uid).attempts == 0
    assert world.state(uid) == "reconstructing"
    down = world.journal.fact(handout.SCHEDULER)
    assert down["told"] == "the scheduler does not answer"
    assert 8 < down["errors"] < 20
    lines = len(world.journal.history(uid))
    assert lines < 5, "an hour of silence is not told every time"
    world.desk.down = False
    world.settle()
    assert world.state(uid) == "validated"
    assert world.journal.fact(handout.SCHEDULER) == {}


def test_a_scheduler_is_not_asked_at_every_tick(world):
    world.scan(**OLD)
    for _ in range(100):
        world.tick(0.25)
    assert 10 <= world.desk.questions <= 25 / PATIENCE.ask_s + 1


def test_a_scheduler_that_is_silent_while_a_job_runs_is_asked_less_and_less(world):
    uid = world.scan(**OLD)
    world.tick()
    asked = world.desk.questions
    world.desk.down = True
    for _ in range(100):
        world.tick()
    assert world.desk.questions - asked < 12
    assert world.state(uid) in ("labelled", "reconstructing")  # the marker is enough
    world.desk.down = False
    world.settle()
    assert world.state(uid) == "validated"


def test_a_scheduler_that_never_comes_back_parks_what_it_does_not_take(world):
    world.desk.down = True
    uid = world.scan(**OLD)
    world.settle(limit_s=2 * 86400, every_s=60)
    assert world.state(uid) == "parked"
    assert 0.5 * 86400 < world.now_s - world.journal.scan(uid).started_s < 1.5 * 86400
    assert "the scheduler does not answer" in world.told(uid)


def test_a_disk_that_is_away_for_a_while_changes_nothing(world):
    uid = world.scan(**OLD)
    for _ in range(10):
        world.tick()
    world.desk.disk_gone = True
    before = world.journal.scan(uid)
    for _ in range(1000):
        world.tick()
    assert world.journal.scan(uid) == before
    world.desk.disk_gone = False
    world.settle()
    assert world.state(uid) == "validated"
    assert world.desk.count("scan") == 1


def test_a_queue_that_takes_one_job_of_each_user_starves_nobody(world):
    world.desk.one_at_a_time = True
    for _ in range(100):
        world.scan(**NEW)
        for _ in range(15):
            world.tick(4.0)
    trainings = world.journal.trainings(("published", "refused"))
    assert len(trainings) >= 2
    world.settle(limit_s=6e4)
    assert {row.state for row in world.journal.scans()} <= {"published", "validated", "suspended"}


def test_a_marker_that_comes_while_its_job_is_handed_out_again_is_kept(world):
    uid = world.scan(**OLD)
    world.tick()
    found = {"kind": "scan", "key": uid, "ok": True, **world.desk.work("scan", uid, OLD)}
    world.journal.move(uid, "reconstructing", "attempt 1 of 3 failed", job=None)
    world.desk.jobs["1"].state = "gone"
    honest, asked = world.desk.result, []

    def result(kind, key):
        asked.append(kind)
        if len(asked) == 2:  # looked at, not there; and then it comes
            world.desk.markers["scan", uid] = found
        return honest(kind, key)

    world.desk.result = result
    world.settle()
    assert world.state(uid) == "validated"
    assert world.desk.count("scan") == 1


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


# documents and clocks


def test_documents_twice_and_out_of_order_change_nothing(world):
    world.journal.note_stop({"run_start": f"{1:08d}-{'0' * 23}", "time": world.now_s, "exit_status": "success"})
    uid = world.scan(status=None, **OLD)
    for _ in range(200):
        world.tick()
        world.stop(uid)
        world.journal.note_start({"uid": uid, "time": world.now_s, "ptycho": {}, "feature": "other"})
    assert world.state(uid) == "validated"
    assert world.desk.count("scan") == 1


def test_an_aborted_run_is_not_reconstructed(world):
    uid = world.scan(status="abort", **OLD)
    world.settle()
    assert world.state(uid) == "parked"
    assert "ended with abort" in world.told(uid)
    assert not world.desk.jobs


def test_a_run_without_a_stop_document_is_given_up_and_taken_up_when_it_comes(world):
    uid = world.scan(status=None, **OLD)
    world.tick()
    assert world.state(uid) == "running"
    world.now_s += RUN_S
    world.tick()
    assert world.state(uid) == "parked"
    assert world.journal.scan(uid).sentence == NO_STOP
    world.stop(uid)
    world.tick()
    world.settle()
    assert world.state(uid) == "validated"


@pytest.mark.parametrize("jump_s", [-90000.0, -500.0, 500.0, 90000.0])
@pytest.mark.parametrize("restarted", [False, True])
def test_a_clock_that_jumps(world, jump_s, restarted):
    uid = world.scan(**DRIFTED)
    for _ in range(3):
        world.tick()
    world.set_by_s = jump_s
    if restarted:
        world.restart()
    world.settle(limit_s=3000)
    assert world.state(uid) == "published"
    late = restarted and jump_s > PATIENCE.job_s  # nobody can know that it was not so long
    assert world.desk.count("scan", uid) == 1 + late


def test_a_clock_that_was_set_back_while_nobody_looked_gives_a_job_no_more_time(tmp_path):
    how = {("scan", 0): "hang"}
    world = World(tmp_path, Sample(), how=lambda kind, key, number: how.get((kind, number), "ok"))
    uid = world.scan(**OLD)
    world.tick()
    world.set_by_s = -90000.0
    world.restart()
    world.settle(limit_s=2 * PATIENCE.job_s)
    assert world.state(uid) == "validated"


def test_a_clock_that_jumps_while_suspended(world):
    play(world, EXPERIMENT[:3])
    left_s = world.journal.fact("suspended_until_s") - world.now_s
    world.set_by_s = 90000.0
    world.tick()
    assert world.journal.fact("suspended_until_s") - world.now_s - world.set_by_s == pytest.approx(left_s - 2)
    assert world.state(world.scan(**OLD)) == "received"
    world.settle()
    assert world.journal.scans()[-1].state == "suspended"


def test_after_the_interval_one_scan_is_a_check(world):
    play(world, EXPERIMENT[:3])
    world.now_s += 3700
    uids = play(world, [(OLD, ""), (OLD, "")])
    assert [world.state(uid) for uid in uids] == ["validated", "suspended"]
    assert "as a check" in world.told(uids[0])


def test_a_check_that_is_not_trusted_is_none(world):
    play(world, EXPERIMENT[:3])
    world.now_s += 3700
    uids = play(world, [({**OLD, "dark": True}, ""), (OLD, ""), (OLD, "")])
    assert [world.desk.count("scan", uid) for uid in uids] == [1, 1, 0]

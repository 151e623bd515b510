"""The service with a real journal and a scripted scheduler: jobs, schedulers and disks which fail."""

from itertools import pairwise

import pytest
from loop_experiment import DRIFTED, EXPERIMENT, NEW, OLD, play
from loop_world import PATIENCE, SECONDS, T0, Sample, World

from bluesky_ptychonn.training.loop import handout
from bluesky_ptychonn.training.loop.policy import Terms


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


@pytest.mark.parametrize("kind", ["scan", "residual", "probe", "train"])
def test_what_may_pass_by_itself_is_tried_for_hours_and_uses_up_no_attempt(tmp_path, kind):
    ends_s = T0 + 3 * 3600

    def how(asked, key, number):
        if asked == kind and world.now_s < ends_s:
            return "outage"
        return "fail" if asked == kind and len(real) < 2 and not real.append(number) else "ok"

    real = []
    world = World(tmp_path, Sample(), terms=Terms(suspend_s=86400.0), how=how)
    scans = [OLD, OLD, OLD] if kind == "residual" else [DRIFTED]
    uids = play(world, [(about, "") for about in scans])
    assert world.state(uids[-1]) == ("suspended" if kind == "residual" else "published")
    jobs = [job for job in world.desk.jobs.values() if job.kind == kind and job.key == world.key_of(kind, uids[-1])]
    assert [job.how for job in jobs][-3:] == ["fail", "fail", "ok"]
    waits = [later.ends_s - SECONDS[kind] - earlier.ends_s for earlier, later in pairwise(jobs[:-3])]
    assert waits[0] < 5 + 9
    assert all(1.2 * before <= after + 9 for before, after in pairwise(waits) if before < 300), waits
    assert max(waits) < 600 + 9
    assert 12 < len(jobs) < 40
    last = [row for row in (*world.journal.scans(), *world.journal.trainings()) if row.outage_s is not None]
    assert not last
    told = [line.sentence for line in world.journal.history(jobs[0].key) if "may pass by itself" in line.sentence]
    assert len(set(told)) == 1
    assert kind == "train" or len(told) == 1, "hours of an outage are not told every time"


@pytest.mark.parametrize("kind", ["scan", "train"])
def test_what_does_not_pass_within_a_day_is_given_up(tmp_path, kind):
    world = World(tmp_path, Sample(), how=lambda asked, key, number: "outage" if asked == kind else "ok")
    uid = world.scan(**NEW)
    world.settle(limit_s=2 * 86400, every_s=60)
    assert 86400 < world.now_s - T0 < 86400 + 2000
    assert world.state(uid) == ("parked" if kind == "scan" else "validated")
    assert "given up after 24 h in which it did not pass: disk full" in world.told(uid)
    assert world.journal.scan(uid).outage_s is None


def test_an_outage_goes_on_in_a_service_that_is_started_again_and_on_a_clock_that_is_set(tmp_path):
    world = World(tmp_path, Sample(), how=lambda kind, key, number: "outage")
    uid = world.scan(**OLD)
    for _ in range(400):
        world.tick()
    row = world.journal.scan(uid)
    assert row.outage_s < T0 + 70
    world.restart()
    world.tick()
    world.set_by_s = -86400 * 3
    for _ in range(400):
        world.tick()
    assert world.journal.scan(uid).outage_s == pytest.approx(row.outage_s - 86400 * 3, abs=1)
    world.desk.how = lambda kind, key, number: "ok"
    world.settle(limit_s=1500)
    assert world.state(uid) == "validated"


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

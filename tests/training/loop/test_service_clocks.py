"""The service with a real journal and a scripted scheduler: documents in any order, and clocks that are set."""

import pytest
from loop_experiment import DRIFTED, EXPERIMENT, OLD, play
from loop_world import PATIENCE, Sample, World

from bluesky_ptychonn.training.loop.policy import NO_STOP, RUN_S


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

import time

import numpy as np
import pytest

from bluesky_ptychonn.simulation.cable import CableIn, CableOut
from bluesky_ptychonn.simulation.stage import Move, Stage
from bluesky_ptychonn.simulation.trajectory import Axis, Profile, build

AXES = (Axis("Y", -100, 100, 5000, 2.5e6), Axis("X", -100, 100, 5000, 2.5e6))


@pytest.mark.parametrize(("start_um", "target_um"), [(0, 10), (3, -40), (0, 0.05), (1, 1)])
def test_a_move_is_smooth_and_ends_where_it_should(start_um, target_um):
    move = Move(start_um, target_um, 500.0, 0.01, 100.0)
    time_s = 100.0 + np.linspace(-0.01, move.duration_s + 0.01, 4001)
    where = np.array([move.at(t) for t in time_s])
    speed = np.diff(where) / np.diff(time_s)

    assert where[0] == start_um
    assert where[-1] == target_um
    assert np.abs(speed).max() <= 500 * 1.001
    assert np.abs(np.diff(speed)).max() / np.diff(time_s)[0] <= 500 / 0.01 * 1.01  # finite acceleration
    assert np.all(np.sign(speed[np.abs(speed) > 1e-6]) == np.sign(target_um - start_um))


def test_stop_holds_the_axis_where_it_is(tmp_path):
    stage = Stage(CableOut(tmp_path), seed=0)
    stage.start_move(1, 90.0, 10.0, 0.001)
    time.sleep(0.03)
    stage.stop(1)
    where = stage.position_um()
    assert 0.05 < where[1] < 5
    np.testing.assert_array_equal(stage.position_um(time.time() + 10), where)


def test_messages_arrive_in_order_and_to_nobody_are_lost(tmp_path):
    out = CableOut(tmp_path)
    assert not out.send(pulse=0, t=0.0)  # nobody listens
    cable = CableIn(tmp_path)
    for index in range(100):
        assert out.send(pulse=index, t=index * 0.5)
    messages = cable.messages()
    assert [next(messages)["pulse"] for _ in range(100)] == list(range(100))


def test_pulses_keep_their_schedule_and_stop_at_an_abort(tmp_path, rng):
    cable, stage = CableIn(tmp_path), Stage(CableOut(tmp_path), seed=0)
    points_um = np.zeros((401, 2))
    points_um[:, 0] = np.arange(401) * 0.05
    trajectory = build(Profile(points_um, np.full(401, 1e-3), 0.01, 1, 400, 400), AXES, rng)
    player = stage.play(trajectory, frozenset({2}))
    messages = cable.messages()
    pulses = [next(messages) for _ in range(50)]
    player.abort()
    stopped_um = stage.position_um()

    assert [pulse["pulse"] for pulse in pulses] == [i for i in range(51) if i != 2]
    assert pulses[10]["t"] - pulses[9]["t"] == pytest.approx(1e-3, abs=1e-6)
    assert 50 <= player.sent < 400
    assert player.latched == player.sent + 1
    assert player.aborted
    np.testing.assert_array_equal(stage.position_um(time.time() + 1), stopped_um)
    stage.end_play()
    np.testing.assert_array_equal(stage.position_um(), stopped_um)

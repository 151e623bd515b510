import numpy as np
import pytest

from bluesky_ptychonn.simulation.trajectory import Axis, MotionRecord, Profile, ProfileError, build

AXES = (Axis("Y", -100, 100, 5000, 2.5e6), Axis("X", -100, 100, 5000, 2.5e6))


def line(points=50, dwell_s=2e-3, step_um=0.09, **changes):
    points_um = np.zeros((points, 2))
    points_um[:, 1] = np.arange(points) * step_um
    values = {
        "points_um": points_um,
        "times_s": np.full(points, dwell_s),
        "acceleration_s": 0.02,
        "start_pulses": 1,
        "end_pulses": points - 1,
        "pulses": points - 1,
    }
    return Profile(**{**values, **changes})


def test_pulses_come_at_the_points(rng):
    """N pulses over N elements of one dwell: pulse k when the plan passes point k, after the lead-in."""
    profile = line()
    trajectory = build(profile, AXES, rng)

    np.testing.assert_allclose(trajectory.motion.pulse_s, 0.02 + np.arange(49) * 2e-3)
    planned = trajectory.readbacks_um + trajectory.following_errors_um
    np.testing.assert_allclose(planned, profile.points_um[:-1], atol=2e-4)


def test_pulses_share_out_the_time_of_their_elements(rng):
    profile = line(points=11, times_s=np.arange(1.0, 12.0), start_pulses=3, end_pulses=5, pulses=6, step_um=1.0)
    pulse_s = build(profile, AXES, rng).motion.pulse_s - 0.02
    np.testing.assert_allclose(pulse_s, 1 + 2 + np.arange(6) * (3 + 4 + 5) / 6)


def test_stage_lags_and_jitters_but_stays_near(rng):
    trajectory = build(line(points=500), AXES, rng)
    errors_nm = 1e3 * trajectory.following_errors_um
    assert 10 < errors_nm[50:, 1].mean() < 40  # 45 um/s with half a millisecond of lag
    assert 0.5 < errors_nm[:, 0].std() < 5
    assert np.all(np.abs(errors_nm) < 100)


def test_motion_starts_and_ends_at_rest(rng):
    path = build(line(), AXES, rng).motion
    first, last = (np.abs(np.diff(path.path_um[part, 1]).mean()) for part in (slice(0, 5), slice(-5, None)))
    assert max(first, last) < 0.003
    assert path.path_um[0, 1] == pytest.approx(-0.09 / 2e-3 * 0.02 / 2, abs=0.01)


def test_motion_record_survives_a_file(tmp_path, rng):
    motion = build(line(), AXES, rng).motion
    motion.save(tmp_path / "motion.npz")
    again = MotionRecord.load(tmp_path / "motion.npz")
    np.testing.assert_array_equal(again.at(motion.pulse_s), motion.at(motion.pulse_s))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"points_um": np.array([[0, 0], [0, 101.0]] * 25), "times_s": np.ones(50)}, "High soft"),
        ({"points_um": np.array([[-99.999, 0], [-99, 0.0]] * 25), "times_s": np.ones(50)}, "Low soft limit"),
        ({"times_s": np.full(50, 1e-5), "pulses": 0}, "Velocity too high for axis X, 9000 um/s, limit 5000"),
        ({"times_s": np.zeros(50)}, "Negative or null delta time"),
        ({"points_um": np.full((50, 2), np.nan)}, "not all finite"),
        ({"start_pulses": 0}, "StartPulses = 0"),
        ({"end_pulses": 51}, "EndPulses = 51"),
        ({"pulses": 1000}, "2500 Hz"),
        ({"pulses": 30_000}, "NumPulses = 30000"),
        ({"acceleration_s": 0.0}, "Acceleration = 0.0 s"),
        ({"points_um": np.zeros((1, 2)), "times_s": np.ones(1)}, "NumPoints = 1"),
        ({"points_um": np.array([[0, 0], [0, 3.0]] * 25), "times_s": np.full(50, 1e-3)}, "Acceleration too high"),
    ],
)
def test_what_the_controller_cannot_do(rng, changes, message):
    with pytest.raises(ProfileError, match=message.replace("(", "\\(")):
        build(line(**changes), AXES, rng)

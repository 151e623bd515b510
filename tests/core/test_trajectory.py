import numpy as np
import pytest

from bluesky_ptychonn.core.scan import fermat_spiral
from bluesky_ptychonn.core.trajectory import profile_points, to_mid_exposure

DWELL_S = 0.002
PLANNED_UM = fermat_spiral(1.5, 1.2, 0.1)
TRIGGERS_S = np.arange(len(PLANNED_UM)) * DWELL_S


@pytest.mark.parametrize("exposure_s", [1e-5, 5e-4, DWELL_S])
def test_the_path_is_at_the_planned_positions_at_mid_exposure(exposure_s):
    points = profile_points(PLANNED_UM, exposure_s, DWELL_S)
    np.testing.assert_allclose(points.path(TRIGGERS_S + exposure_s / 2), PLANNED_UM, atol=1e-9)
    assert points.times_s.sum() == pytest.approx(len(PLANNED_UM) * DWELL_S)


def test_a_short_exposure_needs_no_kick_at_the_start():
    """The first element is as fast as the second, however short it is."""
    _, acceleration = profile_points(PLANNED_UM, 1e-6, DWELL_S).peak_motion()
    _, relaxed = profile_points(PLANNED_UM, DWELL_S, DWELL_S).peak_motion()
    assert np.all(acceleration < 3 * relaxed)


def test_one_point_is_a_trajectory():
    points = profile_points(np.array([[1.0, 2.0]]), 0.5, 1.0)
    np.testing.assert_array_equal(points.path(0.25), (1.0, 2.0))


@pytest.mark.parametrize("exposure_s", [2e-4, 1e-3, 1.9e-3])
def test_a_perfect_stage_is_at_the_planned_positions(exposure_s):
    path = profile_points(PLANNED_UM, exposure_s, DWELL_S).path
    np.testing.assert_allclose(
        to_mid_exposure(path(TRIGGERS_S), PLANNED_UM, exposure_s, DWELL_S), PLANNED_UM, atol=1e-9
    )


@pytest.mark.parametrize("exposure_s", [2e-4, 1.9e-3])
def test_lag_and_drift_are_carried_to_mid_exposure(exposure_s):
    path = profile_points(PLANNED_UM, exposure_s, DWELL_S).path

    def true_um(time_s):
        drift = np.outer(time_s / TRIGGERS_S[-1], (0.03, -0.05)) + (0.2, -0.1)
        return path(time_s - 4e-4) + drift

    carried = to_mid_exposure(true_um(TRIGGERS_S), PLANNED_UM, exposure_s, DWELL_S)
    error_um = np.linalg.norm(carried - true_um(TRIGGERS_S + exposure_s / 2), axis=1)
    at_trigger_um = np.linalg.norm(true_um(TRIGGERS_S) - true_um(TRIGGERS_S + exposure_s / 2), axis=1)
    assert np.sqrt(np.mean(error_um**2)) < 0.003
    assert np.sqrt(np.mean(error_um**2)) < 0.3 * np.sqrt(np.mean(at_trigger_um**2))


@pytest.mark.parametrize("captured", [0, 1, 2, 40])
def test_an_aborted_run_keeps_what_it_captured(captured):
    path = profile_points(PLANNED_UM, 1e-3, DWELL_S).path
    carried = to_mid_exposure(path(TRIGGERS_S)[:captured], PLANNED_UM, 1e-3, DWELL_S)
    np.testing.assert_allclose(carried, PLANNED_UM[:captured], atol=1e-9)

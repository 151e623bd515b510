import numpy as np
import pytest

from bluesky_ptychonn.core.recorded_run import pair_recorded

START = {"num_points": 10, "ptycho": {"first_unique_id": 0, "clock": "detector", "dwell_s": 0.1, "fly": True}}


def start(clock):
    return {**START, "ptycho": {**START["ptycho"], "clock": clock}}


def recorded(lost=(), before_numbering=()):
    """Numbers and times of the rows of a file which lacks these triggers, behind and in front of the numbering."""
    numbered = [trigger for trigger in range(10) if trigger not in before_numbering]
    rows = [(number, trigger) for number, trigger in enumerate(numbered) if trigger not in lost]
    return np.array([row[0] for row in rows]), np.array([5.0 + 0.1 * row[1] for row in rows]), [r[1] for r in rows]


@pytest.mark.parametrize("clock", ["detector", "ioc"])
def test_rows_that_the_writer_lost_shift_nothing(clock):
    unique_id, time_s, truth = recorded(lost=(0, 4, 9))
    found, doubt = pair_recorded(unique_id, time_s, start(clock), slots=10, lost_in_detector=0, lost_before_file=3)
    assert (found.tolist(), doubt) == (truth, "")


@pytest.mark.parametrize("missing", [0, 3, 9])
@pytest.mark.parametrize("clock", ["detector", "ioc"])
def test_a_suppressed_trigger_never_shifts_a_frame(clock, missing):
    unique_id, time_s, truth = recorded(before_numbering=(missing,))
    found, doubt = pair_recorded(unique_id, time_s, start(clock), slots=10, lost_in_detector=0, lost_before_file=0)
    kept = found >= 0
    assert found[kept].tolist() == np.array(truth)[kept].tolist()
    assert kept.all() or doubt
    if clock == "detector" and missing == 3:
        assert kept.all()


@pytest.mark.parametrize("lost", [0, 5, 9])
@pytest.mark.parametrize("clock", ["detector", "ioc"])
def test_a_frame_lost_in_the_detector_never_shifts_another(clock, lost):
    unique_id, time_s, truth = recorded(before_numbering=(lost,))
    found, doubt = pair_recorded(unique_id, time_s, start(clock), slots=10, lost_in_detector=1, lost_before_file=0)
    kept = found >= 0
    assert found[kept].tolist() == np.array(truth)[kept].tolist()
    assert kept.all() or doubt


def test_unknown_totals_withhold_what_they_could_prove():
    unique_id, time_s, _ = recorded(lost=(9,))
    found, doubt = pair_recorded(
        unique_id, time_s, start("ioc"), slots=None, lost_in_detector=None, lost_before_file=None
    )
    assert (found < 0).all()
    assert doubt

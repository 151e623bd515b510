import threading
import time

import numpy as np
import pytest

from bluesky_ptychonn.simulation.detector import Detector
from bluesky_ptychonn.simulation.detector_state import TriggerMode
from bluesky_ptychonn.simulation.source import RecordedSource
from bluesky_ptychonn.simulation.trajectory import MotionRecord
from bluesky_ptychonn.simulation.writer import FileSettings, FileWriter


@pytest.fixture
def detector(tmp_path):
    patterns = np.arange(50, dtype=np.uint16)[:, None, None] * np.ones((1, 4, 4), np.uint16)
    np.savez(tmp_path / "scan.npz", patterns=patterns)
    published = []
    changed = threading.Event()
    made = Detector(
        RecordedSource(tmp_path / "scan.npz"),
        published.append,
        FileWriter(FileSettings(), on_change=changed.set),
        on_change=changed.set,
    )
    made.settings.exposure_s, made.settings.period_s = 1e-4, 5e-4
    made.published = published
    return made


def until(condition, timeout_s=5.0):
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.002)


def arm(detector, mode, triggers, images=1, **settings):
    s = detector.settings
    s.mode, s.triggers, s.images = mode, triggers, images
    for name, value in settings.items():
        setattr(s, name, value)
    detector.arm()
    until(lambda: detector.state.armed)


def expect_trajectory(detector, tmp_path, pulses):
    MotionRecord(np.arange(pulses) * 5e-4, np.array([0.0, 1.0]), np.zeros((2, 2))).save(tmp_path / "motion.npz")
    detector.expect(tmp_path / "motion.npz")
    until((tmp_path / "motion.npz.ready").exists)


def ids(detector):
    return [frame.unique_id for frame in detector.published]


def values(detector):
    return [int(frame.data[0, 0]) for frame in detector.published]


def test_series_ends_by_itself(detector):
    detector.settings.mode, detector.settings.images, detector.settings.triggers = TriggerMode.INTERNAL_SERIES, 5, 2
    detector.arm()
    until(lambda: not detector.state.acquiring)
    assert ids(detector) == list(range(10))
    times_s = [frame.time_s for frame in detector.published]
    np.testing.assert_allclose(np.diff(times_s), 5e-4, atol=1e-6)


def test_pulses_before_arming_while_busy_and_after_the_end_are_ignored(detector, tmp_path):
    expect_trajectory(detector, tmp_path, 6)
    detector.pulse(0, time.time())
    arm(detector, TriggerMode.EXTERNAL_ENABLE, 3)
    start_s = time.time()
    for index, time_s in enumerate([0, 5e-5, 5e-4, 1e-3, 1.5e-3]):
        detector.pulse(index, start_s + time_s)
    assert values(detector) == [0, 2, 3]
    assert ids(detector) == [0, 1, 2]
    assert detector.state.ignored_triggers == 3
    assert not detector.state.acquiring


def test_pulses_a_dead_time_apart_are_all_taken(detector, tmp_path):
    expect_trajectory(detector, tmp_path, 20)
    arm(detector, TriggerMode.EXTERNAL_ENABLE, 20)
    start_s = time.time()
    for index in range(20):
        detector.pulse(index, start_s + index * (1e-4 + 1e-7))
    assert values(detector) == list(range(20))


def test_counter_counts_on_until_it_is_reset(detector):
    for _ in range(2):
        detector.settings.images = 3
        detector.arm()
        until(lambda: not detector.state.acquiring)
    detector.reset_counter(0)
    detector.arm()
    until(lambda: not detector.state.acquiring)
    assert ids(detector) == [0, 1, 2, 3, 4, 5, 0, 1, 2]


@pytest.mark.parametrize("lost", [{0}, {3}, {9}, {2, 3, 4}])
def test_loss_in_the_detector_renumbers_and_never_ends(detector, tmp_path, lost):
    expect_trajectory(detector, tmp_path, 10)
    arm(detector, TriggerMode.EXTERNAL_ENABLE, 10, drop_in_detector=frozenset(lost))
    start_s = time.time()
    for index in range(10):
        detector.pulse(index, start_s + index * 5e-4)
    assert values(detector) == [i for i in range(10) if i not in lost]
    assert ids(detector) == list(range(10 - len(lost)))
    assert detector.state.stream_dropped == len(lost)
    assert detector.state.acquiring
    detector.disarm()
    assert detector.settings.drop_in_detector == frozenset()


def test_loss_in_the_plugin_leaves_a_gap_in_ids_only(detector, tmp_path):
    expect_trajectory(detector, tmp_path, 5)
    arm(detector, TriggerMode.EXTERNAL_ENABLE, 5, drop_in_plugin=frozenset({2}))
    start_s = time.time()
    for index in range(5):
        detector.pulse(index, start_s + index * 5e-4)
    assert ids(detector) == [0, 1, 3, 4]
    assert detector.state.pva_dropped == 1
    assert detector.writer.state.arrays == 5
    assert not detector.state.acquiring


def test_nothing_comes_after_an_abort(detector):
    detector.settings.mode = TriggerMode.CONTINUOUS
    detector.arm()
    until(lambda: len(detector.published) > 20)
    detector.disarm()
    detector.reset_counter(0)
    count = len(detector.published)
    time.sleep(0.02)
    assert len(detector.published) == count
    assert detector.state.array_counter == 0


def test_software_triggers_of_a_series(detector):
    arm(detector, TriggerMode.INTERNAL_SERIES, 2, images=3, manual=True)
    detector.trigger()
    detector.trigger()  # busy
    until(lambda: len(detector.published) == 3 and not detector.busy)
    detector.trigger()
    until(lambda: not detector.state.acquiring)
    assert ids(detector) == list(range(6))
    assert detector.state.ignored_triggers == 1


def test_a_free_running_series_plays_a_whole_recorded_scan(detector):
    arm(detector, TriggerMode.INTERNAL_SERIES, 1, images=50)
    until(lambda: not detector.state.acquiring)
    assert values(detector) == list(range(50))


def test_one_pulse_starts_a_whole_series_and_the_others_are_ignored(detector, tmp_path):
    detector.settings.images, detector.settings.triggers = 10, 1
    detector.settings.mode = TriggerMode.EXTERNAL_SERIES
    expect_trajectory(detector, tmp_path, 10)
    arm(detector, TriggerMode.EXTERNAL_SERIES, 1, images=10)
    start_s = time.time()
    for index in range(10):
        detector.pulse(index, start_s + index * 5e-4)
    assert values(detector) == list(range(10))
    times_s = [frame.time_s for frame in detector.published]
    np.testing.assert_allclose(np.diff(times_s), detector.settings.period_s, atol=1e-6)
    assert detector.state.ignored_triggers == 9
    assert not detector.state.acquiring


@pytest.mark.parametrize("lost", [set(), {0}, {3, 4}, {9}])
def test_numbered_exposures_keep_their_numbers_and_the_series_ends(detector, tmp_path, lost):
    """As Serval counts: what is lost leaves a gap, and the last trigger ends the series."""
    expect_trajectory(detector, tmp_path, 10)
    for _ in range(2):
        detector.published.clear()
        arm(detector, TriggerMode.EXTERNAL_ENABLE, 10, drop_in_detector=frozenset(lost), numbers_exposures=True)
        start_s = time.time()
        for index in range(10):
            detector.pulse(index, start_s + index * 5e-4)
        assert ids(detector) == values(detector) == [i for i in range(10) if i not in lost]
        assert detector.state.stream_dropped == len(lost)  # of this series
        assert not detector.state.acquiring

import resource
import time

import h5py
import numpy as np
import pytest

from bluesky_ptychonn.simulation.writer import EPICS_EPOCH_S, FileSettings, FileWriter, Frame


def frames(count, shape=(8, 8), first=0):
    return [Frame(np.full(shape, i, np.uint16), i, 2e9 + i / 8, 2e9 + i / 8) for i in range(first, first + count)]


def writer_into(folder, **settings):
    return FileWriter(FileSettings(path=f"{folder}/", lazy_open=True, **settings), on_change=lambda: None)


def until_closed(writer):
    end_s = time.monotonic() + 10
    while writer.state.capturing:
        assert time.monotonic() < end_s
        time.sleep(0.005)


@pytest.mark.parametrize("count", [1, 7, 8, 50])
def test_every_frame_reaches_the_file_once_and_in_order(tmp_path, count):
    """Whatever the number of frames per chunk and the last, short one."""
    writer = writer_into(tmp_path, capture=count, period_s=1 / 32, swmr=True)
    writer.start()
    for frame in frames(count):
        writer.offer(frame)
    until_closed(writer)
    with h5py.File(writer.state.full_name) as file:
        data, attributes = file["entry/data/data"], file["entry/instrument/NDAttributes"]
        assert data.chunks == (min(8, count), 8, 8)
        np.testing.assert_array_equal(data[:, 0, 0], np.arange(count))
        np.testing.assert_array_equal(attributes["NDArrayUniqueId"], np.arange(count))
        np.testing.assert_allclose(attributes["NDArrayTimeStamp"][:] + EPICS_EPOCH_S, 2e9 + np.arange(count) / 8)
        seconds = attributes["NDArrayEpicsTSSec"][:] + 1e-9 * attributes["NDArrayEpicsTSnSec"][:]
        np.testing.assert_allclose(seconds + EPICS_EPOCH_S, 2e9 + np.arange(count) / 8)
    assert writer.state.captured == count
    assert writer.state.number == 2


def test_late_frames_are_written_before_their_chunk_is_full(tmp_path):
    writer = writer_into(tmp_path, capture=100, period_s=1 / 400, swmr=True)
    writer.start()
    for frame in frames(10):
        writer.offer(frame)
    end_s = time.monotonic() + 5
    while writer.state.captured < 10:
        assert time.monotonic() < end_s
        time.sleep(0.01)
    with h5py.File(writer.state.full_name, swmr=True) as file:
        assert len(file["entry/data/data"]) == 10
    for frame in frames(15, first=10):
        writer.offer(frame)
    writer.stop()
    with h5py.File(writer.state.full_name) as file:
        np.testing.assert_array_equal(file["entry/data/data"][:, 0, 0], np.arange(25))


def test_full_queue_drops_and_counts(tmp_path):
    writer = writer_into(tmp_path, capture=0, queue_size=3)
    writer.start()
    for frame in frames(3000):
        writer.offer(frame)
    writer.stop()
    assert writer.state.dropped > 0
    assert writer.state.captured + writer.state.dropped == 3000


def test_full_disk_ends_the_capture_with_a_message(tmp_path):
    """A real write error, from a limit on the size of files; what was written stays readable."""
    writer = writer_into(tmp_path, capture=0, period_s=1 / 40, swmr=True)
    writer.start()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    try:
        for frame in frames(100, shape=(64, 64)):
            writer.offer(frame)
        until_closed(writer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert writer.state.error.startswith("ERROR writing file")
    writer.offer(frames(1)[0])
    with h5py.File(writer.state.full_name, swmr=True) as file:
        data = file["entry/data/data"]
        assert 10 <= len(data) <= 40
        np.testing.assert_array_equal(data[:10, 0, 0], np.arange(10))


def test_capture_without_a_place_says_so(tmp_path):
    missing = writer_into(tmp_path / "missing")
    missing.start()
    assert "does not exist" in missing.state.error
    unprimed = writer_into(tmp_path)
    unprimed.settings.lazy_open = False
    unprimed.start()
    assert "must collect an array" in unprimed.state.error
    assert not missing.state.capturing
    assert not unprimed.state.capturing

"""The simulated beamline as its clients see it: real processes, Channel Access and PVA."""

import os
import signal
import time

import h5py
import numpy as np
import pytest
from epics_client import EpicsClient

from bluesky_ptychonn.simulation import beamline as simulated
from bluesky_ptychonn.simulation.beamline import BeamlineError

pytestmark = pytest.mark.system
CAM, PVA, FILE, SIM = (f"SIM:EIG:{name}:" for name in ("cam1", "Pva1", "HDF1", "Sim"))
PROFILE = "SIM:STAGE:Prof1:"
STAMP = (0, 104)


@pytest.fixture(scope="module")
def beamline(tmp_path_factory):
    running = simulated.start(tmp_path_factory.mktemp("beamline"), field_um=5.0, seed=1)
    yield running
    running.stop()
    assert not any(running.alive().values())


@pytest.fixture(scope="module")
def client(beamline):
    client = EpicsClient(beamline.env)
    yield client
    client.close()


@pytest.fixture(autouse=True)
def at_rest(beamline, client):
    """Each test finds the detector disarmed and everything as at the start."""
    for name, alive in beamline.alive().items():
        if not alive:
            beamline.restart(name)
    client.put(PROFILE + "Abort", 1)
    client.put(CAM + "Acquire", 0)
    client.put(FILE + "Capture", 0)
    for name in ("TriggerMode", "ManualTrigger", "ArrayCounter"):
        client.put(CAM + name, 0)
    client.put(SIM + "StampIndex", 1)
    client.put("SIM:SHUTTER", 1)


def set_up_detector(client, mode, triggers, exposure_s=8e-4, period_s=1e-3):
    client.put(CAM + "TriggerMode", mode)
    series = mode == "Internal Series"
    client.put(CAM + "NumImages", triggers if series else 1)
    client.put(CAM + "NumTriggers", 1 if series else triggers)
    client.put(CAM + "AcquireTime", exposure_s)
    client.put(CAM + "AcquirePeriod", period_s)
    client.put(CAM + "ArrayCounter", 0)


def arm(client):
    client.put(CAM + "Acquire", 1)
    client.until(CAM + "Armed", 1)


def capture(client, folder, frames, **settings):
    values = {"FilePath": str(folder), "FileName": "frames", "NumCapture": frames, "LazyOpen": 1, "SWMRMode": 1}
    for name, value in {**values, **settings}.items():
        client.put(FILE + name, value)
    client.put(FILE + "Capture", 1)


def spiral(points):
    turn = 0.4 * np.sqrt(np.arange(points + 1))
    return np.stack([0.1 * turn * np.sin(turn * 5), 0.1 * turn * np.cos(turn * 5)], axis=1)


def build(client, points_um, dwell_s=1e-3):
    pulses = len(points_um) - 1
    values = {"NumPoints": pulses + 1, "FixedTime": dwell_s, "TimeMode": 0, "MoveMode": 0, "Acceleration": 0.05}
    values |= {"StartPulses": 1, "EndPulses": pulses, "NumPulses": pulses}
    for axis in (0, 1):
        values |= {f"M{axis + 1}UseAxis": 1, f"M{axis + 1}Positions": points_um[:, axis]}
    for name, value in values.items():
        client.put(PROFILE + name, value)
    client.put(PROFILE + "Build", 1)
    return client.get(PROFILE + "BuildStatus", True), client.get(PROFILE + "BuildMessage", True)


def fly(client, pulses=200, dwell_s=1e-3):
    """Play a built trajectory with an armed detector; returns the frames."""
    set_up_detector(client, "External Enable", pulses, 0.8 * dwell_s, dwell_s)
    assert build(client, spiral(pulses), dwell_s) == ("Success", "")
    client.watch()
    arm(client)
    client.put(PROFILE + "Execute", 1)
    client.put(PROFILE + "Readback", 1)
    return [client.get(PROFILE + name, True) for name in ("ExecuteStatus", "ReadbackStatus")]


def test_step_triggers_need_an_armed_and_ready_detector(client):
    for axis in "YX":
        client.put(f"SIM:STAGE:{axis}", 0.0)
    set_up_detector(client, "Internal Enable", 3, exposure_s=0.2, period_s=0.2)
    client.put(CAM + "ManualTrigger", 1)
    client.watch()
    client.put(CAM + "Trigger", 1)  # not armed
    arm(client)
    client.put(CAM + "Trigger", 1)
    client.put(CAM + "Trigger", 1)  # busy
    first = client.frames(1)[0]
    client.put("SIM:STAGE:Y", 1.0)
    client.put(CAM + "Trigger", 1)
    moved = client.frames(1)[0]
    assert client.get(CAM + "Acquire_RBV") == 1
    client.put(CAM + "Trigger", 1)
    last = client.frames(1)[0]
    client.until(CAM + "Acquire_RBV", 0)

    assert [frame["unique_id"] for frame in (first, moved, last)] == [0, 1, 2]
    assert [int(frame["data"][STAMP]) for frame in (first, moved, last)] == [0, 1, 2]
    assert client.get(CAM + "NumImagesCounter_RBV") == 3
    assert client.get(CAM + "DetectorState_RBV", True) == "Idle"
    good = last["data"] < 10_000
    same, other = (np.corrcoef(last["data"][good], f["data"][good].astype(float))[0, 1] for f in (moved, first))
    assert same > other + 0.01


def test_fly_scan_end_to_end(client, beamline, tmp_path):
    points_um = spiral(200)
    capture(client, tmp_path, 200)
    assert fly(client) == ["Success", "Success"]
    frames = client.frames(200)
    client.until(CAM + "Acquire_RBV", 0)
    client.until(FILE + "Capture_RBV", 0)

    assert [frame["unique_id"] for frame in frames] == list(range(200))
    assert [int(frame["data"][STAMP]) for frame in frames] == list(range(200))
    times_s = np.array([frame["time_s"] for frame in frames])
    np.testing.assert_allclose(np.diff(times_s), 1e-3, atol=1e-6)  # the detector's clock: exposures, not sendings
    assert 0.1 < abs(times_s[0] - time.time()) < 60
    assert client.get(PROFILE + "NumActualPulses") == 200
    latched_um = np.stack([client.get(f"{PROFILE}M{axis}Readbacks") for axis in (1, 2)], axis=1)
    assert latched_um.shape == (200, 2)
    assert 0 < np.abs(latched_um - points_um[:-1]).max() < 0.2
    assert client.get("SIM:STAGE:Y.RBV") == pytest.approx(points_um[-1, 0], abs=0.01)
    assert client.get("SIM:STAGE:Y.DMOV") == 1
    with h5py.File(client.get(FILE + "FullFileName_RBV", True)) as file:
        written, ids = file["entry/data/data"][:], file["entry/instrument/NDAttributes/NDArrayUniqueId"][:]
    np.testing.assert_array_equal(ids, np.arange(200))
    np.testing.assert_array_equal(written, [frame["data"] for frame in frames])
    with np.load(beamline.directory / "truth.npz") as truth:
        assert truth["object"].dtype == np.complex64


def test_ioc_time_where_the_detector_has_no_clock(client):
    client.put(CAM + "StreamVersion", "Stream")
    try:
        set_up_detector(client, "Internal Series", 5)
        client.watch()
        client.put(CAM + "Acquire", 1)
        assert abs(client.frames(5)[-1]["time_s"] - time.time()) < 0.15
    finally:
        client.put(CAM + "StreamVersion", "Stream2")


def test_frames_lost_in_the_detector_leave_no_gap(client):
    before = client.get(CAM + "StreamDropped_RBV")
    client.put(SIM + "DropInDetector", [0, 7, 19])
    assert fly(client, 20, 2e-3) == ["Success", "Success"]
    frames = client.frames(17)

    assert [frame["unique_id"] for frame in frames] == list(range(17))
    stamps = [int(frame["data"][STAMP]) for frame in frames]
    assert stamps == [i for i in range(20) if i not in (0, 7, 19)]
    client.until(CAM + "StreamDropped_RBV", before + 3)
    assert client.get(CAM + "Acquire_RBV") == 1  # it waits for what will never come
    client.put(CAM + "Acquire", 0)
    assert client.get(CAM + "DetectorState_RBV", True) == "Aborted"
    assert fly(client, 20, 2e-3) == ["Success", "Success"]  # the fault was for one series
    assert len(client.frames(20)) == 20


def test_frames_lost_in_the_plugin_leave_a_gap(client, tmp_path):
    before = client.get(PVA + "DroppedArrays_RBV")
    client.put(SIM + "DropInPlugin", [5])
    capture(client, tmp_path, 20)
    fly(client, 20, 2e-3)
    frames = client.frames(19)
    assert [frame["unique_id"] for frame in frames] == [i for i in range(20) if i != 5]
    client.until(PVA + "DroppedArrays_RBV", before + 1)
    client.until(CAM + "Acquire_RBV", 0)
    client.until(FILE + "NumCaptured_RBV", 20)


def test_frames_lost_at_the_writer_only(client, tmp_path):
    before = client.get(FILE + "DroppedArrays_RBV")
    client.put(SIM + "DropInWriter", [3, 4])
    capture(client, tmp_path, 20)
    fly(client, 20, 2e-3)
    assert len(client.frames(20)) == 20
    client.until(FILE + "NumCaptured_RBV", 18)
    assert client.get(FILE + "DroppedArrays_RBV") == before + 2
    client.put(FILE + "Capture", 0)
    with h5py.File(client.get(FILE + "FullFileName_RBV", True)) as file:
        ids = file["entry/instrument/NDAttributes/NDArrayUniqueId"][:]
    np.testing.assert_array_equal(ids, [i for i in range(20) if i not in (3, 4)])


def test_suppressed_trigger(client):
    client.put("SIM:STAGE:Sim:SuppressTrigger", [4])
    fly(client, 20, 2e-3)
    frames = client.frames(19)
    assert [int(frame["data"][STAMP]) for frame in frames] == [i for i in range(20) if i != 4]
    assert frames[4]["time_s"] - frames[3]["time_s"] == pytest.approx(4e-3, abs=1e-5)
    assert client.get(PROFILE + "NumActualPulses") == 19
    assert len(client.get(PROFILE + "M1Readbacks")) == 20


def test_what_cannot_be_built_says_why(client):
    status, message = build(client, 1000 * spiral(50), 1.0)
    assert status == "Failure"
    assert "soft limit violation for axis" in message
    client.put(PROFILE + "Execute", 1)
    assert client.get(PROFILE + "ExecuteStatus", True) == "Failure"
    assert client.get(PROFILE + "ExecuteMessage", True) == "no trajectory was built"


def test_aborted_trajectory_stops_and_says_how_far_it_came(client):
    set_up_detector(client, "External Enable", 300)
    assert build(client, spiral(300), 1e-2)[0] == "Success"
    arm(client)
    client.put(PROFILE + "Execute", 1, wait=False)
    while client.get(PROFILE + "NumActualPulses") < 50:
        time.sleep(0.01)
    client.put(PROFILE + "Abort", 1)
    client.until(PROFILE + "Execute", 0)
    client.put(PROFILE + "Readback", 1)

    pulses = client.get(PROFILE + "NumActualPulses")
    assert 50 <= pulses < 290
    assert client.get(PROFILE + "ExecuteStatus", True) == "Abort"
    assert client.get(PROFILE + "ReadbackStatus", True) == "Failure"
    assert f"numPulses=300, currentSamples={pulses}" in client.get(PROFILE + "ReadbackMessage", True)
    assert client.get("SIM:STAGE:X.DMOV") == 1


def test_abort_and_restart_at_once(client):
    """No frame of an aborted series comes after the counter was reset."""
    set_up_detector(client, "Internal Series", 100_000)
    client.watch()
    for _ in range(5):
        client.put(CAM + "Acquire", 1)
        client.frames(20)
        client.put(CAM + "Acquire", 0)
        client.put(CAM + "ArrayCounter", 0)
        client.frames(0)
        time.sleep(0.05)
        late = client.frames(0)
        client.put(CAM + "Acquire", 1)
        ids = [frame["unique_id"] for frame in client.frames(20)]
        client.put(CAM + "Acquire", 0)
        assert len(late) <= 5  # still on the wire
        assert ids == list(range(len(ids)))
        client.put(CAM + "ArrayCounter", 0)
        time.sleep(0.05)
        client.frames(0)


def test_closed_shutter_is_dark(client):
    set_up_detector(client, "Internal Series", 2)
    client.put("SIM:SHUTTER", 0)
    client.watch()
    client.put(CAM + "Acquire", 1)
    data = client.frames(2)[0]["data"]
    assert np.median(data) == 0
    assert np.count_nonzero((data > 0) & (data < 20_000)) == 0


def test_write_error_does_not_stop_the_stream(client, tmp_path):
    capture(client, tmp_path / "missing", 10)
    assert client.get(FILE + "FilePathExists_RBV") == 0
    assert client.get(FILE + "WriteStatus", True) == "Write error"
    assert "missing" in client.get(FILE + "WriteMessage", True)
    assert client.get(FILE + "Capture_RBV") == 0
    set_up_detector(client, "Internal Series", 10)
    client.watch()
    client.put(CAM + "Acquire", 1)
    assert len(client.frames(10)) == 10


def test_file_is_readable_while_written_and_after_a_kill(client, beamline, tmp_path):
    set_up_detector(client, "Internal Series", 100_000)
    capture(client, tmp_path, 0)
    client.put(CAM + "Acquire", 1)
    while client.get(FILE + "NumCaptured_RBV") < 300:
        time.sleep(0.05)
    name = client.get(FILE + "FullFileName_RBV", True)
    with h5py.File(name, swmr=True) as file:
        data, ids = file["entry/data/data"], file["entry/instrument/NDAttributes/NDArrayUniqueId"]
        seen = len(data)
        assert seen >= 250
        while len(data) == seen:
            data.refresh()
            time.sleep(0.05)
        ids.refresh()
        np.testing.assert_array_equal(ids[:seen], np.arange(seen))

    os.kill(beamline.pids["detector"], signal.SIGKILL)

    with h5py.File(name, swmr=True) as file:
        ids = file["entry/instrument/NDAttributes/NDArrayUniqueId"][:]
        data = file["entry/data/data"]
        assert len(data) >= seen
        np.testing.assert_array_equal(ids[: len(data)], np.arange(len(data)))
        assert all(int(frame[STAMP]) == index for index, frame in enumerate(data[:50]))
    beamline.restart("detector")
    client.until(CAM + "Acquire_RBV", 0)
    assert fly(client, 20, 2e-3) == ["Success", "Success"]


def test_stage_killed_in_mid_trajectory(client, beamline):
    set_up_detector(client, "External Enable", 300)
    assert build(client, spiral(300), 1e-2)[0] == "Success"
    arm(client)
    client.put(PROFILE + "Execute", 1, wait=False)
    while client.get(CAM + "NumImagesCounter_RBV") < 30:
        time.sleep(0.02)
    os.kill(beamline.pids["stage"], signal.SIGKILL)
    time.sleep(0.1)
    seen = client.get(CAM + "NumImagesCounter_RBV")
    assert 30 <= seen < 300
    assert client.get(CAM + "Armed") == 1
    beamline.restart("stage")
    client.until("SIM:STAGE:Y.DMOV", 1)


def test_a_second_beamline_in_the_same_directory_is_refused(beamline):
    with pytest.raises(BeamlineError, match="already; stop it first"):
        simulated.start(beamline.directory)
    assert simulated.status(beamline.directory) == {"repeater": True, "detector": True, "stage": True}


def test_a_recorded_scan_is_played_in_order(tmp_path, rng):
    patterns = rng.integers(0, 1000, size=(30, 64, 64)).astype(np.uint16)
    np.savez(tmp_path / "scan.npz", patterns=patterns)
    with simulated.start(tmp_path / "state", source=str(tmp_path / "scan.npz")) as recorded:
        client = EpicsClient(recorded.env)
        try:
            assert fly(client, 30, 2e-3) == ["Success", "Success"]
            frames = client.frames(30)
        finally:
            client.close()
        assert recorded.detector["beam_center_px"] == [32, 32]
        pids = dict(recorded.pids)
    np.testing.assert_array_equal([frame["data"] for frame in frames], patterns)
    for pid in pids.values():
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_what_cannot_start_leaves_nothing_running(tmp_path):
    with pytest.raises(BeamlineError, match="neither 'physics' nor a file"):
        simulated.start(tmp_path, source=str(tmp_path / "missing.npz"))
    with pytest.raises(BeamlineError, match="'sponge' is unknown; choose one of etched"):
        simulated.start(tmp_path, sample="sponge")
    assert simulated.status(tmp_path) == {}

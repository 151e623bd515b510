"""Whole scans on the simulated beamline: documents, frames on disk, interruptions, faults."""

import time

import h5py
import numpy as np
import pytest
from event_model import DocumentNames, schema_validators
from scan_session import ScanSession

from bluesky_ptychonn.core.scan import positions_from_recipe
from bluesky_ptychonn.simulation import beamline as simulated
from bluesky_ptychonn.simulation.trajectory import MotionRecord

pytestmark = [pytest.mark.system, pytest.mark.production_callbacks, pytest.mark.timeout(180)]

STAMP = (0, 104)
FLY = {"exposure_s": 0.0019, "dwell_s": 0.002, "width_um": 1.4}
SLOW = {"exposure_s": 0.009, "dwell_s": 0.01, "width_um": 1.4}


@pytest.fixture(scope="module")
def beamline(tmp_path_factory):
    running = simulated.start(tmp_path_factory.mktemp("beamline"), field_um=6.0, seed=3)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def session(beamline):
    data = beamline.directory / "data"
    data.mkdir()
    session = ScanSession(beamline.env, data)
    session.put("SIM:EIG:Sim:StampIndex", 1)
    yield session
    session.close()


@pytest.fixture(autouse=True)
def everything_runs(beamline, session):
    for name, alive in beamline.alive().items():
        if not alive:
            beamline.restart(name)
    wait_for_answers(session)
    session.put("SIM:EIG:Sim:StampIndex", 1)
    session.put("SIM:SHUTTER", 0)


def wait_for_answers(session):
    """Channel Access finds a restarted server after some seconds."""
    deadline = time.monotonic() + 60
    while True:
        try:
            session.state()
            return
        except RuntimeError:
            assert time.monotonic() < deadline, "the beamline does not answer"


def documents(told, name, stream=None):
    streams = {doc["uid"]: doc["name"] for kind, doc in told["docs"] if kind == "descriptor"}
    found = [doc for kind, doc in told["docs"] if kind == name]
    return found if stream is None else [doc for doc in found if streams[doc["descriptor"]] == stream]


def counters(told):
    return documents(told, "event", "counters")[-1]["data"]


def camera_settings(told):
    data = next(doc for doc in documents(told, "descriptor") if doc["name"] == "primary")["configuration"]["eiger"][
        "data"
    ]
    return tuple(data[f"eiger_cam_{name}"] for name in ("trigger_mode", "num_images", "num_triggers"))


def at_rest(state, home_um=(0.0, 0.0)):
    assert state["shutter"] == "Close"
    assert state["acquire"] == state["capture"] == 0
    assert not state["moving"]
    assert not state["staged"]
    assert state["trigger_mode"] == "Internal Series"
    np.testing.assert_allclose(state["position_um"], home_um, atol=0.05)


def frames_of(told):
    """Frames, unique ids and stamped trigger indices of the run's file."""
    resource = documents(told, "stream_resource")[0]
    with h5py.File(resource["uri"].removeprefix("file://localhost"), swmr=True) as file:
        frames = file["entry/data/data"][:]
        unique_id = file["entry/instrument/NDAttributes/NDArrayUniqueId"][:]
    return frames, unique_id, frames[:, STAMP[0], STAMP[1]]


def test_every_signal_answers_and_staging_leaves_no_trace(session):
    clean = ([], {})
    assert session.walk() == {"eiger": clean, "stage": clean, "streaming stage": clean}


@pytest.mark.parametrize(
    "arguments",
    [
        {"fly": False, "width_um": 0.7, "exposure_s": 0.005},
        {"fly": False, "width_um": 0.4, "exposure_s": 0.005, "stage": "pair"},
        FLY,
        {**FLY, "triggering": "gate"},
        {**FLY, "triggering": "start"},
    ],
    ids=[
        "step scan of 49 points",
        "step scan with two motors",
        "fly scan at 500 Hz",
        "exposures as long as pulses",
        "one start for all exposures",
    ],
)
def test_a_scan_is_recorded_completely(session, arguments):
    told = session.scan(**arguments, sample_name="etched", md={"proposal": 12})
    assert told["error"] == ""
    for name, doc in told["docs"]:
        schema_validators[DocumentNames[name]].validate(doc)
    (start,), (stop,) = documents(told, "start"), documents(told, "stop")
    points = start["num_points"]
    assert (
        camera_settings(told)
        == {
            "step": ("Internal Enable", 1, points),
            "pulse": ("External Series", 1, points),
            "gate": ("External Enable", 1, points),
            "start": ("External Series", points, 1),
        }[arguments.get("triggering", "pulse" if arguments.get("fly", True) else "step")]
    )
    assert stop["exit_status"] == "success"
    assert stop["num_events"] == {"primary": points, "positions": points, "counters": 1, "account": 1}
    assert start["proposal"] == 12
    assert start["ptycho"]["first_unique_id"] == 0
    assert told["uids"] == (start["uid"],)

    positions = documents(told, "event_page", "positions") or documents(told, "event", "positions")
    columns = {
        key: np.concatenate([np.atleast_1d(doc["data"][key]) for doc in positions])
        for key in (*start["motors"], "trigger_index")
    }
    captured_um = np.stack([columns[key] for key in start["motors"]], axis=1)
    np.testing.assert_array_equal(columns["trigger_index"], np.arange(points))
    assert np.abs(captured_um - positions_from_recipe(start)).max() < 0.06

    frames, unique_id, stamped = frames_of(told)
    np.testing.assert_array_equal(unique_id, np.arange(points))
    np.testing.assert_array_equal(stamped, np.arange(points))
    assert frames.shape == (points, *start["ptycho"]["frame_shape"])
    assert np.median(frames[:, 60:70, 60:70].astype(float)) > 0, "the shutter was open"
    assert counters(told)["written"] == points
    at_rest(session.state())


def test_captured_positions_are_the_true_ones_at_mid_exposure(beamline, session):
    told = session.scan(**FLY)
    (page,) = (doc["data"] for doc in documents(told, "event_page", "positions"))
    (trajectory,) = beamline.directory.glob("trajectory_*.npz")
    motion = MotionRecord.load(trajectory)
    true_um = motion.at(motion.pulse_s + FLY["exposure_s"] / 2)
    error_um = np.linalg.norm(np.stack([page["stage_y"], page["stage_x"]], axis=1) - true_um, axis=1)
    planned_um = np.linalg.norm(positions_from_recipe(documents(told, "start")[0]) - true_um, axis=1)
    assert np.sqrt(np.mean(error_um**2)) < 0.5 * np.sqrt(np.mean(planned_um**2))
    assert error_um.max() < 0.025


@pytest.mark.parametrize("when", ["", "flying"], ids=["whole", "paused"])
def test_a_table_gives_positions_while_the_stage_flies(session, when):
    interruption = {"when": when, "what": "pause", "then": "abort"} if when else {}
    told = session.scan(**SLOW, stage="streaming_stage", **interruption)
    pages = [doc["data"] for doc in documents(told, "event_page", "positions")]
    indices = np.concatenate([page["trigger_index"] for page in pages])
    pulses = counters(told)["pulses"]
    np.testing.assert_array_equal(indices, np.arange(pulses))
    assert pulses == documents(told, "start")[0]["num_points"] if not when else 10 < pulses < 197
    streamed_um = np.concatenate([np.stack([page["stage_y"], page["stage_x"]], axis=1) for page in pages])
    planned_um = positions_from_recipe(documents(told, "start")[0])[:pulses]
    assert np.abs(streamed_um - planned_um).max() < 0.06
    if not when:
        kinds = [name for name, doc in told["docs"] if name in ("event_page", "stream_datum")]
        assert len(pages) >= 4
        assert kinds.index("event_page") < kinds.index("stream_datum"), "positions come before the scan has ended"
    at_rest(session.state())


def test_monitored_signals_have_streams_of_their_own(session):
    told = session.scan(**FLY, devices=("shutter", "monitors"))
    assert told["error"] == ""
    seen = [doc["data"]["shutter"] for doc in documents(told, "event", "shutter_monitor")]
    assert seen[-1] == "Close"
    assert "Open" in seen
    (at_start, at_end) = documents(told, "event", "monitors")
    assert at_start["data"]["incident_flux"] == at_end["data"]["incident_flux"] == 1e9
    (keys,) = (doc["data_keys"] for doc in documents(told, "descriptor") if doc["name"] == "monitors")
    assert keys["incident_flux"]["units"] == "1/s"


def test_the_flux_is_counted_at_each_trigger(session):
    session.put("SIM:EIG:Sim:NoBeam", [0, 7, 8, 196])
    told = session.scan(**FLY, devices=("shutter", "monitors"))
    assert told["error"] == ""
    (page,) = (doc["data"] for doc in documents(told, "event_page", "flux"))
    np.testing.assert_array_equal(page["trigger_index"], np.arange(197))
    np.testing.assert_array_equal(np.flatnonzero(np.array(page["flux"]) < 5000), [0, 7, 8, 196])
    (keys,) = (doc["data_keys"] for doc in documents(told, "descriptor") if doc["name"] == "flux")
    assert keys["flux"]["units"] == "counts"
    counts = np.where(frames_of(told)[0] == 65535, 0, frames_of(told)[0]).sum(axis=(1, 2))
    np.testing.assert_array_equal(np.flatnonzero(counts < 0.5 * np.median(counts)), [0, 7, 8, 196])


def test_a_flux_scaler_is_refused_in_a_step_scan(session):
    told = session.scan(fly=False, width_um=0.4, exposure_s=0.005, devices=("shutter", "monitors"))
    assert "scaler: scaler counts at the triggers of a fly scan, and fly is False" in told["error"]
    assert told["docs"] == []


def test_a_suspender_that_trips_in_flight_ends_the_run_safely_and_begins_anew(session):
    told = session.scan(
        **SLOW, devices=("shutter", "monitors"), suspended_by_current=True, when="flying", what="lose_beam 0.7"
    )
    assert told["error"] == ""
    assert told["suspended"] == {"shutter": "Close", "acquire": 0, "moving": False}
    first, second = documents(told, "stop")
    assert (first["exit_status"], first["reason"]) == ("abort", "paused or suspended during a fly scan")
    assert (second["exit_status"], second["num_events"]["primary"]) == ("success", 197)
    for stop, counted in zip((first, second), documents(told, "event", "counters"), strict=True):
        pulses, events = counted["data"]["pulses"], stop["num_events"]
        assert 10 < pulses == counted["data"]["written"] == events["positions"] == events["flux"]
    at_rest(session.state())


def test_no_frame_of_an_aborted_scan_is_in_the_next(session):
    fast = {"exposure_s": 9e-4, "dwell_s": 1e-3}
    for _ in range(3):
        session.scan(**fast, width_um=2.8, when="flying", what="pause", then="abort")
        told = session.scan(**fast)
        _, unique_id, stamped = frames_of(told)
        np.testing.assert_array_equal(unique_id, np.arange(len(stamped)))
        np.testing.assert_array_equal(stamped, np.arange(len(stamped)))
        assert len(stamped) == documents(told, "start")[0]["num_points"]


def test_datum_ranges_cover_every_frame_once(session):
    told = session.scan(fly=False, width_um=0.7, exposure_s=0.005)
    by_resource = {}
    for datum in documents(told, "stream_datum"):
        by_resource.setdefault(datum["stream_resource"], []).append(datum["indices"])
    assert len(by_resource) == 3
    for ranges in by_resource.values():
        covered = np.concatenate([np.arange(r["start"], r["stop"]) for r in ranges])
        np.testing.assert_array_equal(covered, np.arange(49))


def test_the_scan_is_around_where_the_stage_stands(session):
    session.move(1.5, -1.0)
    try:
        told = session.scan(**FLY)
        np.testing.assert_allclose(documents(told, "start")[0]["ptycho"]["center_um"], (1.5, -1.0), atol=1e-6)
        at_rest(session.state(), home_um=(1.5, -1.0))
    finally:
        session.move(0.0, 0.0)


def test_an_edge_that_is_not_there_costs_a_warning(session):
    told = session.scan(**FLY, devices=("shutter", "edge"))
    assert told["error"] == ""
    (account,) = (doc["data"] for doc in documents(told, "event", "account"))
    assert account["edge_arming"] == "absent"
    assert account["edge_state"] == "absent"
    assert account["account_state"] == "open"
    assert documents(told, "start")[0]["ptycho"]["edge"] == "absent"


@pytest.mark.parametrize("then", ["resume", "abort", "stop"])
def test_a_pause_in_flight_ends_the_run_safely(session, then):
    told = session.scan(**SLOW, when="flying", what="pause", then=then)
    paused = told["paused"]
    assert paused["shutter"] == "Close"
    assert paused["acquire"] == 0
    runs = documents(told, "stop")
    assert [run["exit_status"] for run in runs] == {
        "resume": ["abort", "success"],
        "abort": ["abort"],
        "stop": ["success"],
    }[then]
    first = documents(told, "event", "counters")[0]["data"]
    assert 10 < first["pulses"] < 197
    assert first["written"] == first["pulses"] == runs[0]["num_events"]["positions"] == runs[0]["num_events"]["primary"]
    if then == "resume":
        assert runs[1]["num_events"]["primary"] == 197
    at_rest(session.state())


@pytest.mark.parametrize("kind", ["pause", "pause deferred"])
def test_a_paused_step_scan_goes_on(session, kind):
    told = session.scan(fly=False, width_um=0.7, exposure_s=0.005, when="stepping", what=kind, then="resume")
    assert "paused" in told
    (stop,) = documents(told, "stop")
    assert stop["exit_status"] == "success"
    assert stop["num_events"]["primary"] == stop["num_events"]["positions"] == 49
    np.testing.assert_array_equal(frames_of(told)[2], np.arange(49))
    at_rest(session.state())


def test_a_pause_while_the_trajectory_is_built_begins_anew(session):
    told = session.scan(**SLOW, when="building", what="pause", then="resume")
    assert [run["exit_status"] for run in documents(told, "stop")] == ["abort", "success"]
    at_rest(session.state())


def test_a_suppressed_trigger_is_an_error_in_seconds(session):
    session.put("SIM:STAGE:Sim:SuppressTrigger", [50])
    told = session.scan(**FLY)
    assert "196 of 197 frames" in told["error"]
    assert told["seconds"] < 20
    (stop,) = documents(told, "stop")
    assert stop["exit_status"] == "fail"
    assert "196 of 197 frames" in stop["reason"]
    assert stop["num_events"]["primary"] == 196
    assert counters(told)["pulses"] == 196
    at_rest(session.state())


def test_frames_lost_in_the_detector_are_counted_and_no_error(session):
    session.put("SIM:EIG:Sim:DropInDetector", [0, 100, 196])
    told = session.scan(**FLY)
    assert told["error"] == ""
    found = counters(told)
    assert (found["lost_in_detector"], found["written"], found["pulses"]) == (3, 194, 197)
    _, unique_id, stamped = frames_of(told)
    np.testing.assert_array_equal(unique_id, np.arange(194))  # the driver renumbers silently
    np.testing.assert_array_equal(stamped, np.delete(np.arange(197), [0, 100, 196]))


def test_frames_lost_at_the_file_writer_leave_a_gap_in_the_ids(session):
    session.put("SIM:EIG:Sim:DropInWriter", [5, 6, 150])
    told = session.scan(**FLY)
    assert told["error"] == ""
    assert counters(told)["lost_before_file"] == 3
    _, unique_id, stamped = frames_of(told)
    np.testing.assert_array_equal(unique_id, stamped)


@pytest.mark.parametrize("name", ["detector", "stage"])
def test_a_killed_ioc_is_an_error_in_seconds(beamline, session, name):
    told = session.scan(**SLOW, when="flying", what=f"kill {beamline.pids[name]}")
    assert "IOC" in told["error"]
    assert told["seconds"] < 30
    (stop,) = documents(told, "stop")
    assert stop["exit_status"] == "fail"
    if name == "stage":
        frames, unique_id, stamped = frames_of(told)
        assert len(frames) == stop["num_events"]["primary"] > 10
        np.testing.assert_array_equal(unique_id, stamped)
    else:
        frames, _, _ = frames_of(told)
        assert 0 < stop["num_events"]["primary"] <= len(frames)
    beamline.restart(name)
    wait_for_answers(session)
    again = session.scan(**FLY)
    assert again["error"] == ""
    assert documents(again, "stop")[0]["num_events"]["primary"] == 197


def test_impossible_scans_move_nothing(session):
    for arguments, message in (
        ({"exposure_s": 0.002, "dwell_s": 0.001}, "dwell_s = 0.001 s"),
        ({"exposure_s": 0.01, "width_um": 300.0, "step_um": 5.0}, "stage_x would travel"),
        ({"exposure_s": 1e-4, "width_um": 100.0, "step_um": 2.0, "dwell_s": 3e-4}, "um/s"),
        ({"exposure_s": 1e-4, "dwell_s": 5e-4, "width_um": 16.0}, "trajectory controller"),
        ({"exposure_s": 0.01, "overlap_ratio": 0.5}, "exactly one"),
    ):
        told = session.scan(**arguments)
        assert message in told["error"], told["error"]
        assert told["docs"] == []
    at_rest(session.state())


def test_a_busy_detector_is_refused_with_a_remedy(session):
    session.put("SIM:EIG:cam1:AcquireTime", 0.01)
    session.put("SIM:EIG:cam1:NumImages", 100000)
    session.put("SIM:EIG:cam1:Acquire", 1)
    try:
        told = session.scan(**FLY)
        assert "cam.acquire.put(0)" in told["error"]
        assert told["docs"] == []
    finally:
        session.put("SIM:EIG:cam1:Acquire", 0)
        session.put("SIM:EIG:cam1:NumImages", 1)

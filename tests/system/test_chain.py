"""From a plan to Tiled and to the live image: the whole chain on real servers."""

import h5py
import numpy as np
import pytest
from epics import caput
from event_model import DocumentNames, schema_validators

from bluesky_ptychonn.io.ntndarray import read_image
from bluesky_ptychonn.io.pva import PvaChannel
from bluesky_ptychonn.io.runs import read_run
from bluesky_ptychonn.plans.spiral import spiral_ptycho_scan

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

FAST = {"exposure_s": 0.5e-3, "dwell_s": 2e-3}
STAMP = "SIM:EIG:Sim:StampIndex"
STAMP_ROW, STAMP_COLUMN = 0, 104


def scan(session, **what):
    documents = []
    settings = {"width_um": 1.0, "step_um": 0.08, **FAST, "edge": session.edge, "shutter": session.shutter, **what}
    (uid,) = session.RE(
        spiral_ptycho_scan(session.detector, session.stage, **settings), lambda name, doc: documents.append((name, doc))
    )
    assert session.recorder.wait(60)
    return uid, documents


def file_of(documents):
    uris = [doc["uri"] for name, doc in documents if name == "stream_resource"]
    return uris[0].removeprefix("file://localhost")


def test_a_fly_scan_of_963_points_is_stitched_and_recorded_whole(session):
    uid, documents = scan(session, width_um=2.74, height_um=2.72, step_um=0.088)

    for name, doc in documents:
        schema_validators[DocumentNames[name]].validate(doc)
    run = session.cat[uid]
    positions = run["positions"].read()
    np.testing.assert_array_equal(positions["trigger_index"], np.arange(963))
    with h5py.File(file_of(documents), "r") as file:
        recorded = file["/entry/data/data"][:]
    np.testing.assert_array_equal(run["primary"]["detector_image"].read(), recorded)
    account = run["account"].read()
    assert str(np.asarray(account["account_state"]).ravel()[-1]) == "closed"
    assert int(np.asarray(account["edge_frames_stitched"]).ravel()[-1]) == 963
    stats = PvaChannel("ptychonn:stats").get()
    assert (stats["final_uid"], stats["positions_source"]) == (uid, "captured")
    phase, attributes = read_image(PvaChannel("ptychonn:final").get())
    assert attributes["run_uid"] == uid
    assert np.isfinite(phase).mean() > 0.5


def test_frames_that_only_the_file_lost_shift_nothing(session):
    caput(STAMP, 1, wait=True)
    caput("SIM:EIG:Sim:DropInWriter", [0, 7, 100], wait=True)
    try:
        uid, _ = scan(session)
    finally:
        caput(STAMP, 0, wait=True)

    data = read_run(session.cat[uid])
    points = data.start["num_points"]
    stamped = data.frames[:, STAMP_ROW, STAMP_COLUMN].astype(int)
    np.testing.assert_array_equal(stamped, data.trigger_index)
    assert sorted(set(range(points)) - set(data.trigger_index.tolist())) == [0, 7, 100]
    planned = session.cat[uid]["positions"].read()
    np.testing.assert_array_equal(data.positions_um[:, 0], np.asarray(planned["stage_y"])[data.trigger_index])
    stats = PvaChannel("ptychonn:stats").get()
    assert (stats["frames_stitched"], stats["frames_unpaired"]) == (points, 0)


def test_a_step_scan_of_49_points_has_one_event_per_position(session):
    uid, _ = scan(session, width_um=0.56, step_um=0.08, exposure_s=0.005, dwell_s=0.01, fly=False)

    run = session.cat[uid]
    points = run.metadata["start"]["num_points"]
    assert 45 <= points <= 53
    assert len(run["positions"].read()["trigger_index"]) == points
    assert run["primary"]["detector_image"].shape[0] == points
    data = read_run(run)
    assert len(data.frames) == points
    assert PvaChannel("ptychonn:stats").get()["frames_stitched"] == points

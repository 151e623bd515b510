"""kill -9 of one server after the other, in the middle of a scan."""

import os
import signal
import time

import h5py
import numpy as np
import pytest
from event_model import DocumentNames, schema_validators
from stamped import check_safe, once, pulses, put

from bluesky_ptychonn.callbacks.record import ingest
from bluesky_ptychonn.io.ntndarray import read_image
from bluesky_ptychonn.io.pva import PvaChannel
from bluesky_ptychonn.io.runs import read_run
from bluesky_ptychonn.plans.spiral import spiral_ptycho_scan

pytestmark = [pytest.mark.system, pytest.mark.production_callbacks, pytest.mark.timeout(300)]

SLOW = {"width_um": 1.0, "step_um": 0.08, "exposure_s": 5e-3, "dwell_s": 10e-3}
QUICK = {**SLOW, "exposure_s": 1e-3, "dwell_s": 2e-3}
KILLED_AFTER = 50
BACK_S = 30.0


@pytest.fixture(autouse=True)
def everything_runs_again(services, session):
    yield
    for name, alive in services.beamline.alive().items():
        if not alive:
            services.beamline.restart(name)
    for child, start in ((services.edge, services.start_edge), (services.catalog, services.start_catalog)):
        if not is_alive(child.pid):
            start()
    wait_for_answers(session)


def is_alive(pid):
    try:
        return os.waitpid(pid, os.WNOHANG) == (0, 0)
    except ChildProcessError:
        return False


def wait_for_answers(session):
    """Channel Access finds a restarted server after some seconds, Tiled takes some to start."""
    put("SIM:EIG:Sim:StampIndex", 0)
    deadline = time.monotonic() + 60
    devices = (session.detector, session.stage, session.shutter)
    while not all(device.connected for device in devices):
        assert time.monotonic() < deadline, [device.name for device in devices if not device.connected]
        time.sleep(0.1)
    while True:
        try:
            len(session.cat)
            return
        except Exception:
            assert time.monotonic() < deadline, "Tiled does not answer"
            time.sleep(0.2)


class Told:
    """A scan in which a process was killed, and what it left behind."""

    def __init__(self, session, pid=None, **arguments):
        self.session, self.documents, self.error = session, [], ""
        settings = {**SLOW, "edge": session.edge, "shutter": session.shutter, **arguments}
        began = [time.monotonic()]

        def kill():
            began[0] = time.monotonic()
            os.kill(pid, signal.SIGKILL)

        with once((lambda: pulses(session) > KILLED_AFTER) if pid else None, kill):
            try:
                session.RE(
                    spiral_ptycho_scan(session.detector, session.stage, **settings),
                    lambda name, doc: self.documents.append((name, doc)),
                )
            except Exception as failure:
                self.error = f"{type(failure).__name__}: {failure}"
        self.seconds = time.monotonic() - began[0]
        self.start, self.stop = self.documents[0][1], self.documents[-1][1]
        self.uid, self.points = self.start["uid"], self.start["num_points"]

    def last(self, stream):
        names = {doc["uid"]: doc["name"] for name, doc in self.documents if name == "descriptor"}
        events = [doc for name, doc in self.documents if name in ("event", "event_page")]
        return [doc["data"] for doc in events if names[doc["descriptor"]] == stream][-1]

    def check_documents(self, exit_status):
        """Valid, whole, and in the catalog."""
        for name, doc in self.documents:
            schema_validators[DocumentNames[name]].validate(doc)
        assert [name for name, _ in self.documents].count("start") == 1
        assert self.documents[-1][0] == "stop"
        assert self.stop["exit_status"] == exit_status
        assert self.session.recorder.wait(120)

    def recorded(self):
        """Frames and ids in the file, read as a reader would while it is written, and how many the documents name."""
        uri = next(doc["uri"] for name, doc in self.documents if name == "stream_resource")
        with h5py.File(uri.removeprefix("file://localhost"), swmr=True) as file:
            frames = file["/entry/data/data"][:]
            unique_id = file["/entry/instrument/NDAttributes/NDArrayUniqueId"][:]
        named = max((doc["indices"]["stop"] for name, doc in self.documents if name == "stream_datum"), default=0)
        assert frames.any(axis=(1, 2)).all()
        np.testing.assert_array_equal(unique_id[:named], np.arange(named))
        return len(frames), named


def check_next_scan_is_whole(session):
    told = Told(session, **QUICK)
    assert told.error == ""
    told.check_documents("success")
    account = told.last("account")
    assert (account["account_state"], account["edge_frames_stitched"]) == ("closed", told.points)
    assert told.recorded() == (told.points, told.points)
    assert len(read_run(session.cat[told.uid]).frames) == told.points
    check_safe(session)


def test_the_detector_ioc_killed(services, session, capsys):
    told = Told(session, services.beamline.pids["detector"])

    assert "IOC" in told.error
    assert told.seconds < BACK_S
    told.check_documents("fail")
    assert "IOC" in told.stop["reason"]
    stage = session.stage
    assert stage.profile.execute_state.get() == "Done"
    np.testing.assert_allclose(stage.locate()["readback"], (0, 0), atol=0.05)
    account = told.last("account")
    assert account["account_state"] == "open"
    for missing in ("unknown lost in detector", "unknown lost in plugin", "unknown lost before file"):
        assert missing in account["account_text"]
    assert account["account_text"] in capsys.readouterr().out
    assert account["edge_frames_received"] > 0
    assert account["edge_frames_stitched"] + account["edge_frames_unpaired"] == account["edge_frames_received"]
    in_file, named = told.recorded()
    assert 0 < named <= in_file <= told.points
    assert session.cat[told.uid].metadata["stop"]["exit_status"] == "fail"

    services.beamline.restart("detector")
    wait_for_answers(session)
    check_next_scan_is_whole(session)


def test_the_stage_ioc_killed(services, session):
    told = Told(session, services.beamline.pids["stage"])

    assert "IOC" in told.error
    assert told.seconds < BACK_S
    told.check_documents("fail")
    assert session.shutter.get() == "Close"
    cam = session.detector.cam
    assert (int(cam.acquire.get()), int(session.detector.hdf1.capture.get())) == (0, 0)
    account = told.last("account")
    assert account["account_state"] == "open"
    assert "unknown triggered" in account["account_text"]
    assert account["edge_frames_received"] > KILLED_AFTER
    in_file, named = told.recorded()
    assert KILLED_AFTER < named == in_file == account["edge_frames_received"]
    data = session.cat[told.uid]["primary"]["detector_image"]
    assert data.shape[0] == named

    services.beamline.restart("stage")
    wait_for_answers(session)
    check_next_scan_is_whole(session)


def test_the_edge_killed(services, session, caplog):
    told = Told(session, services.edge.pid)

    assert told.error == ""
    assert told.seconds < BACK_S
    told.check_documents("success")
    account = told.last("account")
    assert (account["account_state"], account["edge_state"], account["edge_finishing"]) == ("open", "absent", "absent")
    assert "unknown received" in account["account_text"]
    assert "not final" in caplog.text
    assert told.recorded() == (told.points, told.points)
    assert len(read_run(session.cat[told.uid]).frames) == told.points
    check_safe(session)

    services.start_edge()
    check_next_scan_is_whole(session)


@pytest.mark.soak
def test_an_edge_restarted_in_the_run_knows_that_it_missed_something(services, session):
    """It does not stitch the rest of a run whose beginning it has not seen."""

    def kill_and_restart():
        os.kill(services.edge.pid, signal.SIGKILL)
        services.start_edge()

    documents = []
    with once(lambda: pulses(session) > KILLED_AFTER, kill_and_restart):
        session.RE(
            spiral_ptycho_scan(session.detector, session.stage, **SLOW, edge=session.edge, shutter=session.shutter),
            lambda name, doc: documents.append((name, doc)),
        )
    assert documents[-1][1]["exit_status"] == "success"
    assert session.live.wait(30)
    stats = PvaChannel("ptychonn:stats").get()
    assert (stats["state"], stats["final_uid"], stats["frames_stitched"]) == ("idle", "", 0)
    names = {doc["uid"]: doc["name"] for name, doc in documents if name == "descriptor"}
    (account,) = [doc["data"] for _, doc in documents if names.get(doc.get("descriptor")) == "account"]
    assert account["account_state"] == "open"
    assert "unknown received" in account["account_text"]
    check_next_scan_is_whole(session)


@pytest.mark.soak
def test_tiled_killed(services, session, caplog):
    told = Told(session, services.catalog.pid)

    assert told.error == ""
    assert told.seconds < BACK_S
    told.check_documents("success")
    assert told.last("account")["account_state"] == "closed"
    assert told.recorded() == (told.points, told.points)
    _, attributes = read_image(PvaChannel("ptychonn:final").get())
    assert attributes["run_uid"] == told.uid
    check_safe(session)
    backup = services.settings.catalog.backup_directory / f"{told.uid.split('-')[0]}.jsonl"
    assert str(backup) in caplog.text

    services.start_catalog()
    wait_for_answers(session)
    assert ingest(backup, session.cat) == told.uid
    with pytest.raises(ValueError, match="in the catalog already"):
        ingest(backup, session.cat)
    run = session.cat[told.uid]
    assert run.metadata["stop"]["exit_status"] == "success"
    data = read_run(run)
    np.testing.assert_array_equal(data.trigger_index, np.arange(told.points))
    assert np.isfinite(data.positions_um).all()
    check_next_scan_is_whole(session)

"""Replay of runs from a real Tiled server, against the live image of the edge."""

import numpy as np
import pytest
from epics import caput

from bluesky_ptychonn.callbacks.replay import replay
from bluesky_ptychonn.cli.bench_replay import difference, final_of
from bluesky_ptychonn.cli.edge import engine_of, load_probe
from bluesky_ptychonn.cli.main import main
from bluesky_ptychonn.io.processed import images_of
from bluesky_ptychonn.io.runs import open_run, read_run
from bluesky_ptychonn.plans.spiral import spiral_ptycho_scan

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

PREFIX = "ptychonn:"


@pytest.fixture(scope="module")
def tools(services):
    settings = services.settings
    probe = load_probe(settings.probe.file, settings.geometry.frame_px)
    return engine_of(settings), probe, np.load(settings.geometry.bad_pixels_file).astype(bool)


@pytest.fixture(scope="module")
def scanned(session):
    """A run, its live image, and its documents."""
    documents = []
    plan = spiral_ptycho_scan(
        session.detector,
        session.stage,
        width_um=1.0,
        step_um=0.08,
        exposure_s=0.5e-3,
        dwell_s=2e-3,
        edge=session.edge,
        shutter=session.shutter,
    )
    (uid,) = session.RE(plan, lambda name, doc: documents.append((name, doc)))
    assert session.recorder.wait(60)
    return uid, final_of(PREFIX, uid), documents


def assert_same(image, live):
    found = difference(image, live)
    assert found["coverage_same"]
    assert found["error_max_rad"] == 0  # one batch that is compiled, one stream: bit by bit


def test_a_replay_from_tiled_is_the_live_image(session, scanned, tools):
    uid, live, _ = scanned
    assert_same(replay(session.cat[uid], *tools), live)


def test_so_it_is_in_blocks_over_http(session, scanned, tools):
    uid, live, _ = scanned
    with open_run(session.cat[uid], from_files=False) as recording:
        image = replay(recording, *tools)
        frames = recording.read().frames
    assert_same(image, live)
    np.testing.assert_array_equal(frames, read_run(session.cat[uid]).frames)


def test_so_it_is_from_documents(scanned, tools):
    _, live, documents = scanned
    assert_same(replay(iter(documents), *tools), live)


def test_frames_lost_at_the_writer_shift_nothing(session, tools):
    caput("SIM:EIG:Sim:DropInWriter", [3, 50], wait=True)
    try:
        settings = {"width_um": 0.6, "step_um": 0.08, "exposure_s": 0.5e-3, "dwell_s": 2e-3, "shutter": session.shutter}
        (uid,) = session.RE(spiral_ptycho_scan(session.detector, session.stage, edge=session.edge, **settings))
        assert session.recorder.wait(60)
    finally:
        caput("SIM:EIG:Sim:DropInWriter", [-1], wait=True)
    image, live = replay(session.cat[uid], *tools), final_of(PREFIX, uid)
    missing = np.setdiff1d(np.arange(live.frames), image.trigger_index)
    assert missing.tolist() == [3, 50]
    both = np.isfinite(image.phase) & np.isfinite(live.phase)
    assert np.median(np.abs(image.phase - live.phase)[both]) < 0.05


def test_an_export_is_registered_beside_the_run(services, session, scanned, tools, tmp_path):
    uid, live, _ = scanned
    arguments = ["export", uid[:8], "--settings", str(services.settings_file), "--output", str(tmp_path / "scan")]
    assert main(arguments) == 0
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".cxi", ".png", ".tiff"]
    images = images_of(session.cat, uid)
    last = images[max(images, key=int)]
    assert_same_array = np.testing.assert_array_equal
    assert_same_array(last["phase"].read(), live.phase)
    assert last.metadata["run_uid"] == uid
    assert last.metadata["model_version"] == tools[0].card.version
    assert uid in session.cat  # the raw run is as it was
    assert main([*arguments, "--force"]) == 0
    assert len(images_of(session.cat, uid)) == 2

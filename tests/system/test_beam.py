"""A beam that is lost in mid-scan, on real servers: at the edge, in the documents, and in everything made of them."""

import threading

import numpy as np
import pytest
from epics import caput

from bluesky_ptychonn.callbacks.replay import replay
from bluesky_ptychonn.cli.bench_replay import difference, final_of
from bluesky_ptychonn.cli.edge import engine_of, load_probe
from bluesky_ptychonn.core.beam import named
from bluesky_ptychonn.core.totals import counts_of_frames
from bluesky_ptychonn.devices.monitor import FluxScaler
from bluesky_ptychonn.io.ntndarray import read_image
from bluesky_ptychonn.io.pva import PvaChannel
from bluesky_ptychonn.io.run_record import RunOfRecord, record_of
from bluesky_ptychonn.io.runs import read_run, scan_from_run
from bluesky_ptychonn.plans.spiral import spiral_ptycho_scan

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]


@pytest.fixture
def scaler(services):
    device = FluxScaler("SIM:MCS:", name="scaler")
    device.wait_for_connection(timeout=15)
    return device


def scan_with_beam_lost(session, scaler):
    """A scan of about a second, in the middle of which the beam is away for a quarter of one."""

    def lose(name, doc):
        if name == "descriptor" and doc["name"] == "flux":  # armed: the flight begins in a moment
            threading.Timer(0.5, lambda: caput("SIM:RING:LoseFor", 0.25)).start()

    plan = spiral_ptycho_scan(
        session.detector,
        session.stage,
        width_um=1.6,
        step_um=0.08,
        exposure_s=0.5e-3,
        dwell_s=2.5e-3,
        edge=session.edge,
        shutter=session.shutter,
        monitors=[scaler],
    )
    (uid,) = session.RE(plan, lose)
    assert session.recorder.wait(60)
    return uid


def test_frames_without_beam_are_flagged_the_same_everywhere(services, session, scaler):
    session.detector.geometry.min_flux.put(0.5)
    try:
        uid = scan_with_beam_lost(session, scaler)
    finally:
        session.detector.geometry.min_flux.put(0.0)
    live, run = final_of("ptychonn:", uid), session.cat[uid]

    account = {key: np.asarray(values).ravel()[-1] for key, values in run["account"].read().items()}
    dark = int(account["edge_frames_no_beam"])
    points = run.metadata["start"]["num_points"]
    assert account["account_state"] == "closed"
    assert 20 < dark < 200
    assert account["edge_frames_stitched"] + dark == points
    triggers = account["edge_no_beam_triggers"]
    assert f"{dark} frames had no beam and are not in the image: triggers {triggers}" in account["edge_message"]
    attributes = read_image(PvaChannel("ptychonn:final").get())[1]
    assert (attributes["frames_no_beam"], attributes["no_beam_triggers"]) == (dark, triggers)

    recorded = read_run(run)
    settings = services.settings
    bad = np.load(settings.geometry.bad_pixels_file).astype(bool)
    counts = counts_of_frames(np.where(bad, np.uint16(65535), recorded.frames))
    assert named(recorded.trigger_index[counts < 100]) == triggers
    flux = run["flux"].read()
    assert named(np.flatnonzero(np.asarray(flux["flux"]) < 100)) == triggers

    image = replay(run, engine_of(settings), load_probe(settings.probe.file, settings.geometry.frame_px), bad)
    found = difference(image, live)
    assert (image.counts["no_beam"], found["coverage_same"], found["error_max_rad"]) == (dark, True, 0)
    for source in (run, RunOfRecord(record_of(run))):  # what `reconstruct` reads, and what the loop's jobs do
        scan = scan_from_run(read_run(source), bad_pixels=bad)
        assert scan.left_out == dark
        assert named(np.setdiff1d(np.arange(points), scan.trigger_index)) == triggers

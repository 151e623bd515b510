"""The edge as its neighbours see it: a real image server, a real edge, real channels."""

import contextlib
import time

import numpy as np
import pytest
from edge_world import DROPPED, IMAGE, World, flat_probe

from bluesky_ptychonn.core.optics import Geometry, intensities, with_counts, zone_plate_probe
from bluesky_ptychonn.core.scan import fermat_spiral
from bluesky_ptychonn.core.stitch import Canvas
from bluesky_ptychonn.engines.offline import stitch_scan
from bluesky_ptychonn.engines.registry import open_engine

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

GRID = 40
SMALL = {"energy_kev": 10.0, "distance_m": 0.9, "detector_pixel_um": 600.0, "crop_px": 16}
PIXEL_UM = Geometry(10.0, 0.9, 600.0, 16).pixel_size_um
GIVEN = {"frames": 400, "fps": 500.0, "fates": {}, "offset": 0, "stamped": True, "first_id": 0}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A source of small frames that carry their index, and an edge whose patches show it."""
    folder = tmp_path_factory.mktemp("edge")
    np.save(folder / "pool.npy", np.full((1, 16, 16), 10, np.uint16))
    np.save(folder / "probe.npy", flat_probe(16))
    world = World()
    try:
        world.start("source", str(folder / "pool.npy"))
        world.start("edge", "stamp", str(folder / "probe.npy"))
        world.start("client")
        world.folder = folder
        yield world
    finally:
        world.close()


def places_um(count):
    """Positions on a grid so wide that patches never touch."""
    return 10 * PIXEL_UM * np.stack(np.divmod(np.arange(count), GRID), axis=1)


def run_message(uid, positions_um, **change):
    n = len(positions_um)
    values = {
        "run_uid": uid, "token": "secret", "image_channel": IMAGE, "frames": n, "y_um": positions_um[:, 0].tolist(),
        "x_um": positions_um[:, 1].tolist(), "exposure_s": 0.001, "dwell_s": 0.002, "frame_shape": [16, 16],
        "beam_center_px": [8.0, 8.0], "orientation": "identity", "first_unique_id": 0, "clock": "detector",
        "frames_after_s": 0.0, "dropped_channel": DROPPED, **SMALL,
    }  # fmt: skip
    return {**values, **change}


def arm(world, uid, frames=400, **change):
    world.call("client", put="run", values=run_message(uid, places_um(frames), **change))
    world.until(armed_uid=uid)


def end(world, uid, counts, status="success", **change):
    values = {
        "run_uid": uid, "token": "secret", "exit_status": status, "trigger_index": [], "y_um": [], "x_um": [],
        "triggered": counts["triggered"], "lost_in_detector": counts["detector"], "lost_in_plugin": counts["plugin"],
    }  # fmt: skip
    world.call("client", put="positions", values={**values, **change})
    return world.until(final_uid=uid)


def stamps(world, frames=400, offset=0):
    """Which frame each place of the final image shows, -1 for none."""
    attributes = world.call("client", image="final", file=str(world.folder / "final.npy"))
    image = np.load(world.folder / "final.npy")
    canvas = Canvas(image.shape, (attributes["origin_y_um"], attributes["origin_x_um"]), attributes["pixel_size_um"])
    y, x = (canvas.corners_px(places_um(frames), 8) + 4).T
    return np.where(np.isnan(image[y, x]), -1, image[y, x] - offset).astype(int), attributes


FIRST, MIDDLE, LAST = 0, 200, 399


@pytest.mark.parametrize("clock", ["detector", "ioc"])
@pytest.mark.parametrize(
    ("fate", "at"), [("ok", 0), *((f, p) for f in ("detector", "plugin", "unsent") for p in (FIRST, MIDDLE, LAST))]
)
def test_no_patch_lies_at_a_wrong_position(small, clock, fate, at):
    uid = f"{clock}-{fate}-{at}"
    arm(small, uid, clock=clock)
    counts = small.call("source", **{**GIVEN, "fates": {str(at): fate}})
    stats = end(small, uid, counts)
    shown, attributes = stamps(small)

    assert attributes["run_uid"] == uid
    assert set(np.flatnonzero(shown >= 0)) == set(shown[shown >= 0])
    here = shown[shown >= 0]
    np.testing.assert_array_equal(shown[here], here)
    received = 400 - (fate != "ok")
    assert stats["frames_received"] == received
    assert stats["frames_stitched"] == here.size
    assert stats["frames_stitched"] + stats["frames_unpaired"] == received
    if (
        fate in ("ok", "plugin")
        or (clock == "detector" and at == MIDDLE)
        or ((clock, fate) == ("detector", "detector") and at == LAST)
    ):
        assert here.size == received
        assert stats["pairing"] == "ok"
    else:
        assert here.size < received
        assert stats["pairing"].startswith("doubtful: ")
    assert stats["account"].startswith("wrong" if fate == "unsent" else "closed")


def test_no_foreign_frame_after_an_abort_and_a_restart_at_once(small):
    """The next run starts while the last frames of the aborted one are still under way."""
    for attempt in range(5):
        offset = 1000 * attempt
        arm(small, f"aborted-{attempt}", dwell_s=0.001)
        small.send("source", **{**GIVEN, "fps": 1000.0, "offset": 20_000 + offset})
        small.until(state="running")
        small.send("source", stop=True)
        small.answer("source")

        arm(small, f"restarted-{attempt}", dwell_s=0.001)
        counts = small.call("source", **{**GIVEN, "fps": 1000.0, "offset": offset})
        stats = end(small, f"restarted-{attempt}", counts)
        shown, _ = stamps(small, offset=offset)
        np.testing.assert_array_equal(shown, np.arange(400))
        assert (stats["frames_foreign"], stats["account"]) == (0, "closed")


def test_an_aborted_run_is_final_with_what_is_sure(small):
    arm(small, "partial")
    small.send("source", **GIVEN)
    small.until(state="running")
    small.send("source", stop=True)
    counts = small.answer("source")
    stats = end(small, "partial", counts, "abort")
    assert stats["frames_stitched"] == counts["triggered"] < 400
    assert stats["pairing"] == "ok"
    shown, _ = stamps(small)
    np.testing.assert_array_equal(shown[: counts["triggered"]], np.arange(counts["triggered"]))


def test_a_run_without_frames_ends(small):
    arm(small, "empty")
    stats = end(small, "empty", {"triggered": 0, "detector": 0, "plugin": 0}, "abort")
    assert (stats["frames_received"], stats["account"]) == (0, "closed")
    shown, attributes = stamps(small)
    assert (shown == -1).all()
    assert attributes["run_uid"] == "empty"


def test_captured_positions_make_the_final_image(small):
    arm(small, "captured")
    counts = small.call("source", **GIVEN)
    moved_um = places_um(400)[::-1]
    stats = end(
        small,
        "captured",
        counts,
        trigger_index=list(range(400)),
        y_um=moved_um[:, 0].tolist(),
        x_um=moved_um[:, 1].tolist(),
    )
    assert stats["positions_source"] == "captured"
    np.testing.assert_array_equal(stamps(small)[0], np.arange(400)[::-1])


def test_what_comes_too_fast_is_guessed_and_in_the_end_inferred_in_full(small):
    """500 frames/s to an engine that infers 333 of them: none is shed, none is late by more than the queue allows."""
    with contextlib.closing(World()) as hurried:
        hurried.folder = small.folder
        hurried.start("source", str(small.folder / "pool.npy"))
        hurried.start("edge", "hurried", str(small.folder / "probe.npy"))
        hurried.start("client")
        arm(hurried, "hurried")
        counts = hurried.call("source", **GIVEN)
        deadline = time.monotonic() + 20
        while not hurried.stats()["frames_guessed"]:
            assert time.monotonic() < deadline, hurried.stats()
        final = end(hurried, "hurried", counts)
        found, _ = stamps(hurried)
    assert (final["frames_guessed"], final["frames_shed"], final["frames_stitched"]) == (0, 0, 400)
    assert found.tolist() == list(range(400))


def test_the_view_saves_a_picture_of_what_the_edge_shows(small):
    end_whatever_runs(small)
    arm(small, "seen")
    end(small, "seen", small.call("source", **GIVEN))
    assert small.call("client", picture=str(small.folder / "view" / "picture.png")) == "saved"
    assert (small.folder / "view" / "picture.png").read_bytes()[:4] == b"\x89PNG"


def test_a_run_under_way_is_replaced_only_with_its_token(small):
    arm(small, "mine")
    refused = small.stats()["runs_refused"]
    small.call("client", put="run", values=run_message("theirs", places_um(9), token="guess"))
    stats = small.until(runs_refused=refused + 1)
    assert (stats["run_uid"], "under way" in stats["message"]) == ("mine", True)
    small.call("client", put="positions", values={"run_uid": "mine", "token": "guess", "exit_status": "abort"})
    small.until(runs_refused=refused + 2)
    arm(small, "mine again")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"energy_kev": -1.0}, "energy_kev = -1.0"),
        ({"frames": 3}, "3 frames"),
        ({"crop_px": 32}, "crop_px = 32 px"),
        ({"beam_center_px": [99.0, 8.0]}, "outside the frame"),
        ({"y_um": [0.0] * 1_000_001, "x_um": [0.0] * 1_000_001, "frames": 1_000_001}, "at most 1000000"),
        ({"y_um": [0.0] * 9, "x_um": [0.0] * 8 + [1e9]}, "scan a smaller field"),
    ],
)
def test_impossible_runs_are_refused_and_say_why(small, change, message):
    end_whatever_runs(small)
    refused = small.stats()["runs_refused"]
    small.call("client", put="run", values={**run_message("bad", places_um(9)), **change})
    assert message in small.until(runs_refused=refused + 1)["message"]
    arm(small, "good after bad")


def end_whatever_runs(world):
    stats = world.stats()
    if stats["state"] in ("armed", "running"):
        end(world, stats["run_uid"], {"triggered": 0, "detector": 0, "plugin": 0}, "abort")


def test_frames_of_another_size_are_rejected_and_counted(small):
    end_whatever_runs(small)
    arm(small, "size", frame_shape=[16, 20])
    stats = end(small, "size", small.call("source", **GIVEN))
    assert (stats["frames_rejected"], stats["frames_stitched"]) == (400, 0)
    assert "16 x 16 px where 16 x 20 px were announced" in stats["message"]
    assert stats["account"] == "closed"


def test_the_image_server_killed_in_a_run_costs_the_run_not_the_edge(small):
    end_whatever_runs(small)
    arm(small, "killed")
    small.send("source", **GIVEN)
    small.until(state="running")
    time.sleep(0.2)
    small.kill("source")
    small.start("source", str(small.folder / "pool.npy"))
    small.call("source", **{**GIVEN, "frames": 50, "offset": 5000})  # what comes now is of no run
    stats = end(small, "killed", {"triggered": -1, "detector": -1, "plugin": -1}, "fail")
    assert stats["pairing"].startswith("doubtful: ")
    assert stats["account"] == "open"
    assert (stamps(small)[0] == -1).all()

    arm(small, "after")
    stats = end(small, "after", small.call("source", **GIVEN))
    assert (stats["frames_stitched"], stats["account"]) == (400, "closed")


def test_an_edge_armed_before_the_image_server_is_there_waits_for_it(small):
    end_whatever_runs(small)
    small.kill("source")
    small.call("client", put="run", values=run_message("early", places_um(400)))
    stats = small.until(run_uid="early")
    assert (stats["armed_uid"], stats["message"]) == ("", f"waiting for the image channel {IMAGE}")
    small.start("source", str(small.folder / "pool.npy"))
    small.until(armed_uid="early")
    stats = end(small, "early", small.call("source", **GIVEN))
    assert (stats["frames_stitched"], stats["account"]) == (400, "closed")


def test_the_edge_ends_on_sigterm_and_comes_back_after_a_kill(small):
    end_whatever_runs(small)
    assert small.terminate("edge") == 0
    small.start("edge", "stamp", str(small.folder / "probe.npy"))
    arm(small, "one")
    small.send("source", **GIVEN)
    small.until(state="running")
    small.kill("edge")
    small.answer("source")
    small.start("edge", "stamp", str(small.folder / "probe.npy"))
    small.until(state="idle")
    arm(small, "two")
    assert end(small, "two", small.call("source", **GIVEN))["frames_stitched"] == 400


def test_2000_frames_at_1_khz_are_stitched_as_offline(tmp_path):
    """The whole edge with the lift engine: nothing lost, and the image that the same frames give offline."""
    geometry, counts = Geometry(), 1e5
    probe = zone_plate_probe(geometry)
    positions_um = fermat_spiral(2.0, 2.0, 2.0 / np.sqrt(2000))[:2000]
    rng = np.random.default_rng(1)
    sample = np.exp(-0.4j * (rng.random((20, 20)) > 0.5).repeat(20, 0).repeat(20, 1))
    centres_px = positions_um[:250] / geometry.pixel_size_um + 200
    pool = rng.poisson(intensities(sample, with_counts(probe, counts), centres_px)).astype(np.uint16)
    np.save(tmp_path / "pool.npy", pool)
    np.save(tmp_path / "probe.npy", probe)
    world = World()
    try:
        world.start("source", str(tmp_path / "pool.npy"))
        world.start("edge", "lift", str(tmp_path / "probe.npy"))
        world.start("client")
        n = len(positions_um)
        change = {
            "detector_pixel_um": 75.0, "crop_px": 128, "frame_shape": [128, 128], "beam_center_px": [64.0, 64.0],
            "dwell_s": 0.001,
        }  # fmt: skip
        world.call("client", put="run", values=run_message("fast", positions_um, **change))
        world.until(armed_uid="fast")
        totals = world.call("source", **{**GIVEN, "frames": n, "fps": 1000.0, "stamped": False})
        stats = end(world, "fast", totals)
        world.call("client", image="final", file=str(tmp_path / "final.npy"))
    finally:
        world.close()

    print({key: value for key, value in stats.items() if "ms" in key or key in ("fps", "cpu_us_per_frame")})
    assert (stats["frames_stitched"], stats["account"], stats["pairing"]) == (n, "closed", "ok")
    live = np.load(tmp_path / "final.npy")
    engine = open_engine("lift")
    margin_um = 16 * geometry.pixel_size_um
    canvas = Canvas.covering(positions_um, geometry.pixel_size_um, engine.patch_px, margin_um)
    offline, coverage, _ = stitch_scan(
        engine, pool[np.arange(n) % 250], positions_um, probe, geometry.pixel_size_um, canvas
    )
    well = coverage > 0.05 * coverage.max()
    scale = stats["intensity_scale"] / counts
    assert scale == pytest.approx(1, rel=0.02)
    np.testing.assert_allclose(live[well], offline[well], atol=0.02 * np.ptp(offline[well]))

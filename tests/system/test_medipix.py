"""The whole chain with the simulated Medipix3: records of ADTimePix3, 516 x 516 px binned by 4, live image."""

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from medipix_world import CASES
from scipy import ndimage

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

STAMP = (0, 256)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("medipix")
    script = Path(__file__).with_name("medipix_world.py")
    done = subprocess.run([sys.executable, script, folder], capture_output=True, text=True, timeout=220, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, json.loads((folder / "told.json").read_text())


def frames_of(told):
    with h5py.File(told["file"]) as file:
        return file["entry/data/data"][:], file["entry/instrument/NDAttributes/NDArrayUniqueId"][:]


def test_every_signal_answers_and_staging_leaves_no_trace(world):
    assert world[1]["walk"] == [[], {}]


def test_every_frame_of_a_fly_scan_is_written_and_stitched(world):
    told = world[1]["whole"]
    points, events = told["points"], told["events"]
    frames, ids = frames_of(told)
    assert frames.shape == (points, 516, 516)
    np.testing.assert_array_equal(ids, np.arange(points))
    np.testing.assert_array_equal(frames[(slice(None), *STAMP)], np.arange(points))
    assert told["mode"] == 2  # PEXSTART_TIMERSTOP
    assert (events["edge_frames_stitched"], events["account_state"]) == (points, "closed")
    assert told["final"]


def test_what_serval_drops_leaves_a_gap_and_shifts_nothing(world):
    told, lost = world[1]["lost"], CASES["lost"]["lose"]
    points, events = told["points"], told["events"]
    frames, ids = frames_of(told)
    np.testing.assert_array_equal(ids, np.delete(np.arange(points), lost))
    np.testing.assert_array_equal(frames[(slice(None), *STAMP)], ids)
    assert (events["lost_in_detector"], events["lost_in_plugin"]) == (0, len(lost))
    assert (events["edge_frames_stitched"], events["edge_frames_unpaired"]) == (points - len(lost), 0)
    assert events["account_state"] == "closed"


def test_the_live_image_shows_the_sample(world):
    folder, told = world[0], world[1]["whole"]
    live, pixel_um = np.load(folder / "whole.npy"), told["pixel_size_um"]
    with np.load(folder / "truth.npz") as truth:
        at = [
            (index * pixel_um + origin - start) / truth["pixel_size_um"]
            for index, origin, start in zip(np.indices(live.shape), told["origin_um"], truth["origin_um"], strict=True)
        ]
        expected = ndimage.map_coordinates(np.angle(truth["object"]), at, order=1)
    inner = ndimage.binary_erosion(np.isfinite(live), iterations=20)
    assert np.corrcoef(live[inner], expected[inner])[0, 1] > 0.6
    assert np.corrcoef(live[inner], np.roll(expected, 25, axis=1)[inner])[0, 1] < 0.4


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("step", "use fly=True"),
        ("start", "is none of gate, pulse"),
        ("file", "set it to 'tcp://listen@HOST:8086'"),
    ],
)
def test_what_the_driver_cannot_do_is_refused_before_anything_moves(world, name, remedy):
    told = world[1][name]
    assert remedy in told["refused"]
    assert told["documents"] == 0


def test_everything_is_put_back(world):
    assert world[1]["put back"] == {"acquire": 0, "trigger_mode": 4, "image_write": "false", "num_images": 1}

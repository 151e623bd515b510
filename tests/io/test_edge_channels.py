from dataclasses import fields

import numpy as np
import pytest

from bluesky_ptychonn.core.optics import Geometry
from bluesky_ptychonn.io.edge_channels import (
    MAX_FRAMES,
    POSITIONS,
    RUN,
    PositionsMessage,
    RunMessage,
    as_message,
    pva_structure,
)
from bluesky_ptychonn.io.pva_values import fill

RUN_VALUES = {
    "run_uid": "uid",
    "image_channel": "SIM:EIG:Pva1:Image",
    "frames": 2,
    "y_um": [0.0, 1.0],
    "x_um": [2.0, 3.0],
    "energy_kev": 10.0,
    "distance_m": 0.9,
    "detector_pixel_um": 75.0,
    "exposure_s": 0.001,
    "dwell_s": 0.002,
    "frame_shape": (128, 130),
    "crop_px": 128,
    "beam_center_px": (61.0, 66.5),
    "token": "secret",
    "binning": 2,
    "clock": "detector",
}
POSITION_VALUES = {"run_uid": "uid", "trigger_index": [0, 2], "y_um": [0.0, 1.0], "x_um": [0.0, 1.0], "triggered": 3}


@pytest.mark.parametrize(
    ("kind", "structure", "values"), [(RunMessage, RUN, RUN_VALUES), (PositionsMessage, POSITIONS, POSITION_VALUES)]
)
def test_a_message_survives_the_wire(kind, structure, values):
    pvaccess = pytest.importorskip("pvaccess")
    sent = kind(**values)
    assert set(structure) == {f.name for f in fields(kind)}
    types = pva_structure(structure)
    received = kind(**fill(pvaccess.PvObject(types), types, as_message(sent)).toDict())
    for f in fields(kind):
        np.testing.assert_array_equal(getattr(received, f.name), getattr(sent, f.name))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"run_uid": ""}, "run_uid"),
        ({"run_uid": "x" * 300}, "at most"),
        ({"frames": 0}, f"1 to {MAX_FRAMES}"),
        ({"frames": 3}, "2 y_um"),
        ({"y_um": [0.0, np.nan]}, "finite"),
        ({"energy_kev": -1.0}, "energy_kev = -1.0"),
        ({"dwell_s": -1.0}, "dwell_s = -1.0 s"),
        ({"frame_shape": (128,)}, "frame_shape"),
        ({"frame_shape": (128, 100_000)}, "frame_shape"),
        ({"crop_px": 7}, "crop_px = 7 px"),
        ({"binning": -1}, "binning = -1 px; allowed is 1 to 8 px"),
        ({"binning": 9}, "binning = 9 px"),
        ({"crop_px": 4096, "binning": 2}, "at most 4096 px of a frame, for crop_px = 4096 px"),
        ({"beam_center_px": (1.0,)}, "beam_center_px"),
        ({"clock": "wall"}, "clock = 'wall'"),
    ],
)
def test_impossible_runs_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        RunMessage(**{**RUN_VALUES, **change})


def test_a_message_that_leaves_the_binning_out_means_none():
    assert RunMessage(**{**RUN_VALUES, "binning": 0}).binning == 1


def test_superpixels_of_a_run_are_the_pixels_of_its_patterns():
    run = RunMessage(**{**RUN_VALUES, "frame_shape": (512, 512), "beam_center_px": (257.5, 257.5), "binning": 4})
    assert run.geometry == Geometry(10.0, 0.9, 300.0, 128)
    bad = np.zeros((512, 512), bool)
    bad[:4, :4] = True
    made = run.frame_geometry(bad)
    assert (made.crop_px, made.binning, made.masked_fraction) == (128, 4, 1 / 128**2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"exit_status": "maybe"}, "exit_status = 'maybe'"),
        ({"y_um": [0.0]}, "equally many"),
        ({"x_um": [0.0, np.inf]}, "finite"),
        ({"trigger_index": [1, 1]}, "trigger_index"),
        ({"trigger_index": [-1, 1]}, "trigger_index"),
    ],
)
def test_impossible_positions_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        PositionsMessage(**{**POSITION_VALUES, **change})

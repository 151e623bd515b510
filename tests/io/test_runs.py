import numpy as np
import pytest

from bluesky_ptychonn.core.frames import FrameGeometry
from bluesky_ptychonn.core.optics import Geometry
from bluesky_ptychonn.core.recorded_run import RecordedRun
from bluesky_ptychonn.io.runs import read_run, scan_from_run

BLOCK = {
    "energy_kev": 10.0,
    "distance_m": 0.9,
    "detector_pixel_um": 75.0,
    "crop_px": 16,
    "beam_center_px": [7.0, 9.0],
    "orientation": "flip_x",
}


@pytest.fixture
def run(rng):
    def make(unpaired=0, frames=None, positions_um=None, **block):
        return RecordedRun(
            frames=rng.poisson(20, (6, 18, 20)).astype(np.uint32) if frames is None else frames,
            positions_um=rng.uniform(-1, 1, (6, 2)) if positions_um is None else positions_um,
            trigger_index=np.array([0, 1, 3, 4, 5, 8]),
            unique_id=np.arange(6),
            unpaired=unpaired,
            doubt="the driver renumbered" if unpaired else "",
            start={"uid": "a1b2", "ptycho": {**BLOCK, **block}},
        )

    return make


def test_a_run_is_cut_and_oriented_as_the_edge_does(run):
    bad, probe, recorded = np.zeros((18, 20), bool), np.ones((16, 16), np.complex64), run()
    bad[4, 5] = True
    scan = scan_from_run(recorded, bad_pixels=bad, probe=probe)

    edge = FrameGeometry((18, 20), 16, (7.0, 9.0), bad, "flip_x")
    valid = scan.valid
    np.testing.assert_array_equal(scan.patterns[valid], edge.patterns(recorded.frames)[valid])
    assert 1 - valid.mean() == pytest.approx(edge.masked_fraction)
    assert scan.geometry == Geometry(10.0, 0.9, 75.0, 16)
    np.testing.assert_allclose(scan.positions_px * scan.pixel_size_um, recorded.positions_um)
    assert scan.trigger_index.tolist() == [0, 1, 3, 4, 5, 8]
    assert (scan.provenance, scan.left_out) == ({"run_uid": "a1b2"}, 0)
    np.testing.assert_array_equal(scan.probe, probe)


def test_a_binned_run_is_read_as_the_edge_saw_it(run):
    bad, recorded = np.zeros((18, 20), bool), run(crop_px=8, binning=2, beam_center_px=[8.5, 9.5])
    bad[4:6, 4:7] = True
    scan = scan_from_run(recorded, bad_pixels=bad, probe=np.ones((8, 8), np.complex64))

    edge = FrameGeometry((18, 20), 8, (8.5, 9.5), bad, "flip_x", 2)
    valid = scan.valid
    np.testing.assert_array_equal(scan.patterns[valid], edge.patterns(recorded.frames)[valid])
    assert 1 - valid.mean() == pytest.approx(edge.masked_fraction)
    assert scan.geometry == Geometry(10.0, 0.9, 150.0, 8)
    np.testing.assert_allclose(scan.positions_px * scan.pixel_size_um, recorded.positions_um)


def test_what_cannot_be_used_is_left_out_and_told(run, rng):
    frames, positions_um = rng.poisson(20, (6, 18, 20)).astype(np.uint32), rng.uniform(-1, 1, (6, 2))
    frames[1], positions_um[2] = 0, np.nan
    scan = scan_from_run(run(4, frames, positions_um))
    assert (scan.left_out, scan.trigger_index.tolist()) == (6, [0, 4, 5, 8])
    assert scan.notes[-3:] == (
        "1 frames have no position and are left out: 3",
        "1 frames have no beam and are left out: 1",
        "4 frames whose trigger cannot be known are left out: the driver renumbered",
    )


def test_a_start_document_without_geometry_is_told(run):
    recorded = run()
    del recorded.start["ptycho"]["distance_m"], recorded.start["ptycho"]["crop_px"]
    with pytest.raises(ValueError, match="run a1b2: its 'ptycho' block lacks distance_m, crop_px"):
        scan_from_run(recorded)


class Column:
    def __init__(self, values):
        self.read = lambda: np.asarray(values)


class Stream(dict):
    def read(self):
        return {name: column.read() for name, column in self.items()}


class Run(dict):
    def __init__(self, start, **streams):
        super().__init__({name: Stream({key: Column(v) for key, v in keys.items()}) for name, keys in streams.items()})
        self.metadata = {"start": start}


START = {
    "uid": "a1b2",
    "num_points": 2,
    "motors": ["y", "x"],
    "ptycho": {"first_unique_id": 1, "clock": "own", "dwell_s": 0.1, "fly": False},
}
PRIMARY = {"eiger_unique_id": [1, 2], "eiger_time_stamp": [0.0, 0.1], "eiger_image": np.ones((2, 8, 8))}
POSITIONS = {"trigger_index": [0, 1], "y": [0.0, 1.0], "x": [0.0, 1.0]}


@pytest.mark.parametrize(
    ("start", "primary", "positions", "message"),
    [
        ({}, {"eiger_time_stamp": None}, {}, "run a1b2 lacks eiger_time_stamp, so its frames cannot be paired"),
        ({"num_points": None}, {}, {}, "lacks num_points"),
        ({"ptycho": {}}, {}, {}, "lacks ptycho.first_unique_id, ptycho.clock"),
        ({"motors": None}, {}, {}, "its start document names no motors"),
        ({"motors": ["y", "z"]}, {}, {}, "stream 'positions' lacks z"),
        ({}, {}, {"trigger_index": [0, 2]}, "positions of triggers 0 to 2, but num_points = 2"),
    ],
)
def test_what_a_run_lacks_to_be_paired_is_named(start, primary, positions, message, monkeypatch):
    def held(given, changes):
        return {name: value for name, value in {**given, **changes}.items() if value is not None}

    monkeypatch.setattr("bluesky_ptychonn.io.runs.pair_recorded", lambda *_, **__: (np.arange(2), ""))
    streams = {"primary": held(PRIMARY, primary), "positions": held(POSITIONS, positions)}
    with pytest.raises(ValueError, match=message):
        read_run(Run(held(START, start), **streams))

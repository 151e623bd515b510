"""A replay against the parts of which the edge makes its final image."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
from replay_world import ATTRIBUTES, FACE, FIRST_ID, FRAMES, GEOMETRY, PROBE, N, make_run

from bluesky_ptychonn.callbacks.databroker1 import ForDatabroker1
from bluesky_ptychonn.callbacks.replay import open_recording, replay
from bluesky_ptychonn.core.positions import best_positions
from bluesky_ptychonn.core.scan_data import ScanData
from bluesky_ptychonn.core.stitch import patch_weights, run_canvas
from bluesky_ptychonn.edge.image import LiveImage
from bluesky_ptychonn.engines.light import DarkError, Light
from bluesky_ptychonn.engines.registry import open_engine
from bluesky_ptychonn.io.run_message import run_message
from bluesky_ptychonn.io.runs import scan_from_run


@pytest.fixture
def engine():
    return open_engine("lift", frame_px=N)


@pytest.fixture
def made(tmp_path):
    return make_run(tmp_path / "frames.h5")


def as_the_edge(run, engine, kept, batches_of=(3, 1, 8, 5)):
    """``final`` as `edge.live_run` makes it, of the frames ``kept`` (trigger indices), in batches as they came."""
    message = run_message(run.start)
    canvas = run_canvas(message.positions_um, GEOMETRY.pixel_size_um, engine.patch_px)
    image = LiveImage(canvas, patch_weights(PROBE, engine.patch_px), message.positions_um, 10_000)
    light, frames, owed = Light(engine, PROBE), message.frame_geometry(FACE.bad_pixels), []
    first, turn = 0, 0
    while first < len(kept):
        indices = np.array(kept[first : first + batches_of[turn % len(batches_of)]])
        patterns = frames.patterns(run.frames[indices])
        first, turn = first + len(indices), turn + 1
        try:
            owed.append(light.see(indices, patterns))
        except DarkError:
            continue
        image.add(np.arange(first - len(indices), first), indices, engine.infer(patterns))
    owed.append(light.settle())
    for indices, patterns in (batch for batch in owed if batch is not None):
        for one in range(len(indices)):
            image.replace(indices[one : one + 1], engine.infer(patterns[one : one + 1]))
    return image


def captured_of(run, without=()):
    index = np.setdiff1d(np.arange(len(run.planned_um)), without)
    return best_positions(run_message(run.start).positions_um, index, run.captured_um[index])


def test_it_is_the_final_image_of_the_edge(made, engine):
    edge = as_the_edge(made, engine, range(len(made.frames)))
    phase, coverage, canvas = edge.final(captured_of(made).positions_um)
    image = replay(made.documents, engine, PROBE, FACE.bad_pixels)

    assert image.canvas == canvas
    np.testing.assert_array_equal(image.coverage, coverage)
    np.testing.assert_array_equal(image.phase, phase)
    assert (image.counts["stitched"], image.positions_source) == (len(made.frames), "captured")


def test_frames_lost_anywhere_shift_nothing(tmp_path, engine):
    run = make_run(tmp_path / "frames.h5", lost_in_file=(5, 6, 40), lost_in_detector=(20, 21, 90))
    image = replay(run.documents, engine, PROBE, FACE.bad_pixels)

    kept = np.setdiff1d(np.arange(len(run.frames)), [5, 6, 20, 21, 40, 90])
    np.testing.assert_array_equal(image.trigger_index, kept)
    phase, coverage, _ = as_the_edge(run, engine, kept).final(captured_of(run).positions_um)
    np.testing.assert_array_equal(image.phase, phase)
    np.testing.assert_array_equal(image.coverage, coverage)


def test_what_has_no_trigger_is_withheld_and_counted(tmp_path, engine):
    run = make_run(tmp_path / "frames.h5", lost_in_detector=(50,), clock="ioc")
    with pytest.raises(ValueError, match=r"no frame has a position: run .* the detector lost 1 frame"):
        replay(run.documents, engine, PROBE, FACE.bad_pixels)
    with open_recording(run.documents) as recording:
        half = np.where(np.arange(len(recording.trigger_index)) < 40, np.arange(len(recording.trigger_index)), -1)
        image = replay(replace(recording, trigger_index=half, doubt="a clock stood still"), engine, PROBE)
    assert (image.counts["stitched"], image.counts["unpaired"]) == (40, len(half) - 40)
    assert "a clock stood still" in image.notes[0]


def test_a_frame_without_captured_position_lies_where_it_was_planned(tmp_path, engine):
    run = make_run(tmp_path / "frames.h5", not_captured=(0, 7))
    image = replay(run.documents, engine, PROBE, FACE.bad_pixels)

    assert image.positions_source == "captured, else planned"
    np.testing.assert_allclose(image.positions_um[[0, 7]], run.planned_um[[0, 7]])
    phase, _, _ = as_the_edge(run, engine, range(len(run.frames))).final(captured_of(run, (0, 7)).positions_um)
    np.testing.assert_array_equal(image.phase, phase)


def test_frames_without_beam_in_front_are_left_out(tmp_path, engine):
    run = make_run(tmp_path / "frames.h5", dark=range(2 * engine.max_batch))
    image = replay(run.documents, engine, PROBE, FACE.bad_pixels)
    assert (image.counts["no_beam"], image.counts["stitched"]) == (16, len(run.frames) - 16)


def test_triggers_without_flux_are_left_out(tmp_path, engine):
    run = make_run(tmp_path / "frames.h5", no_flux=(0, 7, 8), dark=(8, 20))
    image = replay(run.documents, engine, PROBE, FACE.bad_pixels)
    kept = np.setdiff1d(np.arange(len(run.frames)), [0, 7, 8, 20])
    np.testing.assert_array_equal(image.trigger_index, kept)
    assert "4 frames had no beam and are not in the image: triggers 0, 7-8, 20" in image.notes
    edge = as_the_edge(run, engine, range(len(run.frames)))
    edge.show(np.isin(np.arange(len(run.frames)), kept))
    phase, coverage, _ = edge.final(captured_of(run).positions_um)
    np.testing.assert_array_equal(image.phase, phase)
    np.testing.assert_array_equal(image.coverage, coverage)
    with open_recording(run.documents) as recording:
        assert scan_from_run(recording.read(), bad_pixels=FACE.bad_pixels).trigger_index.tolist() == kept.tolist()


def test_a_file_of_documents_and_a_scan_give_the_same_image(made, tmp_path, engine):
    image = replay(made.documents, engine, PROBE, FACE.bad_pixels)
    lines = replay(made.write_lines(tmp_path / "run.jsonl"), engine, PROBE, FACE.bad_pixels)
    np.testing.assert_array_equal(lines.phase, image.phase)
    patterns = run_message(made.start).frame_geometry(FACE.bad_pixels).patterns(made.frames)
    scan = ScanData(patterns, made.captured_um / GEOMETRY.pixel_size_um, GEOMETRY.pixel_size_um, GEOMETRY)
    same = replay(scan, engine, PROBE)
    rows, columns = image.phase.shape
    y, x = np.rint((np.array(same.canvas.origin_um) - image.canvas.origin_um) / GEOMETRY.pixel_size_um).astype(int)
    both = same.phase[max(0, -y) : rows - y, max(0, -x) : columns - x]
    assert np.isfinite(both).sum() > 0.9 * np.isfinite(image.phase).sum()
    assert np.nanstd(both) == pytest.approx(np.nanstd(image.phase), rel=0.02)


def test_documents_as_databroker_1_keeps_them_give_the_same_image(made, engine):
    kept = []
    insert = ForDatabroker1(lambda name, doc: kept.append((name, doc)))
    for name, doc in made.documents:
        insert(name, doc)
    assert not [name for name, _ in kept if name.startswith("stream_")]
    events = [doc for name, doc in kept if name == "event"]
    assert [event["seq_num"] for event in events] == [1, 2]
    assert sorted(events[0]["data"]) == ["detector_image", "detector_time_stamp", "detector_unique_id"]

    image = replay(iter(kept), engine, PROBE, FACE.bad_pixels)
    np.testing.assert_array_equal(image.phase, replay(made.documents, engine, PROBE, FACE.bad_pixels).phase)


def test_frames_are_read_in_blocks(made, engine, monkeypatch):
    monkeypatch.setattr("bluesky_ptychonn.core.recorded_run.BLOCK_BYTES", 50 * N * N * 2)
    asked = []

    class Watched:
        def __init__(self, frames):
            self.shape, self.dtype, self._frames = frames.shape, frames.dtype, frames

        def __getitem__(self, rows):
            asked.append((rows.start, rows.stop))
            return self._frames[rows]

    with open_recording(made.documents) as recording:
        replay(replace(recording, frames=Watched(recording.frames)), engine, PROBE)
    assert asked == [(0, 50), (50, 100), (100, 150)]


def edited(run, name, change):
    """Documents of a run, of which each called ``name`` is changed, or left out where that gives None."""
    documents = [(kind, change(dict(doc)) if kind == name else doc) for kind, doc in run.documents]
    return [(kind, doc) for kind, doc in documents if doc is not None]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("start", lambda doc: None, "no start document"),
        ("start", lambda doc: {k: v for k, v in doc.items() if k != "ptycho"}, "no 'ptycho' block"),
        ("start", lambda doc: {**doc, "plan_pattern_args": {**doc["plan_pattern_args"], "order": "x"}}, "its version"),
        ("stream_resource", lambda doc: None, "recorded no frames"),
        ("stream_resource", lambda doc: {**doc, "uri": "file://localhost/gone.h5"}, "where the detector's files are"),
        ("stream_datum", lambda doc: doc if doc["indices"]["start"] else None, "nothing tells of rows 0 to"),
        ("stream_datum", lambda doc: {**doc, "indices": {"start": 0, "stop": 999}}, "999; it is cut short"),
    ],
)
def test_documents_that_cannot_be_replayed_are_refused(made, engine, name, change, message):
    with pytest.raises(ValueError, match=message):
        replay(edited(made, name, change), engine, PROBE)


def test_documents_of_two_runs_are_refused(made, engine):
    with pytest.raises(ValueError, match="documents of two runs"):
        replay(2 * made.documents, engine, PROBE)


def test_another_engine_or_file_is_refused(made, engine, tmp_path):
    with pytest.raises(ValueError, match="crop_px = 64 px, but the engine takes 128 px"):
        replay(made.documents, open_engine("lift"), PROBE)
    with h5py.File(tmp_path / "frames.h5", "r+") as file:
        del file[FRAMES]
        file[FRAMES] = np.zeros((len(made.frames), 32, 32), np.uint16)
    with pytest.raises(ValueError, match=r"announced frames of \(64, 64\) px and recorded \(32, 32\)"):
        replay(made.documents, engine, PROBE)


def test_ids_that_went_back_withhold_everything(made, engine, tmp_path):
    with h5py.File(tmp_path / "frames.h5", "r+") as file:
        file[f"{ATTRIBUTES}/NDArrayUniqueId"][60] = FIRST_ID
    with pytest.raises(ValueError, match="no frame has a position"):
        replay(made.documents, engine, PROBE)

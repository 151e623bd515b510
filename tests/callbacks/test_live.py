import threading
import time

import numpy as np
import pytest
from event_model import compose_run, pack_event_page

from bluesky_ptychonn.callbacks.live import LiveImage
from bluesky_ptychonn.core.request import ScanRequest

REQUEST = ScanRequest(1.0, 1.0, 0.2, 1e-3, 2e-3, 10.0, center_um=(5.0, 6.0), probe_diameter_um=0.6)
FRAME = {
    "distance_m": 0.9,
    "detector_pixel_um": 75.0,
    "frame_shape": [128, 128],
    "crop_px": 128,
    "beam_center_px": [61.0, 66.0],
    "orientation": "identity",
    "image_channel": "X:Image",
    "dropped_channel": "X:Dropped",
    "clock": "detector",
    "first_unique_id": 0,
    "frames_after_s": 12.5,
}
NUMBER = {"dtype": "number", "shape": [], "source": "test"}


class Channels:
    """Stands for the edge: keeps what is put, answers what it is told to."""

    def __init__(self):
        self.puts, self.answers, self.gate = [], {}, threading.Event()
        self.gate.set()

    def __call__(self, name):
        channels = self

        class Channel:
            def put(self, message):
                channels.gate.wait(10)
                channels.puts.append((name, message))

            def get(self):
                if name not in channels.answers:
                    raise TimeoutError(f"{name} does not answer")
                return channels.answers[name]

        return Channel()


@pytest.fixture
def edge():
    return Channels()


def start_document(**changes):
    metadata = REQUEST.as_metadata()
    block = {**FRAME, **metadata["ptycho"], **changes}
    return compose_run(metadata={**metadata, "ptycho": block, "motors": ["sy", "sx"], "scan_id": 7})


def play(callback, *, captured=(0, 1, 2), counters=None, exit_status="success", flux=(), **changes):
    run = start_document(**changes)
    callback("start", run.start_doc)
    keys = dict.fromkeys(("sy", "sx", "trigger_index"), NUMBER)
    positions = run.compose_descriptor(name="positions", data_keys=keys)
    callback("descriptor", positions.descriptor_doc)
    events = [
        positions.compose_event(
            data={"sy": 1.0 + index, "sx": 2.0 + index, "trigger_index": index}, timestamps=dict.fromkeys(keys, 0.0)
        )
        for index in captured
    ]
    if events:
        callback("event_page", pack_event_page(*events))
    if flux:
        keys = dict.fromkeys(("flux", "trigger_index"), NUMBER)
        stream = run.compose_descriptor(name="flux", data_keys=keys)
        callback("descriptor", stream.descriptor_doc)
        rows = [{"flux": value, "trigger_index": index} for index, value in enumerate(flux)]
        events = [stream.compose_event(data=row, timestamps=dict.fromkeys(keys, 0.0)) for row in rows]
        callback("event_page", pack_event_page(*events))
    if counters is not None:
        kinds = {key: {**NUMBER, "dtype": "string" if isinstance(v, str) else "integer"} for key, v in counters.items()}
        bundle = run.compose_descriptor(name="counters", data_keys=kinds)
        callback("descriptor", bundle.descriptor_doc)
        callback("event", bundle.compose_event(data=counters, timestamps=dict.fromkeys(counters, 0.0)))
    callback("stop", run.compose_stop(exit_status=exit_status))
    assert callback.wait(5)
    return run.start_doc


COUNTERS = {"pulses": 3, "triggers_sent": 0, "lost_in_detector": 1, "lost_in_plugin": 2, "outcome": "success"}


def test_one_run_message_and_one_positions_message(edge):
    start = play(LiveImage("e:", open_channel=edge), counters=COUNTERS)
    (run_name, run), (positions_name, positions) = edge.puts
    assert (run_name, positions_name) == ("e:run", "e:positions")
    assert run["run_uid"] == positions["run_uid"] == start["uid"]
    assert run["token"] == positions["token"] != ""
    np.testing.assert_allclose(np.stack([run["y_um"], run["x_um"]], axis=1), REQUEST.positions_um)
    assert run["frames"] == REQUEST.points
    assert run["dwell_s"] == 2e-3
    assert run["frames_after_s"] == 12.5
    np.testing.assert_array_equal(positions["trigger_index"], [0, 1, 2])
    np.testing.assert_array_equal(positions["y_um"], [1.0, 2.0, 3.0])
    assert (positions["triggered"], positions["lost_in_detector"], positions["lost_in_plugin"]) == (3, 1, 2)
    assert positions["exit_status"] == "success"


@pytest.mark.parametrize(("min_flux", "gone"), [(0.0, []), (0.5, [1, 3])])
def test_the_edge_is_told_which_triggers_had_no_flux(edge, min_flux, gone):
    play(LiveImage("e:", open_channel=edge), counters=COUNTERS, flux=(9.0, 1.0, 11.0, 0.0, 10.0), min_flux=min_flux)
    assert edge.puts[1][1]["no_beam_trigger"].tolist() == gone


@pytest.mark.parametrize(("block", "told"), [({}, 0.02), ({"min_counts": 500.0}, 500.0), ({"min_counts": 0.0}, 0.0)])
def test_the_rule_of_the_start_document_reaches_the_edge(edge, block, told):
    play(LiveImage("e:", open_channel=edge), **block)
    assert edge.puts[0][1]["min_counts"] == told


@pytest.mark.parametrize("binning", [1, 4])
def test_the_binning_of_the_start_document_reaches_the_edge(edge, binning):
    play(LiveImage("e:", open_channel=edge), **({"binning": binning} if binning > 1 else {}))
    assert edge.puts[0][1]["binning"] == binning


def test_a_step_scan_has_no_period(edge):
    play(LiveImage("e:", open_channel=edge), counters={**COUNTERS, "triggers_sent": 9}, fly=False)
    assert edge.puts[0][1]["dwell_s"] == 0.0
    assert edge.puts[1][1]["triggered"] == 9


def test_a_run_without_counters_still_ends_at_the_edge(edge):
    play(LiveImage("e:", open_channel=edge), captured=(), exit_status="abort")
    assert [name for name, _ in edge.puts] == ["e:run", "e:positions"]
    assert edge.puts[1][1]["exit_status"] == "abort"
    assert edge.puts[1][1]["triggered"] == -1


def test_a_run_that_never_ended_gives_way_to_the_next_of_the_same_callback_only(edge):
    mine, theirs = LiveImage("e:", open_channel=edge), LiveImage("e:", open_channel=edge)
    for live in (mine, mine, theirs):
        live("start", start_document().start_doc)
        assert live.wait(5)
    tokens = [message["token"] for _, message in edge.puts]
    assert tokens[0] == tokens[1] != tokens[2]


def test_other_runs_are_none_of_its_business(edge):
    callback = LiveImage("e:", open_channel=edge)
    run = compose_run(metadata={"plan_name": "count"})
    callback("start", run.start_doc)
    callback("stop", run.compose_stop())
    assert callback.wait(5)
    assert edge.puts == []


def test_an_edge_that_hangs_delays_no_document(edge):
    edge.gate.clear()
    callback = LiveImage("e:", open_channel=edge)
    run = start_document()
    began = time.monotonic()
    callback("start", run.start_doc)
    callback("stop", run.compose_stop())
    assert time.monotonic() - began < 0.5
    edge.gate.set()
    assert callback.wait(5)


@pytest.mark.production_callbacks
def test_a_torn_start_document_stops_no_scan(edge):
    callback = LiveImage("e:", open_channel=edge)
    run = compose_run(metadata={"ptycho": {}})
    callback("start", run.start_doc)
    callback("stop", run.compose_stop())
    assert edge.puts == []


def ntndarray(image, **attributes):
    return {
        "value": ({"floatValue": image.ravel()},),
        "dimension": [{"size": size} for size in image.shape[::-1]],
        "attribute": [{"name": name, "value": ({"value": value},)} for name, value in attributes.items()],
    }


def test_the_final_image_is_kept_as_a_picture(edge, tmp_path, rng):
    callback = LiveImage("e:", tmp_path / "pictures", open_channel=edge)
    run = start_document()
    edge.answers["e:stats"] = {"final_uid": run.start_doc["uid"], "frames_stitched": 3}
    image = rng.normal(size=(40, 50)).astype(np.float32)
    edge.answers["e:final"] = ntndarray(image, run_uid=run.start_doc["uid"], pixel_size_um=0.01)
    callback("start", run.start_doc)
    callback("stop", run.compose_stop())
    assert callback.wait(20)
    (picture,) = (tmp_path / "pictures").iterdir()
    assert picture.name == f"00007_{run.start_doc['uid'][:8]}.png"
    assert picture.read_bytes().startswith(b"\x89PNG")

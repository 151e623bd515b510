"""Positions of a flight: what streams meanwhile is what would have come at the end."""

import numpy as np
import pytest
from ophyd.sim import make_fake_device

from bluesky_ptychonn.core.request import ScanRequest
from bluesky_ptychonn.devices.position_source import CapturedPositions
from bluesky_ptychonn.devices.stage import SpiralStage
from bluesky_ptychonn.devices.stage_pvs import PositionTable

REQUEST = ScanRequest(1.0, 1.0, 0.1, 1e-3, 2e-3, 10.0, probe_diameter_um=0.5)


class Growing:
    """A source that has as many rows as one says."""

    columns = ()

    def __init__(self, rows_um, streams):
        self.rows_um, self.streams, self.count = rows_um, streams, 0

    def so_far(self):
        return self.rows_um[: self.count]


@pytest.fixture
def latched_um(rng):
    return REQUEST.positions_um + rng.normal(0, 0.002, REQUEST.positions_um.shape)


def flown_stage(source):
    stage = make_fake_device(SpiralStage)("X:", name="stage")
    stage._source, stage._request = source, REQUEST
    return stage


def rows_of(pages):
    return np.concatenate(
        [np.stack([page["data"][key] for key in ("stage_y", "stage_x", "trigger_index")], axis=1) for page in pages]
    )


def test_streamed_positions_are_those_of_the_end_each_once(latched_um):
    at_end = Growing(latched_um, streams=False)
    still = flown_stage(at_end)
    at_end.count = len(latched_um)
    assert list(still.collect_pages()) == []  # a source that does not stream says nothing before the end
    still._flown = True
    expected = rows_of(still.collect_pages())

    growing = Growing(latched_um, streams=True)
    stage, pages = flown_stage(growing), []
    for growing.count in (0, 1, 1, 30, 31, 90, len(latched_um)):
        pages += stage.collect_pages()
    assert sum(len(page["time"]) for page in pages) == len(latched_um) - 1  # the last waits for its successor
    stage._flown = True
    pages += stage.collect_pages()
    assert list(stage.collect_pages()) == []

    streamed = rows_of(pages)
    np.testing.assert_array_equal(streamed[:, 2], np.arange(len(latched_um)))
    assert np.abs(streamed[:, :2] - expected[:, :2]).max() < 0.003
    assert np.all(np.diff(np.concatenate([page["time"] for page in pages])) > 0)


def test_a_row_counts_when_both_columns_have_it():
    table = make_fake_device(PositionTable)("X:", name="table")
    source = CapturedPositions(table)
    source._most = 3
    for signal, value in ((table.y, [1.0, 2.0, 3.0, 4.0]), (table.x, [5.0, 6.0, 7.0]), (table.captured, 2)):
        signal.sim_put(np.array(value))
    assert source.so_far().tolist() == [[1.0, 5.0], [2.0, 6.0]]
    table.captured.sim_put(9)
    assert len(source.so_far()) == 3  # of an earlier flight, or more than was asked for


def test_missing_rows_are_told(monkeypatch):
    monkeypatch.setattr("bluesky_ptychonn.devices.position_source.LAST_ROWS_S", 0.0)
    table = make_fake_device(PositionTable)("X:", name="table")
    table.captured.sim_put(4)
    assert "4 after 5 triggers" in CapturedPositions(table).finish(None, 5)
    assert CapturedPositions(table).finish(None, 4) == ""

import numpy as np
import pytest

from bluesky_ptychonn.core.placement import Placement
from bluesky_ptychonn.core.stitch import Canvas
from bluesky_ptychonn.io.edge_channels import RunMessage, blank, pva_structure
from bluesky_ptychonn.io.pva_values import fill
from bluesky_ptychonn.io.share_channels import REPORT, TASK, Task

MESSAGE = RunMessage(
    "uid", "image", 3, [0.0, 1.0, 2.0], [3.0, 4.0, 5.0], 10.0, 0.9, 75.0, 0.001, 0.002, (16, 20), 16, (8.0, 9.0),
    token="secret", orientation="flip_y", first_unique_id=7, clock="detector",
)  # fmt: skip
PROBE = (np.arange(16) + 1j).astype(np.complex64).reshape(4, 4)
OUT = np.array([2, 1]), np.array([8, 9]), np.array([0.5, 0.25])
TASKS = {
    "idle": Task(),
    "run": Task("run", MESSAGE, PROBE, None, False, Placement(7, 3)),
    "end": Task("end", MESSAGE, PROBE, 2 * PROBE, True, Placement(7, 3, np.array([8]), np.array([1]), 9), OUT),
    "final": Task(
        "final",
        MESSAGE,
        PROBE,
        PROBE,
        True,
        Placement(7, 3),
        OUT,
        MESSAGE.positions_um + 1,
        Canvas((5, 6), (1, 2), 0.5),
    ),
}


@pytest.mark.parametrize("phase", TASKS)
def test_a_task_comes_through_pva_as_it_was(phase):
    pvaccess = pytest.importorskip("pvaccess")
    structure = pva_structure(TASK)
    sent = TASKS[phase]
    came = Task.of_values(fill(pvaccess.PvObject(structure), structure, sent.as_values()).toDict())
    assert (came.phase, came.run_uid, came.probe_settled) == (sent.phase, sent.run_uid, sent.probe_settled)
    assert (came.placement, came.canvas) == (sent.placement, sent.canvas)
    for name in ("unit_probe", "probe", "final_um"):
        np.testing.assert_equal(getattr(came, name), getattr(sent, name))
    assert [part.tolist() for part in came.left_out] == [part.tolist() for part in sent.left_out]
    if sent.message is not None and came.message is not None:
        assert came.message.token == ""  # who may replace a run is no concern of the consumers
        assert came.message.positions_um.tolist() == sent.message.positions_um.tolist()
        assert (came.message.frame_shape, came.message.orientation) == ((16, 20), "flip_y")
        assert came.left_out_of(2) == ({(8, 0.5)} if len(sent.left_out[0]) else set())


def test_a_task_is_told_again_only_if_something_has_changed():
    sent = TASKS["end"]
    same = Task(sent.phase, sent.message, sent.unit_probe, sent.probe.copy(), True, sent.placement, sent.left_out)
    assert same.same_as(sent)
    assert Task().same_as(Task())
    for other in ("idle", "run", "final"):
        assert not sent.same_as(TASKS[other])
    assert not Task("end", MESSAGE, PROBE, PROBE, True, sent.placement, sent.left_out).same_as(sent)


def test_a_blank_report_fits_its_structure():
    pvaccess = pytest.importorskip("pvaccess")
    structure = pva_structure(REPORT)
    assert fill(pvaccess.PvObject(structure), structure, blank(REPORT)).toDict()["state"] == ""

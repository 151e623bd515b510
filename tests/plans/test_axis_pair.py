"""Two movables as a stage, down to a step scan with them."""

import numpy as np
import pytest
from bluesky import RunEngine
from fakes import FakeDetector
from ophyd.sim import SynAxis
from ophyd.status import Status

from bluesky_ptychonn.core.request import ScanRequest
from bluesky_ptychonn.devices.axis_pair import AxisPair
from bluesky_ptychonn.plans.spiral import spiral_ptycho_scan

STEP = ScanRequest(1.0, 1.0, 0.1, 1e-3, 2e-3, 10.0, probe_diameter_um=0.5, fly=False)
WIDE = ((-5.0, 5.0), (-5.0, 5.0))


class Axis(SynAxis):
    def __init__(self, name, egu="um", limits=None):
        super().__init__(name=name)
        self.egu, self.limits, self.visited, self.broken = egu, limits, [], False

    def set(self, value):
        self.visited.append(value)
        if self.broken:
            status = Status()
            status.set_exception(RuntimeError(f"{self.name} is stuck"))
            return status
        return super().set(value)


@pytest.fixture
def axes():
    return Axis("y", "mm"), Axis("x")


@pytest.mark.parametrize("limits_um", [None, WIDE])
def test_limits_come_from_the_axes_or_from_the_user(axes, limits_um):
    pair = AxisPair(*axes, name="stage", limits_um=limits_um)
    if limits_um is None:
        assert [problem.split()[0] for problem in pair.check(STEP)] == ["y", "x"]
        assert "give AxisPair limits_um=" in pair.check(STEP)[0]
        axes[0].limits, axes[1].limits = (-0.005, 0.005), (-5.0, 5.0)  # y moves in mm
    assert pair.check(STEP) == []


def test_a_field_beyond_the_limits_and_flying_are_refused(axes):
    pair = AxisPair(*axes, name="stage", limits_um=((-5, 5), (-5, 0.2)))
    (problem,) = pair.check(STEP)
    assert "x would travel" in problem
    assert "allowed is -5 to 0.2 um" in problem
    flown = ScanRequest(1.0, 1.0, 0.1, 1e-3, 2e-3, 10.0, probe_diameter_um=0.5)
    assert "use fly=False" in AxisPair(*axes, name="stage", limits_um=WIDE).check(flown)[0]


def test_units_that_are_no_lengths_are_refused(axes):
    axes[1].egu = "deg"
    with pytest.raises(ValueError, match="x of stage moves in 'deg'"):
        AxisPair(*axes, name="stage").set((0.0, 0.0))
    with pytest.raises(ValueError, match="the same axis"):
        AxisPair(axes[0], axes[0], name="stage")


def test_positions_are_um_whatever_the_axes_move_in(axes):
    pair = AxisPair(*axes, name="stage", limits_um=WIDE)
    pair.set((1.5, -2.0)).wait(1)
    assert (axes[0].visited, axes[1].visited) == ([0.0015], [-2.0])
    assert pair.locate()["setpoint"] == pytest.approx((1.5, -2.0))
    assert pair.read()["y"]["value"] == pytest.approx(1.5)
    assert pair.describe()["y"]["units"] == "um"


def test_what_one_axis_refuses_moves_neither(axes):
    def refuse(value):
        raise ValueError(f"{value} is outside")

    axes[1].check_value = refuse
    with pytest.raises(ValueError, match="is outside"):
        AxisPair(*axes, name="stage", limits_um=WIDE).set((1.0, 2.0))
    assert axes[0].visited == []


@pytest.fixture
def RE():
    return RunEngine(context_managers=[])


def scan(RE, pair, **what):
    docs = []
    arguments = {"width_um": 0.5, "step_um": 0.1, "exposure_s": 1e-3, "fly": False, **what}
    RE(spiral_ptycho_scan(FakeDetector([]), pair, **arguments), lambda name, doc: docs.append((name, doc)))
    return docs


def test_a_step_scan_visits_every_position_and_comes_back(RE, axes):
    pair = AxisPair(*axes, name="stage", limits_um=WIDE)
    pair.set((1.0, 2.0)).wait(1)
    docs = scan(RE, pair)
    planned = ScanRequest(0.5, 0.5, 0.1, 1e-3, 2e-3, 10.0, center_um=(1.0, 2.0), probe_diameter_um=0.5).positions_um
    start = next(doc for name, doc in docs if name == "start")
    assert start["motors"] == ["y", "x"]
    data = [doc["data"] for name, doc in docs if name == "event" and "trigger_index" in doc["data"]]
    np.testing.assert_allclose([(point["y"], point["x"]) for point in data], planned, atol=1e-9)
    assert [point["trigger_index"] for point in data] == list(range(len(planned)))
    assert next(doc for name, doc in docs if name == "stop")["exit_status"] == "success"
    assert pair.locate()["readback"] == pytest.approx((1.0, 2.0))


def test_a_stuck_axis_ends_the_scan_and_says_so(RE, axes):
    pair = AxisPair(*axes, name="stage", limits_um=WIDE)
    axes[0].broken = True
    with pytest.raises(RuntimeError, match="y is stuck"):
        scan(RE, pair)


def test_nothing_is_done_where_the_pair_would_have_to_fly(RE, axes):
    with pytest.raises(ValueError, match="cannot fly; use fly=False"):
        scan(RE, AxisPair(*axes, name="stage", limits_um=WIDE), fly=True)
    assert axes[0].visited == axes[1].visited == []


def test_axes_that_must_be_awaited_will_do(RE):
    class Later(Axis):
        async def read(self):
            return super().read()

        async def describe(self):
            return super().describe()

    docs = scan(RE, AxisPair(Later("y"), Later("x"), name="stage", limits_um=WIDE))
    assert next(doc for name, doc in docs if name == "stop")["num_events"]["positions"] > 20

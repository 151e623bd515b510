import numpy as np
import pytest

from bluesky_ptychonn.core.request import ScanRequest, refuse_if_impossible, step_from
from bluesky_ptychonn.core.scan import positions_from_recipe

GOOD = {
    "width_um": 2.0,
    "height_um": 1.5,
    "step_um": 0.1,
    "exposure_s": 1e-3,
    "dwell_s": 2e-3,
    "energy_kev": 10.0,
    "center_um": (3.0, -4.0),
    "probe_diameter_um": 0.5,
}


def test_the_recipe_gives_the_positions_back():
    request = ScanRequest(**GOOD)
    np.testing.assert_array_equal(positions_from_recipe(request.as_metadata()), request.positions_um)
    assert request.as_metadata()["num_points"] == request.points == len(request.positions_um)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("width_um", 0.0),
        ("height_um", float("nan")),
        ("step_um", -0.1),
        ("step_um", "0.1"),
        ("exposure_s", 0.0),
        ("dwell_s", 5e-4),
        ("energy_kev", 10_000.0),
        ("settle_s", -1.0),
        ("probe_diameter_um", 0.0),
        ("center_um", (0.0, float("inf"))),
        ("step_um", 5.0),
    ],
)
def test_a_bad_value_is_named(name, value):
    with pytest.raises(ValueError, match=name):
        ScanRequest(**{**GOOD, name: value})


@pytest.mark.parametrize(("step_um", "overlap_ratio"), [(None, None), (0.1, 0.5)])
def test_exactly_one_of_step_and_overlap(step_um, overlap_ratio):
    with pytest.raises(ValueError, match="exactly one"):
        step_from(step_um, overlap_ratio, 0.4)


@pytest.mark.parametrize("overlap_ratio", [1.0, -0.1, 75, "0.5"])
def test_an_overlap_is_a_ratio(overlap_ratio):
    with pytest.raises(ValueError, match="overlap_ratio"):
        step_from(None, overlap_ratio, 0.4)


def test_step_and_overlap_agree():
    step_um = step_from(None, 0.75, GOOD["probe_diameter_um"])
    assert ScanRequest(**{**GOOD, "step_um": step_um}).overlap_ratio == pytest.approx(0.75)


def test_every_problem_of_every_device_is_told():
    class Grumbler:
        def __init__(self, name, problems):
            self.name, self.problems = name, problems

        def check(self, request):
            return self.problems

        def ptycho_block(self):
            return {}

    refuse_if_impossible(ScanRequest(**GOOD), Grumbler("fine", []))
    with pytest.raises(ValueError, match=r"(?s)stage: too far.*stage: too fast.*camera: broken"):
        refuse_if_impossible(
            ScanRequest(**GOOD), Grumbler("stage", ["too far", "too fast"]), Grumbler("camera", ["broken"])
        )

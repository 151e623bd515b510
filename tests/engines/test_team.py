import numpy as np
import pytest

from bluesky_ptychonn.core.optics import Geometry, intensities, with_counts, zone_plate_probe
from bluesky_ptychonn.engines.registry import open_engine
from bluesky_ptychonn.engines.team import Team, open_team

PROBE = with_counts(zone_plate_probe(Geometry()), 1e5)


@pytest.fixture(scope="module")
def patterns():
    rng = np.random.default_rng(1)
    object_ = np.exp(0.3j * rng.normal(size=(160, 160)))
    return rng.poisson(intensities(object_, PROBE, rng.uniform(70, 90, (24, 2)))).astype(np.uint16)


@pytest.mark.parametrize("frames", [1, 8, 9, 21, 24])
def test_a_team_gives_the_patches_of_one_engine(patterns, frames):
    one, team = open_engine("openvino"), Team([open_engine("openvino") for _ in range(3)])
    one.set_probe(PROBE)
    team.set_probe(PROBE)
    alone = np.concatenate([one.infer(patterns[first : first + 8][: frames - first]) for first in range(0, frames, 8)])
    np.testing.assert_array_equal(team.infer(patterns[:frames]), alone)


def test_a_team_takes_no_more_than_it_can(patterns):
    team = Team([open_engine("lift", max_batch=2) for _ in range(2)])
    team.set_probe(PROBE)
    with pytest.raises(ValueError, match="takes 1 to 4"):
        team.infer(patterns[:5])


def test_a_team_has_an_engine_for_each_core(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2})
    assert open_team("lift").max_batch == 24
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})
    assert open_team("lift").max_batch == 8

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bluesky_ptychonn.core.scan import fermat_spiral, positions_from_recipe, short_route

lengths = st.floats(0.2, 4.0)


def steps(route):
    return np.hypot(*np.diff(route, axis=0).T)


@settings(max_examples=40, deadline=None)
@given(width=lengths, height=lengths, points=st.integers(12, 500))
def test_no_step_is_longer_than_twice_the_spacing(width, height, points):
    if min(width, height) * np.sqrt(points) < 3 * np.sqrt(width * height):
        return  # fewer than three points across: a line, not a field
    step = np.sqrt(width * height / points)
    route = fermat_spiral(width, height, step)
    assert steps(route).max() <= 2 * step


@settings(max_examples=40, deadline=None)
@given(points=st.integers(0, 60), seed=st.integers(0, 99))
def test_a_route_visits_each_point_once(points, seed):
    scattered = np.random.default_rng(seed).normal(size=(points, 2))
    assert sorted(short_route(scattered)) == list(range(points))


def test_route_is_shorter_than_the_golden_angle_order_by_far():
    route = fermat_spiral(2.74, 2.74, 0.09)
    golden = route[np.argsort(np.hypot(*route.T))]
    assert steps(route).sum() < 0.1 * steps(golden).sum()


def test_spacing_is_the_square_root_of_the_area_per_point():
    assert len(fermat_spiral(3.0, 2.0, 0.05)) == pytest.approx(6 / 0.05**2, rel=0.01)


def test_our_route_is_at_least_as_even_as_the_beamlines_own(real_data):
    real = np.load(real_data / "route_26id_963.npz")["positions_um"]
    ours = real[short_route(real)]
    assert steps(ours).max() <= steps(real).max()
    assert steps(ours).sum() <= steps(real).sum()


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_a_length_that_is_none_is_refused(value):
    with pytest.raises(ValueError, match=r"step_um = .* positive"):
        fermat_spiral(1.0, 1.0, value)


def test_recipe_gives_absolute_positions():
    recipe = {"width_um": 1.0, "height_um": 0.5, "step_um": 0.1, "order": "short-route-1"}
    start = {"plan_pattern_args": recipe, "ptycho": {"center_um": [10.0, -5.0]}}
    np.testing.assert_array_equal(positions_from_recipe(start), fermat_spiral(1.0, 0.5, 0.1) + [10.0, -5.0])
    start["plan_pattern_args"] = {**recipe, "order": "other-2"}
    with pytest.raises(ValueError, match="other-2"):
        positions_from_recipe(start)

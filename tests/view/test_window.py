import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bluesky_ptychonn.io.edge_channels import STATS, blank
from bluesky_ptychonn.view import window
from bluesky_ptychonn.view.window import NoDisplayError, Picture, account_lines

STATS_NOW = blank(STATS) | {
    "state": "running",
    "run_uid": "0123456789",
    "frames_planned": 100,
    "frames_stitched": 40,
    "frames_lost_detector": 2,
    "frames_lost_plugin": -1,
    "pairing": "ok",
    "account": "open",
}
EMPTY = np.empty((0, 0), np.float32)


def drawn(*given):
    figure = Figure(figsize=(12, 6.4))
    FigureCanvasAgg(figure)
    picture = Picture(figure)
    picture.update(*given)
    figure.canvas.draw()
    return picture


def test_uncovered_area_is_blank_and_the_scale_comes_from_the_covered_one(rng):
    phase = rng.normal(scale=0.1, size=(40, 50)).astype(np.float32)
    coverage = np.zeros((40, 50), np.float32)
    coverage[10:30, 10:40] = 5
    phase[coverage == 0] = 1000  # must not count
    about = {"pixel_size_um": 0.1, "origin_y_um": -2.0, "origin_x_um": 1.0}
    picture = drawn(STATS_NOW, phase, coverage, about, True)
    shown = picture._phase.get_array()
    assert np.ma.getmaskarray(shown).sum() + np.isnan(np.ma.getdata(shown)).sum() >= 40 * 50 - 20 * 30
    low, high = picture._phase.get_clim()
    assert -1 < low < 0 < high < 1
    assert picture._phase.get_extent() == pytest.approx([0.95, 5.95, 1.95, -2.05])


@pytest.mark.parametrize("stats", [{}, blank(STATS), STATS_NOW])
@pytest.mark.parametrize("answers", [True, False])
def test_it_draws_before_there_is_anything_to_draw(stats, answers):
    picture = drawn(stats, EMPTY, EMPTY, {}, answers)
    assert picture._note.get_text() == ("waiting for a scan" if answers else "the edge does not answer")


def test_losses_doubts_and_wrong_accounts_are_told():
    rows, warning = account_lines(STATS_NOW | {"pairing": "doubtful: ids", "account": "wrong; 1 unaccounted for"})
    assert dict(rows)["lost"] == "2 (2 detector)"
    assert "doubtful: ids" in warning
    assert "unaccounted" in warning
    assert account_lines(STATS_NOW)[1] == ""


def test_without_a_display_it_says_what_to_do(monkeypatch):
    from matplotlib import pyplot

    pyplot.switch_backend("agg")
    with pytest.raises(NoDisplayError, match="--save"):
        window.show("nowhere:")
    pyplot.close("all")

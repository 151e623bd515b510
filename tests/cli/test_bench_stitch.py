"""`bench stitch`: figures of every way, and what is refused."""

import json

import pytest

from bluesky_ptychonn.cli.main import main


def test_figures_of_all_ways(tmp_path):
    file = tmp_path / "stitch.json"
    assert main(["bench", "stitch", "--size", "16", "--field", "1", "--runs", "5", "--json", str(file)]) == 0
    report = json.loads(file.read_text())
    assert report["command"] == "bench stitch"
    assert report["results"][0]["method"].startswith("edge")
    assert len(report["results"]) == 4
    for result in report["results"]:
        assert result["us_per_frame_median"] > 0
        assert result["fps"] == pytest.approx(1e6 / result["us_per_frame_mean"], rel=0.01)


@pytest.mark.parametrize("wrong", [("--size", "1"), ("--field", "0"), ("--batch", "0"), ("--runs", "1")])
def test_what_cannot_be_is_refused(wrong, capsys):
    assert main(["bench", "stitch", *wrong]) != 0
    assert "allowed is" in capsys.readouterr().err

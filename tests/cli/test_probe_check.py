"""What the command does with a result; how it is found is tested with the simulated beamline (soak)."""

import json
import re
from dataclasses import asdict, replace

import numpy as np
import pytest

from bluesky_ptychonn.cli.edge import settings_probe
from bluesky_ptychonn.cli.main import main
from bluesky_ptychonn.cli.probe_check_result import MASK, PROBE, RESULT, FoundValues, Result, read_result
from bluesky_ptychonn.config import load_settings
from bluesky_ptychonn.core.optics import Geometry, zone_plate_probe

FOUND = FoundValues(
    beam_center_px=(52.25, 75.5),
    beam_center_margin_px=0.1,
    bad_pixels=2,
    missing=0,
    dead=1,
    hot=1,
    judged=0.5,
    orientation="rot90",
    orientation_margin=2.0,
    twin_margin=1.5,
    defocus_um=221.04,
    defocus_margin_um=0.2,
    astigmatism_um=20.0,
    astigmatism_margin_um=0.3,
    astigmatism_angle_rad=0.5,
    astigmatism_angle_margin_rad=0.01,
    coherence=0.99,
)
BEFORE = {
    "beam_center_px": [64.0, 64.0],
    "orientation": "identity",
    "bad_pixels": None,
    "defocus_um": 170.0,
    "astigmatism_um": 0.0,
    "astigmatism_angle_rad": 0.0,
}
RESULT_OF_RUN = Result("0a1b2c3d", "0a1b2c3d-0000", FOUND, BEFORE, "trusted: it fits", ())
SETTINGS = """\
# of the beamline's staff
[geometry]
beam_center_px = [64.0, 64.0]  # a guess

[probe]
defocus_um = 170.0
"""


@pytest.fixture
def folder(tmp_path):
    """A result beside a settings file."""
    (tmp_path / "settings.toml").write_text(SETTINGS)
    folder = tmp_path / "probe_checks" / RESULT_OF_RUN.name
    folder.mkdir(parents=True)
    mask = np.zeros((128, 128), bool)
    mask[3, 4] = mask[70, 80] = True
    np.save(folder / MASK, mask)
    np.save(folder / PROBE, zone_plate_probe(Geometry(), defocus_um=221.04))
    (folder / RESULT).write_text(json.dumps(asdict(RESULT_OF_RUN)))
    return folder


def check(folder, *options):
    return main(["probe-check", str(folder), "--settings", str(folder.parents[1] / "settings.toml"), *options])


def test_a_result_is_read_back_and_shown_beside_the_settings(folder, capsys):
    assert read_result(folder) == RESULT_OF_RUN
    assert check(folder) == 0
    told = capsys.readouterr().out.splitlines()
    (center,) = (line for line in told if line.startswith("beam centre"))
    assert re.split(r"\s{2,}", center)[1:] == ["52.25, 75.50 px", "64.00, 64.00 px", "± 0.10 px", "0.5 px"]
    assert (folder.parents[1] / "settings.toml").read_text() == SETTINGS  # nobody has confirmed


def test_what_is_written_are_settings_that_hold_and_comments_stay(folder, capsys):
    before = np.zeros((128, 128), bool)
    before[9, 9] = True
    np.save(folder.parents[1] / "bad_pixels.npy", before)
    path = folder.parents[1] / "settings.toml"
    path.write_text(path.read_text().replace("# a guess", '# a guess\nbad_pixels_file = "bad_pixels.npy"'))
    assert check(folder, "--write") == 0
    settings = load_settings(path)
    assert settings.geometry.beam_center_px == (52.25, 75.5)
    assert settings.geometry.orientation == "rot90"
    assert np.argwhere(np.load(settings.geometry.bad_pixels_file)).tolist() == [[3, 4], [9, 9], [70, 80]]
    assert settings.probe.defocus_um == 221.0
    np.testing.assert_array_equal(settings_probe(settings), np.load(folder / PROBE))
    assert "# of the beamline's staff" in path.read_text()
    assert "# a guess" in path.read_text()
    assert "names no model store; the edge uses the probe of the settings" in capsys.readouterr().out


@pytest.mark.parametrize(("answer", "written"), [("y", True), ("n", False), ("", False)])
def test_on_a_terminal_it_asks(folder, monkeypatch, answer, written):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    asked = []
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or answer)
    assert check(folder) == 0
    assert "[y/N]" in asked[0]
    assert (load_settings(folder.parents[1] / "settings.toml").geometry.orientation == "rot90") == written


def test_what_is_not_believed_is_not_written(folder, capsys):
    doubtful = replace(RESULT_OF_RUN, problems=("the orientation is not decided",))
    (folder / RESULT).write_text(json.dumps(asdict(doubtful)))
    assert check(folder, "--write") == 1
    assert "NOT BELIEVED, nothing is written:\n  the orientation is not decided" in capsys.readouterr().out
    assert (folder.parents[1] / "settings.toml").read_text() == SETTINGS


def test_a_harmed_result_is_told(folder, capsys):
    (folder / RESULT).write_text("{")
    assert check(folder, "--write") == 1
    assert "check the scan again" in capsys.readouterr().err


def test_the_probe_of_the_settings_is_a_file_or_that_of_the_optics(tmp_path, capsys):
    path = tmp_path / "settings.toml"
    path.write_text("[probe]\ndefocus_um = 100.0\nastigmatism_um = 5.0\noutermost_zone_nm = 40.0\n")
    optics = zone_plate_probe(Geometry(), defocus_um=100.0, astigmatism_um=5.0, outermost_zone_nm=40.0)
    np.testing.assert_array_equal(settings_probe(load_settings(path)), optics)
    np.save(tmp_path / "probe.npy", 2 * optics)
    path.write_text('[probe]\nfile = "probe.npy"\ndefocus_um = 30.0\n')
    np.testing.assert_array_equal(settings_probe(load_settings(path)), 2 * optics)
    path.write_text("")
    assert main(["edge", "--settings", str(path)]) == 1
    assert "the settings name no probe; set probe.file" in capsys.readouterr().err

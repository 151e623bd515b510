"""The command `reconstruct`, from a file or a run to a file that others open."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import h5py
import numpy as np
import pytest
from reconstruct_scan import FIELD, KNOWN, PIXEL_UM, QUICK

from bluesky_ptychonn.cli.reconstruct import combined
from bluesky_ptychonn.core.frames import ORIENTATIONS
from bluesky_ptychonn.core.metrics import compare_phase
from bluesky_ptychonn.core.reconstruction import RetrievalReport
from bluesky_ptychonn.io.reconstruction_files import read_reconstruction
from bluesky_ptychonn.training.retrieval.orientation import Orientation

REPORT = RetrievalReport(True, "it fits", 0.01, 0.011, 0.3, 0.009, 0.4, 14.5, 0.95, 0.8, 1e6)


@pytest.fixture
def judged(monkeypatch):
    """Replace the judge, which takes its time; gives what it was asked and can be told what to answer."""
    state = SimpleNamespace(report=REPORT, asked=[])

    def judge(scan, reconstruction, *, on_step=None, **asked):
        state.asked.append(asked)
        on_step("two halves")
        if isinstance(state.report, BaseException):
            raise state.report
        return replace(reconstruction, report=state.report)

    module = ModuleType("report")
    module.judge = judge
    monkeypatch.setitem(sys.modules, "bluesky_ptychonn.training.retrieval.report", module)
    return state


@pytest.fixture
def orientation(monkeypatch):
    """Replace the search for the orientation, which takes its time; gives what it shall find."""
    errors = {"identity": 0.04, "flip_x": 0.01, "transpose": 0.05, "rot90": 0.06}
    found = Orientation("flip_x", 4.0, errors, 4.0, "decided", 1.2)
    state = SimpleNamespace(found=found)
    monkeypatch.setattr(
        "bluesky_ptychonn.training.retrieval.orientation.find_orientation", lambda *_, **__: state.found
    )
    return state


SAME = {"identity": 0.01, "flip_x": 0.04, "transpose": 0.05, "rot90": 0.06}


def test_the_object_comes_out_with_figures_and_picture(command, judged, simulated, tmp_path, capsys):
    assert command("--json", "figures.json", "--sweeps", 40) == 0

    result = read_reconstruction(tmp_path / "scan_reconstruction.cxi")
    top, left = (int(part) for part in result.origin_px)
    truth = simulated[1][top:, left:][: result.object_.shape[0], : result.object_.shape[1]]
    turned = result.object_ * np.exp(-1j * np.angle(np.sum((result.object_ * truth.conj())[FIELD, FIELD])))
    assert compare_phase(np.angle(turned), np.angle(truth), data_range=0.6, region=(FIELD, FIELD)).ssim > 0.85
    assert result.report == REPORT
    assert (result.settings["orientation"], result.settings["probe_start"]) == ("identity", "of the source")
    with h5py.File(tmp_path / "scan_reconstruction.cxi") as file:  # as other programs open it
        assert file["entry_1/image_2/data"].shape == result.object_.shape
    assert (tmp_path / "scan_reconstruction.png").read_bytes().startswith(b"\x89PNG")
    assert judged.asked == [{"trusted_probe": True}]

    told = capsys.readouterr()
    assert "verdict: TRUSTED: it fits" in told.out
    assert re.search(r"error 0.0\d+, held out 0.0\d+, .* s/sweep", told.err)
    written = json.loads((tmp_path / "figures.json").read_text())
    assert (written["command"], written["conditions"]["source"]) == ("reconstruct", "scan.npz")
    figures = written["results"][0]
    assert figures["points"] == len(simulated[0]["patterns"])
    assert (figures["method"], figures["sweeps"], figures["modes"]) == ("poisson", 40, 1)
    assert (figures["verdict"], figures["reason"], figures["frc_nm"]) == ("trusted", "it fits", 14.5)
    assert figures["pixel_size_nm"] == pytest.approx(1e3 * PIXEL_UM)
    assert 0 < figures["seconds_per_sweep"] < figures["seconds_total"]


def test_what_is_not_trusted_is_written_and_said(command, judged, tmp_path, capsys):
    judged.report = replace(REPORT, trusted=False, reason="the energy is wrong")
    assert command("--sweeps", 2, "--untrusted-probe") == 0
    told = capsys.readouterr().out
    assert "verdict: NOT TRUSTED: the energy is wrong" in told
    assert "do not take it for the truth" in told
    assert read_reconstruction(tmp_path / "scan_reconstruction.cxi").report == judged.report
    assert judged.asked == [{"trusted_probe": False}]


def test_a_wrong_orientation_is_named_as_an_option(command, judged, capsys):
    judged.report = replace(REPORT, trusted=False, orientation="flip_x", orientation_gain=2.0)
    assert command("--sweeps", 2, "--orientation", "rot180") == 0
    assert "try --orientation flip_y\n" in capsys.readouterr().out


def test_pixels_alone_and_no_frames_held_out(command, simulated, tmp_path):
    nothing = dict.fromkeys(("positions_um", *KNOWN))
    positions_px = simulated[0]["positions_um"] / PIXEL_UM
    assert command(*QUICK, "--holdout", 0, "--json", "f.json", positions_px=positions_px, **nothing) == 0
    assert read_reconstruction(tmp_path / "scan_reconstruction.cxi").pixel_size_um is None
    figures = json.loads((tmp_path / "f.json").read_text())["results"][0]
    assert (figures["pixel_size_nm"], figures["error_heldout"], figures["verdict"]) == (None, None, None)
    assert figures["error"] > 0


@pytest.fixture
def interrupted(monkeypatch):
    """Ctrl-C after the third sweep."""
    from bluesky_ptychonn.cli.sweeps_bar import SweepsBar

    show = SweepsBar.show

    def interrupting(bar, sweep):
        show(bar, sweep)
        if sweep.number == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(SweepsBar, "show", interrupting)


@pytest.mark.parametrize("holdout", [20, 0])
def test_ctrl_c_keeps_the_best_so_far(command, judged, interrupted, holdout, tmp_path, capsys):
    assert command("--json", "f.json", "--holdout", holdout) == 130
    told = capsys.readouterr().out
    result = read_reconstruction(tmp_path / "scan_reconstruction.cxi")
    assert (len(result.errors), result.report, judged.asked) == (3, None, [])
    errors = result.errors_heldout if holdout else result.errors
    kept = result.settings["kept_sweep"]
    assert f"ended early, after 3 of 60 sweeps; this is sweep {kept}, the best" in told
    figures = json.loads((tmp_path / "f.json").read_text())["results"][0]
    assert figures["error_heldout" if holdout else "error"] == min(errors) == errors[kept - 1]
    assert figures["kept_sweep"] == kept


def test_ctrl_c_while_judging_keeps_the_reconstruction(command, judged, tmp_path, capsys):
    judged.report = KeyboardInterrupt()
    assert command("--sweeps", 2) == 130
    assert "has no verdict" in capsys.readouterr().out
    assert len(read_reconstruction(tmp_path / "scan_reconstruction.cxi").errors) == 2


def test_a_judge_that_fails_costs_no_reconstruction(command, judged, tmp_path, capsys):
    judged.report = ValueError("images of (9, 9) px; at least 16 px a side are needed")
    assert command("--sweeps", 2, "--json", "f.json") == 1
    assert "no verdict: images of (9, 9) px; at least 16 px" in capsys.readouterr().err
    assert read_reconstruction(tmp_path / "scan_reconstruction.cxi").report is None
    assert json.loads((tmp_path / "f.json").read_text())["results"][0]["verdict"] is None
    assert (tmp_path / "scan_reconstruction.png").exists()


def test_an_old_picture_never_stands_beside_a_new_reconstruction(command, judged, tmp_path, monkeypatch):
    monkeypatch.setattr("bluesky_ptychonn.cli.interruption.ignore_signals", lambda: None)
    (tmp_path / "scan_reconstruction.png").write_text("old")
    judged.report = SystemExit(3)
    with pytest.raises(SystemExit):
        command("--sweeps", 2, "--force")
    assert [path.name for path in tmp_path.glob("*_reconstruction.*")] == ["scan_reconstruction.cxi"]


def test_a_disk_that_fills_up_costs_no_reconstruction(command, tmp_path, monkeypatch, capsys):
    from bluesky_ptychonn.io import reconstruction_files

    replace_file = reconstruction_files.replace_file

    def full(path, data):
        if path.parent == tmp_path or path.parent == Path():
            raise OSError(28, "No space left on device")
        replace_file(path, data)

    monkeypatch.setattr(reconstruction_files, "replace_file", full)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere").mkdir()
    assert command(*QUICK) == 1
    told = capsys.readouterr()
    assert "No space left" in told.err
    (written,) = (tmp_path / "elsewhere").glob("*/scan_reconstruction.cxi")
    assert f"written elsewhere instead: {written}" in told.err
    assert f"reconstruction: {written}" in told.out
    assert len(read_reconstruction(written).errors) == 2


def test_moves_of_positions_are_told(command, simulated, tmp_path, capsys):
    wrong_um = simulated[0]["positions_um"].copy()
    wrong_um[7] += 5 * PIXEL_UM
    asked = ("--correct-positions", 0.5, "--sweeps", 8, "--no-report", "--json", "f.json")
    assert command(*asked, positions_um=wrong_um) == 0
    told = capsys.readouterr().out
    found = re.search(
        r"moved by ([\d.]+) px \(.* nm\) rms, at most ([\d.]+) px \(.* nm\); \d+ of \d+ went as far as the 0.5 px", told
    )
    assert found, told
    figures = json.loads((tmp_path / "f.json").read_text())["results"][0]
    assert 0 < figures["position_rms_px"] < figures["position_max_px"] <= 0.5 * np.sqrt(2) + 1e-9
    assert float(found[2]) == pytest.approx(figures["position_max_px"], rel=0.01)


def test_a_method_of_pty_chi_is_refused_at_once_without_it(command, monkeypatch, capsys):
    monkeypatch.setattr("bluesky_ptychonn.training.retrieval.ptychi_engine.why_not", lambda: "pty-chi is not here")
    assert command("--method", "ptychi-epie", source="missing.npz") == 1
    assert "--method ptychi-epie: pty-chi is not here" in capsys.readouterr().err


def test_nothing_is_overwritten_unasked(command, tmp_path, capsys):
    (tmp_path / "scan_reconstruction.cxi").write_text("an earlier one")
    assert command(*QUICK) == 1
    assert "scan_reconstruction.cxi would be overwritten; give --force" in capsys.readouterr().err
    assert (tmp_path / "scan_reconstruction.cxi").read_text() == "an earlier one"
    assert command(*QUICK, "--output", "new/other.cxi") == 0
    assert command(*QUICK, "--force") == 0
    assert len(read_reconstruction(tmp_path / "scan_reconstruction.cxi").errors) == 2


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({}, "a factor of 4 in error; give --orientation flip_x,"),
        ({"twin": "decided", "best": "flip_y"}, "--orientation flip_y,"),
        ({"twin": "not decidable", "twin_margin": None}, "give --orientation flip_x or --orientation flip_y,"),
        ({"errors": SAME, "twin": "decided", "best": "rot180"}, "a factor of 1.2 in error; give --orientation rot180,"),
    ],
)
def test_another_orientation_stops_and_is_named(command, orientation, changes, named, tmp_path, capsys):
    orientation.found = replace(orientation.found, **changes)
    assert command(*QUICK, "--orientation", "auto") == 1
    told = capsys.readouterr()
    assert "another orientation than 'identity' fits these data better" in told.err
    assert named in told.err
    assert re.search(r"flip_x / flip_y +error 0.0\d00\n", told.out)
    assert not list(tmp_path.glob("*.cxi"))


@pytest.mark.parametrize(
    "changes",
    [
        {"errors": SAME, "best": "identity"},
        {"errors": SAME, "best": "identity", "twin": "not decidable", "twin_margin": None},
        {"errors": {**SAME, "flip_x": 0.0099}, "margin": 1.01},
    ],
)
def test_the_given_orientation_may_be_right(command, orientation, changes):
    orientation.found = replace(orientation.found, **changes)
    assert command(*QUICK, "--orientation", "auto") == 0


@pytest.mark.timeout(120)
def test_a_good_scan_is_trusted(command, tmp_path, capsys):
    """The judge itself, on a scan of which no frame is held out."""
    assert command("--sweeps", 30, "--holdout", 0, "--json", "f.json") == 0
    told = capsys.readouterr().out
    assert "verdict: TRUSTED: " in told
    assert "nan" not in told
    figures = json.loads((tmp_path / "f.json").read_text())["results"][0]
    assert (figures["verdict"], figures["orientation"], figures["error_heldout"]) == ("trusted", "identity", None)


@pytest.mark.timeout(120)
def test_frames_upside_down_are_found(command, simulated, capsys):
    """The pixel n/2 stays where it is, so the beam need not be told."""
    upside_down = np.roll(simulated[0]["patterns"][:, ::-1], 1, axis=1)
    assert command("--orientation", "auto", patterns=upside_down) == 1
    assert "give --orientation flip_y," in capsys.readouterr().err


@pytest.mark.parametrize("first", ORIENTATIONS)
@pytest.mark.parametrize("second", ORIENTATIONS)
def test_orientations_combine(first, second):
    frame = np.arange(12).reshape(3, 4)
    both = ORIENTATIONS[combined(first, second)](frame)
    np.testing.assert_array_equal(both, ORIENTATIONS[second](ORIENTATIONS[first](frame)))

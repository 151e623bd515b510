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
from tiled.client.utils import ClientError

from bluesky_ptychonn.cli.main import main
from bluesky_ptychonn.cli.reconstruct import combined
from bluesky_ptychonn.core.frames import ORIENTATIONS, no_data
from bluesky_ptychonn.core.metrics import compare_phase
from bluesky_ptychonn.core.optics import Geometry, intensities, with_counts, zone_plate_probe
from bluesky_ptychonn.core.reconstruction import RetrievalReport
from bluesky_ptychonn.core.recorded_run import RecordedRun
from bluesky_ptychonn.core.scan import fermat_spiral
from bluesky_ptychonn.io.reconstruction_files import read_reconstruction
from bluesky_ptychonn.simulation.sample import make_sample
from bluesky_ptychonn.training.retrieval.orientation import Orientation

KNOWN = {"energy_kev": 10.0, "distance_m": 0.45, "detector_pixel_um": 75.0}
GEOMETRY = Geometry(**KNOWN, frame_px=64)
PIXEL_UM = GEOMETRY.pixel_size_um
DEFOCUS_UM = 60.0
PROBE = zone_plate_probe(GEOMETRY, defocus_um=DEFOCUS_UM)
FIELD = slice(50, -50)


@pytest.fixture(scope="module")
def simulated():
    """Arrays of a scan of some 60 frames, and the object in whose pixels the positions are."""
    positions_um = fermat_spiral(0.9, 0.9, 0.11)
    side_um = float(np.ptp(positions_um, axis=0).max()) + 84 * PIXEL_UM
    object_ = make_sample("etched", field_um=side_um, pixel_size_um=PIXEL_UM, seed=3)
    centres_px = positions_um / PIXEL_UM + len(object_) / 2
    counts = np.random.default_rng(1).poisson(intensities(object_, with_counts(PROBE, 1e6), centres_px))
    arrays = {"patterns": counts.astype(np.uint16), "positions_um": centres_px * PIXEL_UM, "probe": PROBE, **KNOWN}
    return arrays, object_


@pytest.fixture
def command(simulated, tmp_path, monkeypatch):
    """Runs the command on scan.npz in a folder of its own; arrays replace those of the file, None leaves one out."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BLUESKY_PTYCHONN_SETTINGS", "")

    def run(*arguments, source="scan.npz", **arrays):
        held = {name: value for name, value in {**simulated[0], **arrays}.items() if value is not None}
        np.savez(tmp_path / "scan.npz", **held)
        return main(["reconstruct", source, *map(str, arguments)])

    return run


QUICK = ("--sweeps", 2, "--no-report")
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


def test_an_old_picture_never_stands_beside_a_new_reconstruction(command, judged, tmp_path):
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


def test_probes_come_from_optics_files_and_earlier_reconstructions(command, tmp_path, capsys):
    np.save(tmp_path / "probe.npy", np.stack([PROBE, 0.1 * PROBE]))
    optics = ["--probe", "optics", "--defocus-um", DEFOCUS_UM]
    for number, arguments in enumerate((optics, ["--probe", "probe.npy"], ["--probe", "0.cxi"])):
        assert command(*QUICK, *arguments, "--modes", 2, "--output", f"{number}.cxi", probe=None) == 0
        result = read_reconstruction(tmp_path / f"{number}.cxi")
        assert (len(result.probe), result.settings["probe_start"]) == (2, arguments[1])
        assert result.errors[-1] < 0.05
    assert "zone plate of 160 um" in capsys.readouterr().out
    assert command(*QUICK, "--probe", "0.cxi", "--output", "again.cxi", probe=None) == 0
    assert "probe modes: 2, as the starting probe has" in capsys.readouterr().out
    assert len(read_reconstruction(tmp_path / "again.cxi").probe) == 2
    assert command(*QUICK, source="0.cxi") == 1
    assert "0.cxi is a reconstruction, not a scan; give the scan, and --probe 0.cxi" in capsys.readouterr().err


def test_plain_hdf5_by_its_paths(command, simulated, tmp_path):
    arrays, _ = simulated
    mask = np.zeros((64, 64), np.uint8)
    mask[3, 4] = 1
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        file["scan/frames"] = arrays["patterns"]
        file["scan/y"], file["scan/x"] = 1e3 * arrays["positions_um"].T
        file["mask"], file["probe"] = mask, PROBE
    paths = ["--patterns-path", "scan/frames", "--positions-path", "scan/y", "scan/x", "--positions-unit", "nm"]
    known = ["--energy-kev", 10, "--distance-m", 0.45, "--detector-pixel-um", 75]
    more = ["--mask-path", "mask", "--probe-path", "probe", "--json", "f.json"]
    assert command(*QUICK, *paths, *known, *more, source="raw.h5") == 0
    figures = json.loads((tmp_path / "f.json").read_text())["results"][0]
    assert figures["masked_fraction"] == pytest.approx(1 / 64**2)
    assert figures["pixel_size_nm"] == pytest.approx(1e3 * PIXEL_UM)


@pytest.fixture
def run_of(simulated, monkeypatch, tmp_path):
    """A catalog with one run whose frames were recorded upside down; its settings name a probe and a bad pixel."""
    arrays, _ = simulated
    frames = np.roll(arrays["patterns"], 1, axis=1)[:, ::-1]
    block = {**KNOWN, "crop_px": 64, "beam_center_px": [30.0, 32.0], "orientation": "flip_y"}
    start = {"uid": "5f3a0c1b-0000", "ptycho": block}
    rows = np.arange(len(frames))
    run = RecordedRun(frames, arrays["positions_um"], rows, rows, 0, "", start)

    class Catalog(dict):
        def __missing__(self, key):
            if key == "5f3a0":
                raise ClientError("400: the query is not supported", None, None)
            raise KeyError(key)

    catalog = Catalog({-1: run, 7: run, run.start["uid"]: run})
    monkeypatch.setattr("bluesky_ptychonn.cli.catalog.open_catalog", lambda settings: catalog)
    monkeypatch.setattr("bluesky_ptychonn.io.runs.read_run", lambda run: run)
    bad = np.zeros((64, 64), bool)
    bad[20, 26] = True
    np.save(tmp_path / "bad.npy", bad)
    np.save(tmp_path / "probe.npy", PROBE)
    (tmp_path / "here.toml").write_text(
        '[catalog]\nuri = "http://here"\n[probe]\nfile = "probe.npy"\n[geometry]\nbad_pixels_file = "bad.npy"\n'
    )
    return run


@pytest.mark.parametrize("source", ["-1", "7", "5f3a0c1b-0000"])
def test_a_run_of_the_catalog(command, run_of, source, tmp_path):
    assert command(*QUICK, "--settings", "here.toml", source=source) == 0
    result = read_reconstruction(tmp_path / "5f3a0c1b_reconstruction.cxi")
    assert result.provenance["run_uid"] == "5f3a0c1b-0000"
    assert result.settings["orientation"] == "flip_y"
    assert result.errors[-1] < 0.05


def test_the_command_line_goes_before_the_start_document(command, run_of, monkeypatch, tmp_path):
    scans = []
    monkeypatch.setattr("bluesky_ptychonn.core.scan_checks.refuse_unfit", lambda scan: scans.append(scan))
    changed = ["--orientation", "identity", "--energy-kev", 9.9, "--crop-px", 48, "--probe", "small.npy"]
    np.save(tmp_path / "small.npy", PROBE[8:-8, 8:-8])
    assert command(*QUICK, "--settings", "here.toml", *changed, source="-1") == 0
    assert scans[0].geometry == Geometry(9.9, 0.45, 75.0, 48)
    assert (scans[0].patterns == no_data(scans[0].patterns.dtype)).any()


REFUSED = [
    (["--method", "magic"], {}, r"--method magic: allowed is one of batched"),
    (["--sweeps", 0], {}, r"--sweeps 0: it must be at least 1"),
    (["--holdout", 1], {}, r"--holdout 1: allowed are 0 for none, or 2 and more"),
    (["--correct-positions", "nan"], {}, r"--correct-positions nan px: it must be positive"),
    (["--output", "scan.npz"], {}, r"--output scan.npz is the scan itself"),
    (["--output", "x.png"], {}, r"--output x.png would be overwritten by the picture"),
    (["--output", "scan.npz/x.cxi"], {}, r"its folder cannot be made"),
    (["--output", "."], {}, r"--output \. is a folder; name a file in it"),
    (["--output", 250 * "x" + ".cxi"], {}, r"cannot be written \(File name too long\); choose another"),
    (["--json", "scan.npz"], {}, r"--json scan.npz is the scan itself"),
    (["--json", "small.npy", "--probe", "small.npy"], {}, r"--json small.npy is the starting probe itself"),
    (["--json", "scan_reconstruction.cxi"], {}, r"would be overwritten by the reconstruction; name another"),
    (["--json", "x.png", "--output", "x.cxi"], {}, r"--json x.png would be overwritten by the picture"),
    (["--json", "."], {}, r"--json \. is a folder"),
    (["--json", "scan.npz/f.json"], {}, r"--json scan.npz/f.json: its folder cannot be made"),
    (["--beam-center-px", "inf", 3], {}, r"beam_center_px = \(inf, 3.0\) lies outside the frame"),
    (["--crop-px", 20_000], {}, r"crop_px = 20000 px for frames of 64 x 64 px; at most 256 px is allowed"),
    (["--probe", "cut.npy"], {}, r"--probe cut.npy cannot be read: .*give a .npy file"),
    (["--mask", "cut.npy"], {}, r"mask_file = cut.npy cannot be read: .*give a .npy file"),
    ([], {"probe": np.complex64(3)}, r"the probe is complex64 of shape \(\)"),
    (["--patterns-path", "a"], {}, r"--patterns-path is for HDF5 files"),
    (["--probe", "missing.npy"], {}, r"--probe missing.npy cannot be read.*give a .npy file"),
    (["--probe", "real.npy"], {}, r"--probe real.npy holds float64 of shape \(64, 64\); give finite complex values"),
    (["--probe", "small.npy"], {}, r"--probe small.npy: the probe has shape \(32, 32\).*give one of the patterns'"),
    (["--probe", "scan.npz"], {}, r"--probe scan.npz holds several arrays"),
    (["--probe", "other.cxi"], {}, r"other.cxi was not written as a reconstruction by this package"),
    (["--probe", "optics"], {}, r"--probe optics with --defocus-um None: give the distance"),
    (["--probe", "optics", "--defocus-um", 9e3], {}, r"defocus_um = 9000.0 um spreads the probe over"),
    ([], {"probe": None}, r"scan.npz has no probe to start from; give --probe FILE"),
    ([], {"energy_kev": None}, r"energy_kev is missing; give energy_kev"),
    ([], {"positions_um": np.zeros((3, 2))}, r"positions of shape \(3, 2\)"),
    ([], {"patterns": np.zeros((66, 64, 64), np.uint16)}, r"frames are dark"),
    (["--distance-m", 450], {}, r"distance_m = 450 m is outside 0.001 to 200 m"),
    ([], {"positions_um": np.mgrid[:66, :1].reshape(2, -1).T * 100.0}, r"1000 times too large, as nm given as um"),
]


@pytest.mark.parametrize(("arguments", "arrays", "message"), REFUSED)
def test_refused_before_anything_runs(command, arguments, arrays, message, tmp_path, capsys):
    np.save(tmp_path / "real.npy", np.ones((64, 64)))
    np.save(tmp_path / "small.npy", PROBE[16:48, 16:48])
    (tmp_path / "other.cxi").write_bytes(b"\x89HDF")
    (tmp_path / "cut.npy").write_bytes(b"PK\x03\x04 cut short")
    assert command(*arguments, **arrays) == 1
    told = capsys.readouterr().err
    assert re.search(message, told), told
    assert not list(tmp_path.glob("*_reconstruction.*"))


REFUSED_SOURCES = [
    ("missing.npz", [], r"missing.npz cannot be read"),
    ("nowhere", [], r"nowhere is not a file, and the settings name no catalog"),
    ("nowhere", ["--settings", "here.toml"], r"nowhere is neither a file nor a run of http://here .*-1 for the latest"),
    ("5f3a0", ["--settings", "here.toml"], r"5f3a0 is neither a file nor a run .*not supported.* give a path, a uid"),
    ("-9", ["--settings", "here.toml"], r"-9 is neither a file nor a run"),
    ("-1", ["--settings", "here.toml", "--pixel-size-nm", 3], r"--pixel-size-nm is for files"),
    ("-1", ["--settings", "here.toml", "--mask", "none.npy"], r"the mask none.npy cannot be read"),
    ("raw.h5", [], r"it is no CXI file"),
    ("raw.h5", ["--patterns-path", "a"], r"but not --positions-path and --positions-unit"),
    (
        "raw.h5",
        ["--patterns-path", "a", "--positions-unit", "um", "--positions-path", "b", "c", "d"],
        r"--positions-path names 3 datasets",
    ),
]


@pytest.mark.parametrize(("source", "arguments", "message"), REFUSED_SOURCES)
def test_sources_that_are_none(command, run_of, source, arguments, message, tmp_path, capsys):
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        file["frames"] = np.ones((2, 8, 8), np.uint16)
    assert command(*arguments, source=source) == 1
    told = capsys.readouterr().err
    assert re.search(message, told), told


def test_a_near_field_scan_is_refused_with_that_reason(command, real_data, capsys):
    assert command(source=str(real_data / "petra3_p25_nearfield.cxi")) == 1
    assert re.search(r"near-field data: .* use a near-field code", capsys.readouterr().err)


def test_the_help_teaches(capsys):
    with pytest.raises(SystemExit):
        main(["reconstruct", "--help"])
    told = capsys.readouterr().out
    for text in ("reconstruct -1 ", "--orientation auto", "--positions-path pos/y pos/x", "not trusted", "Ctrl-C"):
        assert text in told

"""What the command `reconstruct` reads: files, runs and probes, and what it refuses."""

import json
import re
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from reconstruct_scan import DEFOCUS_UM, KNOWN, PIXEL_UM, PROBE, QUICK
from tiled.client.utils import ClientError

from bluesky_ptychonn.cli.main import main
from bluesky_ptychonn.core.frames import no_data
from bluesky_ptychonn.core.optics import Geometry
from bluesky_ptychonn.core.recorded_run import RecordedRun
from bluesky_ptychonn.io.reconstruction_files import read_reconstruction


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
            if isinstance(key, str) and len(key) < 8:
                raise ClientError("400: the query is not supported", None, None)
            raise KeyError(key)

        def keys(self):
            return SimpleNamespace(tail=lambda count: [key for key in self if isinstance(key, str)])

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


@pytest.mark.parametrize("source", ["-1", "7", "5f3a0", "5f3a0c1b-0000"])
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
    ("5f3a1", ["--settings", "here.toml"], r"5f3a1 is neither a file nor a run .*begins so.* give a path, a uid"),
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

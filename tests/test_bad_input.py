"""What a user gets wrong, and what the answer is: one table for plan, settings and command line."""

import re
import subprocess
import sys

import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.utils import FailedStatus

from bluesky_ptychonn.cli.main import main
from bluesky_ptychonn.plans.spiral import spiral_ptycho_scan


class Instrument:
    """A device that may be asked anything and must never be moved."""

    parent = None

    def __init__(self, name, problems=()):
        self.name, self.problems = name, list(problems)
        self.hints = {"fields": []}

    def ptycho_block(self):
        return {"probe_diameter_um": 0.7, "dead_time_s": 1e-4, "energy_kev": 10.0}

    def locate(self):
        return {"setpoint": (0.0, 0.0), "readback": (0.0, 0.0)}

    def check(self, request):
        return self.problems

    def _refuse(self, *_, **__):
        pytest.fail(f"{self.name} was used although the scan is impossible")

    set = stage = unstage = prepare = kickoff = complete = trigger = _refuse


GOOD = {"width_um": 2.0, "step_um": 0.1, "exposure_s": 1e-3, "dwell_s": 2e-3}
PLAN = [
    ({"step_um": None}, r"step_um = None um and overlap_ratio = None: give exactly one"),
    ({"overlap_ratio": 0.8}, r"step_um = 0.1 um and overlap_ratio = 0.8: give exactly one"),
    ({"step_um": None, "overlap_ratio": 1.0}, r"overlap_ratio = 1.0 is outside 0 to 1"),
    ({"step_um": None, "overlap_ratio": "much"}, r"overlap_ratio = 'much' is outside 0 to 1"),
    ({"step_um": -0.1}, r"step_um = -0.1 um is outside 0.0001 to 1000 um"),
    ({"step_um": 5.0}, r"step_um = 5 um exceeds the field of 2 x 2 um"),
    ({"width_um": 5.0, "step_um": 1e-3}, r"step_um = 0.001 um .* more than 1,000,000 points"),
    ({"width_um": 0.0}, r"width_um = 0.0 um is outside 0.001 to 100000 um"),
    ({"width_um": np.nan}, r"width_um = nan um is outside"),
    ({"height_um": np.inf}, r"height_um = inf um is outside"),
    ({"exposure_s": 0.0}, r"exposure_s = 0.0 s is outside 1e-06 to 1000 s"),
    ({"dwell_s": 5e-4}, r"dwell_s = 0.0005 s is outside 0.001 to 1000 s; .*enlarge dwell_s"),
    ({"settle_s": -1.0}, r"settle_s = -1.0 s is outside 0 to 60 s"),
    ({"energy_kev": 10_000.0}, r"energy_kev = 10000.0 keV is outside 0.1 to 200 keV; .*in keV, not eV"),
]


@pytest.mark.parametrize(("wrong", "message"), PLAN)
def test_plan(wrong, message):
    plan = spiral_ptycho_scan(Instrument("detector"), Instrument("stage"), **{**GOOD, **wrong})
    with pytest.raises((ValueError, FailedStatus), match=message):
        RunEngine()(plan)


def test_plan_names_every_problem_of_every_device():
    detector, stage = Instrument("eiger", ["no trigger cable", "no disk"]), Instrument("stage", ["beyond its limit"])
    with pytest.raises(ValueError, match="nothing has moved") as caught:
        RunEngine()(spiral_ptycho_scan(detector, stage, **GOOD))
    for text in ("eiger: no trigger cable", "eiger: no disk", "stage: beyond its limit"):
        assert text in str(caught.value)


COMMAND_LINE = [
    (["config", "show", "--settings", "nowhere.toml"], r"settings file 'nowhere.toml' cannot be read"),
    (["edge", "--settings", "{empty}"], r"the settings name no probe; set probe.file"),
    (["edge", "--settings", "{no_probe}"], r"probe.file = .*missing.npy cannot be read"),
    (["edge", "--settings", "{wrong_probe}"], r"complex64 of \(128, 128\) is needed"),
    (["catalog", "ingest", "x.jsonl", "--settings", "{empty}"], r"the settings name no catalog"),
    (["beamline", "stop", "--directory", "{folder}"], r"no beamline was started in"),
    (["beamline", "start", "--directory", "{folder}", "--source", "no.npz"], r"neither 'physics' nor a file"),
    (["bench", "stream", "--fps", "0"], r"--fps 0 for --seconds 30"),
    (["bench", "stream", "--fps", "1000", "--seconds", "1e9"], r"1 to 1,000,000 frames"),
    (["bench", "phase-retrieval", "--points", "9"], r"--points 9 is outside 100 to 10000 positions"),
    (["reconstruct", "no.npz"], r"no.npz cannot be read"),
    (["reconstruct", "-1", "--settings", "{empty}"], r"-1 is not a file, and the settings name no catalog"),
    (["reconstruct", "wrong.npy"], r"wrong.npy cannot be read: .* give NPZ, CXI or HDF5"),
    (["demo", "--source", "no.npz", "--output", "{folder}"], r"--source no.npz cannot be read"),
    (["shell", "--profile", "{folder}"], r"no startup/\*.py in"),
]


@pytest.mark.parametrize(("arguments", "message"), COMMAND_LINE)
def test_command_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "wrong.npy", np.ones((64, 64)))
    files = {"empty": "", "no_probe": '[probe]\nfile = "missing.npy"\n', "wrong_probe": '[probe]\nfile = "wrong.npy"\n'}
    for name, text in files.items():
        (tmp_path / f"{name}.toml").write_text(text)
    places = {name: tmp_path / f"{name}.toml" for name in files} | {"folder": tmp_path}

    assert main([argument.format(**places) for argument in arguments]) == 1

    told = capsys.readouterr().err
    assert re.search(message, told), told
    assert "Traceback" not in told


def test_a_problem_is_told_in_a_line_when_run_as_a_module_too(tmp_path):
    command = [sys.executable, "-m", "bluesky_ptychonn.cli.main", "shell", "--profile", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(r"bluesky-ptychonn shell: no startup/\*.py in .*\n", done.stderr), done.stderr


@pytest.mark.parametrize(
    "arguments", [["--help"], ["demo", "--help"], ["bench", "stream", "--help"], ["reconstruct", "--help"]]
)
def test_help_teaches(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    assert len(capsys.readouterr().out.splitlines()) > 8


@pytest.mark.parametrize(
    "arguments", [[], ["fly"], ["bench", "stream", "--fps", "fast"], ["demo", "--sample", "x"], ["shell", "fly"]]
)
def test_wrong_usage_is_2(arguments):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


@pytest.mark.parametrize("photons", ["0", "-1", "nan", "2e9"])
def test_photons_out_of_range_are_named(photons, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["demo", f"--photons={photons}"])
    assert ended.value.code == 2
    assert f"--photons: {photons} is outside 1 to 1e9 photons" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (RuntimeError("the edge ended"), r"bluesky-ptychonn config: the edge ended"),
        (TimeoutError("SIM:EIG: does not answer"), r"SIM:EIG: does not answer"),
        (ModuleNotFoundError("No module named 'pvaccess'", name="pvaccess"), r"bluesky-ptychonn\[edge\]"),
        (ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn"), r"bluesky-ptychonn\[training\]"),
        (ModuleNotFoundError("No module named 'tiled.client'", name="tiled.client"), r"bluesky-ptychonn\[tiled\]"),
    ],
)
def test_problems_are_told_in_a_line(problem, message, monkeypatch, capsys):
    def fail(_):
        raise problem

    monkeypatch.setattr("bluesky_ptychonn.cli.config.run", fail)
    assert main(["config", "show"]) == 1
    told = capsys.readouterr().err
    assert re.search(message, told), told
    assert len(told.splitlines()) == 1

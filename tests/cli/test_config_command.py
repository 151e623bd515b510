"""`config`: a commented file to begin with, what is in force, and what is wrong with it."""

import subprocess
import sys

import numpy as np
import pytest
import tomllib

from bluesky_ptychonn.cli.config_text import EXAMPLES, example_names
from bluesky_ptychonn.cli.doctor_checks import geometry_finding, model_finding
from bluesky_ptychonn.cli.main import main
from bluesky_ptychonn.config import Settings, load_settings
from bluesky_ptychonn.core.model_card import ModelCard
from bluesky_ptychonn.core.optics import zone_plate_probe
from bluesky_ptychonn.simulation.detector_kinds import KINDS

PIXEL_NM = {"simulated": 11.62, "aps-26id-eiger": 11.62, "aps-26id-medipix": 6.82}
"""lambda z / (N p): 0.12398 nm x 0.9 m / (128 x 75 um), and x 1.55 m / (128 x 4 x 55 um)."""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BLUESKY_PTYCHONN_SETTINGS", raising=False)
    return tmp_path


def begun(example):
    assert main(["config", "init", "--example", example]) == 0
    return load_settings()


def test_every_example_has_its_figures():
    assert set(example_names()) == set(PIXEL_NM)
    assert example_names()[0] == "simulated"


@pytest.mark.parametrize("example", example_names())
def test_a_shipped_example_loads_and_has_the_right_pixels_and_a_model(example, here):
    settings = begun(example)
    geometry = settings.geometry
    assert 1e3 * geometry.optics.pixel_size_um == pytest.approx(PIXEL_NM[example], rel=1e-3)
    kind = KINDS[settings.beamline.detector]
    assert (geometry.distance_m, geometry.detector_pixel_um) == (kind.distance_m, kind.detector_pixel_um)
    assert geometry.frame_px * geometry.binning <= min(kind.sensor_px)
    probe = zone_plate_probe(geometry.optics)
    found = model_finding(settings, probe)
    assert (found.level, found.what.split()[0]) == ("ok", "starter-3"), found


@pytest.mark.parametrize("example", example_names())
def test_what_init_writes_is_the_example_and_names_every_key(example, here):
    begun(example)
    text = (here / "bluesky_ptychonn.toml").read_text()
    given = tomllib.loads((EXAMPLES / f"{example}.toml").read_text())
    assert tomllib.loads(text) == {table: given.get(table, {}) for table in Settings.model_fields}
    for table, field in Settings.model_fields.items():
        for key in field.annotation.model_fields:
            assert f"\n{key} = " in text or f"\n# {key} =" in text, f"{table}.{key}"
    assert "# photon energy, keV (not eV); more than 0.1, less than 200" in text


@pytest.mark.parametrize("example", example_names())
def test_the_comments_of_init_can_be_taken_off(example, here):
    """Each key stands there with its default, as TOML writes it."""
    begun(example)
    text = (here / "bluesky_ptychonn.toml").read_text()
    keys = {key for field in Settings.model_fields.values() for key in field.annotation.model_fields}
    lines = [
        line.removeprefix("# ") if line.removeprefix("# ").split(" = ")[0] in keys and " =  #" not in line else line
        for line in text.splitlines()
    ]
    (here / "all.toml").write_text("\n".join(lines))
    loaded, begun_with = load_settings("all.toml"), load_settings()
    assert loaded.geometry == begun_with.geometry
    assert loaded.loop == begun_with.loop


def test_init_overwrites_nothing(here, capsys):
    (here / "bluesky_ptychonn.toml").write_text("# mine\n")
    assert main(["config", "init"]) == 1
    assert "is there already; name another file" in capsys.readouterr().err
    assert (here / "bluesky_ptychonn.toml").read_text() == "# mine\n"


def test_show_tells_where_each_value_comes_from(here, capsys):
    (here / "mine.toml").write_text('[geometry]\nenergy_kev = 8.5\n[probe]\nfile = "p.npy"\n')
    assert main(["config", "show", "--settings", "mine.toml"]) == 0
    told = capsys.readouterr().out
    lines = {line.split(" = ")[0]: line.split("  # ")[-1] for line in told.splitlines() if " = " in line}
    assert (lines["energy_kev"], lines["distance_m"]) == ("mine.toml", "default")
    assert f'file = "{here}/p.npy"' in told
    assert tomllib.loads(told)["geometry"]["energy_kev"] == 8.5


def test_check_looks_at_the_files(here, capsys):
    settings = begun("simulated")
    assert main(["config", "check"]) == 1
    told = capsys.readouterr().out
    assert "BAD  probe" in told
    assert "-> set probe.file to a .npy of complex64" in told
    (here / ".beamline").mkdir()
    np.save(here / ".beamline/probe.npy", zone_plate_probe(settings.geometry.optics))
    np.save(here / ".beamline/bad_pixels.npy", np.zeros((128, 128), bool))
    assert main(["config", "check"]) == 0
    assert "BAD" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message", "remedy"),
    [
        ({"pixel_size_um": 0.0116}, "pixel_size_um = 0.0068", "use a model trained for it"),
        ({"energy_kev": 12.0}, "energy_kev = 10 keV differs by more than 2%", "or the engine 'lift'"),
        ({"frame_px": 256, "patch_px": 96}, "crop_px = 128 px, but the engine takes 256 px", "set geometry.frame_px"),
    ],
)
def test_a_model_for_another_geometry_is_told(changes, message, remedy, here):
    values = {"pixel_size_um": None, "energy_kev": None, "frame_px": 128, "patch_px": 96} | changes
    card = ModelCard("x", "x-1", {"model.onnx": 64 * "0", "golden.npz": 64 * "0"}, **values)
    found = geometry_finding(begun("aps-26id-medipix"), card, None)
    assert found.level == "bad"
    assert message in found.what
    assert remedy in found.remedy


def test_a_field_too_small_for_the_probe_is_told(here):
    """The Eiger at 0.9 m, binned by 4: crop, never bin."""
    (here / "bluesky_ptychonn.toml").write_text("[geometry]\nbinning = 4\nframe_px = 128\n")
    settings = load_settings()
    probe = np.ones((128, 128), np.complex64)
    found = geometry_finding(settings, None, probe)
    assert (found.level, found.remedy) == ("bad", "crop instead of binning, or bring the sample nearer to the focus")


def test_examples_travel_with_the_package():
    told = subprocess.run(
        [sys.executable, "-c", "from importlib.resources import files; print(len(list((files('bluesky_ptychonn') "
         "/ 'examples').iterdir())))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(told.stdout) == len(PIXEL_NM)

"""`center`: frames of any file, what it prints and draws, and what it writes into the settings."""

import h5py
import numpy as np
import pytest

from bluesky_ptychonn.cli.center_output import change_settings
from bluesky_ptychonn.cli.main import main
from bluesky_ptychonn.config import SettingsError, load_settings


@pytest.fixture
def frames(rng):
    y, x = np.mgrid[:48, :64] - np.array([20, 37])[:, None, None]
    disc = np.where(np.hypot(y, x) < 12, 40.0, 0.5)
    light = rng.uniform(0.5, 1.5, size=(20, 1, 1))
    frames = rng.poisson(light * disc).astype(np.uint16)
    frames[:, 22, 30], frames[:, 5, 5] = 0, 9000
    return frames


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BLUESKY_PTYCHONN_SETTINGS", raising=False)
    return tmp_path


def saved(frames, name):
    if name.endswith(".npy"):
        np.save(name, frames)
    elif name.endswith(".npz"):
        np.savez(name, patterns=frames.astype(np.int64))
    else:
        with h5py.File(name, "w") as file:
            file[{"a.h5": "entry/data/data", "a.cxi": "entry_1/data_1/data", "b.h5": "mine"}[name]] = frames
    return name


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.h5", "a.cxi", "b.h5"])
def test_files(frames, name, capsys, here):
    more = ["--patterns-path", "mine"] if name == "b.h5" else []
    assert main(["center", saved(frames, name), *more]) == 0
    told = capsys.readouterr().out
    centre = [float(word.strip(",")) for word in told.split("(row, column): ")[1].split()[:2]]
    assert np.linalg.norm(np.subtract(centre, (20, 37))) < 0.3
    assert "bad pixels: 2 (0 without data, 1 dead, " in told
    assert (here / "center.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a file of frames, or --live"),
        (["a.npy", "--live"], "give a file of frames, or --live"),
        (["none.h5"], r"none.h5 cannot be read"),
        (["a.npy", "--count", "3"], "--count 3 is outside 8 to 10000 frames"),
        (["a.npy", "--write"], "--write needs a settings file; begin one with `bluesky-ptychonn config init`"),
        (["flat.npy"], r"frames have shape \(9, 9\); \(N, H, W\) is needed"),
        (["b.h5"], "name its frames by --patterns-path"),
        (["few.npy"], "give at least 8 frames"),
    ],
)
def test_what_cannot_be_done_is_told(frames, arguments, message, capsys, here):
    import re

    saved(frames, "a.npy")
    saved(frames, "b.h5")
    np.save("flat.npy", np.ones((9, 9)))
    np.save("few.npy", frames[:4])
    assert main(["center", *arguments]) == 1
    assert re.search(message, capsys.readouterr().err)
    assert not (here / "center.png").exists()


SETTINGS = """# ours
[beamline]
detector_prefix = "BL:EIG:"  # the new one

[geometry]   # measured in May
beam_center_px = [24.0,
    32.0]  # guessed
"""


def test_write_changes_two_keys_and_nothing_else(frames, here, capsys):
    (here / "s.toml").write_text(SETTINGS)
    assert main(["center", saved(frames, "a.npy"), "--write", "--settings", "s.toml"]) == 0
    geometry = load_settings("s.toml").geometry
    assert np.linalg.norm(np.subtract(geometry.beam_center_px, (20, 37))) < 0.3
    mask = np.load(geometry.bad_pixels_file)
    assert np.argwhere(mask).tolist() == [[5, 5], [22, 30]]
    text = (here / "s.toml").read_text()
    for kept in ("# ours", '"BL:EIG:"  # the new one', "# measured in May"):
        assert kept in text
    assert "(was [24.0, 32.0])" in capsys.readouterr().out


def test_what_the_mask_held_before_stays_bad(frames, here, capsys):
    known = np.zeros((48, 64), bool)
    known[40, 60] = True
    np.save("known.npy", known)
    (here / "s.toml").write_text(SETTINGS + 'bad_pixels_file = "known.npy"\n')
    assert main(["center", saved(frames, "a.npy"), "--write", "--settings", "s.toml"]) == 0
    mask = np.load(load_settings("s.toml").geometry.bad_pixels_file)
    assert np.argwhere(mask).tolist() == [[5, 5], [22, 30], [40, 60]]
    assert np.array_equal(np.load("known.npy"), known)


def test_settings_that_would_not_load_are_left_alone(here):
    (here / "s.toml").write_text(SETTINGS)
    with pytest.raises(SettingsError, match=r"(?s)s.toml is left as it was: .*energy_kev = -1"):
        change_settings(here / "s.toml", {"geometry": {"energy_kev": -1}})
    assert (here / "s.toml").read_text() == SETTINGS
    assert list(here.iterdir()) == [here / "s.toml"]

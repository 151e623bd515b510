from typing import get_args

import pytest

from bluesky_ptychonn.config import (
    PACKAGED,
    LoopSettings,
    Settings,
    SettingsError,
    load_settings,
    write_settings,
)
from bluesky_ptychonn.core.optics import Geometry
from bluesky_ptychonn.engines import registry


def written(tmp_path, text):
    path = tmp_path / "settings.toml"
    path.write_text(text)
    return path


def test_defaults_are_valid_and_need_no_file(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BLUESKY_PTYCHONN_SETTINGS", raising=False)
    assert load_settings() == Settings()


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / "settings.toml"
    write_settings(
        {
            "epics": {"environment": {"EPICS_CA_ADDR_LIST": "127.0.0.1:5064 127.0.0.1:5066"}},
            "geometry": {"energy_kev": 8.5, "beam_center_px": [61.0, 66.5], "orientation": "flip_y"},
            "edge": {"prefix": "BL:edge:", "batch": 4},
        },
        path,
    )
    settings = load_settings(path)
    assert settings.epics.environment["EPICS_CA_ADDR_LIST"].endswith("5066")
    assert settings.geometry.beam_center_px == (61.0, 66.5)
    assert (settings.geometry.orientation, settings.edge.prefix, settings.edge.batch) == ("flip_y", "BL:edge:", 4)


def test_superpixels_are_the_pixels_of_patterns(tmp_path):
    settings = load_settings(written(tmp_path, "[geometry]\ndetector_pixel_um = 55\ndistance_m = 1.55\nbinning = 4\n"))
    assert settings.geometry.optics == Geometry(10.0, 1.55, 220.0, 128)


def test_relative_paths_are_relative_to_the_file(tmp_path):
    path = written(tmp_path, '[probe]\nfile = "probe.npy"\n')
    assert load_settings(path).probe.file == tmp_path / "probe.npy"


@pytest.mark.parametrize(
    ("text", "directory", "journal"),
    [
        ("", "loop", "loop/journal.sqlite"),
        ("[loop]\nenabled = true\n", "loop", "loop/journal.sqlite"),
        ('[loop]\ndirectory = "shared"\n', "shared", "shared/journal.sqlite"),
        ('[loop]\ndirectory = "shared"\njournal = "here/j.sqlite"\n', "shared", "here/j.sqlite"),
    ],
)
def test_session_and_loop_find_the_same_journal_from_wherever_they_start(
    tmp_path, monkeypatch, text, directory, journal
):
    path = written(tmp_path, text)
    monkeypatch.chdir(tmp_path.parent)
    loop = load_settings(path).loop
    assert (loop.directory, loop.journal_file) == (tmp_path / directory, tmp_path / journal)


def test_the_loop_is_off_unless_it_is_asked_for():
    assert not Settings().loop.enabled


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('transfer = "rsync"', "needs loop.transfer_to = 'host:/folder'"),
        ('transfer_to = "/a/folder"', "loop.transfer_to = '/a/folder'"),
        ('edge_store = "-oProxyCommand=x:/a"', "loop.edge_store"),
    ],
)
def test_where_files_are_sent_is_a_folder_of_another_machine(tmp_path, text, told):
    with pytest.raises(SettingsError, match=told):
        load_settings(written(tmp_path, f"[loop]\n{text}\n"))


def test_the_loop_takes_what_its_commands_take():
    from bluesky_ptychonn.training.learning.recipes import RECIPES
    from bluesky_ptychonn.training.retrieval.reconstruct import METHODS

    fields = LoopSettings.model_fields
    assert set(get_args(fields["method"].annotation)) == set(METHODS)
    assert set(get_args(fields["recipe"].annotation)) == set(RECIPES)


def test_every_setting_says_what_it_means():
    """What `config init`, an error and the reference page show of it."""
    for table, field in Settings.model_fields.items():
        section = field.annotation
        assert (section.__doc__ or "").strip(), table
        silent = [key for key, setting in section.model_fields.items() if not (setting.description or "").strip()]
        assert silent == [], f"[{table}]"


def test_the_variable_names_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("BLUESKY_PTYCHONN_SETTINGS", str(written(tmp_path, "[geometry]\nenergy_kev = 12.4\n")))
    assert load_settings().geometry.energy_kev == 12.4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[geometry]\nenergy_kev = -1\n",
            r"geometry.energy_kev = -1: .*more than 0.1, less than 200; energy_kev is photon energy.*10.0 is taken",
        ),
        (
            "[geometry]\nenergy_ev = 10000\n",
            r"geometry.energy_ev: unknown key; did you mean energy_kev\? known are: .*frame_px",
        ),
        ("[geometri]\n", r"geometri: unknown key; did you mean geometry\? known are: "),
        ('[geometry]\norientation = "upside down"\n', r"geometry.orientation = 'upside down'"),
        ("[geometry]\nframe_px = 130\n", r"geometry.frame_px = 130: .*multiple of 4"),
        ("[geometry]\nbinning = 9\n", r"geometry.binning = 9: .*less than or equal to 8"),
        ('[beamline]\ndetector_prefix = "BL:EIG"\n', r"beamline.detector_prefix = 'BL:EIG' must end with a colon"),
        ('[edge]\nengine = "magic"\n', r"edge.engine = 'magic'"),
        ("[edge]\nbatch = 0\n", r"edge.batch = 0"),
        ("[loop]\nmismatch = 1\n", r"loop.mismatch = 1: .*less than 1"),
        ("[loop]\nattempts = 0\n", r"loop.attempts = 0: .*greater than or equal to 1"),
        ('[loop]\nrunner = "cron"\n', r"loop.runner = 'cron': .*'local', 'slurm' or 'pbs'"),
        ('[loop]\nmodules = "cuda"\n', r"loop.modules = 'cuda': .*valid list"),
        ("[loop]\nranks = 4\n", r"loop.ranks = 4 needs loop.launcher = 'srun' or 'mpiexec'"),
        ("[loop]\nqueu = 1\n", r"loop.queu: unknown key; did you mean queue\? known are: "),
        ("loop = 3\n", r"loop = 3: it is a table; begin it with a line \[loop\]"),
        ("[edge]\nframe_px = 128\n", r"edge.frame_px: unknown key; it belongs into \[geometry\]"),
        ("energy_kev = 8\n", r"energy_kev: unknown key; it belongs into \[geometry\]"),
        ('[geometry]\nenergy_kev = "8"\n', r"geometry.energy_kev = '8': .*valid number"),
        ("[geometry]\nenergy_kev = true\n", r"geometry.energy_kev = True: .*valid number"),
        ("[geometry]\nbeam_center_px = [64]\n", r"geometry.beam_center_px = \[64\]: .*row and column"),
        ("[edge]\nbatch = 8.0\n", r"edge.batch = 8.0: .*valid integer; allowed is at least 1, at most 256"),
        ("[probe]\nfile = 3\n", r"probe.file = 3: Input should be a path, as text in quotes"),
        ("[scan\n", "not valid TOML"),
    ],
)
def test_a_bad_value_is_named(tmp_path, text, message):
    with pytest.raises(SettingsError, match=message):
        load_settings(written(tmp_path, text))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings(tmp_path / "nowhere.toml")


def test_every_problem_is_told(tmp_path):
    with pytest.raises(SettingsError) as caught:
        load_settings(written(tmp_path, "[geometry]\nenergy_kev = -1\nbining = 2\n[edge]\nbatch = 0\n"))
    assert len(str(caught.value).splitlines()) == 4


def test_models_of_the_package_go_by_their_names(tmp_path):
    assert str(load_settings(written(tmp_path, '[edge]\nmodel = "large"\n')).edge.model) == "large"
    assert load_settings(written(tmp_path, '[edge]\nmodel = "store"\n')).edge.model == tmp_path / "store"
    assert set(PACKAGED) == set(registry.PACKAGED)

"""The doctor without a beamline: what it asks for, its checks of files and services, and how it tells."""

import contextlib
import inspect
import json
import re
import socket
import sqlite3
import subprocess
import threading

import numpy as np
import pytest

from bluesky_ptychonn.cli import doctor, doctor_checks_services
from bluesky_ptychonn.cli.doctor_checks import Finding
from bluesky_ptychonn.cli.doctor_checks_beamline import Part, disk_finding, part_findings, table_findings
from bluesky_ptychonn.cli.doctor_checks_services import (
    engine_findings,
    folder_findings,
    gpu_findings,
    loop_findings,
    tiled_findings,
)
from bluesky_ptychonn.cli.doctor_pvs import ARRAY, CHOICES, DETECTORS, STAGE, TABLE, Reading, needed
from bluesky_ptychonn.cli.main import main
from bluesky_ptychonn.config import EdgeSettings, LoopSettings, Settings
from bluesky_ptychonn.simulation.records import record_specs

KINDS = {
    **dict.fromkeys(("bi", "bo", "mbbi", "mbbo"), "enum"),
    **dict.fromkeys(("ai", "ao", "longin", "longout", "ints"), "number"),
    **dict.fromkeys(("stringin", "stringout", "text", "textin"), "text"),
}
NICKNAMES = {"cam": ("cam",), "roi": ("roi1",), "pva": ("pva1",), "hdf": ("hdf1",), "plugin": ("roi1", "pva1", "hdf1")}


def settings_with(**tables):
    return Settings().model_copy(update=tables)


def loop_with(tmp_path, **values):
    return settings_with(
        loop=LoopSettings(enabled=True, directory=tmp_path, **values), edge=EdgeSettings(model=tmp_path)
    )


def one(findings, name):
    (found,) = [finding for finding in findings if finding.name == name]
    return found


@pytest.mark.parametrize("detector", list(DETECTORS))
def test_every_pv_that_a_detector_uses_is_asked_for(detector):
    """What the devices' sources name of camera and plugins, and nothing else."""
    from bluesky_ptychonn.devices import detector as run
    from bluesky_ptychonn.devices import detector_base, eiger, medipix

    device_class, module = {"eiger2": (eiger.Eiger, eiger), "medipix3": (medipix.Medipix3, medipix)}[detector]
    used = set()
    for source in (run, detector_base, module):
        for nickname, name in re.findall(r"\b(cam|roi|pva|hdf|plugin)1?\.([a-z_]+)", inspect.getsource(source)):
            for part in NICKNAMES[nickname]:
                plugin = getattr(device_class, part)
                suffix = getattr(getattr(plugin.cls, name, None), "suffix", None)
                if suffix:
                    used.add(plugin.suffix + suffix)
    used |= {"ROI1:SizeX", "ROI1:SizeY"}  # `size` is a device of its own
    assert {name for name, _ in needed(DETECTORS[detector])} == used | {
        f"{name}_RBV" for name in used if f"{name}_RBV" in dict(needed(DETECTORS[detector]))
    }


@pytest.mark.parametrize("detector", list(DETECTORS))
def test_pvs_have_the_types_of_their_templates(detector):
    specs = {spec.name: spec for spec in record_specs(detector)}
    for name, kind in needed(DETECTORS[detector]):
        assert KINDS[specs[name].type] == kind, name
        assert CHOICES.get(name, set()) <= set(specs[name].choices), name


def test_every_pv_of_the_trajectory_controller_is_asked_for():
    from bluesky_ptychonn.devices.stage_pvs import ProfileMove

    used = {f"Prof1:{getattr(ProfileMove, name).suffix}" for name in ProfileMove.component_names}
    assert {name for name, _ in needed(STAGE) if name.startswith("Prof1:")} == used


def test_every_pv_of_a_table_of_positions_is_asked_for():
    from bluesky_ptychonn.devices.stage_pvs import PositionTable

    assert dict(needed(TABLE)).keys() == {getattr(PositionTable, n).suffix for n in PositionTable.component_names}


@pytest.mark.parametrize(
    ("change", "level", "told"),
    [
        ({}, "ok", "4 answer, of the right types; disarmed, 7 rows"),
        ({"Arm": Reading("enum", "Arm", ("Disarm", "Arm"))}, "warn", "caput T:Arm Disarm"),
        ({"X": Reading("number", 1.5)}, "bad", "make them waveforms"),
        ({"Y": None}, "bad", 'set beamline.position_table = ""'),
        ({"Arm": Reading("enum", "No", ("No", "Yes"))}, "bad", "lacks the choice Arm, Disarm"),
    ],
)
def test_a_table_of_positions(change, level, told):
    lacking = 'set beamline.position_table = ""'
    table = Part("position table", "beamline.position_table", "T:", dict(needed(TABLE)), lacking)
    readings = {
        "Arm": Reading("enum", "Disarm", ("Disarm", "Arm")),
        "NumCaptured": Reading("number", 7),
        "Y": Reading("number", ARRAY),
        "X": Reading("number", ARRAY),
    }
    (found,) = table_findings(table, {**readings, **change})
    assert (found.name, found.level) == ("position table PVs", level)
    assert told in f"{found.what} {found.remedy}"


@pytest.mark.parametrize(
    ("reading", "what", "remedy"),
    [
        (None, "1 of 2 do not answer: B:cam1:DataSource", "load the template"),
        (Reading("enum", None), "1 of 2 are silent: B:cam1:DataSource", "restart it"),
        (Reading("number", 2), "B:cam1:DataSource is number, where enum is needed", "another record has this name"),
        (Reading("enum", "None", ("None", "File")), "lacks the choice Stream; it has None, File", "right template"),
    ],
)
def test_a_pv_which_cannot_be_used_is_named(reading, what, remedy):
    kinds = {"cam1:DataSource": "enum", "cam1:NumImages": "number"}
    detector = Part("detector", "beamline.detector_prefix", "B:", kinds)
    (found,) = part_findings(detector, {"cam1:DataSource": reading, "cam1:NumImages": Reading("number", 1)})
    assert found.level == "bad"
    assert what in found.what
    assert remedy in found.remedy


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("no tmpfs can be mounted here: root is needed")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_red(small_disk):
    found = disk_finding("disk of frames", small_disk, 6.6e7, "beamline.data_directory")
    assert found.level == "bad"
    assert found.remedy == "free some space, or set beamline.data_directory to another disk"
    catalog = Settings().catalog.model_copy(update={"backup_directory": small_disk / "documents"})
    assert "1.05 MB left" in one(folder_findings(settings_with(catalog=catalog)), "folders").what


def test_a_journal_that_cannot_be_written_is_red(tmp_path):
    (tmp_path / "file").touch()
    found = one(loop_findings(loop_with(tmp_path, journal=tmp_path / "file" / "journal.sqlite")), "journal")
    assert (found.level, found.remedy) == ("bad", "set loop.journal to a file on a local disk that you can write")
    assert "is a file, not a folder" in found.what


def test_a_journal_that_is_none_is_red(tmp_path):
    (tmp_path / "journal.sqlite").write_text("not a database" * 100)
    assert "file is not a database" in one(loop_findings(loop_with(tmp_path)), "journal").what


def test_a_journal_is_left_as_it_is(tmp_path):
    from bluesky_ptychonn.io.journal import Journal

    path = tmp_path / "journal.sqlite"
    journal = Journal(path)
    journal.open()
    journal.close()
    before = path.read_bytes()
    assert one(loop_findings(loop_with(tmp_path)), "journal") == Finding("journal", "ok", f"{path}: 0 scans")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert "locked" in one(loop_findings(loop_with(tmp_path)), "journal").what
        other.execute("ROLLBACK")
    assert path.read_bytes() == before


def test_a_scheduler_that_is_not_here_is_red(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = one(loop_findings(loop_with(tmp_path, runner="slurm")), "scheduler")
    assert (found.level, found.what) == ("bad", "slurm: there is no squeue here")
    assert 'set loop.runner = "local"' in found.remedy


def test_a_loop_without_a_service_is_worth_knowing(tmp_path):
    found = one(loop_findings(loop_with(tmp_path)), "loop")
    assert (found.level, found.remedy) == ("warn", "start `bluesky-ptychonn loop run`; runs are noted meanwhile")


def test_an_engine_that_is_not_here_is_red():
    pytest.importorskip("openvino")
    edge = EdgeSettings(engine="tensorrt")
    found = one(engine_findings(settings_with(edge=edge)), "engine")
    if found.level == "ok":
        pytest.skip("TensorRT is here")
    assert found.level == "bad"
    assert "cannot be imported" in found.what
    assert "install" in found.remedy


def test_an_engine_that_takes_long_is_worth_knowing():
    found = one(engine_findings(settings_with(edge=EdgeSettings(engine="lift")), timeout_s=0.05), "engine")
    assert (found.level, "is not ready after 0.05 s" in found.what) == ("warn", True)


def test_no_gpu_is_red_only_where_the_engine_needs_one(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert one(gpu_findings(Settings()), "GPU").level == "ok"
    found = one(gpu_findings(settings_with(edge=EdgeSettings(engine="torch"))), "GPU")
    assert (found.level, 'edge.engine = "openvino"' in found.remedy) == ("bad", True)


def tiled_at(uri, key_file=None):
    catalog = Settings().catalog.model_copy(update={"uri": uri, "api_key_file": key_file})
    return one(tiled_findings(settings_with(catalog=catalog), timeout_s=1.0), "Tiled")


def test_tiled_that_is_down_is_red():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        found = tiled_at(f"http://127.0.0.1:{free.getsockname()[1]}/api/v1")
    assert found.level == "bad"
    assert "start it, or correct catalog.uri" in found.remedy


def test_tiled_that_hangs_is_red():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        found = tiled_at(f"http://127.0.0.1:{silent.getsockname()[1]}/api/v1")
    assert (found.level, "Timeout" in found.what) == ("bad", True)


def test_a_missing_key_is_red(tmp_path):
    found = tiled_at("http://127.0.0.1:1/api/v1", tmp_path / "key")
    assert "catalog.api_key_file" in found.what


def test_a_check_that_hangs_or_fails_ends_nothing():
    from concurrent.futures import ThreadPoolExecutor

    stop = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        (late,) = doctor._result(pool.submit(stop.wait), "x", 0.0)
        stop.set()
        (broken,) = doctor._result(pool.submit(lambda: 1 / 0), "y", float("inf"))
    assert (late.level, broken.level) == ("bad", "bad")
    assert "ZeroDivisionError" in broken.what


FINDINGS = [
    Finding("one", "ok", "fine"),
    Finding("other", "warn", "so so"),
    Finding("third", "bad", "broken", "mend it"),
]


def test_the_table_puts_remedies_below():
    assert doctor.told(FINDINGS).splitlines() == [
        "ok   one    fine",
        "warn other  so so",
        "BAD  third  broken",
        "            -> mend it",
    ]
    assert "\x1b[31;1mBAD \x1b[0m" in doctor.told(FINDINGS, colours=True)
    assert doctor.summary(FINDINGS).startswith("1 of 3 findings are bad")
    assert (doctor.verdict(FINDINGS), doctor.verdict(FINDINGS[:2])) == (1, 0)


def test_the_edge_may_have_what_is_missing_here(monkeypatch, tmp_path):
    """An engine which serves elsewhere needs none on this computer."""
    from bluesky_ptychonn.cli import doctor_checks_beamline, doctor_checks_frames

    monkeypatch.setattr(doctor_checks_beamline, "beamline_findings", lambda s: ([], doctor_checks_beamline.Stream()))
    monkeypatch.setattr(
        doctor_checks_services, "engine_findings", lambda s: [Finding("engine", "bad", "no driver", "buy one")]
    )
    for serves, level in ((False, "bad"), (True, "warn")):
        monkeypatch.setattr(doctor_checks_frames, "edge_findings", lambda s, serves=serves: ([], serves))
        assert one(doctor.examine(Settings(), []), "engine").level == level


def test_json_and_exit_code(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "examine", lambda settings, files: [*files, *FINDINGS])
    np.save("wrong.npy", np.zeros((3, 3)))
    (tmp_path / "s.toml").write_text('[probe]\nfile = "wrong.npy"\n[geometry]\nbad_pixels_file = "none.npy"\n')
    assert main(["doctor", "--json", "--settings", "s.toml"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["healthy"] is False
    levels = {finding["name"]: finding["level"] for finding in told["findings"]}
    assert levels == {
        "settings": "ok",
        "probe": "bad",
        "bad pixels": "bad",
        "model": "ok",
        "one": "ok",
        "other": "warn",
        "third": "bad",
    }

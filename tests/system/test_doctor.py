"""The doctor at a beamline of real servers: green as it is, red with the remedy for what is made to go wrong."""

import json
import re
import time

import numpy as np
import pytest

from bluesky_ptychonn.cli import doctor_checks_frames, doctor_pvs
from bluesky_ptychonn.cli.doctor import examine, verdict
from bluesky_ptychonn.cli.doctor_checks import file_findings
from bluesky_ptychonn.cli.doctor_checks_beamline import beamline_findings
from bluesky_ptychonn.cli.doctor_checks_frames import edge_findings, frame_findings
from bluesky_ptychonn.cli.main import main
from bluesky_ptychonn.config import load_settings

pytestmark = pytest.mark.system
DETECTOR = "SIM:EIG:"
ROI = (128, 128)


def changed(settings, table, **values):
    return settings.model_copy(update={table: getattr(settings, table).model_copy(update=values)})


def bad(findings):
    return {finding.name: finding for finding in findings if finding.level == "bad"}


@pytest.fixture
def put(services):
    """Write to PVs as somebody at another terminal would; put back at the end."""
    import epics

    before = []

    def write(name, value):
        pv = epics.get_pv(DETECTOR + name, connect=True, timeout=10)
        before.append((pv, pv.get(use_monitor=False)))
        pv.put(value, wait=True)

    yield write
    for pv, value in reversed(before):
        pv.put(value, wait=True)


@pytest.fixture
def hasty(monkeypatch):
    """Little patience with what will not answer."""
    monkeypatch.setattr(doctor_pvs, "CONNECT_S", 1.0)
    monkeypatch.setattr(doctor_checks_frames, "ANSWER_S", 0.5)


def test_all_is_green(put, services, capsys):
    for plugin in ("Pva1:", "HDF1:"):
        put(f"{plugin}DroppedArrays", 0)  # what earlier tests made it drop
    began_s = time.monotonic()
    assert main(["doctor", "--json", "--settings", str(services.settings_file)]) == 0
    assert time.monotonic() - began_s < 60
    findings = json.loads(capsys.readouterr().out)["findings"]
    not_ok = {finding["name"] for finding in findings if finding["level"] != "ok"}
    assert not_ok <= {"clock skew"}, findings  # a busy machine
    assert len(findings) >= 20


def test_nothing_is_written(services):
    """Every record that a client could write is as it was, and was not even processed."""
    import epics

    from bluesky_ptychonn.cli.doctor_pvs import DETECTORS, needed

    names = [DETECTOR + name for name, _ in needed(DETECTORS["eiger2"]) if not name.endswith("_RBV")]
    pvs = [epics.get_pv(name, form="time", connect=True, timeout=10) for name in names]

    def stamps():
        return {pv.pvname: pv.get_with_metadata(use_monitor=False)["timestamp"] for pv in pvs}

    before = stamps()
    beamline_findings(services.settings)
    assert stamps() == before


def test_an_ioc_that_is_not_there(services, hasty):
    findings, stream = beamline_findings(changed(services.settings, "beamline", stage_prefix="NO:STAGE:"))
    found = bad(findings)
    assert list(found) == ["stage PVs"]
    assert found["stage PVs"].what == "none answers"
    assert "EPICS_CA_ADDR_LIST" in found["stage PVs"].remedy
    assert "beamline.stage_prefix = 'NO:STAGE:'" in found["stage PVs"].remedy
    assert stream.channel == "SIM:EIG:Pva1:Image"


def test_records_of_another_detector(services, hasty):
    findings, _ = beamline_findings(changed(services.settings, "beamline", detector="medipix3"))
    found = bad(findings)
    assert list(found) == ["detector PVs"]
    assert "SIM:EIG:cam1:BothCounters" in found["detector PVs"].what
    assert "load the template" in found["detector PVs"].remedy


@pytest.mark.parametrize(
    ("name", "value", "where", "what", "remedy"),
    [
        ("Pva1:EnableCallbacks", 0, "plugins", "Pva1: disabled", f"caput {DETECTOR}Pva1:EnableCallbacks Enable"),
        ("HDF1:QueueSize", 1, "plugin queues", "HDF1: 1 frames; 1 last 0.5 ms", f"caput {DETECTOR}HDF1:QueueSize 2000"),
    ],
)
def test_a_plugin_that_would_lose_frames(put, services, name, value, where, what, remedy):
    put(name, value)
    findings, _ = beamline_findings(services.settings)
    found = bad(findings)
    assert list(found) == [where]
    assert what in found[where].what
    assert remedy in found[where].remedy


def test_a_clock_that_goes_wrong(services):
    findings, _ = beamline_findings(services.settings, clock=lambda: time.time() + 600)
    found = bad(findings)
    assert list(found) == ["clock skew"]
    assert "this computer is 600." in found["clock skew"].what
    assert "ahead of the IOC" in found["clock skew"].what
    assert "chrony or NTP" in found["clock skew"].remedy


def test_a_clock_that_is_right(services):
    findings, _ = beamline_findings(services.settings)
    (skew,) = [finding for finding in findings if finding.name == "clock skew"]
    assert float(skew.what.split()[3]) < 2, skew


def test_whose_clock_stamps(put, services):
    put("cam1:StreamAsTSSource", 0)
    findings, _ = beamline_findings(services.settings)
    (clock,) = [finding for finding in findings if finding.name == "clock"]
    assert clock.what == "the IOC stamps frames (StreamAsTSSource No, Stream2); a scan asks for the detector's"


def test_frames_of_another_shape(services, tmp_path):
    np.save(tmp_path / "mask.npy", np.zeros((256, 256), bool))
    for values, what in (
        ({"frame_px": 512}, "patterns of 512 px, binned by 1, want 512 px"),
        ({"beam_center_px": (258.0, 258.0)}, "geometry.beam_center_px = [258.0, 258.0] lies outside"),
        ({"bad_pixels_file": tmp_path / "mask.npy"}, "the mask of bad pixels is 256 x 256 px"),
    ):
        settings = changed(services.settings, "geometry", **values)
        (found,) = frame_findings(settings, "SIM:EIG:Pva1:Image", ROI, watch_s=0.2)
        assert (found.level, what in found.what, "ROI1" in found.remedy) == ("bad", True, True), found


def test_a_stream_that_is_not_there(services, hasty):
    (found,) = frame_findings(services.settings, "SIM:EIG:Pva1:Imag", ROI)
    assert (found.level, "EPICS_PVA_ADDR_LIST" in found.remedy) == ("bad", True)


def expose(put, frames=400):
    for name, value in (
        ("cam1:TriggerMode", "Internal Series"),
        ("cam1:ManualTrigger", 0),
        ("cam1:NumImages", frames),
        ("cam1:NumTriggers", 1),
        ("cam1:AcquireTime", 0.008),
        ("cam1:AcquirePeriod", 0.01),
        ("cam1:Acquire", 1),
    ):
        put(name, value)


def test_frames_as_they_come(put, services):
    expose(put)
    (found,) = frame_findings(services.settings, "SIM:EIG:Pva1:Image", ROI, watch_s=1.5)
    assert found.level == "ok"
    assert found.what.startswith("128 x 128 px, ushort; ")
    assert 30 < float(found.what.split("; ")[1].split()[0]) < 150, found


def test_a_shutter_that_is_none(services):
    settings = changed(services.settings, "beamline", shutter_pv="SIM:EIG:cam1:AcquireTime")
    findings, _ = beamline_findings(settings)
    assert "takes Open and Close" in bad(findings)["shutter"].remedy


def test_a_table_of_positions(services, hasty):
    """Green where it is, and with the remedy where it is not."""
    for prefix, level, told in (
        ("SIM:STAGE:Pcap1:", "ok", "4 answer, of the right types; disarmed"),
        ("SIM:STAGE:Pcap2:", "bad", "is beamline.position_table = 'SIM:STAGE:Pcap2:' right?"),
    ):
        findings, _ = beamline_findings(changed(services.settings, "beamline", position_table=prefix))
        (found,) = [finding for finding in findings if finding.name == "position table PVs"]
        assert (found.level, told in found.what + found.remedy) == (level, True), found


def test_where_frames_cannot_go(services, tmp_path):
    findings, _ = beamline_findings(changed(services.settings, "beamline", data_directory=tmp_path / "none"))
    assert "make it, mount it here, or set beamline.data_directory" in bad(findings)["disk of frames"].remedy


def test_an_edge_that_is_not_there(services, hasty):
    findings, serves = edge_findings(changed(services.settings, "edge", prefix="nobody:"))
    assert not serves
    assert (findings[0].level, "bluesky-ptychonn edge" in findings[0].remedy) == ("warn", True)


def test_several_faults_are_all_told(services, tmp_path):
    """A model for another size, Tiled down, the probe gone: each in its line, and the exit code is 1."""
    settings = changed(services.settings, "geometry", frame_px=64)
    settings = changed(settings, "catalog", uri="http://127.0.0.1:1/api/v1")
    settings = changed(settings, "probe", file=tmp_path / "none.npy")
    findings = examine(settings, file_findings(settings))
    assert set(bad(findings)) == {"model", "Tiled", "probe"}
    assert bad(findings)["model"].remedy == "set geometry.frame_px, or use another model and probe"
    assert verdict(findings) == 1


def test_the_beam_is_found_in_frames_as_they_come(put, services, tmp_path, capsys):
    """`center --live --write` next to a detector that exposes: the settings then name beam and mask."""
    import epics

    before = services.settings.geometry
    file = tmp_path / "own.toml"
    wrong = f"beam_center_px = {[place + 12 for place in before.beam_center_px]}"
    text = re.sub(r"beam_center_px = .*", f"{wrong}  # guessed", services.settings_file.read_text())
    text = re.sub(r'= "(probe.npy|bad_pixels.npy|catalog/api_key)"', rf'= "{services.directory}/\1"', text)
    file.write_text(text)
    epics.caput(services.settings.beamline.shutter_pv, "Open", wait=True)  # which an earlier scan has closed
    expose(put)
    assert main(["center", "--live", "--write", "--settings", str(file), "--picture", str(tmp_path / "c.png")]) == 0
    found = load_settings(file).geometry
    assert np.linalg.norm(np.subtract(found.beam_center_px, before.beam_center_px)) < 0.5
    truth, mask = np.load(before.bad_pixels_file), np.load(found.bad_pixels_file)
    assert found.bad_pixels_file == tmp_path / "bad_pixels.npy"
    assert np.array_equal(mask, truth)  # those known before, and nothing besides
    assert "# guessed" in file.read_text()
    assert "dead pixels were not looked for" in capsys.readouterr().out  # the stage stands still
    assert (tmp_path / "c.png").stat().st_size > 10_000

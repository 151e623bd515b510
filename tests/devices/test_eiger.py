import shutil
from collections import namedtuple

import pytest
from ophyd.sim import make_fake_device

from bluesky_ptychonn.core.request import ScanRequest
from bluesky_ptychonn.devices.eiger import Eiger, Eiger2Cam

GOOD = ScanRequest(1.0, 1.0, 0.1, 1e-3, 2e-3, 10.0, probe_diameter_um=0.5)


@pytest.fixture
def eiger(tmp_path):
    eiger = make_fake_device(Eiger)("X:", name="eiger")
    eiger.file_directory.put(str(tmp_path))
    for signal, value in (
        (eiger.cam.dead_time, 1e-5),
        (eiger.cam.detector_state, "Idle"),
        (eiger.cam.status_message, ""),
        (eiger.roi1.size.x, 128),
        (eiger.roi1.size.y, 120),
    ):
        (getattr(signal, "sim_put", None) or signal.put)(value)
    return eiger


def test_nothing_stands_against_a_good_request(eiger):
    assert eiger.check(GOOD) == []


def test_exposure_and_dead_time_must_fit_the_dwell(eiger):
    (problem,) = eiger.check(ScanRequest(1.0, 1.0, 0.1, 1e-3, 1e-3, 10.0))
    assert "dwell_s = 0.001 s" in problem
    assert "0.00101 s or more" in problem


@pytest.mark.parametrize("state", ["Error", "Disconnected"])
def test_a_broken_detector_is_refused(eiger, state):
    eiger.cam.detector_state.sim_put(state)
    assert any(state in problem for problem in eiger.check(GOOD))


def test_the_beam_must_hit_the_frame(eiger):
    eiger.geometry.beam_center_y_px.put(125.0)
    assert any("beam centre" in problem for problem in eiger.check(GOOD))


def test_superpixels_must_lie_in_the_frame_and_are_told_to_all(eiger):
    assert eiger.geometry.binning.get() == 1
    eiger.geometry.binning.put(4)
    assert any("crop_px = 128 px, binned by 4, is more than twice" in problem for problem in eiger.check(GOOD))
    eiger.geometry.crop_px.put(32)
    assert eiger.check(GOOD) == []
    assert "eiger_geometry_binning" in eiger.read_configuration()


def test_a_full_disk_is_refused(eiger, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 9, 1_000_000))
    assert any("GB left" in problem for problem in eiger.check(GOOD))


def test_signals_that_the_template_lacks_are_gone():
    for name in ("trigger_exposure", "fw_clear", "link_0", "link_3", "dcu_buff_free", "pool_max_buffers"):
        assert name not in Eiger2Cam.component_names


def test_external_keys_are_declared_without_a_leading_one(eiger):
    """(1, H, W) would become (N, 1, H, W) in Tiled."""
    eiger._shape = (120, 128)
    eiger.cam.bit_depth.sim_put(16)
    keys = eiger.describe_collect()
    assert keys["eiger_image"]["shape"] == [120, 128]
    assert keys["eiger_image"]["dtype_numpy"] == "<u2"
    assert {key["external"] for key in keys.values()} == {"STREAM:"}


def test_it_does_nothing_without_a_request(eiger):
    with pytest.raises(RuntimeError, match="prepare"):
        eiger.kickoff()
    with pytest.raises(RuntimeError, match="fly=False"):
        eiger.trigger()


def test_what_one_record_refuses_keeps_no_other_from_being_restored(eiger, monkeypatch, caplog):
    put_back = []

    def refuse_the_second(signal, value):
        if signal is eiger.cam.num_images:
            raise TimeoutError("X:cam1:NumImages does not take 1")
        put_back.append((signal, value))

    monkeypatch.setattr("bluesky_ptychonn.devices.detector_base.put_checked", refuse_the_second)
    monkeypatch.setattr(eiger, "_disarm", lambda: None)
    monkeypatch.setattr(eiger, "_alive", lambda: True)
    for signal, before in ((eiger.cam.num_triggers, 7), (eiger.cam.num_images, 1), (eiger.cam.acquire_time, 0.5)):
        eiger._original_vals[signal] = before
    eiger.unstage()
    assert put_back == [(eiger.cam.acquire_time, 0.5), (eiger.cam.num_triggers, 7)]
    assert "NumImages does not take 1" in caplog.text

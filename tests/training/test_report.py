import re
from dataclasses import replace

import numpy as np
import pytest
from simulated_scan import simulate

from bluesky_ptychonn.core.reconstruction import RetrievalReport
from bluesky_ptychonn.training.retrieval.field import overlap_ratio
from bluesky_ptychonn.training.retrieval.reconstruct import reconstruct
from bluesky_ptychonn.training.retrieval.report import best_scale, judge
from bluesky_ptychonn.training.retrieval.verdict import verdict

GOOD = RetrievalReport(
    trusted=False,
    reason="",
    error=0.0017,
    error_heldout=0.0018,
    error_blank=0.02,
    error_noise=0.0016,
    frc_cycles_per_px=0.3,
    frc_nm=19.0,
    covered_fraction=1.0,
    overlap_ratio=0.85,
    photons_per_frame=1e6,
    orientation_margin=3.0,
    orientation_gain=3.0,
)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"overlap_ratio": 0.3}, "too sparse: the overlap ratio is 0.30, at least 0.45 is needed"),
        ({"orientation": "flip_y"}, "wrong orientation: the data fit 3.00 times better .* 'flip_y'"),
        ({"position_scale": 1.1}, "wrong scale: .* multiplied by about 1.10; check energy, distance, detector pixel"),
        ({"overlap_ratio": None}, "lie on a line or at too few places"),
        ({"error_blank": 0.0017}, "too little light: at 1e\\+06 photons"),
        ({"frc_cycles_per_px": float("nan")}, "not reproducible"),
        ({"error": float("nan")}, "bad fit"),
        ({"covered_fraction": 0.4}, "poorly covered: only 40 % of the field"),
        ({"frc_cycles_per_px": None}, "too small to compare"),
        ({"frc_cycles_per_px": 0.02}, "not reproducible: .* frames and positions belong together"),
        ({"error_heldout": 0.015}, "bad fit: 73 % .* is unexplained, at most 18 %"),
        ({"error": 0.012}, "bad fit: 57 %"),
        ({"error": 0.0051}, "bad fit: 19 %"),
        ({"error_heldout": 0.0045}, "overfitted: frames held out fit 2.6 times worse"),
    ],
)
def test_each_fault_is_called_by_its_name(change, reason):
    trusted, told = verdict(replace(GOOD, **change))
    assert not trusted
    assert re.search(reason, told), told


def test_a_sound_reconstruction_is_trusted():
    trusted, told = verdict(GOOD)
    assert trusted
    assert told.startswith("frames, held out ones too, are explained to 99 %")
    assert verdict(replace(GOOD, error_heldout=float("nan")))[0]


@pytest.mark.parametrize("start_defocus", [1.0, 1.11])
def test_a_good_scan_is_trusted(start_defocus):
    scan, _ = simulate(11, start_defocus=start_defocus)
    report = judge(scan, reconstruct(scan, sweeps=20)).report
    assert report.trusted, report.reason
    assert report.error_noise == pytest.approx(report.error, rel=0.3)
    assert (report.orientation, report.twin, report.position_scale) == ("identity", "decided", 1.0)
    assert report.frc_nm == pytest.approx(1e3 * scan.pixel_size_um / (2 * report.frc_cycles_per_px))


@pytest.mark.parametrize(
    ("spoiled", "reason"),
    [
        ({"step_um": 0.26, "width_um": 1.8}, "too sparse"),
        ({"scale": 1.12}, "wrong scale"),
        ({"orientation": "flip_x"}, "wrong orientation"),
        ({"photons": 300}, "too little light"),
    ],
)
def test_a_spoiled_scan_is_called_what_it_is(spoiled, reason):
    scan, _ = simulate(12, **spoiled)
    told = []
    report = judge(scan, reconstruct(scan, sweeps=20), on_step=told.append).report
    assert not report.trusted
    assert report.reason.startswith(reason)
    assert "ring correlation of two halves" in told


@pytest.mark.parametrize(
    ("errors", "scale"),
    [([2.0, 1.0, 2.0], 1.0), ([0.9, 1.0, 1.3], 0.9), ([0.5, 1.0, 1.4], 0.9), ([1.01, 1.0, 0.99], 1.0)],
)
def test_the_scale_is_where_the_errors_are_least(errors, scale):
    assert best_scale(errors) == pytest.approx(scale, abs=0.11)


def test_neither_outline_nor_an_astray_position_lowers_the_overlap():
    y, x = (part.ravel() for part in np.mgrid[:12, :12] * 5.0)
    scan, _ = simulate(width_um=0.3)
    whole = overlap_ratio(np.stack([y, x], axis=1), scan.probe)
    angle = (y < 30) | (x < 30)
    assert overlap_ratio(np.stack([y, x], axis=1)[angle], scan.probe) == pytest.approx(whole, abs=0.02)
    assert overlap_ratio(np.vstack([np.stack([y, x], axis=1), [[300, 300]]]), scan.probe) == pytest.approx(
        whole, abs=0.02
    )


def test_overlap_is_that_of_step_and_probe():
    scan, _ = simulate()
    assert overlap_ratio(scan.positions_px, scan.probe) > overlap_ratio(2 * scan.positions_px, scan.probe)
    assert overlap_ratio(np.zeros((5, 2)), scan.probe) is None

"""The verdict on ten whole scans and on others spoiled in a dozen ways, against the truth."""

import os

import numpy as np
import pytest
from simulated_scan import simulate, ssim

from bluesky_ptychonn.training.retrieval.reconstruct import reconstruct
from bluesky_ptychonn.training.retrieval.report import judge

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]

WHOLE = {
    "plain": {},
    "letters": {"kind": "letters"},
    "less light": {"photons": 1e5},
    "defocus 11 % off": {"start_defocus": 1.11},
    "defocus the other way": {"kind": "letters", "start_defocus": 0.89},
    "less overlap": {"step_um": 0.13, "width_um": 1.2},
    "module gap": {"gap": True},
    "stage noise of 6 nm": {"misplaced_px": 0.5},
    "drift of 2 px": {"drift_px": 2.0},
    "motion of 5 px": {"blur_px": 5.0},
}
SPOILED = {
    "sparse": {"step_um": 0.26, "width_um": 2.0},
    "energy too low": {"scale": 1 / 1.12},
    "energy too high": {"scale": 1.12},
    "flipped axis": {"orientation": "flip_x"},
    "transposed": {"orientation": "transpose"},
    "too little light": {"photons": 300},
    "frames on other positions": {"rows_shifted": 3},
    "stage noise of 80 nm": {"misplaced_px": 7.0},
    "drift of 0.7 um": {"drift_px": 60.0},
    "saturated": {"saturated_at": 30},
    "motion of 0.35 um": {"blur_px": 30.0},
    "stale frames": {"stale": 0.6},
}
CAUSES = {"sparse": "too sparse", "flipped axis": "wrong orientation", "energy too high": "wrong scale"}


@pytest.fixture
def seed():
    chosen = int(os.environ.get("SOAK_SEED", np.random.default_rng().integers(1_000_000)))
    print(f"seed {chosen}")
    return chosen


@pytest.mark.parametrize("name", WHOLE)
def test_no_good_scan_is_refused(seed, name):
    scan, truth = simulate(seed, **WHOLE[name])
    result = judge(scan, reconstruct(scan, sweeps=20))
    assert ssim(result, truth, remove=("ramp", "shift")) > 0.5
    assert result.report.trusted, result.report


@pytest.mark.parametrize("name", SPOILED)
def test_no_spoiled_scan_is_trusted(seed, name):
    scan, truth = simulate(seed, **SPOILED[name])
    result = judge(scan, reconstruct(scan, sweeps=20))
    if "energy" not in name:  # its image is another scale's, and cannot be laid over the truth
        assert ssim(result, truth, remove=("ramp", "shift")) < 0.5
    assert not result.report.trusted, result.report
    assert result.report.reason.startswith(CAUSES.get(name, "")), result.report

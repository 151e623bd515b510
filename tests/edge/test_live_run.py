from types import SimpleNamespace

import numpy as np
import pytest

from bluesky_ptychonn.core.model_card import ModelCard
from bluesky_ptychonn.core.optics import probe_diameter_um, zone_plate_probe
from bluesky_ptychonn.core.positions import goes_astray
from bluesky_ptychonn.engines.checks import check_run
from bluesky_ptychonn.io.edge_channels import RunMessage

HASH = 64 * "0"
CARD = ModelCard("starter", "000001", {"model.onnx": HASH, "golden.npz": HASH}, 128, 96, 0.01162, 10.0)
PROBE = np.pad(np.ones((64, 64), np.complex64), 32)


def message(**change):
    values = {"energy_kev": 10.0, "distance_m": 0.9, "detector_pixel_um": 75.0, "crop_px": 128, **change}
    values = {"frame_shape": (128, 128), **values}
    return RunMessage(
        "uid", "image", 1, np.zeros(1), np.zeros(1), exposure_s=0.001, dwell_s=0.002, beam_center_px=(64, 64), **values
    )


def test_a_run_the_model_was_made_for_is_taken():
    engine = SimpleNamespace(card=CARD, frame_px=128)
    assert check_run(message(distance_m=0.91), engine, PROBE).pixel_size_um == pytest.approx(0.01175, rel=1e-3)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"distance_m": 0.93}, "pixel_size_um"),
        ({"energy_kev": 10.3, "distance_m": 0.927}, "energy_kev"),
        ({"crop_px": 64}, "crop_px = 64 px"),
    ],
)
def test_a_model_made_for_something_else_is_refused_with_a_remedy(change, named):
    engine = SimpleNamespace(card=CARD, frame_px=128)
    with pytest.raises(ValueError, match=f"{named}.*use"):
        check_run(message(**change), engine, PROBE)


def test_superpixels_are_what_a_model_is_compared_with():
    """512 x 512 pixels of a Medipix, 4 x 4 of them in one of the model's."""
    engine = SimpleNamespace(card=CARD, frame_px=128)
    binned = message(detector_pixel_um=55.0, distance_m=2.64, binning=4, frame_shape=(516, 516))
    assert check_run(binned, engine, PROBE).pixel_size_um == pytest.approx(0.01162, rel=1e-3)


@pytest.mark.parametrize("binning", [1, 4])
def test_a_field_that_does_not_hold_the_probe_is_refused_with_figures_and_remedy(binning):
    """The paper's Medipix at 1.55 m, binned by 4, just holds its probe; a probe as wide as the field does not fit."""
    given = {"detector_pixel_um": 220.0 / binning, "distance_m": 1.55, "binning": binning}
    engine = SimpleNamespace(card=None, frame_px=128)
    probe = zone_plate_probe(check_run(message(**given), engine, PROBE))
    geometry = check_run(message(**given), engine, probe)
    assert probe_diameter_um(probe, geometry.pixel_size_um) * 1.1 < geometry.field_um < 1

    wide = np.pad(np.ones((110, 110), np.complex64), 9)
    remedy = "crop instead of binning" if binning > 1 else "move the detector away"
    with pytest.raises(
        ValueError,
        match=rf"field of a pattern is 0\.874 um \(128 px of 6\.82 nm, binning = {binning}\), "
        rf"less than 1\.1 times the probe's diameter of 0\.8\d+ um; {remedy}",
    ):
        check_run(message(**given), engine, wide)


def test_an_engine_without_a_model_takes_any_geometry():
    assert check_run(message(distance_m=2.0), SimpleNamespace(card=None, frame_px=128), PROBE)


def test_a_model_that_learned_in_pixels_takes_any_pixel_size():
    card = ModelCard("starter", "000001", CARD.files, 128, 96, None, None)
    engine = SimpleNamespace(card=card, frame_px=128)
    assert check_run(message(distance_m=2.0, energy_kev=6.0), engine, PROBE).energy_kev == 6.0


def test_a_readback_that_cannot_be_is_not_taken_for_a_position():
    planned_um = 1000 + np.stack(np.mgrid[:3, :3], axis=-1).reshape(-1, 2).astype(float)
    captured_um = planned_um[[1, 4, 8]] + 0.02
    captured_um[1] = 0.0  # a controller that pads with zeros
    assert goes_astray(captured_um, planned_um).tolist() == [False, True, False]

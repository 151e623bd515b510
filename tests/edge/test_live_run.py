from types import SimpleNamespace

import numpy as np
import pytest

from bluesky_ptychonn.core.model_card import ModelCard
from bluesky_ptychonn.edge.checks import check_run, goes_astray
from bluesky_ptychonn.io.edge_channels import RunMessage

HASH = 64 * "0"
CARD = ModelCard("starter", "000001", {"model.onnx": HASH, "golden.npz": HASH}, 128, 96, 0.01162, 10.0)
PROBE = np.ones((128, 128), np.complex64)


def message(**change):
    values = {"energy_kev": 10.0, "distance_m": 0.9, "detector_pixel_um": 75.0, "crop_px": 128, **change}
    return RunMessage(
        "uid", "image", 1, np.zeros(1), np.zeros(1), exposure_s=0.001, dwell_s=0.002, frame_shape=(128, 128),
        beam_center_px=(64, 64), **values,
    )  # fmt: skip


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

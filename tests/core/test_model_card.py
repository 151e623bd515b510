import json

import pytest

from bluesky_ptychonn.core.model_card import ModelCard

GOOD = ModelCard(
    name="starter",
    version="000001",
    files={"model.onnx": 64 * "a", "golden.npz": 64 * "b"},
    frame_px=128,
    patch_px=96,
    pixel_size_um=0.0116,
    energy_kev=10.0,
    training={"results": [{"mae_rad": 0.03}]},
).to_dict()


def test_survives_json():
    card = ModelCard.from_dict(json.loads(json.dumps(GOOD)))
    assert card.to_dict() == GOOD
    assert card.sha256 == 64 * "a"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema = 2"),
        ({"patch_px": 130}, "at most frame_px = 128"),
        ({"patch_px": 96.0}, "positive even integer"),
        ({"frame_px": -2}, "positive even integer"),
        ({"pixel_size_um": 0}, "pixel_size_um = 0"),
        ({"energy_kev": float("nan")}, "energy_kev = nan"),
        ({"energy_kev": "10"}, "energy_kev = '10'"),
        ({"preparation": "magic"}, "known are lift"),
        ({"files": {}}, "no hash"),
        ({"files": {"../model.onnx": 64 * "a", "golden.npz": 64 * "a"}}, "plain name"),
        ({"files": {"model.onnx": "abc", "golden.npz": 64 * "a"}}, "64 hexadecimal"),
        ({"files": [1]}, "must be a table"),
        ({"version": "a b"}, "a word of"),
        ({"later": 1}, r"unknown keys \['later'\]"),
    ],
)
def test_impossible_cards_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ModelCard.from_dict({**GOOD, **change})


def test_missing_key_is_named():
    with pytest.raises(ValueError, match="pixel_size_um"):
        ModelCard.from_dict({key: value for key, value in GOOD.items() if key != "pixel_size_um"})

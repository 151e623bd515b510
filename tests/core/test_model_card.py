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
        ({"schema": 1}, "schema = 1"),
        ({"patch_px": 130}, "at most frame_px = 128"),
        ({"patch_px": 96.0}, "positive even integer"),
        ({"frame_px": -2}, "positive even integer"),
        ({"pixel_size_um": 0}, "pixel_size_um = 0"),
        ({"energy_kev": float("nan")}, "energy_kev = nan"),
        ({"energy_kev": "10"}, "energy_kev = '10'"),
        ({"preparation": "magic"}, "known are lift"),
        ({"files": {}}, "no hash"),
        ({"refine_file": "refine.onnx"}, "refine_file = 'refine.onnx' has no hash"),
        ({"preparation": "counts"}, "a model of counts has one graph"),
        ({"reference_counts": None}, "reference_counts = None"),
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


def test_both_graphs_make_the_identity():
    files = {**GOOD["files"], "refine.onnx": 64 * "c"}
    card = ModelCard.from_dict({**GOOD, "files": files, "refine_file": "refine.onnx"})
    other = ModelCard.from_dict({**GOOD, "files": {**files, "refine.onnx": 64 * "d"}, "refine_file": "refine.onnx"})
    assert len({card.sha256, other.sha256, ModelCard.from_dict(GOOD).sha256}) == 3


def test_counts_may_be_taken_as_they_are():
    assert ModelCard.from_dict({**GOOD, "preparation": "counts", "patch_px": 128, "reference_counts": None})


def test_missing_key_is_named():
    with pytest.raises(ValueError, match="pixel_size_um"):
        ModelCard.from_dict({key: value for key, value in GOOD.items() if key != "pixel_size_um"})

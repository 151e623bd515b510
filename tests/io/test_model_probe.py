import json

import numpy as np
import pytest

from bluesky_ptychonn.core.model_card import PROBE, ModelCard
from bluesky_ptychonn.core.protocols import EngineMismatch
from bluesky_ptychonn.io.model_probe import give_probe, probe_of
from bluesky_ptychonn.io.model_store import open_model, publish, sha256_of

N = 8
FILES = {"model.onnx": b"graph", "golden.npz": b"golden"}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    return folder


CARD = ModelCard("tiny", "1", {name: sha256_of(data) for name, data in FILES.items()}, N, N, None, None)


def test_a_probe_goes_with_a_version_through_the_store(folder, tmp_path, rng):
    probe = rng.standard_normal((N, N)) + 1j
    card = give_probe(folder, CARD, probe)
    assert card.probe_sha256 == sha256_of((folder / PROBE).read_bytes())
    assert card.sha256 == CARD.sha256  # the network is the same
    model = open_model(folder)
    np.testing.assert_array_equal(probe_of(model), probe.astype(np.complex64))
    publish(tmp_path / "store", model.card, {name: (folder / name).read_bytes() for name in model.card.files})
    np.testing.assert_array_equal(probe_of(open_model(tmp_path / "store")), probe.astype(np.complex64))


def test_a_version_may_have_none(folder):
    give_probe(folder, CARD, np.ones((N, N), complex))
    card = give_probe(folder, open_model(folder).card, None)
    assert (card.probe_sha256, PROBE in card.files, (folder / PROBE).exists()) == ("", False, False)
    assert probe_of(open_model(folder)) is None


@pytest.mark.parametrize("wrong", [np.ones((N, N)), np.ones((4, 4), complex), np.zeros((N, N), complex)])
def test_what_is_no_probe(folder, wrong):
    np.save(folder / PROBE, wrong)
    data = (folder / PROBE).read_bytes()
    values = CARD.to_dict()
    values["files"] = {**values["files"], PROBE: sha256_of(data)}
    values["probe_sha256"] = sha256_of(data)
    (folder / "card.json").write_text(json.dumps(values))
    with pytest.raises(EngineMismatch, match=r"finite complex values of \(8, 8\) are needed"):
        probe_of(open_model(folder))
    (folder / PROBE).write_bytes(b"torn")
    with pytest.raises(EngineMismatch, match=r"probe.npy has SHA-256"):
        open_model(folder)


def test_a_card_that_names_another_probe_is_refused():
    with pytest.raises(ValueError, match=r"is not the hash of probe.npy in files"):
        ModelCard("tiny", "1", dict(CARD.files), N, N, None, None, probe_sha256=64 * "0")

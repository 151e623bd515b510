import threading

import pytest

from bluesky_ptychonn.core.model_card import ModelCard
from bluesky_ptychonn.core.protocols import EngineMismatch
from bluesky_ptychonn.io import model_store
from bluesky_ptychonn.io.model_store import current_version, open_model, publish, set_current, versions

FILES = {"model.onnx": b"graph", "golden.npz": b"golden"}
CARD = ModelCard(
    "test", "none", {name: 64 * "0" for name in FILES}, frame_px=16, patch_px=8, pixel_size_um=0.01, energy_kev=10.0
)


def test_published_version_is_current_and_whole(tmp_path):
    assert publish(tmp_path, CARD, FILES) == "000001"
    assert publish(tmp_path, CARD, {**FILES, "model.onnx": b"better"}) == "000002"
    model = open_model(tmp_path)
    assert model.card.version == current_version(tmp_path) == "000002"
    assert model.graph_path.read_bytes() == b"better"
    assert model.golden_path.read_bytes() == b"golden"
    assert open_model(tmp_path / "versions" / "000001").graph_path.read_bytes() == b"graph"


def test_rollback(tmp_path):
    publish(tmp_path, CARD, FILES)
    publish(tmp_path, CARD, FILES)
    set_current(tmp_path, "000001")
    assert open_model(tmp_path).card.version == "000001"
    publish(tmp_path, CARD, FILES, make_current=False)
    assert current_version(tmp_path) == "000001"
    assert versions(tmp_path) == ["000001", "000002", "000003"]


def test_harmed_file_is_refused_and_current_stays(tmp_path):
    publish(tmp_path, CARD, FILES)
    publish(tmp_path, CARD, FILES, make_current=False)
    (tmp_path / "versions" / "000002" / "model.onnx").write_bytes(b"grap")
    with pytest.raises(EngineMismatch, match=r"000002: model\.onnx has SHA-256"):
        set_current(tmp_path, "000002")
    assert current_version(tmp_path) == "000001"
    (tmp_path / "versions" / "000001" / "golden.npz").unlink()
    with pytest.raises(EngineMismatch, match=r"golden\.npz is missing"):
        open_model(tmp_path)


def test_broken_publish_leaves_nothing(tmp_path, monkeypatch):
    publish(tmp_path, CARD, FILES)

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(model_store, "write_card", full)
    with pytest.raises(OSError, match="no space"):
        publish(tmp_path, CARD, FILES)
    assert [path.name for path in (tmp_path / "versions").iterdir()] == ["000001"]
    assert open_model(tmp_path).card.version == "000001"


def test_two_publishers_take_two_numbers(tmp_path):
    taken = []
    threads = [
        threading.Thread(target=lambda: taken.append(publish(tmp_path, CARD, FILES, make_current=False)))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == versions(tmp_path) == [f"{k:06d}" for k in range(1, 7)]


@pytest.mark.parametrize("content", ["../../etc", "", "newest"])
def test_current_holds_a_version_and_nothing_else(tmp_path, content):
    publish(tmp_path, CARD, FILES)
    (tmp_path / "CURRENT").write_text(content)
    with pytest.raises(EngineMismatch, match="must hold a version"):
        open_model(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 1}', "{"])
def test_unreadable_card(tmp_path, text):
    (tmp_path / "card.json").write_text(text)
    with pytest.raises(EngineMismatch, match="cannot be read"):
        open_model(tmp_path)


def test_no_model(tmp_path):
    with pytest.raises(FileNotFoundError, match="no model in"):
        open_model(tmp_path / "nowhere")

"""How the store goes back, and what it keeps of candidates that were refused."""

import errno

import pytest

from bluesky_ptychonn.core.model_card import ModelCard
from bluesky_ptychonn.core.protocols import EngineMismatch
from bluesky_ptychonn.io import durable, model_store
from bluesky_ptychonn.io.model_store import (
    current_version,
    keep_refused,
    live_version,
    open_model,
    publish,
    read_card,
    read_decision,
    refused,
    rollback,
    set_current,
    versions,
)

FILES = {"model.onnx": b"graph", "golden.npz": b"golden"}
CARD = ModelCard(
    "test", "none", {name: 64 * "0" for name in FILES}, frame_px=16, patch_px=8, pixel_size_um=0.01, energy_kev=10.0
)


@pytest.fixture
def store(tmp_path):
    """Three versions, the last of which is current."""
    for _ in range(3):
        publish(tmp_path, CARD, FILES)
    return tmp_path


def full(*_, **__):
    raise OSError(errno.ENOSPC, "no space left on device")


def test_the_parent_is_what_was_live(store):
    parents = [read_card(store / "versions" / version).parent for version in versions(store)]
    assert parents == ["", "000001", "000002"]
    rollback(store, "000001")
    publish(store, CARD, FILES)
    assert open_model(store).card.parent == "000001"


def test_nothing_is_live_in_a_new_store(tmp_path):
    assert live_version(tmp_path) == ""
    publish(tmp_path, CARD, FILES, make_current=False)
    assert live_version(tmp_path) == ""
    publish(tmp_path, CARD, FILES)
    assert live_version(tmp_path) == "000002"
    assert open_model(tmp_path).card.parent == ""


def test_rollback_follows_the_parents_and_never_swings_back(store):
    assert [rollback(store), rollback(store)] == ["000002", "000001"]
    assert current_version(store) == "000001"
    with pytest.raises(EngineMismatch, match=r"000001 has no parent.*name one of 000002, 000003"):
        rollback(store)
    assert rollback(store, "000003") == "000003"
    assert rollback(store) == "000002"


def test_after_a_rollback_the_next_version_leads_back_past_what_was_left(store):
    rollback(store)
    assert publish(store, CARD, FILES) == "000004"
    assert rollback(store) == "000002"


def test_a_harmed_parent_leaves_the_current_version(store):
    (store / "versions" / "000002" / "model.onnx").write_bytes(b"gra")
    with pytest.raises(EngineMismatch, match="000002"):
        rollback(store)
    assert current_version(store) == "000003"


def test_a_torn_card_of_the_live_version_leaves_the_choice(store):
    (store / "versions" / "000003" / "card.json").write_text('{"schema')
    with pytest.raises(EngineMismatch, match=r"what came before 000003 is not known.*name one of 000001, 000002"):
        rollback(store)
    assert rollback(store, "000002") == "000002"


@pytest.mark.parametrize("version", ["000009", "../versions/000001", "newest", ""])
def test_only_complete_versions_become_current(store, version):
    with pytest.raises(FileNotFoundError, match=r"there is no version .* name one of 000001, 000002, 000003"):
        rollback(store, version)
    assert current_version(store) == "000003"


def test_a_full_disk_leaves_the_current_version(store, monkeypatch):
    monkeypatch.setattr(durable.os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        set_current(store, "000001")
    assert current_version(store) == "000003"
    assert sorted(path.name for path in store.iterdir()) == ["CURRENT", "versions"]


def test_a_refused_candidate_is_kept_as_it_came_and_never_opened(store, tmp_path_factory):
    candidate = tmp_path_factory.mktemp("candidate")
    publish(candidate, CARD, FILES)
    folder = candidate / "versions" / "000001"
    (folder / "model.onnx").write_bytes(b"torn")
    assert keep_refused(store, folder, {"reason": "it is worse", "figures": [{"ssim": 0.5}]}) == "000001"
    assert keep_refused(store, folder, {"reason": "it is worse still"}) == "000002"
    assert refused(store) == ["000001", "000002"]
    kept = store / "refused" / "000001"
    assert (kept / "model.onnx").read_bytes() == b"torn"
    assert (kept / "card.json").read_bytes() == (folder / "card.json").read_bytes()
    assert read_decision(kept)["figures"] == [{"ssim": 0.5}]
    with pytest.raises(EngineMismatch, match="was refused: it is worse; "):
        open_model(kept)
    assert versions(store) == ["000001", "000002", "000003"]


def test_a_full_disk_keeps_nothing_of_a_refused_candidate(store, monkeypatch):
    monkeypatch.setattr(model_store, "write_through", full)
    with pytest.raises(OSError, match="no space"):
        keep_refused(store, store / "versions" / "000001", {"reason": "it is worse"})
    assert refused(store) == []
    assert list((store / "refused").iterdir()) == []


@pytest.mark.parametrize("text", ["", "[]", "{", "\xff"])
def test_a_decision_that_cannot_be_read_says_so(tmp_path, text):
    (tmp_path / "decision.json").write_text(text, encoding="latin-1")
    assert "cannot be read" in read_decision(tmp_path)["reason"]

"""The gate: what is better goes live, everything else is kept with its reason, and the live model stays."""

import errno
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from simulated_scan import DEFOCUS_UM, GEOMETRY, simulate
from tiny_models import golden_pair, true_reconstruction, write_candidate

from bluesky_ptychonn.core.optics import zone_plate_probe
from bluesky_ptychonn.core.protocols import EngineMismatch
from bluesky_ptychonn.core.reconstruction import RetrievalReport
from bluesky_ptychonn.io import durable, model_store
from bluesky_ptychonn.io.model_probe import give_probe
from bluesky_ptychonn.io.model_store import current_version, live_version, open_model, read_decision, refused, versions
from bluesky_ptychonn.training.learning import gate as module
from bluesky_ptychonn.training.learning.gate import LARGEST_LOSS, gate
from bluesky_ptychonn.training.learning.validate import Validation

pytest.importorskip("openvino")

WEAK, GOOD = 0.4, 2.0
UNTRUSTED = RetrievalReport(False, "too little light", 0.1, 0.1, 0.2, 0.05, None, None, 0.9, 0.9, 1e4)


@pytest.fixture(scope="module")
def held_out():
    """Two scans, each with a perfect reconstruction."""
    pairs = []
    for seed in (1, 2):
        scan, truth = simulate(seed, width_um=0.6)
        scan = replace(scan, provenance={"file": f"scan{seed}.npz", "sha256": f"hash{seed}"})
        pairs.append((scan, true_reconstruction(scan, truth)))
    return pairs


@pytest.fixture(scope="module")
def first_store(tmp_path_factory, held_out):
    folder = tmp_path_factory.mktemp("first")
    assert gate(write_candidate(folder / "weak", WEAK), folder / "store", held_out[:1]).version == "000001"
    return folder / "store"


@pytest.fixture
def store(tmp_path, first_store):
    """A store in which the weak model is live."""
    return shutil.copytree(first_store, tmp_path / "store")


def unchanged(store: Path) -> bool:
    """Whether the weak model is live, alone and whole."""
    return versions(store) == ["000001"] and open_model(store).card.version == "000001"


def kept(store: Path) -> dict:
    """Decision on the one refused candidate."""
    assert refused(store) == ["000001"]
    return read_decision(store / "refused" / "000001")


def test_a_better_candidate_is_published_with_all_that_was_decided_on(tmp_path, store, held_out):
    steps = []
    candidate = write_candidate(tmp_path / "good", GOOD, corpus="3f9c", training={"command": "train"})
    decision = gate(candidate, store, held_out, on_step=steps.append)
    assert (decision.published, decision.version, decision.kept) == (True, "000002", "")
    assert "over version 000001" in decision.reason
    assert len(steps) == 2
    assert steps[0].startswith("scan1.npz: SSIM 0.")
    card = open_model(store).card
    assert (card.version, card.parent, card.corpus, card.training["command"]) == ("000002", "000001", "3f9c", "train")
    validation = card.training["validation"]
    assert (validation["margin"], validation["largest_loss"], validation["against"]) == (0.01, LARGEST_LOSS, "000001")
    assert validation["reason"] == decision.reason
    assert validation["scans"] == decision.figures
    assert validation["gain"] == pytest.approx(np.mean([f["ssim"] - f["live_ssim"] for f in decision.figures]))
    assert [f["scan"] for f in decision.figures] == ["scan1.npz", "scan2.npz"]
    assert {f["judged_by"] for f in decision.figures} == {"ssim"}
    for name in ("model.onnx", "golden.npz"):
        assert (store / "versions" / "000002" / name).read_bytes() == (candidate / name).read_bytes()


def test_a_worse_candidate_is_refused_and_kept(tmp_path, store, held_out):
    gate(write_candidate(tmp_path / "good", GOOD), store, held_out)
    candidate = write_candidate(tmp_path / "again", WEAK)
    decision = gate(candidate, store, held_out)
    assert (decision.published, decision.version, decision.kept) == (False, None, "000001")
    assert "the mean gain over version 000002 is -0." in decision.reason
    assert current_version(store) == "000002"
    assert kept(store)["figures"] == decision.figures
    assert kept(store)["reason"] == decision.reason
    folder = store / "refused" / "000001"
    assert {path.name for path in folder.iterdir()} == {"card.json", "model.onnx", "golden.npz", "decision.json"}
    assert (folder / "card.json").read_bytes() == (candidate / "card.json").read_bytes()
    with pytest.raises(EngineMismatch, match="was refused"):
        open_model(folder)


def test_the_margin_is_what_is_asked(tmp_path, store, held_out):
    same, better = write_candidate(tmp_path / "same", WEAK), write_candidate(tmp_path / "good", GOOD)
    assert "is +0.0000 on 2 held-out scans; at least 0.01 is asked" in gate(same, store, held_out).reason
    assert not gate(better, store, held_out, margin=0.5).published
    assert unchanged(store)
    assert gate(same, store, held_out, margin=0.0).published


def test_a_loss_on_one_scan_is_not_bought_by_gains_on_others(tmp_path, store, held_out, monkeypatch):
    given = iter([0.50, 0.60, 0.50, 0.475])  # live and candidate on either scan
    monkeypatch.setattr(module, "validate", lambda *_: Validation("", "", 1, 0.1, 0.2, ssim=next(given)))
    decision = gate(write_candidate(tmp_path / "good", GOOD), store, held_out)
    assert decision.reason == "scan2.npz loses 0.0250 against version 000001; at most 0.02 is allowed"
    assert unchanged(store)


@pytest.mark.parametrize("known", [False, True])
def test_the_residual_judges_where_no_reconstruction_is_trusted(tmp_path, store, held_out, known):
    bare = [(scan, replace(truth, report=UNTRUSTED) if known else None) for scan, truth in held_out]
    good = gate(write_candidate(tmp_path / "good", GOOD), store, bare)
    assert good.published
    for figures in good.figures:
        assert (figures["judged_by"], figures["ssim"], figures["live_ssim"]) == ("residual", None, None)
        assert figures["gain"] == pytest.approx(1 - figures["residual"] / figures["live_residual"])
    assert not gate(write_candidate(tmp_path / "again", WEAK), store, bare).published
    assert live_version(store) == "000002"


def test_gains_in_residual_do_not_make_up_for_ssim_but_losses_count(tmp_path, store, held_out, monkeypatch):
    """One scan has no reconstruction: its gain of half the residual adds nothing to the mean, its loss refuses."""
    given = []  # residual and SSIM: live model and candidate on one scan, then on the other
    monkeypatch.setattr(module, "validate", lambda *_: Validation("", "", 1, given.pop(0), 0.2, ssim=given.pop(0)))
    candidate = write_candidate(tmp_path / "good", GOOD)
    mixed = [held_out[0], (held_out[1][0], None)]
    given[:] = [0.1, 0.5, 0.1, 0.505, 0.1, None, 0.05, None]
    assert "is +0.0050 on 1 held-out scan; at least 0.01" in gate(candidate, store, mixed).reason
    given[:] = [0.1, 0.5, 0.1, 0.6, 0.1, None, 0.11, None]
    assert "scan2.npz loses 0.1000" in gate(candidate, store, mixed).reason
    given[:] = [0.1, 0.5, 0.1, 0.6, 0.1, None, 0.101, None]
    decision = gate(candidate, store, mixed)
    assert decision.published
    assert open_model(store).card.training["validation"]["gain"] == pytest.approx(0.1)


def test_into_an_empty_store_goes_what_is_whole_and_finite(tmp_path, held_out):
    decision = gate(write_candidate(tmp_path / "weak", WEAK), tmp_path / "new", held_out)
    assert decision.version == "000001"
    assert {f["gain"] for f in decision.figures} == {None}
    assert gate(write_candidate(tmp_path / "weak", WEAK), tmp_path / "other", []).version == "000001"


def torn(folder):
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:-5])


def missing(folder):
    (folder / "golden.npz").unlink()


def torn_card(folder):
    (folder / "card.json").write_text((folder / "card.json").read_text()[:-40])


def other_golden(folder):
    """Whole files of two models: the hashes hold, the golden pair does not."""
    write_candidate(folder, GOOD)
    data = golden_pair(-GOOD)
    (folder / "golden.npz").write_bytes(data)
    card = json.loads((folder / "card.json").read_text())
    card["files"]["golden.npz"] = model_store.sha256_of(data)
    (folder / "card.json").write_text(json.dumps(card))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (torn, r"model\.onnx has SHA-256"),
        (missing, r"golden\.npz is missing"),
        (torn_card, r"card\.json cannot be read"),
        (other_golden, "misses its golden patches"),
    ],
)
@pytest.mark.parametrize("live", [True, False])
def test_a_harmed_candidate_is_refused_and_kept(tmp_path, store, held_out, harm, message, live):
    place = store if live else tmp_path / "new"
    candidate = write_candidate(tmp_path / "harmed", GOOD)
    harm(candidate)
    decision = gate(candidate, place, held_out)
    assert not decision.published
    assert re.search(message, decision.reason)
    assert kept(place)["reason"] == decision.reason
    assert unchanged(store) if live else live_version(place) == ""


class Sick:
    """An engine whose patches are not finite, behind a card that holds."""

    name, max_batch = "sick", 8

    def __init__(self, folder):
        self.card = open_model(folder).card
        self.frame_px, self.patch_px = self.card.frame_px, self.card.patch_px

    def set_probe(self, probe):
        pass

    def infer(self, patterns):
        return np.full((len(patterns), self.patch_px, self.patch_px), np.nan, np.float32)


def test_patches_that_are_not_finite_are_refused_even_by_an_empty_store(tmp_path, held_out):
    candidate = write_candidate(tmp_path / "sick", GOOD)
    decision = gate(candidate, tmp_path / "new", held_out, open_=Sick)
    assert decision.reason.startswith("scan1.npz: model tiny-1 gives patches that are not finite")
    assert kept(tmp_path / "new")["figures"] == []
    nan = write_candidate(tmp_path / "nan", float("nan"))
    assert "misses its golden patches by nan" in gate(nan, tmp_path / "new", held_out).reason


def test_what_was_learned_from_is_no_evidence(tmp_path, store, held_out):
    candidate = write_candidate(tmp_path / "good", GOOD)
    decision = gate(candidate, store, held_out, learned_runs={"hash1", "hash2", "another"})
    assert not decision.published
    assert "no held-out scan" in decision.reason
    assert "learned from those" in decision.reason
    assert {f["skipped"] for f in decision.figures} == {"the candidate learned from it"}
    assert unchanged(store)
    decision = gate(candidate, store, held_out, learned_runs={"hash1"})
    assert decision.published
    assert ["skipped" in f for f in decision.figures] == [True, False]
    assert not gate(candidate, store, []).published


def test_a_live_model_for_other_frames_sets_no_bound(tmp_path, held_out):
    """The detector was cut otherwise: the live model can do none of the scans, and must not stop its successor."""
    store = tmp_path / "store"
    assert gate(write_candidate(tmp_path / "old", GOOD, pixel_size_um=0.05), store, []).published
    decision = gate(write_candidate(tmp_path / "new", WEAK), store, held_out)
    assert decision.reason == "version 000001 can do none of the 2 held-out scans"
    assert "differs by more than" in decision.figures[0]["live_skipped"]
    assert current_version(store) == "000002"


def test_a_harmed_live_model_or_no_candidate_is_told_and_nothing_changes(tmp_path, store, held_out):
    with pytest.raises(FileNotFoundError, match="no model in"):
        gate(tmp_path / "nowhere", store, held_out)
    torn(store / "versions" / "000001")
    with pytest.raises(EngineMismatch, match=r"000001: model\.onnx has SHA-256"):
        gate(write_candidate(tmp_path / "good", GOOD), store, held_out)
    assert versions(store) == ["000001"]
    assert refused(store) == []


def test_a_scan_that_no_model_can_be_judged_on_is_named(tmp_path, store, held_out):
    scan, _ = held_out[0]
    with pytest.raises(ValueError, match=r"scan1\.npz: the scan has no probe"):
        gate(write_candidate(tmp_path / "good", GOOD), store, [(replace(scan, probe=None), None)])
    assert unchanged(store)


def full(*_, **__):
    raise OSError(errno.ENOSPC, "no space left on device")


@pytest.mark.parametrize(
    "where", [(model_store, "write_through"), (model_store, "write_card"), (durable.os, "replace")]
)
def test_a_full_disk_leaves_the_live_model(tmp_path, store, held_out, monkeypatch, where):
    """However far the candidate came, the version that is live is whole; a later try succeeds."""
    candidate = write_candidate(tmp_path / "good", GOOD)
    with monkeypatch.context() as patched:
        patched.setattr(*where, full)
        with pytest.raises(OSError, match="no space"):
            gate(candidate, store, held_out)
    assert open_model(store).card.version == "000001"
    assert not [path for path in store.rglob("*") if ".part" in path.name]
    assert gate(candidate, store, held_out).published


def test_a_store_that_cannot_be_written_still_tells_why_it_refused(tmp_path, store, held_out, monkeypatch):
    def readonly(*_, **__):
        raise OSError(errno.EROFS, "read-only file system")

    candidate = write_candidate(tmp_path / "same", WEAK)
    monkeypatch.setattr(model_store, "write_through", readonly)
    decision = gate(candidate, store, held_out)
    assert not decision.published
    assert decision.kept == ""
    assert "at least 0.01 is asked (the store cannot keep it: " in decision.reason
    assert unchanged(store)


def test_what_was_judged_is_published_whatever_happens_to_the_folder_meanwhile(tmp_path, store, held_out):
    candidate = write_candidate(tmp_path / "good", GOOD)
    judged = (candidate / "model.onnx").read_bytes()
    decision = gate(candidate, store, held_out, on_step=lambda _: (candidate / "model.onnx").write_bytes(b"another"))
    assert decision.published
    assert open_model(store).graph_path.read_bytes() == judged


def test_each_model_is_judged_with_the_probe_it_brings(tmp_path, held_out):
    """The same network, once with the probe of the scans and once with one out of focus."""
    scan = held_out[0][0]
    wrong = zone_plate_probe(GEOMETRY, defocus_um=2 * DEFOCUS_UM)
    bad, good = (write_candidate(tmp_path / name, GOOD) for name in ("bad", "good"))
    give_probe(bad, open_model(bad).card, wrong)
    give_probe(good, open_model(good).card, scan.probe)
    assert gate(bad, tmp_path / "store", held_out).published
    decision = gate(good, tmp_path / "store", held_out)
    assert decision.published
    assert open_model(tmp_path / "store").card.probe_sha256 == open_model(good).card.probe_sha256
    back = gate(bad, tmp_path / "store", held_out)
    assert not back.published
    for there, again in zip(decision.figures, back.figures, strict=True):
        assert there["gain"] == pytest.approx(-again["gain"])
    plain = gate(write_candidate(tmp_path / "plain", GOOD), tmp_path / "store", held_out)  # takes that of the scan
    assert [figures["gain"] for figures in plain.figures] == pytest.approx([0.0] * len(held_out), abs=1e-6)

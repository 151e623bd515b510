"""The command `models`, as a user types it."""

import json
import shutil
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from simulated_scan import simulate
from tiny_models import true_reconstruction, write_candidate

from bluesky_ptychonn.cli.main import main
from bluesky_ptychonn.core.reconstruction import RetrievalReport
from bluesky_ptychonn.io.model_store import current_version, open_model, publish, refused, versions
from bluesky_ptychonn.io.reconstruction_files import write_reconstruction
from bluesky_ptychonn.io.scan_files import read_scan_file
from bluesky_ptychonn.training.learning.corpus import Corpus, LabelledScan

pytest.importorskip("openvino")

UNTRUSTED = RetrievalReport(False, "too little light", 0.1, 0.1, 0.2, 0.05, None, None, 0.9, 0.9, 1e4)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Two scans with reconstructions, two models, and a store in which the weaker one is live."""
    folder = tmp_path_factory.mktemp("models")
    for seed in (1, 2):
        scan, truth = simulate(seed, width_um=0.6)
        known = {"probe": scan.probe, "pixel_size_nm": 1e3 * scan.pixel_size_um}
        np.savez(folder / f"scan{seed}.npz", patterns=scan.patterns, positions_px=scan.positions_px, **known)
        reconstruction = true_reconstruction(read_scan_file(folder / f"scan{seed}.npz"), truth)
        write_reconstruction(folder / f"scan{seed}.cxi", reconstruction)
        if seed == 1:
            write_reconstruction(folder / "untrusted.cxi", replace(reconstruction, report=UNTRUSTED))
    weak = write_candidate(folder / "weak", 0.4, corpus=64 * "a")
    write_candidate(folder / "good", 2.0, training={"command": "train", "conditions": {"seed": 1}})
    model = open_model(weak)
    publish(folder / "store", model.card, {name: (weak / name).read_bytes() for name in model.card.files})
    return folder


@pytest.fixture
def folder(prepared, tmp_path, monkeypatch):
    """A folder of one's own with all that, in which commands run."""
    place = tmp_path / "here"
    shutil.copytree(prepared, place)
    monkeypatch.chdir(place)
    monkeypatch.delenv("BLUESKY_PTYCHONN_SETTINGS", raising=False)
    return place


def models(*arguments):
    return main(["models", *map(str, arguments)])


BOTH = ("--scan", "scan1.npz", "scan2.npz", "--reconstruction", "scan2.cxi", "scan1.cxi")


def test_a_better_model_is_published_and_listed_and_rolled_back(folder, capsys):
    assert models("publish", "good", "--store", "store", *BOTH, "--json", "figures.json") == 0
    told = capsys.readouterr().out
    assert "scan1.npz: SSIM 0." in told
    assert "published: version 000002 is live in store" in told
    figures = json.loads((folder / "figures.json").read_text())
    assert figures["command"] == "models publish"
    assert figures["results"][0]["published"]
    assert [result["judged_by"] for result in figures["results"][1:]] == ["ssim", "ssim"]

    assert models("list", "--store", "store") == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[1].split() == ["000001", "tiny", 12 * "a"]
    assert rows[2].split()[:4] == ["*", "000002", "tiny", "000001"]
    assert float(rows[2].split()[4]) == pytest.approx(np.mean([r["ssim"] for r in figures["results"][1:]]), abs=1e-4)

    assert models("rollback", "--store", "store") == 0
    assert "version 000001 is live; it was 000002" in capsys.readouterr().out
    assert models("rollback", "2", "--store", "store") == 0
    assert current_version(folder / "store") == "000002"


def test_a_model_that_is_not_better_is_refused_kept_and_told(folder, capsys):
    assert models("publish", "weak", "--store", "store", *BOTH) == 1
    told = capsys.readouterr().out
    assert "note: without --corpus nobody checks" in told
    assert "REFUSED: the mean gain over version 000001 is +0.0000" in told
    assert "kept as store/refused/000001" in told
    assert versions(folder / "store") == ["000001"]
    assert models("list", "--store", "store") == 0
    assert "refused/000001 (tiny): the mean gain" in capsys.readouterr().out
    assert models("show", "refused/1", "--store", "store") == 1
    told = capsys.readouterr().out
    assert '"judged_by": "ssim"' in told
    assert "NOT USABLE" in told


def test_the_settings_name_store_and_margin(folder, capsys):
    (folder / "bluesky_ptychonn.toml").write_text('[edge]\nmodel = "store"\n[learning]\ngate_margin = 0.9\n')
    assert models("publish", "good", *BOTH) == 1
    assert "at least 0.9 is asked" in capsys.readouterr().out
    assert models("publish", "good", *BOTH, "--margin", "0.02") == 0
    assert models("list") == 0
    (folder / "bluesky_ptychonn.toml").write_text("[learning]\ngate_margin = -1\n")
    assert models("list") == 1
    assert "learning.gate_margin = -1" in capsys.readouterr().err


def test_scans_of_the_corpus_are_no_evidence(folder, capsys):
    scan = read_scan_file(folder / "scan1.npz")
    labels = np.zeros((2, 2, *scan.patterns.shape[1:]), np.float16)
    Corpus(folder / "corpus").add(
        LabelledScan(scan.patterns[:2], labels, scan.probe, about={"run": scan.provenance["sha256"]})
    )
    assert models("publish", "good", "--store", "store", "--scan", "scan1.npz", "--corpus", "corpus") == 1
    told = capsys.readouterr().out
    assert "scan1.npz: no evidence, the candidate learned from it" in told
    assert "REFUSED: there is no held-out scan to compare it with" in told


def test_the_first_model_needs_no_scan(folder, capsys):
    assert models("publish", "starter", "--store", "new") == 0
    assert models("show", "--store", "new") == 0
    told = capsys.readouterr().out
    assert "starter 000001, new/versions/000001" in told
    assert "preparation: lift" in told
    assert "at the gate:\n  reason: nothing was live" in told
    assert "its files are unharmed, and its golden pair holds in engine openvino" in told


def test_show_tells_what_is_harmed(folder, capsys):
    (folder / "store/versions/000001/model.onnx").write_bytes(b"torn")
    assert models("show", "1", "--store", "store") == 1
    assert "checked: NOT USABLE: model 000001: model.onnx has SHA-256" in capsys.readouterr().out
    (folder / "store/versions/000001/card.json").write_text("{")
    assert models("list", "--store", "store") == 0
    assert "000001 is harmed: " in capsys.readouterr().out


def test_validate_against_a_reconstruction(folder, capsys):
    asked = ("--scan", "scan1.npz", "--reconstruction", "scan1.cxi", "--json", "out/v.json", "--picture", "out/v.png")
    assert models("validate", "good", *asked) == 0
    told = capsys.readouterr().out
    assert "SSIM 0." in told
    assert "without constant+ramp+shift" in told
    result = json.loads((folder / "out/v.json").read_text())["results"][0]
    assert result["test"] == "scan1.npz"
    assert result["mismatch"] == pytest.approx(1 - result["ssim"])
    assert result["residual"] < result["residual_blank"]
    assert (folder / "out/v.png").read_bytes().startswith(b"\x89PNG")


def test_validate_without_a_reconstruction_any_engine_and_version(folder, capsys):
    residuals = []
    for model in ("lift", "live", "1", "good", "store"):
        assert models("validate", model, "--scan", "scan2.npz", "--store", "store", "--json", "v.json") == 0
        result = json.loads((folder / "v.json").read_text())["results"][0]
        residuals.append(result["residual"])
        assert result["ssim"] is None
    assert residuals[1] == residuals[2] == residuals[4]
    assert residuals[3] < residuals[0] < residuals[1]
    assert "SSIM" not in capsys.readouterr().out
    assert models("validate", "lift", "--scan", "scan2.npz", "--picture", "v.png") == 0
    assert (folder / "v.png").stat().st_size > 10_000


def test_what_is_not_trusted_is_said(folder, capsys):
    assert models("validate", "good", "--scan", "scan1.npz", "--reconstruction", "untrusted.cxi") == 0
    assert "NOT TRUSTED, so this says little: too little light" in capsys.readouterr().out


def test_import_passes_on_what_is_asked(folder, capsys, monkeypatch):
    asked = {}

    def import_published(weights, out, **more):
        asked.update(weights=weights.name, out=out.name, **more)
        return SimpleNamespace(name="published", version=more["version"], frame_px=64)

    name = "bluesky_ptychonn.training.learning.published"
    monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules[name].import_published = import_published
    assert models("import", "w.pth", "--out", "m", "--version", "p-2", "--reference-counts", "1e5") == 0
    assert asked == {"weights": "w.pth", "out": "m", "version": "p-2", "reference_counts": 1e5}
    assert "m: published p-2, patterns of 64 px" in capsys.readouterr().out


WRONG = [
    (["list"], "no model store is named; give --store DIR, or edge.model in the settings"),
    (["list", "--store", "nowhere"], "nowhere is no model store"),
    (["list", "--store", "good"], "good is no model store"),
    (["rollback", "--store", "store"], "000001 has no parent"),
    (["rollback", "7", "--store", "store"], "there is no version 000007 in store; name one of 000001"),
    (["show", "7", "--store", "store"], "no model in store/versions/000007"),
    (["show", "newest", "--store", "store"], "newest is no folder of a model"),
    (["show", "live", "--store", "good"], "nothing is live in good"),
    (["publish", "good", "--store", "weak"], "weak is one model, not a store"),
    (["publish", "good", "--store", "store", "--margin", "7"], "--margin 7: allowed is 0 to 1"),
    (["publish", "good", "--store", "store", "--scan", "no.npz"], "no.npz cannot be read"),
    (["publish", "good", "--store", "store", "--reconstruction", "no.cxi"], "no.cxi cannot be read"),
    (
        ["publish", "good", "--store", "store", "--scan", "scan1.npz", "--reconstruction", "scan2.cxi"],
        "the reconstruction of scan2.npz is of none of the scans given",
    ),
    (["validate", "good", "--scan", "scan1.npz", "--reconstruction", "scan2.cxi"], "is of another scan, scan2.npz"),
    (["validate", "starter", "--scan", "scan1.npz"], "takes patterns of 128 px, the scan has 64 px"),
    (["validate", "good", "--scan", "scan1.npz", "--engine", "warp"], "engine = 'warp' is unknown"),
    (["validate", "good", "--scan", "scan1.npz", "--json", "store"], "--json store is a folder"),
    (["validate", "good", "--scan", "scan1.npz", "--probe", "no.npy"], "no.npy cannot be read"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_what_a_user_gets_wrong(prepared, arguments, message, monkeypatch, capsys):
    monkeypatch.chdir(prepared)
    monkeypatch.delenv("BLUESKY_PTYCHONN_SETTINGS", raising=False)
    assert models(*arguments) == 1
    assert message in capsys.readouterr().err
    assert current_version(prepared / "store") == "000001"
    assert refused(prepared / "store") == []

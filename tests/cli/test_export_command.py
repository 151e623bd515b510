"""`replay` and `export` as their users type them: a file of documents, a scan file, a reconstruction."""

import json
import re

import h5py
import numpy as np
import pytest
import tifffile
from replay_world import FACE, GEOMETRY, PROBE, N, make_run

from bluesky_ptychonn.cli.main import main
from bluesky_ptychonn.config import write_settings
from bluesky_ptychonn.core.reconstruction import Reconstruction
from bluesky_ptychonn.io.images import about_tiff
from bluesky_ptychonn.io.reconstruction_files import write_reconstruction


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "frames.h5").write_lines(tmp_path / "run.jsonl")
    np.save("probe.npy", PROBE)
    np.save("bad.npy", FACE.bad_pixels)
    tables = {
        "geometry": {"frame_px": N, "bad_pixels_file": "bad.npy"},
        "probe": {"file": "probe.npy"},
        "edge": {"engine": "lift"},
    }
    write_settings(tables, tmp_path / "bluesky_ptychonn.toml")
    return tmp_path


def reconstruct_by_hand(path, provenance):
    y, x = np.indices((140, 140))
    write_reconstruction(
        path,
        Reconstruction(
            object_=np.exp(0.5j * np.sin(y / 5) * np.cos(x / 7)).astype(np.complex64),
            probe=PROBE[None],
            positions_px=np.full((3, 2), 70.0),
            origin_px=(-70.0, -70.0),
            pixel_size_um=GEOMETRY.pixel_size_um,
            coverage=np.ones((140, 140), np.float32),
            trigger_index=np.arange(3),
            held_out=np.zeros(3, bool),
            errors=np.ones(2),
            errors_heldout=np.ones(2),
            settings={"method": "poisson"},
            provenance=provenance,
        ),
    )


def test_a_run_is_replayed_and_exported(here, capsys):
    assert main(["replay", "run.jsonl", "--json", "figures.json", "--output", "picture.png"]) == 0
    assert "114 stitched, 0 no beam, 0 unpaired" in capsys.readouterr().out
    assert (here / "picture.png").stat().st_size > 10_000
    figures = json.loads((here / "figures.json").read_text())["results"][0]
    assert (figures["frames_stitched"], figures["engine"]) == (114, "lift")

    reconstruct_by_hand(here / "rec.cxi", {"run_uid": figures["run_uid"]})
    assert main(["export", "run.jsonl", "--reconstruction", "rec.cxi", "--output", "out"]) == 0
    assert {path.name for path in here.glob("out*")} == {
        *(f"out.{kind}" for kind in ("cxi", "tiff", "png")),
        *(f"out_object_{part}.tiff" for part in ("phase", "amplitude")),
    }
    phase = tifffile.imread(here / "out.tiff")
    about = about_tiff(here / "out.tiff")
    assert phase.dtype == np.float32
    assert about["run_uid"] == figures["run_uid"]
    assert about["pixel_size_um"] == pytest.approx(GEOMETRY.pixel_size_um)
    with h5py.File(here / "out.cxi") as file:
        np.testing.assert_array_equal(file["entry_1/stitched/data"][()], phase)
        assert file["entry_1/image_2/data"].shape == (140, 140)

    assert main(["export", "out.cxi", "--to", "tiff", "--output", "again"]) == 0
    assert np.isfinite(tifffile.imread(here / "again.tiff")).sum() == pytest.approx(np.isfinite(phase).sum(), rel=0.05)


def test_a_reconstruction_is_exported_without_its_scan(here):
    reconstruct_by_hand(here / "rec.cxi", {})
    assert main(["export", "rec.cxi", "--to", "tiff"]) == 0
    assert tifffile.imread(here / "rec_export_phase.tiff").shape == (140, 140)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "run.jsonl", "--output", "there"], "there.png would be overwritten"),
        (["export", "run.jsonl", "--reconstruction", "other.cxi", "--output", "x"], "is of another scan"),
        (["export", "other.cxi"], "a CXI file already"),
        (["replay", "run.jsonl", "--fps", "100"], "it goes with --stream"),
        (["replay", "run.jsonl", "--output", "a.tiff"], "name it .png"),
        (["replay", "run.jsonl", "--orientation", "auto"], "--orientation auto is for `reconstruct`"),
        (["replay", "-1"], "the settings name no catalog"),
        (["replay", "run.jsonl", "--engine", "openvino"], "crop_px = 64 px, but the engine takes 128 px"),
    ],
)
def test_what_cannot_be_is_refused_with_a_remedy(here, capsys, arguments, message):
    (here / "there.png").write_bytes(b"")
    reconstruct_by_hand(here / "other.cxi", {"run_uid": "another"})
    assert main(arguments) == 1
    assert re.search(message, capsys.readouterr().err)
    assert not list(here.glob("x*"))


def test_formats_are_named_with_commas(capsys):
    with pytest.raises(SystemExit):
        main(["export", "run.jsonl", "--to", "jpeg"])
    assert "allowed are cxi, tiff, png" in capsys.readouterr().err

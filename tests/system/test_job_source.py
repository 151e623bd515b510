"""A job's scan from a real Tiled: whole, and with what may go wrong between the catalog, the file and the job."""

import json
from functools import partial

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
from catalog_world import Server, beam_of, in_frames, record, write_frames
from simulated_scan import simulate
from ssh_world import HOST, sshd, why_not
from tiny_jobs import job
from tiny_loop import GEOMETRY, OPTICS, TinyLoop

from bluesky_ptychonn.callbacks.record import TiledRecorder
from bluesky_ptychonn.cli.catalog import open_catalog
from bluesky_ptychonn.cli.job_run import read_scan
from bluesky_ptychonn.cli.job_send import send_frames
from bluesky_ptychonn.config import write_settings
from bluesky_ptychonn.io.run_record import write_record
from bluesky_ptychonn.training.loop import jobs

pytestmark = [pytest.mark.system, pytest.mark.production_callbacks, pytest.mark.timeout(240)]

ORIENTATION, LOST, BAD = "rot90", (3, 17), (9, 20)


class World:
    """A Tiled, a run in it, and a loop whose settings name both."""

    def __init__(self, folder):
        self.scan, _ = simulate(1, geometry=GEOMETRY, **OPTICS)
        self.frames = in_frames(self.scan.patterns, ORIENTATION)
        self.bad = np.zeros(self.frames.shape[1:], bool)
        self.bad[BAD] = True
        (folder / "data").mkdir()
        self.file = folder / "data/a b.h5"
        write_frames(self.file, self.frames, LOST)
        self.server = Server(folder / "catalog", folder / "data")
        catalog = self.server.start()
        recorder = TiledRecorder(catalog, folder / "backup")
        known = {name: getattr(GEOMETRY, name) for name in ("energy_kev", "distance_m", "detector_pixel_um")}
        cut = {"crop_px": 32, "beam_center_px": list(beam_of(32, ORIENTATION)), "orientation": ORIENTATION}
        places_um = self.scan.positions_px * GEOMETRY.pixel_size_um
        self.uid = record(recorder, self.file, places_um, lost=LOST, **known, **cut)
        self.unfinished = record(recorder, self.file, places_um, lost=LOST, stopped=False, **known, **cut)
        recorder.close()
        np.save(folder / "probe.npy", self.scan.probe)
        np.save(folder / "bad.npy", self.bad)
        self.settings = folder / "here.toml"
        tables = {
            "catalog": self.server.settings(),
            "probe": {"file": str(folder / "probe.npy")},
            "geometry": {"bad_pixels_file": str(folder / "bad.npy")},
        }
        write_settings(tables, self.settings)
        self.loop = TinyLoop(folder / "tiny")
        self.record = jobs.record_path(self.loop.directory, self.uid)

    def read(self, uid=None):
        uid = uid or self.uid
        return read_scan({"run": uid}, str(self.settings), uid, jobs.record_path(self.loop.directory, uid))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("source"))
    yield world
    world.server.end()


@pytest.fixture
def run(world):
    """The world with its file as it was, and nothing written down."""
    write_frames(world.file, world.frames, LOST)
    world.record.unlink(missing_ok=True)
    return world


def test_a_run_is_cut_and_oriented_as_the_edge_does_and_has_the_probe_of_the_settings(run):
    scan, orientation = run.read()
    kept = np.setdiff1d(np.arange(len(run.frames)), LOST)
    expected = run.scan.patterns[kept]
    seen = in_frames(np.arange(32 * 32, dtype=np.uint16).reshape(1, 32, 32), ORIENTATION)[0][BAD]
    valid = np.ones((32, 32), bool)
    valid[divmod(int(seen), 32)] = False
    np.testing.assert_array_equal(scan.valid, np.broadcast_to(valid, scan.patterns.shape))
    np.testing.assert_array_equal(scan.patterns[:, valid], expected[:, valid])
    moved_px = scan.positions_px - run.scan.positions_px[kept]
    np.testing.assert_allclose(moved_px, np.broadcast_to(moved_px[0], moved_px.shape), atol=1e-6)
    np.testing.assert_array_equal(scan.trigger_index, kept)
    np.testing.assert_array_equal(scan.probe, run.scan.probe)
    assert (orientation, scan.provenance["run_uid"]) == (ORIENTATION, run.uid)
    assert json.loads(run.record.read_text())["sha256"].keys() == {str(run.file)}


@pytest.mark.soak
def test_where_the_file_is_on_no_disk_the_catalog_hands_out_the_same(run, monkeypatch, capsys):
    direct, _ = run.read()
    run.record.unlink()
    monkeypatch.setattr("bluesky_ptychonn.cli.job_source._seen_here", lambda record: False)
    monkeypatch.setattr("bluesky_ptychonn.io.frame_files._in_file", lambda *_: (_ for _ in ()).throw(OSError("no")))
    handed, _ = run.read()
    np.testing.assert_array_equal(handed.patterns, direct.patterns)
    np.testing.assert_array_equal(handed.positions_px, direct.positions_px)
    assert not run.record.exists()
    assert "on no disk of this machine" in capsys.readouterr().out


def test_a_run_that_is_not_there_to_its_end_may_be_there_later(run):
    for uid in ("5f3a0c1b-7d11-4c6e-a111-000000000000", run.unfinished):
        with pytest.raises(RuntimeError, match=r"or not to its end; if its documents are in .* catalog ingest FILE"):
            run.read(uid)


def test_a_file_that_changes_is_noticed(run):
    before, _ = run.read()
    write_frames(run.file, run.frames + 1, LOST)
    with pytest.raises(ValueError, match=r"a b\.h5 has SHA-256 .* is written down in .*json: it was changed"):
        run.read()
    run.file.unlink()
    with pytest.raises(ValueError, match=r"a b\.h5 is gone, and with it the frames; restore it"):
        run.read()
    run.record.unlink()  # not read before
    with pytest.raises(ValueError, match=r"a b\.h5 is gone"):
        run.read()
    write_frames(run.file, run.frames[:30])
    with pytest.raises(ValueError, match="holds 30 frames, the run's documents name 60"):
        run.read()
    write_frames(run.file, run.frames, LOST)
    run.record.unlink()
    np.testing.assert_array_equal(run.read()[0].patterns, before.patterns)


def test_a_disk_that_is_away_may_come_back(run):
    run.read()
    away = run.file.parent.with_name("away")
    run.file.parent.rename(away)
    try:
        with pytest.raises(ConnectionError, match="mount its disk on this machine"):
            run.read()
    finally:
        away.rename(run.file.parent)


@pytest.mark.skipif(bool(why_not()), reason=why_not() or "-")
def test_frames_that_were_sent_are_read_there_and_the_catalog_is_not_asked(run, tmp_path, monkeypatch):
    before, _ = run.read()
    run.record.unlink()
    with sshd(tmp_path / "sshd") as server:
        loop = {"transfer": "rsync", "transfer_to": f"{HOST}:{tmp_path}/there", "ssh_config": str(server.config)}
        sending = tmp_path / "sending.toml"
        sending.write_text(run.settings.read_text())
        write_settings({"loop": loop}, tmp_path / "more.toml")
        sending.write_text(sending.read_text() + (tmp_path / "more.toml").read_text())
        send_frames(jobs.JobSpec("scan", run.uid, str(sending), {"run": run.uid}), run.record)
    run.file.unlink()
    monkeypatch.setattr("bluesky_ptychonn.cli.catalog.open_catalog", None)
    there, _ = run.read()
    np.testing.assert_array_equal(there.patterns, before.patterns)
    np.testing.assert_array_equal(there.positions_px, before.positions_px)
    (copy,) = (tmp_path / "there" / run.uid).iterdir()
    copy.write_bytes(copy.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"there/.*/000-a b\.h5 has SHA-256"):
        run.read()


def test_a_job_is_done_from_the_catalog_and_what_failed_says_whether_to_try_again(run, monkeypatch):
    """Last: it ends the server."""

    def attempt(kind):
        folder = run.loop.prepare(kind, run.uid, {"run": run.uid})
        spec = json.loads((folder / jobs.SPEC).read_text()) | {"settings_file": str(run.settings)}
        (folder / jobs.SPEC).write_text(json.dumps(spec))
        job(folder)
        told = jobs.result(folder)
        jobs.reopen(folder)
        return told

    assert attempt("scan")["trusted"]
    run.server.end(kill=True)
    assert attempt("residual")["residual"] > 0  # what the first job wrote down is enough
    run.record.unlink()
    monkeypatch.setattr("bluesky_ptychonn.cli.catalog.open_catalog", partial(open_catalog, timeout_s=0.1))
    monkeypatch.setattr("tiled.client.utils.TILED_RETRY_ATTEMPTS", 1)
    told = attempt("residual")
    assert (told["ok"], told["transient"]) == (False, True)
    assert "no Tiled server answers" in told["reason"]
    write_record(run.record, {"start": {}, "streams": {}, "frames": {}, "sha256": {str(run.file.parent / "x"): "ab"}})
    told = attempt("residual")
    assert (told["ok"], told["transient"]) == (False, False)
    assert "restore it" in told["reason"]

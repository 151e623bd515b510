"""The command `job`: whole, killed, told to make room, twice at once, and with what can be wrong."""

import errno
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
from simulated_scan import simulate
from tiny_jobs import copy_of, job, killed_at, told
from tiny_loop import QUICK, TinyLoop, write_scan
from tiny_models import write_candidate

from bluesky_ptychonn.cli.job_run import CORES, JobRun
from bluesky_ptychonn.cli.job_source import NotYetError, may_pass
from bluesky_ptychonn.core.model_card import PROBE
from bluesky_ptychonn.io.model_probe import probe_of
from bluesky_ptychonn.io.model_store import current_version, open_model, publish, refused, set_current, versions
from bluesky_ptychonn.io.reconstruction_files import read_reconstruction
from bluesky_ptychonn.io.rsync import NotSetUpError, TransferError
from bluesky_ptychonn.training.learning.corpus import Corpus
from bluesky_ptychonn.training.loop import jobs
from bluesky_ptychonn.training.loop.jobs import JobSpec
from bluesky_ptychonn.training.loop.lease import Lease, held

STEPS = ("read", "reconstructed", "judged", "labelled", "probe", "validated")


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A loop that has done one scan."""
    loop = TinyLoop(tmp_path_factory.mktemp("first"))
    assert job(loop.scan("a")) == 0
    return loop


@pytest.fixture
def loop(first, tmp_path):
    """A copy of it of one's own, before anything was done."""
    loop = copy_of(first, tmp_path)
    shutil.rmtree(loop.directory)
    return loop


def start(folder, **environment):
    """The same as a process of its own."""
    command = [sys.executable, "-m", "bluesky_ptychonn.cli.main", "job", str(folder)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env={**os.environ, **environment}, text=True, **quiet)


def finish(process):
    _, problems = process.communicate(timeout=120)
    return process.returncode, problems


def log(folder):
    path = folder / "log.txt"
    return path.read_text() if path.exists() else ""


def test_a_scan_is_reconstructed_labelled_and_judged(first):
    folder = first.directory / "jobs/scan-a"
    found = jobs.result(folder)
    assert found["ok"]
    assert found["trusted"]
    assert (found["kind"], found["key"], found["live_version"]) == ("scan", "a", "000001")
    assert [found["shard"]] == first.shards()
    assert found["mismatch"] == pytest.approx(1 - found["ssim"])
    assert found["residual"] == found["residual_live"] > 0
    shard = Corpus(first.directory / "corpus").open()[0]
    assert shard.run == "a"
    np.testing.assert_array_equal(np.load(found["probe"]), shard.probe)
    assert read_reconstruction(Path(found["reconstruction"])).report.trusted
    assert [attempt.exit_status for attempt in jobs.attempts(folder)] == [0]


def test_what_is_done_is_not_done_again(first):
    folder = first.directory / "jobs/scan-a"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert job(folder) == 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.system
@pytest.mark.timeout(300)
def test_killed_at_every_step_a_scan_is_labelled_once(loop, first):
    folder = loop.scan("a")
    for number, step in enumerate(STEPS):
        status, problems = finish(start(folder, BLUESKY_PTYCHONN_FAULT=f"job:{step}"))
        assert status == -signal.SIGKILL, problems
        assert jobs.result(folder) is None
        assert len(loop.shards()) == (number >= STEPS.index("labelled"))
    assert job(folder) == 0
    assert loop.shards() == [jobs.result(folder)["shard"]] == first.shards()  # the same content
    assert jobs.result(folder)["ssim"] == pytest.approx(jobs.result(first.directory / "jobs/scan-a")["ssim"], abs=1e-6)
    ends = [attempt.exit_status for attempt in jobs.attempts(folder)]
    assert ends == [None] * len(STEPS) + [0]
    said = log(folder)
    assert said.count("sweep 8 of 8") == said.count("ring correlation") == 1  # nothing is done again
    assert f"shard {loop.shards()[0]} of {loop.directory / 'corpus'} was there" in said


def test_a_reconstruction_made_another_way_is_not_taken_up(loop):
    folder = loop.scan("a")
    killed_at(folder, "judged")
    loop.prepare("scan", "a", json.loads((folder / "spec.json").read_text())["source"], sweeps=6)
    assert job(folder) == 0
    assert read_reconstruction(folder / "reconstruction.cxi").settings["sweeps"] == 6


def test_a_job_uses_the_cores_that_its_scheduler_gave(tmp_path, monkeypatch):
    def threads(**options):
        return JobRun(tmp_path, JobSpec("scan", "a", options=options), lambda: False, Lease(tmp_path, "")).threads

    for name in CORES:
        monkeypatch.delenv(name, raising=False)
    assert threads() == len(os.sched_getaffinity(0))
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "5")  # of a job that asked for no number
    assert threads() == 5
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    assert threads() == 3
    assert threads(threads=1) == 1


def test_two_at_once_do_it_once(loop):
    folder = loop.scan("a")
    with held(folder):
        assert job(folder) == 0  # at once
    assert jobs.result(folder) is None
    assert jobs.attempts(folder) == []


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGUSR1, "walltime"])
def test_a_scan_that_is_told_to_make_room_is_done_later(loop, how, monkeypatch):
    folder = loop.prepare("scan", "a", write_scan(loop.folder / "a.npz"), sweeps=5000)
    if how == "walltime":
        monkeypatch.setenv("BLUESKY_PTYCHONN_WALLTIME_S", "0.5")
        assert job(folder) == jobs.PREEMPTED
    else:
        assert told(folder, how, "attempts/001.json") == jobs.PREEMPTED
    assert jobs.result(folder) is None
    (attempt,) = jobs.attempts(folder)
    assert (attempt.exit_status, attempt.reason) == (75, "told to make room")
    monkeypatch.delenv("BLUESKY_PTYCHONN_WALLTIME_S", raising=False)
    loop.prepare("scan", "a", write_scan(loop.folder / "a.npz"))
    assert job(folder) == 0
    assert len(loop.shards()) == 1


def test_what_is_not_trusted_adds_nothing(loop):
    folder = loop.scan("dark", photons=300.0)
    assert job(folder) == 0
    found = jobs.result(folder)
    assert found["ok"]
    assert not found["trusted"]
    assert found["verdict"]
    assert (found["shard"], found["probe"], found["mismatch"], found["ssim"]) == ("", "", None, None)
    assert found["residual"] > 0
    assert loop.shards() == []


def test_the_residual_alone_is_that_of_the_scan_job(loop, first):
    source = write_scan(loop.folder / "a.npz")
    folder = loop.prepare("residual", "a", source)
    assert job(folder) == 0
    found = jobs.result(folder)
    assert found["residual"] == pytest.approx(jobs.result(first.directory / "jobs/scan-a")["residual"])
    assert found["mismatch"] is None
    shutil.rmtree(loop.store)
    folder = loop.prepare("residual", "b", source)
    assert job(folder) == 1
    assert "nothing is live in" in jobs.result(folder)["reason"]


def test_with_nothing_live_a_scan_is_labelled_all_the_same(loop):
    shutil.rmtree(loop.store)
    folder = loop.scan("a")
    assert job(folder) == 0
    found = jobs.result(folder)
    assert (found["live_version"], found["mismatch"]) == ("", None)
    assert found["shard"]


def test_a_live_model_that_cannot_do_the_scan_mismatches_wholly(loop):
    model = open_model(write_candidate(loop.folder / "other", 1.0))  # takes 64 px
    publish(loop.store, model.card, {name: (model.directory / name).read_bytes() for name in model.card.files})
    folder = loop.scan("a")
    assert job(folder) == 0
    found = jobs.result(folder)
    assert (found["mismatch"], found["ssim"], found["residual"]) == (1.0, None, None)
    assert "takes patterns of 64 px" in found["live_skipped"]
    assert found["shard"]


def test_a_disk_that_is_full_is_told_and_the_next_attempt_is_whole(loop):
    folder = loop.scan("a")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))  # less than the labels
    try:
        assert job(folder) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    found = jobs.result(folder)
    assert (found["ok"], found["transient"]) == (False, True)
    assert "File too large" in found["reason"]
    assert loop.shards() == []
    jobs.reopen(folder)
    assert job(folder) == 0
    assert len(loop.shards()) == 1


def spoil(file):
    file.write_bytes(file.read_bytes() + b"more")


WRONG = [
    (lambda loop: spoil(loop.folder / "a.npz"), {}, {}, r"a\.npz has SHA-256 .*it was changed or cut short"),
    (lambda loop: (loop.folder / "a.npz").unlink(), {}, {}, r"a\.npz cannot be read"),
    (lambda loop: None, {"colour": "red"}, {}, "colour"),
    (lambda loop: None, {"orientation": "sideways"}, {}, "invalid choice: 'sideways'"),
    (lambda loop: None, {"file": ""}, {}, "names no scan; give its file, or the uid of its run"),
    (lambda loop: None, {}, {"method": "magic"}, "method = 'magic'; allowed is one of"),
    (lambda loop: None, {}, {"start_probe": "/nowhere.npy"}, "start_probe /nowhere.npy cannot be read"),
    (lambda loop: spoil(loop.store / "versions/000001/model.onnx"), {}, {}, "model.onnx has SHA-256"),
]


@pytest.mark.parametrize(("harm", "source", "options", "message"), WRONG)
def test_what_is_wrong_with_a_scan_is_in_the_marker(loop, harm, source, options, message):
    given = {**write_scan(loop.folder / "a.npz"), **source}
    harm(loop)
    folder = loop.prepare("scan", "a", given, **options)
    assert job(folder) == 1
    found = jobs.result(folder)
    assert (found["ok"], found["transient"]) == (False, False)
    assert re.search(message, found["reason"])
    assert jobs.attempts(folder)[-1].reason == found["reason"]
    assert job(folder) == 0  # it stands until somebody sets it aside


def test_what_may_pass_by_itself():
    def caused(error, cause):
        error.__cause__ = cause
        return error

    passes = (
        OSError(errno.ENOSPC, "disk full"),
        OSError(errno.ESTALE, "stale file handle"),
        ConnectionError("the catalog does not answer"),
        NotYetError("not to its end"),
        TransferError("cut off"),
        caused(ValueError("scan.npz cannot be read"), OSError(errno.EIO, "input/output error")),
    )
    stays = (
        FileNotFoundError(errno.ENOENT, "no such file"),
        OSError("Unable to open file (file signature not found)"),
        NotSetUpError("its host key is another"),
        ValueError("colour"),
        RuntimeError("CUDA error"),
        caused(ValueError("scan.npz cannot be read"), FileNotFoundError(errno.ENOENT, "no such file")),
    )
    assert [may_pass(error) for error in (*passes, *stays)] == [True] * len(passes) + [False] * len(stays)


def test_a_corpus_of_another_size_is_left_alone(loop):
    assert job(loop.scan("a")) == 0
    source = {**write_scan(loop.folder / "b.npz", 2), "crop_px": 28}
    folder = loop.prepare("scan", "b", source)
    assert job(folder) == 1
    assert "holds patterns of 32 px, these have 28 px" in jobs.result(folder)["reason"]
    assert len(loop.shards()) == 1


def test_no_folder_of_a_job(tmp_path, capsys):
    assert job(tmp_path) == 1
    assert "is no folder of a job" in capsys.readouterr().err


# the refined probe as a version


@pytest.fixture(scope="module")
def defocused(tmp_path_factory):
    """A loop whose network does what it can, and whose scan is given a probe out of focus by half."""
    folder = tmp_path_factory.mktemp("defocused")
    model = open_model(write_candidate(folder / "gain", 2.0))
    publish(folder / "store", model.card, {name: (model.directory / name).read_bytes() for name in model.card.files})
    scan, _ = simulate(1, width_um=0.7, start_defocus=1.5)
    known = {"probe": scan.probe, "pixel_size_nm": 1e3 * scan.pixel_size_um}
    np.savez(folder / "scan.npz", patterns=scan.patterns, positions_px=scan.positions_px, **known)
    options = {**QUICK, "sweeps": 30, "store": str(folder / "store")}
    spec = JobSpec("scan", "d", source={"file": str(folder / "scan.npz")}, options=options)
    assert job(jobs.prepare(folder / "loop", spec)) == 0
    return folder


@pytest.fixture
def offered(defocused, tmp_path):
    """Store and folder of the job that offers its probe."""
    shutil.copytree(defocused, tmp_path, dirs_exist_ok=True)
    options = {**QUICK, "store": str(tmp_path / "store")}
    return tmp_path / "store", jobs.prepare(tmp_path / "loop", JobSpec("probe", "d", options=options))


def test_a_refined_probe_goes_live_beside_the_same_network(offered):
    store, folder = offered
    assert job(folder) == 0
    found = jobs.result(folder)
    assert found["published"], found["reason"]
    assert found["version"] == current_version(store) == "000002"
    assert found["mismatch_after"] < found["mismatch_before"] - 0.01
    before, after = (open_model(store / "versions" / name) for name in ("000001", "000002"))
    assert after.card.sha256 == before.card.sha256
    assert after.card.parent == "000001"
    assert after.card.files[PROBE] == after.card.probe_sha256
    np.testing.assert_array_equal(probe_of(after), np.load(folder.parent / "scan-d/probe.npy"))
    assert probe_of(before) is None
    source = json.loads((folder.parent / "scan-d/spec.json").read_text())["source"]
    options = {**QUICK, "store": str(store)}
    free = jobs.prepare(folder.parents[1], JobSpec("residual", "d", source=source, options=options))
    assert job(free) == 0  # from now on the live model is judged with its probe
    assert jobs.result(free)["live_probe"]
    assert jobs.result(free)["residual"] < jobs.result(folder.parent / "scan-d")["residual"]


def test_killed_after_publishing_it_publishes_once(offered):
    store, folder = offered
    killed_at(folder, "offered")
    assert current_version(store) == "000002"
    set_current(store, "000001")  # as if it had been killed before it was made current
    assert job(folder) == 0
    assert jobs.result(folder)["published"]
    assert jobs.result(folder)["version"] == current_version(store) == "000002"
    assert versions(store) == ["000001", "000002"]


def test_a_probe_that_is_no_better_is_refused_once(offered):
    store, folder = offered
    spec = json.loads((folder / "spec.json").read_text())
    jobs.prepare(folder.parents[1], JobSpec("probe", "d", options={**spec["options"], "margin": 0.9}))
    killed_at(folder, "offered")
    assert job(folder) == 0
    found = jobs.result(folder)
    assert not found["published"]
    assert "at least 0.9 is asked" in found["reason"]
    assert refused(store) == ["000001"]
    assert current_version(store) == "000001"


def test_a_store_that_cannot_be_written_stays_as_it_is(offered):
    store, folder = offered
    (store / ".publishing").mkdir()
    assert job(folder) == 1
    found = jobs.result(folder)
    assert (found["ok"], found["transient"]) == (False, True)
    assert current_version(store) == "000001"
    assert versions(store) == ["000001"]


def test_without_a_live_network_no_probe_is_offered(offered):
    store, folder = offered
    (store / "CURRENT").unlink()
    assert job(folder) == 0
    assert not jobs.result(folder)["published"]
    assert "nothing is live in" in jobs.result(folder)["reason"]

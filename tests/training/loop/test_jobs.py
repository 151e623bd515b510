import json
import os

import pytest

from bluesky_ptychonn.io import durable
from bluesky_ptychonn.training.loop import jobs
from bluesky_ptychonn.training.loop.jobs import JobSpec

SPEC = JobSpec("scan", "5f3a-0c1b", "/etc/settings.toml", {"file": "/data/scan.npz", "sha256": "ab"}, {"sweeps": 60})


def test_a_spec_comes_back_from_its_folder(tmp_path):
    folder = jobs.prepare(tmp_path, SPEC)
    assert folder == tmp_path / "jobs" / "scan-5f3a-0c1b" == jobs.job_directory(tmp_path, SPEC)
    assert jobs.read_spec(folder) == SPEC
    assert jobs.read_spec(folder).sha256 == SPEC.sha256


@pytest.mark.parametrize(
    "wrong", [{"kind": "dance"}, {"key": ""}, {"key": "../up"}, {"key": "a b"}, {"key": 129 * "a"}]
)
def test_what_cannot_be_a_job(wrong):
    with pytest.raises(ValueError, match=r"allowed is one of|it must be a word"):
        JobSpec(**{"kind": "scan", "key": "a", **wrong})


def test_preparing_again_changes_nothing_or_takes_the_new_words(tmp_path):
    folder = jobs.prepare(tmp_path, SPEC)
    before = (folder / "spec.json").stat().st_mtime_ns, (folder / "spec.json").stat().st_ino
    jobs.prepare(tmp_path, SPEC)
    assert ((folder / "spec.json").stat().st_mtime_ns, (folder / "spec.json").stat().st_ino) == before
    other = JobSpec("scan", "5f3a-0c1b", options={"sweeps": 10})
    jobs.prepare(tmp_path, other)
    assert jobs.read_spec(folder) == other
    jobs.write_result(folder, {"ok": True})
    jobs.prepare(tmp_path, SPEC)
    assert jobs.read_spec(folder) == other  # what is done was done with those


@pytest.mark.parametrize("text", ["", "{", "[]", '{"kind": "dance", "key": "a"}', '{"kind": "scan"}', '{"colour": 1}'])
def test_a_spec_that_cannot_be_understood_is_told(tmp_path, text):
    (tmp_path / "spec.json").write_text(text)
    with pytest.raises(ValueError, match=r"spec.json|allowed is one of"):
        jobs.read_spec(tmp_path)
    with pytest.raises(FileNotFoundError, match="is no folder of a job"):
        jobs.read_spec(tmp_path / "elsewhere")


@pytest.mark.parametrize("text", ["", '{"ok": tr', "[]", "7", '{"kind": "scan"}', '{"ok": "yes"}'])
def test_a_torn_marker_counts_as_absent(tmp_path, text):
    assert jobs.result(tmp_path) is None
    (tmp_path / "result.json").write_text(text)
    assert jobs.result(tmp_path) is None
    jobs.write_result(tmp_path, {"ok": False, "reason": "dark"})
    assert jobs.result(tmp_path) == {"ok": False, "reason": "dark"}


def test_a_marker_that_cannot_be_written_is_not_there(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        jobs.write_result(tmp_path, {"ok": True})
    assert jobs.result(tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_a_marker_is_set_aside_so_that_the_job_can_be_done_again(tmp_path):
    for number in (1, 2):
        jobs.write_result(tmp_path, {"ok": False, "number": number})
        jobs.reopen(tmp_path)
        assert jobs.result(tmp_path) is None
    jobs.reopen(tmp_path)
    kept = [json.loads((tmp_path / f"result-{number:03d}.json").read_text())["number"] for number in (1, 2)]
    assert kept == [1, 2]


def test_the_last_submission_is_known(tmp_path):
    assert jobs.submitted(tmp_path) == ""
    (tmp_path / "native.json").write_text('{"nat')
    assert jobs.submitted(tmp_path) == ""
    jobs.note_native(tmp_path, "17:scan-a")
    assert jobs.submitted(tmp_path) == "17:scan-a"


def test_attempts_tell_how_they_ended_or_that_they_did_not(tmp_path):
    killed = jobs.begin_attempt(tmp_path, "17")
    told = jobs.begin_attempt(tmp_path)
    jobs.end_attempt(tmp_path, told, 75, "told to make room")
    (tmp_path / "attempts" / "003.json").write_text("torn")
    first, second = jobs.attempts(tmp_path)
    assert first == killed
    assert (first.number, first.native, first.pid, first.exit_status) == (1, "17", os.getpid(), None)
    assert (second.number, second.exit_status, second.reason) == (2, 75, "told to make room")
    assert second.ended_s >= second.started_s

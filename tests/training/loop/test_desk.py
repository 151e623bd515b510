"""The desk with real folders and a scripted runner."""

import pytest
from loop_world import PATIENCE, T0

from bluesky_ptychonn.io.journal import Journal
from bluesky_ptychonn.training.loop import jobs, transfer
from bluesky_ptychonn.training.loop.desk import FolderDesk
from bluesky_ptychonn.training.loop.handout import NotTakenError
from bluesky_ptychonn.training.loop.policy import Terms
from bluesky_ptychonn.training.loop.runner import Resources, RunnerError
from bluesky_ptychonn.training.loop.service import LoopService

START = {"uid": "5f3a0c1b-7d11", "time": T0, "scan_id": 3, "ptycho": {}}
UID = START["uid"]


class Scripted:
    """A runner that starts nothing."""

    def __init__(self):
        self.problem, self.folders, self.given, self.running = None, [], [], True

    def submit(self, directory, resources=None):
        if self.problem is not None:
            raise self.problem
        self.folders.append(directory)
        self.given.append(resources)
        jobs.note_native(directory, str(len(self.folders)))
        return str(len(self.folders))

    def alive(self, native):
        if self.problem is not None:
            raise self.problem
        return self.running

    def cancel(self, native):
        if self.problem is not None:
            raise self.problem
        self.running = False


@pytest.fixture
def runner():
    return Scripted()


@pytest.fixture
def desk(tmp_path, runner):
    return FolderDesk(
        tmp_path,
        runner,
        settings_file="/etc/ptychonn.toml",
        options={"scan": {"sweeps": 7}, "train": {"minutes": 3.0}},
        resources={"train": Resources(ranks=4)},
    )


def test_a_job_is_complete_in_its_folder(desk, runner):
    assert desk.submitted("scan", UID) == ""
    assert desk.submit("scan", UID, START, {}) == "1"
    assert desk.submitted("scan", UID) == "1"
    spec = jobs.read_spec(runner.folders[0])
    assert spec == jobs.JobSpec("scan", UID, "/etc/ptychonn.toml", {"run": UID}, {"sweeps": 7})
    desk.submit("train", "t1", {}, {"runs": [UID]})
    assert jobs.read_spec(runner.folders[1]).options == {"minutes": 3.0, "runs": [UID]}
    assert runner.given == [None, Resources(ranks=4)]


def test_a_start_document_may_say_where_its_frames_are(desk, runner):
    source = {"file": "/data/scan.npz", "sha256": "ab"}
    desk.submit("scan", UID, {**START, "source": source}, {})
    assert jobs.read_spec(runner.folders[0]).source == source


def test_a_scheduler_that_fails_is_told_apart_from_a_job_that_fails(desk, runner):
    runner.problem = RunnerError("sbatch: error: no answer")
    with pytest.raises(NotTakenError, match="sbatch"):
        desk.submit("scan", UID, START, {})
    assert desk.alive("1") is None
    desk.cancel("1")


def test_a_disk_that_is_away_is_no_missing_marker(desk, tmp_path):
    """Else a job that is done would be handed out again."""
    (tmp_path / "jobs").write_text("not a folder")
    for call in (desk.result, desk.submitted, desk.set_aside):
        with pytest.raises(NotTakenError, match="folder cannot be used"):
            call("scan", UID)
    with pytest.raises(NotTakenError, match="folder cannot be used"):
        desk.submit("scan", UID, START, {})


def test_how_a_job_ended(desk, runner):
    desk.submit("scan", UID, START, {})
    folder = runner.folders[0]
    assert "never began" in desk.ending("scan", UID).reason
    (folder / transfer.STEP).write_text("{}")
    assert "never began" in desk.ending("scan", UID).reason  # the frames arrived, and the job was handed on
    jobs.note_native(folder, "")
    told = f"the transfer of its frames was ended before it was done; see {folder / 'transfer.txt'}"
    assert desk.ending("scan", UID).reason == told
    jobs.note_native(folder, "1")
    jobs.end_attempt(folder, jobs.begin_attempt(folder), jobs.PREEMPTED, "told to make room")
    assert desk.ending("scan", UID).preempted
    jobs.end_attempt(folder, jobs.begin_attempt(folder), 1, "No space left on device")
    ending = desk.ending("scan", UID)
    assert not ending.preempted
    assert ending.reason == f"No space left on device; see {folder / 'log.txt'}"


def test_making_room_for_ever_is_a_failure(desk, runner):
    desk.submit("scan", UID, START, {})
    for _ in range(50):
        jobs.end_attempt(runner.folders[0], jobs.begin_attempt(runner.folders[0]), jobs.PREEMPTED)
    assert not desk.ending("scan", UID).preempted


def test_with_the_service(desk, runner, tmp_path):
    """The names that desk, folders and service share are the same ones."""
    journal = Journal(tmp_path / "journal.sqlite")
    journal.note_start(START)
    journal.note_stop({"run_start": UID, "time": T0, "exit_status": "success"})
    now_s = [T0]
    service = LoopService(journal, desk, Terms(), PATIENCE, monotonic=lambda: now_s[0])

    def tick(times=3, seconds=5.0):
        for _ in range(times):
            now_s[0] += seconds
            service.tick(now_s[0])

    tick()
    folder = jobs.named_directory(tmp_path, "scan", UID)
    assert runner.folders == [folder]
    jobs.write_result(folder, {"kind": "scan", "key": UID, "ok": False, "reason": "disk full"})
    tick(1)
    assert "disk full" in journal.scan(UID).sentence
    tick(3)
    assert runner.folders == [folder] * 2
    assert jobs.result(folder) is None
    assert (folder / "result-001.json").is_file()
    told = {"trusted": True, "verdict": "", "shard": "s1", "probe": "probe.npy", "ssim": 0.7, "mismatch": 0.3}
    jobs.write_result(folder, {"ok": True, **told, "residual_live": 0.2, "live_version": "000001"})
    tick()
    assert runner.folders[2:] == [jobs.named_directory(tmp_path, "probe", UID)]
    jobs.write_result(runner.folders[2], {"ok": True, "published": False, "version": "", "reason": "no gain"})
    tick()
    training = journal.unfinished_training()
    assert runner.folders[3:] == [jobs.named_directory(tmp_path, "train", training.key)]
    jobs.write_result(runner.folders[3], {"ok": True, "published": True, "version": "000002", "mismatch_after": 0.05})
    tick()
    row = journal.scan(UID)
    assert (row.state, row.published_version, row.mismatch, row.residual) == ("published", "000002", 0.3, 0.2)
    assert row.sentence == "retrained: version 000002 is live; mismatch 0.050"

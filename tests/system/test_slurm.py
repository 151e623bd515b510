"""Jobs under a real Slurm: seen, cancelled, requeued, with a controller that is down, hung or has forgotten."""

import json
import time

import pytest

pytest.importorskip("psij")
pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
import slurm_world
from slurm_world import CREDENTIAL_S, SlurmWorld, wait_until
from tiny_loop import TinyLoop, write_scan

from bluesky_ptychonn.io.model_store import current_version
from bluesky_ptychonn.training.learning.checkpoint import read_checkpoint
from bluesky_ptychonn.training.loop import jobs
from bluesky_ptychonn.training.loop.runner import Resources, RunnerError, make_runner

pytestmark = [
    pytest.mark.soak,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(slurm_world.why_not()), reason=slurm_world.why_not()),
]
LONG = {"sweeps": 100_000}
FAST = {"epochs": 2, "recipe_changes": {"high_rate": 3e-3, "bf16": False}}


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    world = SlurmWorld(tmp_path_factory.mktemp("slurm"))
    try:
        world.start()
        with pytest.MonkeyPatch.context() as here:
            for name, value in world.environment.items():
                here.setenv(name, value)
            yield world
    finally:
        world.close()


@pytest.fixture(scope="module")
def loop(tmp_path_factory):
    return TinyLoop(tmp_path_factory.mktemp("loop"))


@pytest.fixture
def runner(slurm):
    return make_runner("slurm", Resources(walltime_min=10), timeout_s=20)


@pytest.fixture
def long_job(loop, request):
    """A job that would take hours, of a key of its own."""
    key = request.node.name.replace("[", "-").replace("]", "")
    return loop.prepare("scan", key, write_scan(loop.folder / f"{key}.npz"), **LONG)


def number_of(native):
    return native.partition(":")[0]


def wait_for_sweeps(folder):
    wait_until(lambda: (folder / "attempts/001.json").exists(), f"{folder.name} to begin")


def test_a_scan_goes_through_the_queue_and_a_training_of_two_ranks_goes_live(slurm, runner, loop):
    natives = {}
    for key, seed in (("a", 1), ("b", 2)):
        folder = loop.scan(key, seed)
        natives[key] = runner.submit(folder)
        assert number_of(natives[key]) in slurm.queue()
        assert runner.submit(folder) == natives[key]
        assert runner.alive(natives[key])
    for key, native in natives.items():
        folder = loop.directory / f"jobs/scan-{key}"
        wait_until(lambda: jobs.result(folder) is not None, folder.name, 120)  # noqa: B023
        assert jobs.result(folder)["trusted"]
        assert jobs.attempts(folder)[0].native == number_of(native)
        slurm.wait_for_state(number_of(native), ("",))
        assert runner.alive(native) is False
    assert len(loop.shards()) == 2
    folder = loop.prepare("train", "t", ranks=2, launcher="srun", margin=-1.0, **FAST)
    native = runner.submit(folder, Resources(walltime_min=10, ranks=2))
    wait_until(lambda: jobs.result(folder) is not None, folder.name, 180)
    found = jobs.result(folder)
    assert found["ok"], found["reason"]
    assert '"processes": 2' in (folder / "training/figures.json").read_text()
    if found["published"]:
        assert current_version(loop.store) == found["version"] == "000002"
    slurm.wait_for_state(number_of(native), ("",))


def test_a_job_that_is_cancelled_is_gone_without_a_result(slurm, runner, long_job):
    native = runner.submit(long_job)
    wait_for_sweeps(long_job)
    runner.cancel(native)
    slurm.wait_for_state(number_of(native), ("",))
    wait_until(lambda: runner.alive(native) is False, "the runner to know")
    assert jobs.result(long_job) is None
    again = runner.submit(long_job)
    assert again != native
    runner.cancel(again)
    slurm.wait_for_state(number_of(again), ("",))


def test_a_job_that_the_scheduler_requeues_is_the_same_and_begins_again(slurm, runner, long_job):
    native = runner.submit(long_job)
    wait_for_sweeps(long_job)
    slurm.client("scontrol", "requeue", number_of(native))
    assert runner.alive(native)
    wait_until(lambda: len(jobs.attempts(long_job)) == 2, "its second attempt", 30 + 10 * CREDENTIAL_S)
    assert runner.alive(native)
    assert {attempt.native for attempt in jobs.attempts(long_job)} == {number_of(native)}
    runner.cancel(native)


def test_usr1_before_the_end_reaches_a_training_under_srun(slurm, runner, loop):
    """It ends with 75, its checkpoint is there, and the next submission goes on."""
    for key, seed in (("a", 1), ("b", 2)):  # where this test runs alone
        folder = loop.scan(key, seed)
        if jobs.result(folder) is None:
            runner.submit(folder)
            wait_until(lambda: jobs.result(folder) is not None, folder.name, 120)  # noqa: B023
    folder = loop.prepare("train", "long", launcher="srun", **{**FAST, "epochs": 5000})
    native = runner.submit(folder)
    wait_until((folder / "training/checkpoint.pt").exists, "its checkpoint", 120)
    slurm.client("scancel", "--signal=USR1", number_of(native))  # as `--signal=USR1@60` does
    slurm.wait_for_state(number_of(native), ("",))
    wait_until(lambda: jobs.attempts(folder)[0].exit_status is not None, "its end to be told")
    assert jobs.attempts(folder)[0].exit_status == jobs.PREEMPTED
    assert jobs.result(folder) is None
    before = read_checkpoint(folder / "training")
    assert 0 < before["step"] < before["total"]
    total = before["step"] + 4 + before["step"] % 2
    plan = json.loads((folder / "learning.json").read_text())
    (folder / "learning.json").write_text(json.dumps({**plan, "epochs": total // 2}))  # two steps each
    again = runner.submit(folder)
    wait_until(lambda: jobs.result(folder) is not None, "its second attempt", 120)
    assert read_checkpoint(folder / "training")["step"] == total
    assert [attempt.exit_status for attempt in jobs.attempts(folder)] == [jobs.PREEMPTED, 0]
    slurm.wait_for_state(number_of(again), ("",))


def test_a_controller_that_is_down_proves_nothing(slurm, runner, long_job):
    native = runner.submit(long_job)
    wait_for_sweeps(long_job)
    slurm.stop_controller()
    try:
        began_s = time.monotonic()
        assert runner.alive(native) is None
        with pytest.raises(RunnerError, match="slurm does not answer"):
            runner.submit(long_job)
        with pytest.raises(RunnerError, match="slurm does not answer"):
            runner.cancel(native)
        assert time.monotonic() - began_s < 60
    finally:
        slurm.start_controller()
    slurm.wait_for_node()
    wait_until(lambda: runner.alive(native), "the job to be known again")
    runner.cancel(native)


def test_a_controller_that_hangs_is_not_waited_for(slurm, loop, long_job):
    impatient = make_runner("slurm", timeout_s=2)
    native = impatient.submit(long_job)
    wait_for_sweeps(long_job)
    with slurm.hung_controller():
        began_s = time.monotonic()
        assert impatient.alive(native) is None
        with pytest.raises(RunnerError, match="slurm does not answer"):
            impatient.submit(loop.scan("another"))
        assert time.monotonic() - began_s < 10
    wait_until(lambda: impatient.alive(native), "the controller to wake up")
    impatient.cancel(native)


def test_a_controller_that_has_forgotten_gives_numbers_anew(slurm, runner, loop, long_job):
    native = runner.submit(long_job)
    wait_for_sweeps(long_job)
    slurm.stop_controller()
    slurm.start_controller(amnesiac=True)
    slurm.wait_for_node()
    assert runner.alive(native) is False
    folder = loop.prepare("scan", "newcomer", write_scan(loop.folder / "newcomer.npz"), **LONG)
    others = []
    while not others or int(number_of(others[-1])) < int(number_of(native)):
        others.append(runner.submit(folder))
        assert runner.alive(others[-1])
        assert runner.alive(native) is False  # the number is there, and is another job's
        runner.cancel(others[-1])
        slurm.wait_for_state(number_of(others[-1]), ("",))
        time.sleep(0.2)


def test_a_node_that_is_gone_leaves_the_job_waiting_and_alive(slurm, runner, long_job):
    slurm.stop_node()
    try:
        slurm.client("scontrol", "update", f"nodename={slurm.host}", "state=down", "reason=test")
        native = runner.submit(long_job)
        slurm.wait_for_state(number_of(native), ("PENDING",))
        assert runner.alive(native)
    finally:
        slurm.start_node()
    slurm.wait_for_node()
    wait_for_sweeps(long_job)
    runner.cancel(native)

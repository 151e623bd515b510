"""Runners with stand-ins for the job and the schedulers' commands; a real Slurm: tests/system/test_slurm.py."""

import json
import os
import signal
import stat
import subprocess
import sys
import time

import pytest

pytest.importorskip("psij")
import psutil

from bluesky_ptychonn.training.loop import jobs, runner
from bluesky_ptychonn.training.loop.jobs import JobSpec
from bluesky_ptychonn.training.loop.runner import Resources, RunnerError, make_runner

JOB = """
import json, os, signal, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
def leave(*_):
    (folder / "told").write_text("room")
    sys.exit(75)
signal.signal(signal.SIGTERM, leave)
(folder / "begins").write_text(json.dumps(dict(os.environ)))
os.replace(folder / "begins", folder / "began")
while not (folder / "go").exists():
    time.sleep(0.02)
(folder / "done").write_text("")
"""
SUBMIT = """
import sys
from pathlib import Path
from bluesky_ptychonn.training.loop import runner
runner.COMMAND = (sys.executable, "-c", sys.argv[2])
print(runner.make_runner("local").submit(Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "COMMAND", (sys.executable, "-c", JOB))
    prepared = jobs.prepare(tmp_path, JobSpec("scan", "5f3a"))
    yield prepared
    (prepared / "go").write_text("")


def is_gone(process):
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_for(true, timeout_s=60):
    end_s = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end_s
        time.sleep(0.02)


def test_a_local_job_is_alive_until_it_has_ended_and_is_started_once(folder):
    local = make_runner("local", Resources(environment={"HELLO": "a b 'c'"}, walltime_min=3))
    native = local.submit(folder)
    assert jobs.submitted(folder) == native
    assert local.alive(native)
    assert local.submit(folder) == native
    wait_for((folder / "began").exists)
    environment = json.loads((folder / "began").read_text())
    assert environment["HELLO"] == "a b 'c'"
    assert environment["BLUESKY_PTYCHONN_WALLTIME_S"] == "180"
    (folder / "go").write_text("")
    wait_for(lambda: local.alive(native) is False)
    assert (folder / "done").exists()
    local.cancel(native)
    again = local.submit(folder)
    assert again != native
    assert jobs.submitted(folder) == again
    wait_for(lambda: local.alive(again) is False)


def test_a_local_job_survives_who_started_it(folder):
    starter = subprocess.Popen(
        [sys.executable, "-c", SUBMIT, str(folder), JOB],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    native = starter.stdout.readline().strip()
    wait_for((folder / "began").exists)
    os.killpg(starter.pid, signal.SIGKILL)  # as Ctrl-C and a closed terminal reach it, too
    starter.wait(10)
    assert make_runner("local").alive(native)
    (folder / "go").write_text("")
    wait_for((folder / "done").exists)


def test_a_local_job_that_is_cancelled_is_told_and_alive_while_it_makes_room(folder):
    local = make_runner("local")
    native = local.submit(folder)
    wait_for((folder / "began").exists)
    launcher = psutil.Process(int(native.split(":")[0]))
    launcher.kill()  # the shell around the job; the job is what counts
    wait_for(lambda: is_gone(launcher))
    assert local.alive(native)
    local.cancel(native)
    wait_for((folder / "told").exists)
    wait_for(lambda: local.alive(native) is False)


def test_a_local_job_that_does_not_listen_is_killed_at_the_end(folder, monkeypatch):
    deaf = JOB.replace("signal.signal(signal.SIGTERM, leave)", "signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    monkeypatch.setattr(runner, "COMMAND", (sys.executable, "-c", deaf))
    local = make_runner("local")
    native = local.submit(folder)
    wait_for((folder / "began").exists)
    local.end(native, 0.3)
    wait_for(lambda: local.alive(native) is False)
    assert not (folder / "done").exists()


def test_another_process_with_the_number_of_a_job_is_not_the_job():
    local = make_runner("local")
    own = psutil.Process()
    assert local.alive(f"{own.pid}:{own.create_time():.2f}:1")
    assert local.alive(f"{own.pid}:{own.create_time() - 60:.2f}:{own.pid}") is False
    gone = subprocess.Popen([sys.executable, "-c", ""])
    wait_for(lambda: psutil.Process(gone.pid).status() == psutil.STATUS_ZOMBIE)
    assert local.alive(f"{gone.pid}:{psutil.Process(gone.pid).create_time():.2f}:{gone.pid}") is False
    gone.wait()
    with pytest.raises(ValueError, match="is none of the local runner"):
        local.alive("17:scan-a")


def test_modules_are_loaded_before_the_job(folder, monkeypatch):
    monkeypatch.setenv("BASH_FUNC_module%%", '() { export LOADED="$*"; }')
    local = make_runner("local", Resources(modules=("cuda/12", "it's")))
    local.submit(folder)
    wait_for((folder / "began").exists)
    assert json.loads((folder / "began").read_text())["LOADED"] == "load cuda/12 it's"


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Puts shell scripts first into the path."""
    place = tmp_path / "bin"
    place.mkdir()
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")

    def put(**scripts):
        for name, text in scripts.items():
            file = place / name
            file.write_text(f'#!/bin/sh\necho "$@" >> {place}/{name}.asked\n{text}\n')
            file.chmod(file.stat().st_mode | stat.S_IXUSR)
        return place

    return put


def test_slurm_is_asked_by_number_and_name(folder, commands, monkeypatch):
    monkeypatch.setattr(runner, "ASKED_S", 60.0)
    place = commands(
        squeue="cat <<END\n7|R|scan-5f3a\n8|CD|scan-5f3a\n9|PD|another|odd one\n10|CG|scan-77\nEND", scancel=""
    )
    slurm = make_runner("slurm")
    assert slurm.alive("7:scan-5f3a")
    assert slurm.alive("8:scan-5f3a") is False
    assert slurm.alive("9:scan-5f3a") is False  # the number was given to another job
    assert slurm.alive("9:another|odd one")
    assert slurm.alive("11:scan-5f3a") is False
    assert len((place / "squeue.asked").read_text().splitlines()) == 1  # one answer serves them all
    assert slurm.submit(folder) == "7:scan-5f3a"  # it is there already
    assert slurm.alive("10:scan-77")  # it may be queued again
    with pytest.raises(RunnerError, match="is just ending"):
        slurm.submit(jobs.prepare(folder.parents[1], JobSpec("scan", "77")))
    slurm.cancel("7:scan-5f3a")
    slurm.cancel("8:scan-5f3a")
    assert (place / "scancel.asked").read_text() == "--quiet 7\n"


def test_slurm_gets_what_the_settings_say(folder, commands):
    place = commands(squeue="", sbatch=f"cp $1 {folder}/script; echo Submitted batch job 12")
    asked = Resources("debug", "p7", 90, nodes=2, ranks=4, gpus=4, cores=8, modules=["cuda"])
    assert make_runner("slurm").submit(folder, asked) == "12:scan-5f3a" == jobs.submitted(folder)
    script = (folder / "script").read_text()
    for line in (
        '--partition="debug"',
        '--account="p7"',
        "--nodes=2",
        "--ntasks=4",
        "--gpus-per-task=2",
        "--cpus-per-task=8",
        "--time=1:30:0",
        '--job-name="scan-5f3a"',
        '--signal="USR1@60"',
    ):
        assert f"#SBATCH {line}" in script
    assert "module load cuda" in (folder / "modules.sh").read_text()
    assert place.exists()


def test_pbs_is_asked_for_one_job(folder, commands):
    job = {"Jobs": {"12.pbs": {"Job_Name": "scan-5f3a", "job_state": "R"}}}
    place = commands(qsub=f"cp $1 {folder}/script; echo 12.pbs", qdel="", qstat=f"echo '{json.dumps(job)}'")
    pbs = make_runner("pbs", Resources("debug", "p7", 30, nodes=2, ranks=4, gpus=3, cores=8))
    native = pbs.submit(folder)
    assert native == "12.pbs:scan-5f3a"
    assert not (place / "qstat.asked").exists()  # nothing was known to ask for
    script = (folder / "script").read_text()
    for line in (
        "-q debug",
        "-A p7",
        "-l walltime=0:30:0",
        '-N "scan-5f3a"',
        "-l select=2:ncpus=16:mpiprocs=2:ngpus=3",
    ):
        assert f"#PBS {line}" in script
    assert pbs.alive(native)
    assert pbs.submit(folder) == native
    pbs.cancel(native)
    assert (place / "qdel.asked").read_text() == "12.pbs\n"
    for told in ("qstat: Unknown Job Id 12.pbs", "qstat: 12.pbs Job has finished, use -x or -H"):
        commands(qstat=f"echo '{told}' >&2; exit 35")
        assert make_runner("pbs").alive(native) is False
    commands(qstat="echo 'cannot connect to server' >&2; exit 111")
    assert make_runner("pbs").alive(native) is None


PBS_PRO = """
{{
    "timestamp":1745411711,
    "pbs_version":"2022.1.1.20220926110806",
    "pbs_server":"polaris-pbs-01",
    "Jobs":{{
        "{number}":{{
            "Job_Name":"{name}",
            "Job_Owner":"user@login",
            "job_state":"{state}",
            "resources_used":{{"cpupercent":0, "walltime":"00:00:07"}},
            "Variable_List":{{"PBS_O_HOME":"/home/user", "PS1":"{odd}"}}
        }}
    }}
}}
"""


@pytest.mark.parametrize("number", ["12.pbs-01.hsn.example.org", "12.pbs-01"])  # OpenPBS cuts the name of its server
@pytest.mark.parametrize("odd", ["", "a\ttab", 'a "quotation'])  # which PBS does not escape
@pytest.mark.parametrize(("state", "alive"), [(state, True) for state in "QHWTRSUME"] + [("F", False), ("X", False)])
def test_pbs_in_its_own_words(folder, commands, number, odd, state, alive):
    answer = folder / "answer"
    answer.write_text(PBS_PRO.format(number=number, name="scan-5f3a", state=state, odd=odd))
    place = commands(qsub="echo 13.pbs-01.hsn.example.org", qdel="", qstat=f"cat {answer}")
    pbs = make_runner("pbs")
    native = "12.pbs-01.hsn.example.org:scan-5f3a"
    assert pbs.alive(native) is alive
    assert pbs.alive("12.pbs-01.hsn.example.org:scan-77") is False  # the number was given to another job
    pbs.cancel(native)
    assert (place / "qdel.asked").exists() == alive
    jobs.note_native(folder, native)
    if state == "E":
        with pytest.raises(RunnerError, match="is just ending"):
            pbs.submit(folder)
    elif alive:
        assert pbs.submit(folder) == f"{number}:scan-5f3a"
    else:
        assert pbs.submit(folder) == "13.pbs-01.hsn.example.org:scan-5f3a"


@pytest.mark.parametrize(
    ("qstat", "alive"),
    [
        ("echo 'qstat: Unknown Job Id 12.pbs' >&2; exit 153", False),
        (
            "echo 'qstat: 12.pbs Job has finished, use -x or -H to obtain historical job information' >&2; exit 35",
            False,
        ),
        ("echo 'Connection refused' >&2; echo 'qstat: cannot connect to server pbs (errno=15010)' >&2; exit 255", None),
        ('echo \'{"timestamp":1, "pbs_version":"23"}\'', None),
        ("echo nonsense", None),
        ("sleep 60", None),
    ],
)
def test_pbs_that_knows_no_job_or_does_not_answer(folder, commands, qstat, alive):
    place = commands(qstat=qstat, qsub="echo 13.pbs", qdel="")
    pbs = make_runner("pbs", timeout_s=1.0 if alive is None else 20.0)
    began_s = time.monotonic()
    assert pbs.alive("12.pbs:scan-5f3a") is alive
    assert time.monotonic() - began_s < 5
    jobs.note_native(folder, "12.pbs:scan-5f3a")
    if alive is None:
        with pytest.raises(RunnerError, match="pbs does not answer; scan-5f3a is not submitted"):
            pbs.submit(folder)
        with pytest.raises(RunnerError, match="is not cancelled"):
            pbs.cancel("12.pbs:scan-5f3a")
        assert not (place / "qdel.asked").exists()


@pytest.mark.parametrize(
    "squeue", ["sleep 60", "echo slurm_load_jobs error >&2; exit 1", "echo nonsense", "kill -9 $$"]
)
def test_a_scheduler_that_does_not_answer_proves_nothing_and_is_not_waited_for(folder, commands, squeue):
    place = commands(squeue=squeue, sbatch="echo Submitted batch job 1", scancel="")
    slurm = make_runner("slurm", timeout_s=1)
    began_s = time.monotonic()
    assert slurm.alive("7:scan-5f3a") is None
    with pytest.raises(RunnerError, match="scan-5f3a is not submitted"):
        slurm.submit(folder)
    with pytest.raises(RunnerError, match="is not cancelled"):
        slurm.cancel("7:scan-5f3a")
    assert time.monotonic() - began_s < 5
    assert not (place / "sbatch.asked").exists()
    assert jobs.submitted(folder) == ""


def test_a_submission_that_hangs_is_ended_with_all_it_has_started(folder, commands, tmp_path):
    commands(squeue="", sbatch="echo Submitted batch job 1")
    began_s = time.monotonic()
    make_runner("slurm").submit(folder)
    usual_s = time.monotonic() - began_s
    timeout_s = 2 + 4 * usual_s  # it must come as far as the command, which takes longer where others work
    commands(sbatch=f"echo $$ > {tmp_path}/pid; sleep 600")
    began_s = time.monotonic()
    with pytest.raises(RunnerError, match="the submission did not answer within"):
        make_runner("slurm", timeout_s=timeout_s).submit(folder)
    assert time.monotonic() - began_s < 2 * timeout_s + 10
    pid = int((tmp_path / "pid").read_text())
    wait_for(lambda: not psutil.pid_exists(pid) or is_gone(psutil.Process(pid)))


def test_what_a_scheduler_refuses_is_told(folder, commands):
    commands(squeue="", sbatch="echo 'sbatch: error: invalid partition specified: nowhere' >&2; exit 1")
    with pytest.raises(RunnerError, match="invalid partition specified: nowhere"):
        make_runner("slurm").submit(folder)
    with pytest.raises(RunnerError, match="qsub"):
        make_runner("pbs").submit(folder)


@pytest.mark.parametrize(
    "wrong", [{"walltime_min": 0}, {"nodes": 0}, {"gpus": -1}, {"ranks": 3, "nodes": 2}, {"ranks": 0}]
)
def test_impossible_resources(wrong):
    with pytest.raises(ValueError, match=r"a job needs a time and a node|give 0 for none|give a multiple of the nodes"):
        Resources(**wrong)


def test_an_unknown_runner():
    with pytest.raises(ValueError, match="allowed is one of local, slurm, pbs"):
        make_runner("cloud")

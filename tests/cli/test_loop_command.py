"""The command `loop`, as a user types it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from bluesky_ptychonn.cli.loop_page import save_pages
from bluesky_ptychonn.cli.loop_parts import job_options, make_service, settings_file_of, terms_of
from bluesky_ptychonn.cli.loop_plots import draw, mark_of
from bluesky_ptychonn.cli.main import main
from bluesky_ptychonn.config import load_settings
from bluesky_ptychonn.io.journal import Journal
from bluesky_ptychonn.training.loop import jobs, runner
from bluesky_ptychonn.training.loop.policy import Terms, clock
from bluesky_ptychonn.training.loop.serving import only_one

pytest.importorskip("psij")

NOW = time.time()
SETTINGS = """
[loop]
enabled = true
mismatch = 0.2
attempts = 1
poll_s = 0.1
{more}
[edge]
model = "store"
"""
FAKE_JOB = """
import json, sys
from pathlib import Path
from bluesky_ptychonn.training.loop.jobs import read_spec, write_result
folder = Path(sys.argv[1])
spec = read_spec(folder)
told = {
    "scan": {"trusted": True, "verdict": "", "shard": "s1", "probe": "p.npy", "ssim": 0.7, "mismatch": 0.3,
             "residual_live": 0.2, "live_version": "000001"},
    "probe": {"published": False, "version": "", "reason": "no gain"},
    "train": {"published": True, "version": "000002", "reason": "", "mismatch_before": 0.3, "mismatch_after": 0.05},
}[spec.kind]
write_result(folder, {"kind": spec.kind, "key": spec.key, "ok": True, **told})
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with settings, in which commands run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BLUESKY_PTYCHONN_SETTINGS", raising=False)
    monkeypatch.setenv("COLUMNS", "250")
    (tmp_path / "bluesky_ptychonn.toml").write_text(SETTINGS.format(more=""))
    return tmp_path


@pytest.fixture
def journal(folder):
    """The journal of the settings, with a scan of each kind."""
    journal = Journal(folder / "loop/journal.sqlite")
    for number, (state, columns) in enumerate(
        (
            ("validated", {"trusted": True, "mismatch": 0.03, "ssim": 0.97, "residual": 0.11}),
            ("published", {"trusted": True, "mismatch": 0.31, "ssim": 0.69, "published_version": "000002"}),
            ("suspended", {"residual": 0.12}),
            ("parked", {"attempts": 3}),
            ("validated", {"trusted": False}),
            ("reconstructing", {"job": "scan submitted 4711", "next_check_s": NOW + 1e6}),
            ("received", {"next_check_s": NOW + 1e6}),
        ),
        start=1,
    ):
        note(journal, number)
        journal.move(uid(number), state, f"this is why {number}", **columns)
    return journal


def uid(number):
    return f"{number:08x}-aaaa"


def note(journal, number, **start):
    name = uid(number)
    journal.note_start({"uid": name, "time": NOW - 100 + number, "scan_id": number, "ptycho": {}, **start})
    journal.note_stop({"run_start": name, "time": NOW - 99 + number, "exit_status": "success"})


def loop(*arguments):
    return main(["loop", *map(str, arguments)])


def lines_of(capsys):
    return capsys.readouterr().out.splitlines()


def test_status_is_a_table_that_tells_the_truth(journal, folder, capsys):
    assert loop("status") == 0
    text = capsys.readouterr().out
    assert "no service works on this journal" in text
    rows = {line.split()[0]: line for line in text.splitlines() if line[:1].isdigit()}
    assert list(rows) == list("1234567")
    assert rows["2"].split()[:6] == ["2", "00000002", "published", "0.310", "0.690", "000002"]
    assert "validated, untrusted" in rows["5"]
    assert "scan job 4711: this is why 6" in rows["6"]
    assert "waits until" in rows["7"]
    assert all(f"this is why {number}" in row for number, row in rows.items())
    with only_one(folder / "loop/journal.sqlite"):
        journal.set_fact("service", {"pid": 77, "tick_s": time.time()})
        journal.set_fact("suspended_until_s", time.time() + 600)
        journal.set_fact("paused", True)
        journal.set_fact("scheduler", {"errors": 4, "again_s": NOW, "told": "sbatch: no answer"})
        assert loop("status") == 0
        text = capsys.readouterr().out
    assert "service: process 77\n" in text
    assert "suspended until" in text
    assert "paused" in text
    assert "NO JOB IS TAKEN, 4 times in a row: sbatch: no answer" in text
    assert "IN TROUBLE" not in text
    with only_one(folder / "loop/journal.sqlite"):
        journal.set_fact("service", {"pid": 77, "tick_s": time.time() - 300})
        loop("status")
        assert "its last tick was 300 s ago" in capsys.readouterr().out


def test_an_outage_is_told(journal, capsys):
    told = "the catalog does not answer; that may pass by itself, so it is tried until tomorrow"
    journal.move(uid(7), "received", told, outage_s=NOW, next_check_s=NOW + 600)
    loop("status")
    lines = lines_of(capsys)
    assert f"IN TROUBLE since {clock(NOW)}: 1 of them cannot go on: {told}" in lines
    assert f"waits until {clock(NOW + 600)}: {told}" in lines[-1]
    loop("show", uid(7))
    assert f"received, waits until {clock(NOW + 600)}" in lines_of(capsys)[0]


def test_status_shows_the_newest_scans_and_what_is_not_finished(journal, capsys):
    for number in range(10, 40):
        note(journal, number)
        journal.move(uid(number), "validated", "done")
    loop("status")
    text = capsys.readouterr().out
    assert "00000006" in text  # reconstructing
    assert "00000001" not in text
    assert "15 earlier scans are not shown" in text
    loop("status", "--all")
    assert "00000001" in capsys.readouterr().out


def test_status_as_json(journal, capsys):
    loop("status", "--json")
    status = json.loads(capsys.readouterr().out)
    assert status["service"] is False
    assert status["unfinished"] == 2
    assert [scan["state"] for scan in status["scans"]].count("validated") == 2
    assert status["scans"][1]["published_version"] == "000002"


def test_status_is_told_again_and_again_until_ctrl_c(journal, capsys, monkeypatch):
    slept, sleep_of_others = [], time.sleep

    def sleep(seconds):
        if threading.current_thread() is not threading.main_thread():  # ophyd has one, once it is imported
            return sleep_of_others(seconds)
        slept.append(seconds)
        if len(slept) == 3:
            raise KeyboardInterrupt
        journal.move(uid(7), "suspended", f"look {len(slept)}")
        return None

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr("bluesky_ptychonn.cli.interruption.ignore_signals", lambda: None)
    assert loop("status", "--watch") == 130
    text = capsys.readouterr().out
    assert slept == [2.0] * 3
    assert text.count("no service works") == 3
    assert "look 2" in text


def test_show_tells_each_decision(journal, capsys):
    journal.move(uid(6), "labelled", "reconstructed and trusted", job=None, mismatch=0.25, live_version="000001")
    loop("show", uid(6)[:8])
    told = lines_of(capsys)
    assert told[0] == f"scan 6, run {uid(6)}: labelled, waits until " + told[0].split("until ")[1]
    assert told[1] == "mismatch 0.2500; live version 000001"
    assert [line.split("  ", 1)[1] for line in told[2:]] == [
        "running: scan 6 started",
        "running -> received: it ended: success",
        "received -> reconstructing: this is why 6",
        "reconstructing -> labelled: reconstructed and trusted",
    ]
    loop("show", uid(6), "--json")
    assert [line["new"] for line in json.loads(capsys.readouterr().out)["history"]][-1] == "labelled"
    journal.request_training("t1", "asked for by scan 6")
    loop("show", "t1")
    assert "training t1: queued" in capsys.readouterr().out
    assert loop("show", "zz") == 1
    assert "no scan 'zz'" in capsys.readouterr().err


def test_pause_and_resume(journal, capsys):
    loop("pause")
    assert journal.fact("paused") is True
    journal.set_fact("suspended_until_s", time.time() + 600)
    capsys.readouterr()
    loop("resume")
    assert journal.fact("paused") is False
    assert journal.fact("suspended_until_s") is not None
    loop("resume")
    assert journal.fact("suspended_until_s") is None
    loop("resume")
    assert lines_of(capsys) == [
        "no longer paused",
        "no longer suspended: the next scan is reconstructed",
        "it is neither paused nor suspended",
    ]


def test_retry_sets_the_markers_aside(journal, folder, capsys):
    marker = jobs.prepare(folder / "loop", jobs.JobSpec("scan", uid(5)))
    jobs.write_result(marker, {"ok": True, "trusted": False})
    assert loop("retry", uid(4), uid(5)[:8]) == 0
    assert [journal.scan(uid(number)).state for number in (4, 5)] == ["reconstructing"] * 2
    assert journal.scan(uid(4)).attempts == 0
    assert jobs.result(marker) is None
    assert (marker / "result-001.json").is_file()
    assert loop("retry", uid(2)) == 0
    assert journal.scan(uid(2)).state == "training"
    assert loop("retry", uid(1)) == 1
    assert "nothing to try again" in capsys.readouterr().err
    assert loop("retry") == 1
    assert "--parked" in capsys.readouterr().err
    journal.move(uid(1), "parked", "given up", trusted=None)
    assert loop("retry", "--parked") == 0
    assert journal.scan(uid(1)).state == "reconstructing"


@pytest.mark.parametrize("action", ["status", "show 1", "pause", "resume", "retry 1", "page"])
def test_without_a_journal_the_remedy_is_told(folder, capsys, action):
    assert loop(*action.split()) == 1
    assert "loop.enabled = true" in capsys.readouterr().err
    assert not (folder / "loop").exists()


def test_the_service_needs_a_model_store(folder, capsys):
    (folder / "bluesky_ptychonn.toml").write_text("[loop]\nenabled = true\n")
    assert loop("run", "--once") == 1
    assert "edge.model" in capsys.readouterr().err


def test_a_second_service_is_refused(journal, folder, capsys):
    with only_one(folder / "loop/journal.sqlite"):
        assert loop("run", "--once") == 1
    assert f"process {os.getpid()}" in capsys.readouterr().err


def test_settings_reach_policy_and_jobs(folder):
    more = 'first_scans = 5\nsuspend_min = 2\nresidual_drift = 0.3\nsweeps = 9\nmethod = "epie"\ntrain_minutes = 4\n'
    (folder / "bluesky_ptychonn.toml").write_text(SETTINGS.format(more=more + 'recipe = "large"'))
    settings = load_settings()
    assert terms_of(settings) == Terms(5, 0.2, 120.0, 0.3, 1)
    options = job_options(settings)
    assert options["scan"] == {"method": "epie", "sweeps": 9}
    assert options["train"] == {"minutes": 4.0, "warm": True, "margin": 0.01, "ranks": 1, "recipe": "large"}
    assert settings_file_of(None) == str(folder / "bluesky_ptychonn.toml")
    (folder / "bluesky_ptychonn.toml").write_text(SETTINGS.format(more="nodes = 2"))
    with pytest.raises(ValueError, match="ranks = 1 on nodes = 2"):
        make_service(load_settings(), Journal(folder / "j"), "")


def test_a_mismatch_goes_the_whole_way_through_the_local_runner(folder, monkeypatch, capsys):
    script = folder / "fake_job.py"
    script.write_text(FAKE_JOB)
    monkeypatch.setattr(runner, "COMMAND", (sys.executable, str(script)))
    journal = Journal(folder / "loop/journal.sqlite")
    note(journal, 1)
    deadline = time.monotonic() + 90
    while journal.scan(uid(1)).state != "published":
        assert time.monotonic() < deadline, journal.history(uid(1))
        assert loop("run", "--once") == 0
        time.sleep(0.1)
    row = journal.scan(uid(1))
    assert (row.published_version, row.mismatch) == ("000002", 0.3)
    assert row.sentence.endswith("mismatch 0.300 before, 0.050 after")
    spec = jobs.read_spec(jobs.named_directory(folder / "loop", "scan", uid(1)))
    assert spec.settings_file == str(folder / "bluesky_ptychonn.toml")
    assert spec.source == {"run": uid(1)}
    assert [training.state for training in journal.trainings()] == ["published"]


def test_a_journal_on_a_network_disk_is_refused(folder, monkeypatch, capsys):
    monkeypatch.setattr("bluesky_ptychonn.io.durable.network_disk", lambda path: "nfs4")
    for arguments in (["run", "--once"], ["listen", "localhost:5578"]):
        assert loop(*arguments) == 1
        assert "lies on a network disk (nfs4)" in capsys.readouterr().err
    assert not (folder / "loop").exists()


@pytest.mark.parametrize("place", [2, 3])
def test_killed_while_it_hands_a_job_out_it_hands_out_one(folder, place):
    """For the real runner and the real job, which finds no catalog in these settings."""
    journal = Journal(folder / "loop/journal.sqlite")
    note(journal, 1)
    command = [sys.executable, "-m", "bluesky_ptychonn.cli.main", "loop", "run", "--once"]
    killed = subprocess.run(command, env={**os.environ, "BLUESKY_PTYCHONN_FAULT": str(place)}, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert journal.scan(uid(1)).job == "scan submitting"
    deadline = time.monotonic() + 90
    while journal.scan(uid(1)).state != "parked":
        assert time.monotonic() < deadline, journal.history(uid(1))
        assert loop("run", "--once") == 0
        time.sleep(0.1)
    assert len(jobs.attempts(jobs.named_directory(folder / "loop", "scan", uid(1)))) == 1


def test_the_service_as_a_process(journal, folder):
    """With the real job, which finds no catalog in these settings; and SIGTERM ends it."""
    command = [sys.executable, "-m", "bluesky_ptychonn.cli.main", "loop", "run"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline().startswith("loop: local jobs")
        journal.move(uid(6), "parked", "out of the way", job=None)
        journal.amend(uid(7), next_check_s=0.0)
        deadline = time.monotonic() + 90
        while journal.scan(uid(7)).state != "parked":
            assert time.monotonic() < deadline, journal.history(uid(7))
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.1)
        assert "given up after 1 attempts" in journal.scan(uid(7)).sentence
        assert "catalog" in journal.scan(uid(7)).sentence
        assert journal.fact("service")["pid"] == process.pid
        while not (folder / "loop/page/experiment/plots.png").is_file():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()


def test_the_page_of_each_experiment(journal, folder, capsys):
    note(journal, 20, experiment="../Müller & <Söhne>")
    journal.move(uid(20), "parked", "given up: <disk full>", residual=0.2)
    assert loop("page") == 0
    pages = lines_of(capsys)
    assert pages == [str(folder / "loop/page" / name / "index.html") for name in ("experiment", "_Müller_Söhne_")]
    text = (folder / "loop/page/_Müller_Söhne_/index.html").read_text()
    assert "given up: &lt;disk full&gt;" in text
    assert "Müller &amp; &lt;Söhne&gt;" in text
    assert (folder / "loop/page/experiment/plots.png").read_bytes()[:4] == b"\x89PNG"
    assert loop("page", "--out", folder / "elsewhere") == 0
    assert (folder / "elsewhere/experiment/index.html").is_file()


def test_the_plots_show_figures_states_and_versions(journal):
    rows = journal.scans()
    figure = draw(rows, Terms(mismatch=0.2))
    points = [
        {
            (line.get_xdata()[0], line.get_ydata()[0], line.get_color(), line.get_marker())
            for line in axes.lines
            if len(line.get_xdata()) == 1
        }
        for axes in figure.axes
    ]
    ssim, mismatch, residual = points
    assert {(place, value) for place, value, *_ in mismatch} == {(1, 0.03), (2, 0.31)}
    assert {(place, value) for place, value, *_ in ssim} == {(1, 0.97), (2, 0.69)}
    assert {(place, value) for place, value, *_ in residual} == {(1, 0.11), (3, 0.12)}
    assert {mark[2:] for mark in mismatch} == {mark_of(rows[0]), mark_of(rows[1])}
    assert [line.get_ydata()[0] for line in figure.axes[1].lines if line.get_linestyle() == "--"] == [0.2]
    words = ["left alone", "parked", "reconstructing", "received"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["v2", *words]
    assert [label.get_text() for label in figure.axes[2].get_xticklabels()] == list("1234567")
    assert len({mark_of(row) for row in rows}) == 6


def test_a_page_of_nothing_known_is_drawn_all_the_same(tmp_path):
    journal = Journal(tmp_path / "j.sqlite")
    assert save_pages(tmp_path / "page", journal, Terms()) == []
    note(journal, 1)
    assert len(save_pages(tmp_path / "page", journal, Terms())) == 1

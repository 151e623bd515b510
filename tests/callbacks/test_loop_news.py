import sqlite3
import time
from pathlib import Path

import pytest

from bluesky_ptychonn.callbacks.loop_news import ENDED, LoopNews
from bluesky_ptychonn.config import LoopSettings, Settings
from bluesky_ptychonn.io.journal import Journal
from bluesky_ptychonn.training.loop.policy import FINAL

T0 = 1.8e9


def note(journal, uid, scan_id):
    journal.note_start({"uid": uid, "time": T0 + scan_id, "scan_id": scan_id, "ptycho": {}})
    journal.note_stop({"run_start": uid, "time": T0 + scan_id + 1, "exit_status": "success"})


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.sqlite"


@pytest.fixture
def news(path):
    """The news, and the lines it said; `start` begins it."""
    lines, made = [], []

    def start():
        made.append(LoopNews(path, lines.append, poll_s=0.02))
        return lines

    yield start
    for one in made:
        one.close()


def test_a_line_when_a_loop_has_ended_and_not_before(path, news):
    journal = Journal(path)
    note(journal, "old", 1)
    journal.move("old", "validated", "mismatch 0.03")
    note(journal, "a1", 2)
    lines = news()
    time.sleep(0.2)
    journal.move("a1", "reconstructing", "it is reconstructed")
    journal.move("a1", "training", "mismatch 0.280")
    time.sleep(0.2)
    assert lines == []
    journal.move("a1", "published", "retrained: version 000002 is live; mismatch 0.280 before, 0.030 after")
    wait_for(lambda: lines)
    time.sleep(0.1)
    assert lines == ["loop: scan 2 published: retrained: version 000002 is live; mismatch 0.280 before, 0.030 after"]
    journal.move("a1", "training", "the user asked for a training")
    time.sleep(0.1)
    journal.move("a1", "validated", "the retrained model was refused")
    wait_for(lambda: len(lines) == 2)


def test_an_earlier_version_with_which_an_experiment_began_is_told_in_the_same_line(path, news):
    journal = Journal(path)
    note(journal, "a1", 2)
    lines = news()
    time.sleep(0.2)
    told = "version 000002 of an earlier experiment is live again: on the first 256 frames its residual is 0.1"
    journal.move("a1", "received", told)
    journal.move("a1", "validated", "mismatch 0.030 is below 0.1")
    wait_for(lambda: lines)
    began = "version 000002 of an earlier experiment is live again"
    assert lines == [f"loop: scan 2 validated: {began}; mismatch 0.030 is below 0.1"]


def test_a_journal_which_comes_later_is_read_then_and_never_made(path, news):
    lines = news()
    time.sleep(0.1)
    assert not path.exists()
    journal = Journal(path)
    note(journal, "a1", 0)
    journal.move("a1", "parked", "given up")
    wait_for(lambda: lines)
    assert lines == ["loop: run a1 parked: given up"]


def test_a_journal_that_another_holds_delays_nobody(path, news):
    """The thread waits; whoever starts or ends the news does not."""
    journal = Journal(path)
    note(journal, "a1", 1)
    lines = news()
    time.sleep(0.1)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        time.sleep(0.1)
    finally:
        holder.execute("ROLLBACK")
        holder.close()
    journal.move("a1", "suspended", "suspended until noon")
    wait_for(lambda: lines)


def test_it_only_reads(path, news):
    journal = Journal(path)
    note(journal, "a1", 1)
    journal.move("a1", "parked", "given up")
    journal.close()
    before = {name: file.read_bytes() for name in ("", "-wal") if (file := path.with_name(path.name + name)).exists()}
    news()
    time.sleep(0.2)
    after = {name: path.with_name(path.name + name).read_bytes() for name in before}
    assert after == before


def test_a_say_that_fails_is_no_end(path):
    journal, lines = Journal(path), []

    def say(line):
        lines.append(line)
        raise OSError("the terminal is gone")

    one = LoopNews(path, say, poll_s=0.02)
    try:
        time.sleep(0.1)
        for number in (1, 2):
            note(journal, f"a{number}", number)
            journal.move(f"a{number}", "parked", "given up")
            wait_for(lambda number=number: len(lines) >= number)
    finally:
        one.close()


def test_the_rooms_mean_the_same_by_ended():
    assert ENDED == FINAL


@pytest.mark.parametrize("enabled", [True, False])
def test_the_profile_tells_news_where_the_loop_is_enabled(path, enabled, capsys):
    profile = Path(__file__).parents[2] / "profile_collection/startup/40-loop.py"
    names = {"settings": Settings(loop=LoopSettings(enabled=enabled, journal=path))}
    exec(compile(profile.read_text(), str(profile), "exec"), names)
    assert ("news" in names) == enabled
    if enabled:
        names["news"].close()

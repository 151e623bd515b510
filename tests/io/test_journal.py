"""The journal: its laws, and that nothing which it has taken is lost."""

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bluesky_ptychonn.io.journal import STATES, TRAINING_STATES, UNFINISHED, Journal, JournalError
from bluesky_ptychonn.io.spill import as_json, as_line, from_line


def start_of(uid, **more):
    return {"uid": uid, "time": 100.0 + len(uid), "scan_id": 3, "ptycho": {"model_version": "000007"}, **more}


def stop_of(uid, **more):
    return {"run_start": uid, "uid": f"stop of {uid}", "time": 200.0, "exit_status": "success", **more}


@pytest.fixture
def journal(tmp_path):
    opened = Journal(tmp_path / "journal.sqlite")
    yield opened
    opened.close()


@contextlib.contextmanager
def fresh_journal():
    with tempfile.TemporaryDirectory() as folder:
        opened = Journal(Path(folder) / "journal.sqlite")
        yield opened
        opened.close()


def everything(journal):
    rows = journal.scans()
    return rows, [journal.history(row.uid) for row in rows], journal.read("SELECT * FROM early_stops ORDER BY uid")


# documents


def test_a_row_of_a_run(journal):
    journal.note_start(start_of("a1"))
    assert (journal.scan("a1").state, journal.scan("a1").stopped_s) == ("running", None)
    journal.note_stop(stop_of("a1", exit_status="abort", reason="the beam is down"))
    row = journal.scan("a1")
    assert row.start == start_of("a1")
    assert (row.scan_id, row.started_s, row.stopped_s, row.exit_status) == (3, 102.0, 200.0, "abort")
    assert (row.state, row.live_version, row.published_version, row.trusted) == ("received", "000007", "", None)
    assert journal.history("a1") == [
        (102.0, "", "running", "scan 3 started"),
        (200.0, "running", "received", "it ended: abort (the beam is down)"),
    ]


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_order_and_repetition_of_documents_do_not_matter(data):
    """Nor does it matter how many are noted at once."""
    documents = []
    for uid in ("a", "bb", "ccc"):
        known = data.draw(st.sampled_from(["start", "stop", "both"]), label=uid)
        documents += [("start", start_of(uid))] if known != "stop" else []
        documents += [("stop", stop_of(uid))] if known != "start" else []
    repeated = data.draw(st.lists(st.sampled_from(documents), max_size=4))
    mixed = data.draw(st.permutations(documents + repeated))
    with fresh_journal() as straight, fresh_journal() as other:
        straight.note(documents)
        while mixed:
            count = data.draw(st.integers(1, len(mixed)))
            other.note(mixed[:count])
            mixed = mixed[count:]
        assert everything(other) == everything(straight)
        assert len(straight.scans()) == sum(name == "start" for name, _ in documents)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@example(doc={"time": float("nan"), "scan_id": 2**70, "exit_status": "\ud800"}, version=3)
@example(doc={"time": "noon", "scan_id": [1], "ptycho": None}, version="\ud800")
@example(doc={"time": 10**400, "exit_status": {}}, version=[])
@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["uid", "run_start", "time", "scan_id", "ptycho", "exit_status"]), VALUES), VALUES
)
def test_a_document_that_can_be_read_can_be_noted(doc, version):
    """Else one odd document would keep a whole spill from being taken over."""
    doc = {"uid": "a", "run_start": "a", **doc, "ptycho": {"model_version": version}}
    known = [from_line(as_line(name, doc)) for name in ("start", "stop")]
    with fresh_journal() as journal:
        for document in known:
            if document is not None:
                journal.note([document])
        assert len(journal.scans()) == (known[0] is not None)
        assert as_json([row.start for row in journal.scans()]) == as_json([doc] if known[0] else [])


def test_what_json_does_not_know_is_kept_all_the_same(journal):
    numbers = {"a": np.arange(3), "b": np.float32(1.5), 4: Path("x"), ("y", 1): {"z"}}
    journal.note_start(start_of("a1", numbers=numbers))
    assert journal.scan("a1").start["numbers"] == {"a": [0, 1, 2], "b": 1.5, "4": "x", "('y', 1)": "{'z'}"}


def test_a_stop_never_sets_a_scan_back(journal):
    journal.note_start(start_of("a1"))
    journal.move("a1", "parked", "no stop document came")
    journal.note_stop(stop_of("a1"))
    row = journal.scan("a1")
    assert (row.state, row.sentence, row.stopped_s) == ("parked", "no stop document came", 200.0)
    assert journal.history("a1")[-1] == (200.0, "parked", "parked", "it ended: success")


# moves


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b"]),
            st.sampled_from(STATES),
            st.none() | st.sets(st.sampled_from(STATES), min_size=1),
        ),
        max_size=15,
    )
)
def test_a_move_happens_as_expected_and_history_tells_all(moves):
    with fresh_journal() as journal:
        journal.note([("start", start_of("a")), ("start", start_of("b")), ("stop", stop_of("b"))])
        state, told = {"a": "running", "b": "received"}, {"a": 1, "b": 2}
        for number, (uid, to, expect) in enumerate(moves):
            allowed = expect is None or state[uid] in expect
            assert (
                journal.move(uid, to, f"move {number}", expect=expect, attempts=number, at_s=float(number)) is allowed
            )
            if allowed:
                state[uid], told[uid] = to, told[uid] + 1
                assert (journal.scan(uid).sentence, journal.scan(uid).attempts) == (f"move {number}", number)
        for uid in state:
            lines = journal.history(uid)
            assert journal.scan(uid).state == state[uid] == lines[-1].new
            assert len(lines) == told[uid]
            assert [line.old for line in lines] == ["", *(line.new for line in lines[:-1])]


def test_columns_are_kept_as_they_are_given(journal):
    journal.note_start(start_of("a1"))
    columns = {"mismatch": np.float32(0.25), "ssim": float("nan"), "trusted": True, "job": "123", "next_check_s": 9.5}
    journal.move("a1", "labelled", "its labels are in the corpus", **columns)
    row = journal.scan("a1")
    assert (row.mismatch, row.ssim, row.trusted, row.job, row.next_check_s) == (0.25, None, True, "123", 9.5)
    before = journal.history("a1")
    journal.amend("a1", trusted=False, job=None)
    assert (journal.scan("a1").trusted, journal.scan("a1").job) == (False, None)
    assert journal.history("a1") == before


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda journal: journal.move("a1", "done", "x"), r"to = 'done': allowed is one of labelled, parked"),
        (lambda journal: journal.move("a1", "parked", "x", state_="y"), r"column = 'state_'"),
        (lambda journal: journal.amend("a1", state="parked"), r"column = 'state'"),
        (lambda journal: journal.move("zz", "parked", "x"), r"has no 'zz' in scans"),
        (lambda journal: journal.amend("zz", job="1"), r"has no 'zz' in scans"),
        (lambda journal: journal.scan("zz"), r"has no scan 'zz'"),
        (lambda journal: journal.scan("a"), r"'a' is the beginning of several scans, such as a1, a1b"),
        (lambda journal: journal.training("zz"), r"has no training 'zz'"),
    ],
)
def test_what_cannot_be_is_named_and_changes_nothing(journal, wrong, message):
    for uid in ("a1", "a1b", "b2"):
        journal.note_start(start_of(uid))
    before = everything(journal)
    with pytest.raises(ValueError, match=message):
        wrong(journal)
    assert everything(journal) == before


def test_a_scan_is_found_by_its_beginning(journal):
    for uid in ("a1", "a1b", "b_2", "bx2"):
        journal.note_start(start_of(uid))
    assert [journal.scan(uid).uid for uid in ("a1", "a1b", "b_", "bx")] == ["a1", "a1b", "b_2", "bx2"]


def test_scans_by_state_in_the_order_of_their_start(journal):
    for uid, time_s in (("late", 9.0), ("early", 1.0), ("third", 5.0)):
        journal.note_start(start_of(uid, time=time_s))
    journal.note_stop(stop_of("third"))
    assert [row.uid for row in journal.scans()] == ["early", "third", "late"]
    assert [row.uid for row in journal.scans("running")] == ["early", "late"]
    assert [row.uid for row in journal.scans({"received", "parked"})] == ["third"]
    assert journal.scans(()) == []


def test_a_transaction_is_whole_or_not_at_all(journal):
    journal.note_start(start_of("a1"))
    before = everything(journal)

    def interrupted():
        with journal.transaction():
            journal.move("a1", "parked", "x")
            journal.set_fact("suspended_until_s", 5.0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert everything(journal) == before
    assert journal.fact("suspended_until_s", "none") == "none"


def test_nobody_writes_between_what_a_transaction_reads_and_what_it_writes(journal):
    journal.note_start(start_of("a1"))
    other = Journal(journal.path, timeout_s=0.03)
    other.open()
    with journal.transaction():
        attempts = journal.scan("a1").attempts
        with pytest.raises(JournalError, match="locked"):
            other.amend("a1", attempts=7)
        journal.amend("a1", attempts=attempts + 1)
    other.amend("a1", job="after")
    assert (journal.scan("a1").attempts, journal.scan("a1").job) == (1, "after")


def test_facts(journal):
    journal.set_fact("suspended_until_s", 5.5)
    journal.set_fact("reference", {"residual": [1, 2]})
    journal.set_fact("suspended_until_s", None)
    assert journal.fact("suspended_until_s", 1) is None
    assert Journal(journal.path).fact("reference") == {"residual": [1, 2]}


# trainings


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["request", *TRAINING_STATES])), max_size=15))
def test_at_most_one_training_is_unfinished(steps):
    with fresh_journal() as journal:
        state: dict[str, str] = {}
        for key, what in steps:
            others = [name for name in state if name != key and state[name] in UNFINISHED]
            if what == "request":
                allowed = key not in state and not others
                assert journal.request_training(key, "mismatch", snapshot=["shard"], at_s=1.0) is allowed
                what = "queued"
            elif key in state:
                allowed = not (others and what in UNFINISHED)
                assert journal.move_training(key, what, "moved", at_s=2.0) is allowed
            else:
                continue
            if allowed:
                state[key] = what
            assert {row.key: row.state for row in journal.trainings()} == state
            unfinished = journal.unfinished_training()
            assert ([unfinished.key] if unfinished else []) == [name for name in state if state[name] in UNFINISHED]
            for name in state:
                assert journal.history(name)[-1].new == state[name]


def test_a_training_keeps_its_snapshot(journal):
    assert journal.request_training("t1", "mismatch 0.2", snapshot=["s1", "s2"], at_s=7.0)
    assert journal.move_training("t1", "running", "submitted", expect="queued", job="77", attempts=1)
    assert not journal.move_training("t1", "running", "submitted", expect="queued", job="78")
    row = journal.training("t1")
    assert (row.snapshot, row.job, row.attempts, row.requested_s, row.state) == (["s1", "s2"], "77", 1, 7.0, "running")
    journal.amend_training("t1", job=None)
    assert journal.training("t1").job is None


# several processes, kills, and disks


NOTE = """
import sys
from bluesky_ptychonn.io.journal import Journal
journal = Journal(sys.argv[1])
sys.stdin.readline()
for number in range(10**6):
    uid = f"{sys.argv[2]}{number:06d}"
    journal.note_start({"uid": uid, "time": 1.0, "ptycho": {"filler": "x" * 3000}})
    journal.note_stop({"run_start": uid, "time": 2.0, "exit_status": "success"})
    journal.move(uid, "reconstructing", "submitted", expect="received", job=uid)
    print(uid, flush=True)
"""
RACE = """
import sys
from bluesky_ptychonn.io.journal import Journal
sys.stdin.readline()
journal = Journal(sys.argv[1])  # all at once: the file is made by whoever comes first
won = 0
for number in range(60):
    journal.note([("start", {"uid": f"u{number}", "time": 1.0, "ptycho": {}}), ("stop", {"run_start": f"u{number}"})])
    won += journal.move(f"u{number}", "reconstructing", sys.argv[2], expect="received")
print(won)
"""
LOCK = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.readline()
"""


@contextlib.contextmanager
def running(code, *arguments):
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("seed", range(4))
def test_what_was_noted_survives_a_kill(tmp_path, seed):
    """Killed somewhere in a transaction: what was said to be there is there, and nothing is half there."""
    path = tmp_path / "journal.sqlite"
    with running(NOTE, path, "u") as process:
        process.stdin.write("go\n")
        process.stdin.flush()
        said = [process.stdout.readline().strip() for _ in range(random.Random(seed).randrange(1, 80))]
        process.send_signal(signal.SIGKILL)
        said += process.stdout.read().split()
    journal = Journal(path)
    rows = {row.uid: row for row in journal.scans()}
    assert set(said) <= set(rows)
    assert journal.read("PRAGMA integrity_check") == [("ok",)]
    assert len(rows) - len(said) <= 1
    for uid, row in rows.items():
        lines = journal.history(uid)
        assert [line.new for line in lines] == ["running", "received", "reconstructing"][: len(lines)]
        assert (row.state, row.job) == (lines[-1].new, uid if len(lines) == 3 else None)
        assert uid not in said or len(lines) == 3


def test_processes_that_write_at_once_share_the_work(tmp_path):
    path = tmp_path / "new" / "journal.sqlite"
    with running(RACE, path, "one") as one, running(RACE, path, "two") as two, running(RACE, path, "three") as three:
        for process in (one, two, three):
            process.stdin.write("go\n")
            process.stdin.flush()
        won = [int(process.communicate(timeout=60)[0]) for process in (one, two, three)]
    assert sum(won) == 60
    journal = Journal(path)
    assert [len(journal.history(row.uid)) for row in journal.scans("reconstructing")] == [3] * 60


def test_one_that_is_being_made_by_another_is_waited_for(tmp_path):
    """SQLite itself gives up at once then."""
    path = tmp_path / "journal.sqlite"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE other (x)")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(JournalError, match="locked"):
        Journal(path, timeout_s=0.03).open()
    release = threading.Timer(0.2, other.close)
    release.start()
    Journal(path, timeout_s=30).note_start(start_of("a1"))
    release.join()


def test_a_locked_journal_is_told_in_time_and_used_when_it_is_free(tmp_path):
    path = tmp_path / "journal.sqlite"
    journal = Journal(path, timeout_s=0.03)
    journal.note_start(start_of("a1"))
    with running(LOCK, path) as other:
        assert other.stdout.readline().strip() == "locked"
        with pytest.raises(JournalError, match=r"cannot be used \(database is locked\)"):
            journal.note_stop(stop_of("a1"))
        assert journal.scan("a1").state == "running"  # to read, nobody waits
    journal.note_stop(stop_of("a1"))
    assert journal.scan("a1").state == "received"


def test_a_full_disk_changes_nothing(tmp_path):
    import resource

    journal = Journal(tmp_path / "journal.sqlite")
    journal.note_start(start_of("a1"))
    before, limits = everything(journal), resource.getrlimit(resource.RLIMIT_FSIZE)
    written = os.path.getsize(tmp_path / "journal.sqlite-wal")
    resource.setrlimit(resource.RLIMIT_FSIZE, (written + 5000, limits[1]))  # in the middle of the transaction
    try:
        with pytest.raises(JournalError, match="on a local disk with some space"):
            journal.note_start(start_of("b2", filler="x" * 50_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert everything(journal) == before
    journal.note_start(start_of("b2", filler="x" * 50_000))
    assert len(journal.scans()) == 2


def test_a_journal_that_was_removed_is_made_anew(journal):
    journal.note_start(start_of("a1"))
    for file in journal.path.parent.iterdir():
        file.unlink()
    journal.note_start(start_of("b2"))  # not into a file that has no name any more
    assert [row.uid for row in Journal(journal.path).scans()] == ["b2"]


def test_a_file_that_is_none_is_refused_and_kept(tmp_path):
    path = tmp_path / "journal.sqlite"
    path.write_text("my diary, " * 100)
    with pytest.raises(JournalError, match="file is not a database"):
        Journal(path).scans()
    assert path.read_text() == "my diary, " * 100


def test_a_journal_of_a_later_package_is_refused(journal):
    journal.note_start(start_of("a1"))
    journal.close()
    with sqlite3.connect(journal.path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(JournalError, match=r"has version 99, but this package reads 2; .* loop.journal"):
        Journal(journal.path).scans()


def test_a_journal_of_version_1_goes_on(journal):
    journal.note_start(start_of("a1"))
    journal.request_training("t1", "asked for")
    rows = journal.scans(), journal.trainings()
    journal.close()
    with sqlite3.connect(journal.path) as db:
        db.execute("ALTER TABLE scans DROP COLUMN outage_s")
        db.execute("ALTER TABLE trainings DROP COLUMN outage_s")
        db.execute("PRAGMA user_version = 1")
    db.close()
    assert (Journal(journal.path).scans(), Journal(journal.path).trainings()) == rows
    journal.amend("a1", outage_s=12.0)
    assert journal.scan("a1").outage_s == 12.0


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match=r"folder .*file/loop cannot be made \(Not a directory\)"):
        Journal(tmp_path / "file" / "loop" / "journal.sqlite").scans()


def test_each_commit_goes_through_to_the_disk(journal):
    assert journal.read("PRAGMA synchronous") == [(2,)]
    assert journal.read("PRAGMA journal_mode") == [("wal",)]


# the spill


def test_the_spill_is_taken_over_once(journal):
    lines = [as_line("start", start_of("a1")), as_line("stop", stop_of("a1"))]
    journal.spill_path.write_text("\n".join([*lines, lines[0][:40]]))
    assert journal.absorb_spill() == 2
    assert journal.scan("a1").state == "received"
    assert journal.absorb_spill() == 0
    assert [file.name for file in journal.path.parent.iterdir() if "spill" in file.name] == []


def test_the_spill_stays_until_the_journal_has_it(tmp_path):
    """Locked, then killed between commit and removal: it is taken over again, and that is harmless."""
    path = tmp_path / "journal.sqlite"
    journal = Journal(path, timeout_s=0.03)
    journal.open()
    journal.spill_path.write_text(as_line("start", start_of("a1")))
    with running(LOCK, path) as other:
        other.stdout.readline()
        with pytest.raises(JournalError):
            journal.absorb_spill()
    (left,) = [file for file in tmp_path.iterdir() if "spill" in file.name]
    text = left.read_text()
    assert journal.absorb_spill() == 1
    left.write_text(text)
    assert journal.absorb_spill() == 1
    assert [line.new for line in journal.history("a1")] == ["running"]
    assert json.loads(text)["doc"] == journal.scan("a1").start

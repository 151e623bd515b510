"""The spill: torn lines spoil no others, and a line is never lost between a writer and a taker."""

import fcntl
import json
import threading
import time

import pytest

from bluesky_ptychonn.io.durable import network_disk
from bluesky_ptychonn.io.spill import append, as_line, from_line, read, take

FIRST, SECOND, THIRD = (("start", {"uid": name}) for name in ("a", "b", "c"))


def test_a_line_torn_anywhere_spoils_no_other(tmp_path):
    path = tmp_path / "journal.spill.jsonl"
    append(path, [as_line(*FIRST)])
    first = path.stat().st_size
    append(path, [as_line(*SECOND)])
    whole = path.read_bytes()
    for cut in range(first, len(whole) + 1):
        path.write_bytes(whole[:cut])
        append(path, [as_line(*THIRD)])
        found = read([path])
        assert found[0] == FIRST
        assert found[-1] == THIRD
        assert found[1:-1] == ([SECOND] if cut >= len(whole) - 1 else [])


def test_a_torn_line_is_told(tmp_path, caplog):
    path = tmp_path / "journal.spill.jsonl"
    path.write_bytes(as_line(*FIRST).encode() + b"\n" + as_line(*SECOND).encode()[:-2] + b"\xff\x00\n")
    assert read([path, tmp_path / "gone.jsonl"]) == [FIRST]
    assert "1 of 2 lines are torn" in caplog.text


@pytest.mark.parametrize(
    "line",
    [
        "",
        "null",
        "[]",
        '{"name": "start"}',
        '{"name": "start", "doc": {}}',
        '{"name": "start", "doc": {"uid": 7}}',
        '{"name": "start", "doc": {"uid": "\\ud800"}}',
        '{"name": "stop", "doc": {"uid": "a"}}',
        '{"name": "event", "doc": {"uid": "a"}}',
        '{"name": ["start"], "doc": {"uid": "a"}}',
        '{"name": "start", "doc": "uid"}',
    ],
)
def test_what_is_no_document_is_none(line):
    assert from_line(line) is None


def test_what_one_moves_away_another_does_not_add_to(tmp_path):
    """Two writers and a taker which removes what it has read, all at once."""
    path, files = tmp_path / "journal.spill.jsonl", set()
    sent = {f"{writer}{number}" for writer in "ab" for number in range(150)}

    def write(writer):
        for number in range(150):
            while True:
                try:
                    append(path, [as_line("start", {"uid": f"{writer}{number}"})])
                    break
                except TimeoutError:
                    continue
            time.sleep(0.001)  # else the taker hardly gets the lock

    threads = [threading.Thread(target=write, args=(writer,)) for writer in "ab"]
    for thread in threads:
        thread.start()
    found, last = [], False
    while not last:
        last = not any(thread.is_alive() for thread in threads)
        for file in take(path):
            files.add(file.name)
            found += [doc["uid"] for _, doc in read([file])]
            file.unlink()
    assert sorted(found) == sorted(sent)
    assert len(files) > 3


def test_a_lock_is_not_waited_for(tmp_path):
    path = tmp_path / "journal.spill.jsonl"
    append(path, [as_line(*FIRST)])
    with path.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(TimeoutError, match="is locked by another process for more than 20 ms"):
            append(path, [as_line(*SECOND)])
        assert take(path) == []
    assert read(take(path)) == [FIRST]


def test_files_of_another_journal_are_left_alone(tmp_path):
    for name in ("journal", "journal.old", "my journal[1]"):
        append(tmp_path / f"{name}.spill.jsonl", [as_line("start", {"uid": name})])
    for name in ("journal", "my journal[1]"):
        assert [doc["uid"] for _, doc in read(take(tmp_path / f"{name}.spill.jsonl"))] == [name]


def test_a_document_is_one_line_of_ascii():
    line = as_line("start", {"uid": "a", "sample": "Ä\n\u2028µ", "nan": float("nan")})
    assert line.isascii()
    assert "\n" not in line
    assert json.loads(line)["doc"]["sample"] == "Ä\n\u2028µ"


MOUNTS = r"""/dev/sda1 / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/sdb1 /home/local xfs rw 0 0
mds@tcp:/lustre /data/with\040space lustre rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/journal", ""),
        ("/home/me/journal", "nfs4"),
        ("/homes/journal", ""),
        ("/home/local/journal", ""),
        ("/data/with space/journal", "lustre"),
        ("/data/journal", ""),
    ],
)
def test_a_network_disk_is_known(path, kind):
    assert network_disk(path, MOUNTS) == kind

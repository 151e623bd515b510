"""The edge's acknowledgement, by a journal and a channel that a test speaks through."""

import time

import pytest

from bluesky_ptychonn.cli.loop_status import headline, status_of
from bluesky_ptychonn.io.journal import Journal
from bluesky_ptychonn.io.model_store import CURRENT, VERSIONS
from bluesky_ptychonn.training.loop.acknowledge import (
    ANSWER,
    EDGE,
    PATIENCE_S,
    Acknowledgements,
    EdgeEar,
    Heard,
)
from bluesky_ptychonn.training.loop.policy import Terms, clock


class World:
    """A journal with one scan, a store, and an edge which says what a test says."""

    def __init__(self, folder):
        self.folder, self.heard = folder, None
        self.journal = Journal(folder / "journal.sqlite")
        for uid in ("one", "two"):
            self.journal.note_start({"uid": uid, "time": 1.0, "ptycho": {}})
            self.journal.note_stop({"run_start": uid, "time": 2.0, "exit_status": "success"})
        self.store = folder / "store"
        (self.store / VERSIONS).mkdir(parents=True)
        self.restart()

    def restart(self):
        self.acknowledgements = Acknowledgements(self.journal, lambda: self.heard, self.store)

    def publish(self, version, uid="one", state="published"):
        (self.store / VERSIONS / version).mkdir()
        (self.store / CURRENT).write_text(version)
        self.journal.move(uid, state, f"version {version} is live", published_version=version)
        return (self.store / CURRENT).stat().st_mtime

    def say(self, version, since_s, changed=True):
        self.heard = Heard(version, since_s, changed, since_s)

    def look(self, now_s):
        self.acknowledgements.look(now_s)
        self.acknowledgements.look(now_s)

    def lines(self, key="one"):
        return [line.sentence for line in self.journal.history(key) if "edge" in line.sentence]


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_an_acknowledgement_is_told_once_and_changes_nothing_else(world):
    at_s = world.publish("000002")
    world.look(at_s + 1)
    assert world.lines() == []
    world.say("000002", at_s + 0.7)
    world.look(at_s + 2)
    world.restart()
    world.look(at_s + 3)
    (line,) = world.lines()
    assert line.startswith("the edge uses version 000002 since ")
    assert line.endswith(", 0.7 s after it was published")
    row = world.journal.scan("one")
    assert (row.state, row.sentence) == ("published", "version 000002 is live")
    assert world.journal.history("one")[-1][1:3] == ("published", "published")
    assert world.lines("two") == []


def test_a_version_that_nobody_takes_up_is_told_and_so_is_its_late_acknowledgement(world):
    at_s = world.publish("000002")
    world.look(at_s + PATIENCE_S - 1)
    assert world.lines() == []
    world.look(at_s + PATIENCE_S + 1)
    world.restart()
    world.look(at_s + 2 * PATIENCE_S)
    assert world.lines() == ["no edge has taken up version 000002 yet, none is heard"]
    world.say("000001", at_s + 500)
    world.look(at_s + 500)
    world.say("000002", at_s + 600)
    world.look(at_s + 600)
    assert len(world.lines()) == 2
    assert "600.0 s after" in world.lines()[1]


def test_what_the_edge_uses_instead_is_told(world):
    at_s = world.publish("000002")
    world.say("000001", at_s)
    world.look(at_s + PATIENCE_S + 1)
    assert world.lines() == ["no edge has taken up version 000002 yet; it uses 000001"]


def test_of_the_probe_and_then_the_training_each_is_acknowledged(world):
    """A scan's training answers others, too; the training's own story has the line as well."""
    at_s = world.publish("000002", state="training")
    world.say("000002", at_s + 0.5)
    world.look(at_s + 1)
    world.journal.request_training("t1", "asked for")
    world.publish("000010")
    world.journal.move("two", "published", "so is this", published_version="000010")
    world.journal.move_training("t1", "published", "version 000010 is live", version="000010")
    world.look(at_s + 2)
    world.say("000010", time.time() + 3, changed=False)
    world.look(at_s + 4)
    assert [line[:28] for line in world.lines()] == ["the edge uses version 000002", "the edge uses version 000010"]
    assert world.lines("two") == world.lines("t1") == world.lines()[1:]
    assert "as was heard at" in world.lines()[1], "nobody knows when it began"


def test_where_no_edge_is_and_nothing_was_published_nothing_is_written(world):
    world.look(1e9)
    assert world.journal.fact(EDGE) is None
    assert world.journal.fact(ANSWER) is None


def test_what_the_edge_uses_is_kept_for_the_status_and_not_written_at_every_tick(world, monkeypatch):
    written = []
    set_fact = world.journal.set_fact
    monkeypatch.setattr(world.journal, "set_fact", lambda *fact: (written.append(fact), set_fact(*fact)))
    for tick in range(100):
        world.heard = Heard("000001", 1000.0, False, 1000.0 + 0.5 * tick)
        world.look(1000.0 + 0.5 * tick)
    assert 4 <= len(written) <= 6
    assert world.journal.fact(EDGE)["version"] == "000001"


def test_a_journal_that_cannot_be_used_now_is_written_to_later(world):
    at_s = world.publish("000002")
    world.say("000002", at_s + 1)
    path = world.journal.path
    world.journal.close()
    path.rename(path.with_suffix(".away"))
    path.mkdir()
    world.look(at_s + 2)
    path.rmdir()
    path.with_suffix(".away").rename(path)
    world.look(at_s + 3)
    assert len(world.lines()) == 1


class Channel:
    """What PVA gives, from a test."""

    def __init__(self, name):
        assert name == "p:stats"
        self.closed = False
        Channel.last = self

    def monitor(self, callback, queue_size, field):
        assert field == "model_version"
        self.tell = lambda version: callback({"model_version": version})

    def close(self):
        self.closed = True


def test_the_ear_knows_since_when_a_version_is_in_use():
    ear = EdgeEar("p:", Channel)
    deadline = time.monotonic() + 5
    while not hasattr(getattr(Channel, "last", None), "tell"):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert ear.heard is None
    Channel.last.tell("000001")
    first = ear.heard
    assert (first.version, first.changed) == ("000001", False)
    Channel.last.tell("000002")
    begun = ear.heard
    Channel.last.tell("000002")
    again = ear.heard
    assert again.changed
    assert again.since_s == begun.since_s
    assert again.heard_s >= begun.heard_s >= first.heard_s
    ear.close()
    assert Channel.last.closed


def test_a_machine_without_pva_hears_nothing_and_goes_on(caplog):
    def no_library(name):
        raise ImportError("No module named 'pvaccess'")

    ear = EdgeEar("p:", no_library)
    ear.close()
    assert ear.heard is None
    assert "cannot be listened to" in caplog.text


def test_the_status_shows_what_the_edge_uses_and_when_it_was_heard(world):
    def line(now_s):
        return [told for told in headline(status_of(world.journal, Terms(), now_s), now_s) if told.startswith("edge")]

    assert line(1000.0) == []
    world.say("000002", 1000.0)
    world.look(1000.0)
    assert line(1005.0) == [f"edge: heard at {clock(1000.0)}, uses version 000002"]
    assert line(2000.0) == [f"edge: was last heard at {clock(1000.0)}, uses version 000002"]

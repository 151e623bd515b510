"""Runs of the catalog that the trigger missed."""

from collections import UserDict
from types import SimpleNamespace

import pytest

from bluesky_ptychonn.io.journal import Journal
from bluesky_ptychonn.io.sweep import sweep


class View(UserDict):
    """What the client gives: a mapping, and no dict."""


def run(uid, *, ptycho=True, stop=True, time_s=5.0):
    start = View({"uid": uid, "time": time_s, "scan_id": 4, **({"ptycho": View({"crop": [1, 2]})} if ptycho else {})})
    ended = {"stop": View({"run_start": uid, "time": time_s + 1, "exit_status": "success"})} if stop else {}
    return SimpleNamespace(metadata=View({"start": start, **ended}))


@pytest.fixture
def journal(tmp_path):
    opened = Journal(tmp_path / "journal.sqlite")
    yield opened
    opened.close()


def test_what_is_missing_is_noted_and_what_is_known_is_left(journal):
    journal.note([("start", {"uid": "known", "ptycho": {}}), ("stop", {"run_start": "known"})])
    journal.move("known", "suspended", "within tolerance")
    journal.note_start({"uid": "stop missed", "ptycho": {}})
    journal.note_start({"uid": "runs still", "ptycho": {}})
    names = ("known", "stop missed", "start missed", "never ended")
    runs = {name: run(name, stop=name != "never ended") for name in names}
    runs |= {"other": run("other", ptycho=False), "runs still": run("runs still", stop=False)}
    runs["no run"] = SimpleNamespace(metadata=View({}))

    assert sweep(runs, journal) == 3
    assert {row.uid: row.state for row in journal.scans()} == {
        "known": "suspended",
        "stop missed": "received",
        "start missed": "received",
        "never ended": "running",
        "runs still": "running",
    }
    assert journal.scan("start missed").start["ptycho"] == {"crop": [1, 2]}
    assert sweep(runs, journal) == 0


def test_a_catalog_that_fails_keeps_what_was_noted(journal):
    class Fails(dict):
        def values(self):
            yield from super().values()
            raise ConnectionError("the server is gone")

    with pytest.raises(ConnectionError):
        sweep(Fails(a=run("a"), b=run("b")), journal)
    assert [row.uid for row in journal.scans("received")] == ["a", "b"]


@pytest.mark.system
def test_against_a_tiled_catalog(journal, tmp_path):
    """In this process: what its client gives, and what its search finds."""
    from bluesky_tiled_plugins import TiledWriter
    from event_model import compose_run
    from tiled.catalog import in_memory
    from tiled.client import Context, from_context
    from tiled.server.app import build_app

    with Context.from_app(build_app(in_memory(writable_storage=str(tmp_path / "data")))) as context:
        catalog = from_context(context).create_container(key="raw", specs=["CatalogOfBlueskyRuns"])
        writer, starts = TiledWriter(catalog), []
        for number in range(6):
            block = {"ptycho": {"center_um": [1.0, 2.0], "nested": {"model_version": "3"}}} if number % 2 else {}
            documents = compose_run(time=100.0 + number, metadata={"scan_id": number, **block})
            starts.append(documents.start_doc)
            writer("start", documents.start_doc)
            if number != 5:
                writer("stop", documents.compose_stop())
        assert sweep(catalog, journal, since_s=103.0) == 2
        assert [(row.scan_id, row.state) for row in journal.scans()] == [(3, "received"), (5, "running")]
        assert sweep(catalog, journal) == 1
        assert [row.start for row in journal.scans()] == [starts[number] for number in (1, 3, 5)]

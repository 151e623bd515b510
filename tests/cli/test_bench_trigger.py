"""`bench trigger`: its figures, and that a lost document is no success."""

import json

import pytest

from bluesky_ptychonn.callbacks.retrain import RetrainTrigger
from bluesky_ptychonn.cli.main import main


def bench(tmp_path, *arguments):
    file, disk = tmp_path / "trigger.json", tmp_path / "disk"
    disk.mkdir()
    code = main(["bench", "trigger", "--directory", str(disk), "--json", str(file), *arguments])
    assert list(disk.iterdir()) == []
    return code, json.loads(file.read_text())


def test_figures(tmp_path):
    code, report = bench(tmp_path, "--documents", "30", "--pause-ms", "0", "--events", "5", "--rounds", "3")
    assert (code, report["command"]) == (0, "bench trigger")
    hangs, busy, locked, *engine = report["results"]
    assert (hangs["method"], hangs["documents"], hangs["rows"]) == ("scheduler hangs", 30, 30)
    assert hangs["scheduler_asked"] == 1  # and it has not answered
    assert (busy["method"], busy["rows"]) == ("journal busy", 30)
    assert (locked["method"], locked["rows"]) == ("journal locked", 30)
    assert locked["documents_spilled"] > 0
    for result in (hangs, busy, locked):
        assert 0 < result["latency_ms_p50"] <= result["latency_ms_p99"] <= result["latency_ms_max"]
        assert sum(result[f"documents_{where}"] for where in ("journaled", "spilled", "held")) == 60
    assert [result["method"] for result in engine] == ["without", "start and stop, as a session", "every document"]
    assert engine[0]["rate_of_without"] == 1
    for result in engine:
        assert result["events_per_s"] == pytest.approx(5e3 / result["run_ms"], rel=0.01)


def test_a_document_that_is_nowhere_is_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(RetrainTrigger, "_accept", lambda *_: None)
    code, report = bench(tmp_path, "--documents", "3", "--events", "1", "--rounds", "1")
    assert (code, [result.get("rows") for result in report["results"][:3]]) == (1, [0, 0, 0])


@pytest.mark.parametrize("wrong", [("--documents", "0"), ("--events", "0"), ("--rounds", "1001"), ("--pause-ms", "-1")])
def test_what_cannot_be_is_refused(wrong, capsys):
    assert main(["bench", "trigger", *wrong]) == 1
    assert f"{wrong[0]} {wrong[1]}: allowed is" in capsys.readouterr().err

"""What plots read from histories is what the policy writes there; and what the plots show of it."""

import pytest

from bluesky_ptychonn.cli.loop_events import Event, events_of
from bluesky_ptychonn.cli.loop_plots import UNTRUSTED, draw, words_of
from bluesky_ptychonn.io.journal import Journal
from bluesky_ptychonn.training.loop import outcomes, policy
from bluesky_ptychonn.training.loop.policy import Standing, Terms

NOW = 1.8e9
SUSPENDED = Standing(suspended_until_s=NOW + 1000, reference={"residual": 0.1, "version": "000001"})
PUBLISHED = {"published": True, "version": "000002", "mismatch_before": 0.41, "mismatch_after": 0.132}


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path / "journal.sqlite")
    for number in (1, 2):
        about = {"uid": f"scan{number}", "time": NOW + number, "scan_id": number, "ptycho": {}, "sample": "rings, dark"}
        journal.note_start(about)
        journal.note_stop({"run_start": f"scan{number}", "time": NOW + number, "exit_status": "success"})
    return journal


def make(journal, uid, decide):
    """Do with a scan what a decision says."""
    decision = decide(journal.scan(uid))
    state = decision.what if decision.what in ("received", "labelled", "validated", "suspended") else "reconstructing"
    state = decision.what if decision.what in ("training", "published") else state
    assert journal.move(uid, state, decision.sentence, **decision.columns)


def look(row):
    return policy.decide(row, [row], SUSPENDED, Terms(first_scans=0), NOW)


def judged(row):
    return policy.judge(row, [row], Terms(), NOW)


def reconstructed(ssim):
    found = {"trusted": ssim is not None, "verdict": "too dark", "ssim": ssim, "shard": "ab", "live_version": "000001"}
    return lambda row: outcomes.after_reconstruction(row, found, Standing())


def measured(residual):
    return lambda row: outcomes.after_residual(row, {"residual": residual, "live_version": "000001"})


def played(journal, uid, *decisions):
    for decide in decisions:
        make(journal, uid, decide)
    return events_of(journal.history(uid))


def test_an_alarm_a_probe_and_a_training(journal):
    found = played(
        journal,
        "scan1",
        look,
        measured(0.2),
        look,
        reconstructed(0.59),
        lambda row: outcomes.after_probe(PUBLISHED),
        judged,
        lambda row: outcomes.after_training(row, {"published": True, "version": "000003"}),
    )
    assert found == [
        Event("compared", value=0.1),
        Event("alarm"),
        Event("probe", "000002", 0.132),
        Event("retrained", "000003"),
    ]
    row = journal.scan("scan1")
    assert words_of(row, found) == ["ALARM", "probe\n→ v2", "retrained\n→ v3"]


def test_an_earlier_version(journal):
    told = "version 000004 of an earlier experiment is live again: its residual is less"
    found = {"residual": 0.1, "earlier_told": told}
    assert played(journal, "scan1", lambda row: outcomes.after_residual(row, found)) == [Event("earlier", "000004")]


def test_left_alone_refused_not_trusted_and_good(journal):
    assert [event.kind for event in played(journal, "scan1", look, measured(0.1), look)] == ["compared"]
    assert words_of(journal.scan("scan1"), []) == ["left alone"]
    assert [event.kind for event in played(journal, "scan2", reconstructed(None))] == ["not trusted"]
    refused = played(
        journal, "scan2", reconstructed(0.8), judged, lambda row: outcomes.after_training(row, {"reason": "worse"})
    )
    assert refused[-1] == Event("refused")
    given_up = played(journal, "scan2", lambda row: outcomes.without_training(row, "the training was given up after 3"))
    assert given_up[-1] == Event("no training")
    assert played(journal, "scan2", reconstructed(0.95), judged)[-1] == Event("suspends")


def test_the_plots_show_what_happened(journal):
    played(
        journal, "scan1", look, measured(0.2), look, reconstructed(0.59), lambda row: outcomes.after_probe(PUBLISHED)
    )
    played(journal, "scan2", look, measured(3.0), look, reconstructed(None))
    rows = journal.scans()
    figure = draw(rows, Terms(), {row.uid: journal.history(row.uid) for row in rows})
    words, mismatch, residual = figure.axes
    assert [text.get_text() for text in words.texts] == [
        "v2",
        "ALARM\nprobe\n→ v2\nlabelled",
        "ALARM\nnot trusted:\nno labels",
    ]
    after = [line for line in mismatch.lines if line.get_label() == "with the refined probe"]
    assert [line.get_xydata().tolist() for line in after] == [[[1, 0.132]]]
    limits = [line.get_ydata().tolist() for line in residual.lines if line.get_color() == "#c1121f"]
    assert [limit for limit in limits if len(limit) == 2] == [[pytest.approx(0.125)] * 2] * 2
    assert [limit for limit in limits if len(limit) == 1] == [[0.2], [3.0]]
    assert residual.get_yscale() == "log"
    assert UNTRUSTED[0] in {line.get_color() for line in residual.lines}
    assert [label.get_text() for label in residual.get_xticklabels()] == ["1\nrings\ndark", "2\nrings\ndark"]

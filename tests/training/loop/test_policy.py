"""The policy alone: tables, and laws for any journal."""

import math
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluesky_ptychonn.io.journal_rows import STATES, ScanRow
from bluesky_ptychonn.training.loop.outcomes import (
    after_failure,
    after_probe,
    after_reconstruction,
    after_residual,
    after_training,
    retried,
    without_training,
)
from bluesky_ptychonn.training.loop.policy import FINAL, NO_STOP, RUN_S, Standing, Terms, decide, judge

NOW = 1.8e9
TERMS = Terms()
SUSPENDED = Standing(suspended_until_s=NOW + 600, reference={"residual": 0.2, "version": "000001", "uid": "x"})


def scan(uid="0005", state="received", **columns):
    """A scan that ended well, the fifth of its experiment."""
    number = int(uid)
    row = ScanRow(
        uid=uid,
        scan_id=number,
        started_s=NOW - 1000 + number,
        stopped_s=NOW - 900 + number,
        exit_status="success",
        start={"uid": uid},
        state=state,
        sentence="it ended: success",
        attempts=0,
        next_check_s=0.0,
        job=None,
        mismatch=None,
        ssim=None,
        residual=None,
        trusted=None,
        live_version="000001",
        published_version="",
    )
    return replace(row, **columns)


FIRST = [scan(f"000{number}", "validated", trusted=True, mismatch=0.03, residual=0.2) for number in (1, 2)]


def what(row, standing=None, terms=TERMS, rows=FIRST, now_s=NOW, **more):
    return decide(row, [*rows, row], standing or Standing(), terms, now_s, **more)


@pytest.mark.parametrize("mismatch", [0.0996, 0.09999999, 0.1, 0.1000001, 0.0312, 0.31])
def test_a_mismatch_is_told_with_as_many_digits_as_the_comparison_needs(mismatch):
    told = judge(scan(state="labelled", mismatch=mismatch, trusted=True), FIRST, TERMS, NOW).sentence
    number, below = re.match(r"mismatch ([0-9.]+) is (below 0.1|0.1 or more)", told).groups()
    assert (float(number) < 0.1) == (mismatch < 0.1) == (below == "below 0.1")


# a new scan


@pytest.mark.parametrize(
    ("row", "standing", "expected"),
    [
        (scan(), Standing(), "scan"),
        (scan(), SUSPENDED, "residual"),
        (scan(residual=0.21), SUSPENDED, "suspended"),
        (scan(residual=0.15), SUSPENDED, "suspended"),
        (scan(residual=0.2499), SUSPENDED, "suspended"),
        (scan(residual=0.2501), SUSPENDED, "scan"),
        (scan(residual=0.9), replace(SUSPENDED, reference={}), "suspended"),
        (scan(residual=0.21), replace(SUSPENDED, suspended_until_s=NOW - 1), "scan"),
        (scan(residual=0.21), replace(SUSPENDED, suspended_until_s=NOW), "scan"),
        (scan(exit_status="abort"), Standing(), "parked"),
        (scan(exit_status="fail"), SUSPENDED, "parked"),
        (scan(state="running", stopped_s=None, exit_status=""), SUSPENDED, "wait"),
        (scan(state="running", stopped_s=None, exit_status="", started_s=NOW - RUN_S - 1), Standing(), "parked"),
        (scan(state="parked", sentence=NO_STOP), Standing(), "received"),
        (scan(state="parked", sentence=NO_STOP, stopped_s=None), Standing(), "wait"),
        (scan(state="parked", sentence="given up"), Standing(), "wait"),
        (scan(state="training"), SUSPENDED, "wait"),
        (scan(state="reconstructing"), SUSPENDED, "scan"),
    ],
)
def test_what_a_scan_needs_next(row, standing, expected):
    assert what(row, standing).what == expected


@pytest.mark.parametrize("standing", [Standing(), SUSPENDED])
def test_the_first_scans_are_always_reconstructed(standing):
    earlier = [scan("0001", "reconstructing")]
    assert what(scan("0002"), standing, rows=[]).what == "scan"
    assert what(scan("0002"), standing, rows=earlier).what == "scan"
    assert what(scan("0003"), SUSPENDED, rows=[*earlier, scan("0002")]).what == "residual"


@pytest.mark.parametrize("spoiled", [{"trusted": False}, {"trusted": None, "state": "parked"}])
def test_a_first_scan_which_came_to_nothing_does_not_count(spoiled):
    assert what(scan("0003"), SUSPENDED, rows=[FIRST[0], replace(FIRST[1], **spoiled)]).what == "scan"
    assert what(scan("0003"), SUSPENDED, rows=FIRST).what == "residual"


@pytest.mark.parametrize("key", ["experiment", "proposal"])
def test_another_experiment_has_first_scans_of_its_own(key):
    row = scan(start={"uid": "0005", key: "other"})
    assert what(replace(row, job="residual taken"), SUSPENDED).what == "scan"  # earlier versions were compared
    same = [replace(first, start={key: "other"}) for first in FIRST]
    assert what(row, SUSPENDED, rows=same).what == "residual"
    later = [replace(first, started_s=NOW, start={key: "other"}) for first in FIRST]
    assert what(row, SUSPENDED, rows=later).what == "scan"


def test_at_the_beginning_of_another_experiment_earlier_versions_are_compared():
    first = scan(start={"uid": "0005", "experiment": "b"})
    decision = what(first)
    assert (decision.what, decision.options) == ("residual", {"earlier": 8})
    assert what(replace(first, job="residual taken", residual=0.2)).what == "scan"
    assert what(replace(first, job="residual taken")).what == "scan"  # no residual could be told
    assert what(first, rows=[]).what == "scan"  # the first scan of all
    second = scan("0006", start={"uid": "0006", "experiment": "b"})
    assert what(second, rows=[*FIRST, first]).what == "scan"
    unknown = replace(first, job="residual taken")
    assert what(unknown, SUSPENDED, Terms(first_scans=0)).what == "scan"  # it is not asked for again and again
    assert what(replace(first, exit_status="abort")).what == "parked"


def test_what_became_of_earlier_versions_is_told():
    told = "version 000001 of an earlier experiment is live again: better"
    decision = after_residual(scan(), {"residual": 0.2, "live_version": "000001", "earlier_told": told})
    assert decision.sentence == f"{told}; the residual of the live model is 0.2"
    assert decision.columns["live_version"] == "000001"
    alone = after_residual(scan(), {"residual": None, "earlier_told": "there is no earlier version"})
    assert (alone.what, alone.sentence) == ("received", "there is no earlier version")


def test_the_sentence_says_why():
    assert what(scan()).sentence == "the loop is not suspended, so it is reconstructed"
    assert "as a check" in what(scan(), replace(SUSPENDED, suspended_until_s=NOW - 9)).sentence
    assert "first 2 scans" in what(scan(), SUSPENDED, rows=[]).sentence
    assert "ended with abort" in what(scan(exit_status="abort")).sentence
    assert "25% below" in what(scan(residual=0.15), SUSPENDED).sentence
    assert "is about that of" in what(scan(residual=0.2001), SUSPENDED).sentence
    assert what(scan(state="reconstructing", attempts=1)).sentence == "attempt 2 of 3"
    assert what(scan(state="reconstructing")).sentence == "it ended: success"  # what was said before


def test_a_rising_residual_ends_the_suspension_and_says_what_it_ended():
    decision = what(scan(residual=0.3), SUSPENDED)
    assert decision.facts["suspended_until_s"] is None
    assert decision.facts["alarm"] == {"uid": "0005", "suspended_until_s": NOW + 600}
    assert "50% above" in decision.sentence


def test_only_another_model_changes_the_reference():
    """Else a slow drift would take its reference along, and never be seen."""
    assert what(scan(residual=0.22), SUSPENDED).facts == {}
    facts = what(scan(residual=0.22, live_version="000002"), SUSPENDED).facts
    assert facts["reference"] == {"residual": 0.22, "version": "000002", "uid": "0005"}
    facts = what(scan(residual=0.22), replace(SUSPENDED, reference={})).facts
    assert facts["reference"]["residual"] == 0.22


def test_a_clock_that_was_set_back_does_not_lengthen_a_suspension():
    assert what(scan(), SUSPENDED, now_s=NOW + 600 - TERMS.suspend_s).what == "residual"
    assert what(scan(), SUSPENDED, now_s=NOW + 600 - TERMS.suspend_s - 10).what == "scan"


# what jobs found


def test_a_residual_which_is_none_is_no_result():
    assert after_residual(scan(), {"residual": 0.2, "live_version": "000003"}).columns["live_version"] == "000003"
    for bad in (None, float("nan"), "0.2", True):
        with pytest.raises(ValueError, match="residual"):
            after_residual(scan(), {"residual": bad})


def test_a_trusted_reconstruction_is_labelled():
    decision = after_reconstruction(
        scan(state="reconstructing", attempts=2),
        {"trusted": True, "ssim": 0.8, "mismatch": None, "residual": 0.05, "residual_live": 0.3, "shard": "abc"},
        Standing(),
    )
    assert decision.what == "labelled"
    assert decision.columns["mismatch"] == pytest.approx(0.2)
    assert decision.columns["residual"] == 0.3
    assert decision.columns["attempts"] == 0


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"ssim": 0.8}, (0.8, 0.2)),
        ({"mismatch": 0.3}, (0.7, 0.3)),
        ({"ssim": 0.9, "mismatch": 0.3}, (0.9, 0.3)),
        ({"ssim": float("nan")}, (None, None)),
    ],
)
def test_ssim_and_mismatch_make_up_for_each_other(result, expected):
    columns = after_reconstruction(scan(state="reconstructing"), {"trusted": True, **result}, Standing()).columns
    for name, value in zip(("ssim", "mismatch"), expected, strict=True):
        assert columns[name] == (value if value is None else pytest.approx(value))


def test_the_sentence_on_a_reconstruction_says_what_came_of_it():
    def told(**result):
        return after_reconstruction(scan(state="reconstructing"), result, Standing()).sentence

    assert "labels are shard abcdefabcdef of" in told(trusted=True, shard="abcdef" * 9)
    assert "no labels came of it" in told(trusted=True, shard="")
    assert "not trusted (too sparse)" in told(trusted=False, verdict="too sparse", reason="other")
    assert "not trusted (other)" in told(trusted=False, verdict="", reason="other")
    assert "not trusted (no reason was given)" in told(trusted=False)


def test_the_live_version_is_that_of_the_result_also_if_it_is_none():
    for told, expected in (({"live_version": "000007"}, "000007"), ({"live_version": ""}, ""), ({}, "000001")):
        assert after_reconstruction(scan(), {"trusted": True, **told}, Standing()).columns["live_version"] == expected


def test_an_alarm_that_an_untrusted_reconstruction_cannot_confirm_is_taken_back():
    alarm = Standing(alarm={"uid": "0005", "suspended_until_s": NOW + 600})
    decision = after_reconstruction(scan(state="reconstructing"), {"trusted": False}, alarm)
    assert decision.facts == {"alarm": {}, "suspended_until_s": NOW + 600}
    other = after_reconstruction(scan("0006", state="reconstructing"), {"trusted": False}, alarm)
    assert other.facts == {}
    since = replace(alarm, suspended_until_s=NOW + 900)
    assert "suspended_until_s" not in after_reconstruction(scan(state="reconstructing"), {}, since).facts


@pytest.mark.parametrize(
    ("mismatch", "live", "expected", "suspended"),
    [
        (0.0999, "000001", "validated", True),
        (0.10, "000001", "training", False),
        (0.4, "000001", "training", False),
        (None, "", "training", None),
        (None, "000001", "validated", None),
    ],
)
def test_what_a_mismatch_brings(mismatch, live, expected, suspended):
    row = scan(state="labelled", trusted=True, mismatch=mismatch, residual=0.2, live_version=live)
    decision = what(row, SUSPENDED)
    assert decision.what == expected
    if suspended is None:
        assert "suspended_until_s" not in decision.facts
    elif suspended:
        assert decision.facts["suspended_until_s"] == NOW + TERMS.suspend_s
        assert decision.facts["reference"] == {"residual": 0.2, "version": live, "uid": "0005"}
    else:
        assert decision.facts["suspended_until_s"] is None


def test_a_scan_whose_probe_went_live_is_published_when_it_is_judged():
    row = scan(state="labelled", trusted=True, mismatch=0.02, published_version="000002")
    assert what(row).what == "published"
    assert what(replace(row, mismatch=None)).what == "published"


@pytest.mark.parametrize("mismatch", [0.02, 0.3])
def test_an_older_scan_does_not_decide_on_the_suspension(mismatch):
    later = scan("0007", "validated", trusted=True, mismatch=0.03)
    row = scan(state="labelled", trusted=True, mismatch=mismatch)
    assert what(row, rows=[*FIRST, later]).facts == {}
    assert what(row, rows=[*FIRST, replace(later, trusted=False)]).facts != {}


def test_the_probe_comes_first():
    row = scan(state="labelled", trusted=True, mismatch=0.4)
    assert what(row, has_probe=True).what == "probe"
    assert what(row).what == "training"


# probes, trainings, failures


def test_what_the_gate_says_is_told():
    better = {"published": True, "version": "000003", "mismatch_before": 0.3, "mismatch_after": 0.05}
    assert after_probe(better).columns == {"published_version": "000003"}
    decision = after_training(scan(state="training"), better)
    assert decision.what == "published"
    assert "0.300 before, 0.050 after" in decision.sentence
    refused = {"published": False, "version": "", "reason": "the mean gain is -0.2"}
    assert after_probe(refused).columns == {}
    decision = after_training(scan(state="training"), refused)
    assert decision.what == "validated"
    assert "mean gain is -0.2" in decision.sentence
    kept = after_training(scan(state="training", published_version="000002"), refused)
    assert kept.what == "published"
    assert "000002" in kept.sentence
    assert "published_version" not in kept.columns


@pytest.mark.parametrize("result", [{"published": True}, {"version": "000009"}, {"published": True, "version": ""}])
def test_what_is_published_has_a_version_and_was_published(result):
    assert after_probe(result).columns == {}
    assert after_training(scan(state="training"), result).what == "validated"


def test_figures_of_the_gate_are_told_as_far_as_it_has_them():
    def told(**figures):
        return after_training(scan(state="training"), {"published": True, "version": "000003", **figures}).sentence

    assert told() == "retrained: version 000003 is live"
    assert told(mismatch_before=0.3) == "retrained: version 000003 is live"
    assert told(mismatch_after=0.05) == "retrained: version 000003 is live; mismatch 0.050"
    assert without_training(scan(), "given up").sentence == "given up"


def test_attempts_are_counted_and_capped():
    assert [after_failure(number, TERMS, "x", NOW).what for number in (1, 2, 3, 4)] == ["again"] * 2 + ["parked"] * 2
    columns = {"attempts": 1, "next_check_s": NOW + 9, "outage_s": None}
    assert after_failure(1, TERMS, "disk full", NOW + 9).columns == columns
    assert "disk full" in after_failure(3, TERMS, "disk full", NOW).sentence


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (scan(state="parked"), "reconstructing"),
        (scan(state="suspended", residual=0.2), "reconstructing"),
        (scan(state="validated", trusted=False), "reconstructing"),
        (scan(state="validated", trusted=True, mismatch=0.3), "training"),
        (scan(state="published", trusted=True, mismatch=0.3), "training"),
        (scan(state="validated", trusted=True, mismatch=0.03), None),
        (scan(state="reconstructing"), None),
        (scan(state="parked", stopped_s=None), None),
    ],
)
def test_what_retry_does(row, expected):
    if expected is None:
        with pytest.raises(ValueError, match="scan 5"):
            retried(row, TERMS)
    else:
        assert retried(row, TERMS).what == expected


# laws

FIGURE = st.none() | st.floats(0, 2) | st.just(float("nan"))
TIME = st.none() | st.floats(NOW - 1e6, NOW + 1e6)
RESULTS = st.fixed_dictionaries(
    {},
    optional={
        "ok": st.booleans(),
        "trusted": st.booleans() | st.none() | st.text(max_size=3),
        "mismatch": FIGURE | st.text(max_size=3),
        "ssim": FIGURE,
        "residual_live": FIGURE,
        "verdict": st.text(max_size=9),
        "live_version": st.sampled_from(["", "000001", "000002"]),
    },
)
ROWS = st.builds(
    scan,
    uid=st.integers(1, 9).map("{:04d}".format),
    state=st.sampled_from(STATES),
    stopped_s=TIME,
    exit_status=st.sampled_from(["", "success", "abort", "fail"]),
    mismatch=st.none() | st.floats(0, 2),
    residual=st.none() | st.floats(0, 2),
    trusted=st.none() | st.booleans(),
    live_version=st.sampled_from(["", "000001", "000002"]),
    published_version=st.sampled_from(["", "000003"]),
    attempts=st.integers(0, 4),
)
STANDINGS = st.builds(
    Standing,
    suspended_until_s=TIME,
    reference=st.just({}) | st.floats(0, 2).map(lambda value: {"residual": value, "version": "000001"}),
    alarm=st.just({}) | st.just({"uid": "0005", "suspended_until_s": NOW + 50}),
)


@given(ROWS, st.lists(ROWS, max_size=5), STANDINGS, st.booleans())
def test_every_decision_is_one_that_the_service_knows_in_one_sentence(row, rows, standing, has_probe):
    decision = decide(row, [*rows, row], standing, TERMS, NOW, has_probe=has_probe)
    assert decision.what in {"wait", "residual", "scan", "probe", *STATES}
    if decision.what != "wait":
        assert decision.sentence
        assert "\n" not in decision.sentence
    if row.state not in ("running", "received", "reconstructing", "labelled", "parked"):
        assert decision.what == "wait"


@given(ROWS, st.lists(ROWS, max_size=5), STANDINGS)
def test_what_has_stopped_never_waits(row, rows, standing):
    """Else it might wait for ever: only a run, a training, and what has ended wait for something else."""
    decision = decide(row, [*rows, row], standing, TERMS, NOW)
    if row.state in ("received", "reconstructing", "labelled"):
        assert decision.what not in ("wait", row.state)


@given(ROWS, RESULTS, STANDINGS)
def test_an_untrusted_reconstruction_changes_nothing_but_its_own_alarm(row, result, standing):
    decision = after_reconstruction(row, result, standing)
    if result.get("trusted") is True:
        assert decision.what == "labelled"
        assert decision.facts == {}
    else:
        assert decision.what == "validated"
        assert decision.what in FINAL
        assert set(decision.facts) <= (
            {"alarm", "suspended_until_s"} if standing.alarm.get("uid") == row.uid else set()
        )
        assert decision.facts.get("suspended_until_s", 0) is not None
    assert "published_version" not in decision.columns
    mismatch = decision.columns["mismatch"]
    assert mismatch is None or math.isfinite(mismatch)


@given(ROWS, st.lists(ROWS, max_size=6))
def test_a_suspension_begins_only_within_tolerance_and_ends_only_beyond(row, rows):
    decision = judge(row, [*rows, row], TERMS, NOW)
    until_s = decision.facts.get("suspended_until_s", "unchanged")
    if until_s is None:
        assert row.mismatch >= TERMS.mismatch
        assert decision.what == "training"
    elif until_s != "unchanged":
        assert row.mismatch < TERMS.mismatch
        assert decision.what != "training"
        assert until_s == NOW + TERMS.suspend_s
    assert (decision.what == "training") == (
        row.mismatch >= TERMS.mismatch if row.mismatch is not None else not row.live_version
    )


@given(ROWS, STANDINGS)
def test_a_scan_that_is_not_reconstructed_was_compared(row, standing):
    """While suspended every scan has its residual, and a drift of it is never passed over."""
    decision = decide(replace(row, state="received", exit_status="success"), FIRST, standing, TERMS, NOW)
    if decision.what == "suspended":
        assert row.residual is not None
        reference = standing.reference.get("residual")
        assert reference is None or row.residual <= max(reference, 1e-12) * 1.15 * (1 + 1e-9)
        assert NOW < standing.suspended_until_s <= NOW + TERMS.suspend_s + 1


@given(ROWS)
def test_without_a_training_a_scan_has_ended_all_the_same(row):
    decision = without_training(row, "given up")
    assert decision.what == ("published" if row.published_version else "validated")
    assert decision.what in FINAL

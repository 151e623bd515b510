from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from bluesky_ptychonn.core.account import FrameAccount

COUNTS = st.integers(0, 1000)
TERMS = (
    "not_sent", "lost_in_detector", "lost_in_plugin", "lost_on_wire", "stitched", "no_beam", "unpaired", "shed",
    "rejected", "written",
)  # fmt: skip


def consistent(not_sent, in_detector, in_plugin, on_wire, stitched, no_beam, unpaired, shed, rejected, before_file):
    received = stitched + no_beam + unpaired + shed + rejected
    triggered = received + in_detector + in_plugin + on_wire
    return FrameAccount(
        triggered + not_sent, triggered, not_sent, received, in_detector, in_plugin, on_wire, stitched, no_beam,
        unpaired, shed, rejected, triggered - min(before_file, triggered), min(before_file, triggered),
    )  # fmt: skip


ACCOUNTS = st.builds(consistent, *[COUNTS] * 10)


@given(ACCOUNTS)
def test_frames_are_conserved(account):
    assert account.closed
    assert account.problems() == []
    assert "closed" in account.as_text()


@given(ACCOUNTS, st.sampled_from(TERMS), st.integers(-5, 5).filter(bool))
def test_every_miscount_is_a_problem(account, term, error):
    wrong = replace(account, **{term: getattr(account, term) + error})
    assert wrong.state == "wrong"
    assert wrong.problems()


@given(ACCOUNTS, st.sampled_from(TERMS))
def test_what_is_unknown_leaves_the_account_open(account, term):
    partial = replace(account, **{term: None})
    assert partial.state == "open"
    assert "unknown" in partial.as_text()


def test_an_unknown_term_hides_no_surplus():
    account = FrameAccount(triggered=5, received=4, lost_in_detector=2, lost_in_plugin=None, lost_on_wire=0)
    assert account.problems() == [
        "1 too many: 5 triggered = 4 received + 2 lost_in_detector + ? lost_in_plugin + 0 lost_on_wire"
    ]


def test_a_branch_nobody_counted_is_left_out():
    assert FrameAccount(planned=5, triggered=5, not_sent=0, written=5, lost_before_file=0).closed
    assert FrameAccount().state == "open"

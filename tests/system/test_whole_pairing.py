"""Where the patches of a whole chain lie, when frames and triggers get lost on the way."""

import pytest
from stamped import NOT_STAMPED, StampedScans, abort_and_restart, start_again_and_again

pytestmark = [pytest.mark.system, pytest.mark.production_callbacks, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def stamped(services, session):
    scans = StampedScans(services, session)
    yield scans
    scans.close()


@pytest.fixture(scope="module")
def points(stamped):
    told = stamped.scan()
    told.check_whole()
    return told.start()["num_points"]


FIRST, MIDDLE, LAST = 0, 50, -1


@pytest.mark.parametrize("clock", ["detector", "ioc"])
@pytest.mark.parametrize(
    ("fault", "at"),
    [
        ("none", ()),
        *((fault, (where,)) for fault in ("detector", "plugin", "unsent") for where in (FIRST, MIDDLE, LAST)),
        ("detector", (FIRST, MIDDLE, LAST)),
    ],
)
def test_no_patch_lies_at_a_wrong_position(stamped, points, clock, fault, at):
    lost = [index % points for index in at]
    told = stamped.scan({fault: lost} if lost else None, clock=clock)

    told.check_places()
    stats, account = told.stats, told.last("account")
    received = points - len(lost)
    assert stats["frames_received"] == received
    assert stats["frames_stitched"] + stats["frames_unpaired"] == received
    assert (account["account_state"], stats["account"]) == ("closed", "closed"), account["account_text"]
    if fault in ("none", "plugin") or (clock, at) == ("detector", (MIDDLE,)):
        assert (stats["frames_stitched"], stats["pairing"]) == (received, "ok")
    else:
        assert stats["frames_unpaired"] > 0
        assert stats["pairing"].startswith("doubtful: ")
    assert ("frames came" in told.error) == (fault == "unsent")
    stamped.check_safe()


@pytest.mark.parametrize("clock", ["detector", "ioc"])
def test_a_loss_late_in_a_longer_scan_costs_little(stamped, points, clock):
    """The count of lost frames, read in the scan, has confirmed those that came long before."""
    told = stamped.scan({"detector": points - 1}, clock=clock, dwell_s=0.02)
    told.check_places()
    stitched, unpaired = told.stats["frames_stitched"], told.stats["frames_unpaired"]
    assert stitched + unpaired == points - 1
    assert stitched > 40
    assert (told.stats["pairing"] == "ok") == (clock == "detector") == (unpaired == 0)


@pytest.mark.parametrize("interrupt", ["abort", "stop"])
def test_what_came_before_an_interruption_stays_in_the_image(stamped, points, interrupt):
    told = stamped.scan(
        {"detector": 5}, dwell_s=0.05, when=lambda: stamped.pulses() > 20, then=getattr(stamped.RE, interrupt)
    )
    told.check_places()
    assert told.stop()["exit_status"] == {"abort": "abort", "stop": "success"}[interrupt]
    assert 20 <= told.stats["frames_received"] < points - 1
    assert told.stats["frames_stitched"] == told.stats["frames_received"]
    assert (told.stats["pairing"], told.stats["account"]) == ("ok", "closed")
    stamped.check_safe()


def test_losses_of_every_kind_in_one_scan(stamped, points):
    told = stamped.scan({"detector": [20, 21, 70], "plugin": [5, 40, 71], "writer": [0, 60]})
    told.check_places()
    assert told.stats["frames_stitched"] == points - 6
    counters = told.last("counters")
    assert [counters[f"lost_{where}"] for where in ("in_detector", "in_plugin", "before_file")] == [3, 3, 2]
    assert told.last("account")["account_state"] == "closed"


def test_no_foreign_frame_after_an_abort_at_1_khz_and_a_restart_at_once(stamped):
    abort_and_restart(stamped, 3)
    stamped.check_safe()


def test_starts_in_a_row_lose_no_first_frame(stamped):
    start_again_and_again(stamped, 5)


def test_the_test_sees_a_wrong_position(stamped):
    """Frames without a stamp, and patches where no trigger was, are found."""
    told = stamped.scan(stamp=False)
    assert (told.shown == NOT_STAMPED).all()
    with pytest.raises(AssertionError):
        told.check_places()
    told.shown = told.shown[:0]
    told.elsewhere = 64
    with pytest.raises(AssertionError):
        told.check_places()

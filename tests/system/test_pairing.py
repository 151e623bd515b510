"""Where the patches of a whole chain lie, when frames and triggers get lost on the way."""

import pytest
from stamped import FAST, NOT_STAMPED, StampedScans

pytestmark = [pytest.mark.system, pytest.mark.production_callbacks, pytest.mark.timeout(180)]

FASTEST = {"exposure_s": 0.5e-3, "dwell_s": 1e-3}


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
    assert account["account_state"] == "closed", account["account_text"]
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


def test_losses_of_every_kind_in_one_scan(stamped, points):
    told = stamped.scan({"detector": [20, 21, 70], "plugin": [5, 40, 71], "writer": [0, 60]})
    told.check_places()
    assert told.stats["frames_stitched"] == points - 6
    counters = told.last("counters")
    assert [counters[f"lost_{where}"] for where in ("in_detector", "in_plugin", "before_file")] == [3, 3, 2]
    assert told.last("account")["account_state"] == "closed"


def abort_and_restart(stamped, times):
    """Abort at 1 kHz; the frames of that run carry no stamp, so that any of them would be seen in the next image."""
    for attempt in range(times):
        aborted = stamped.scan(
            **{**FASTEST, "width_um": 6.5},
            stamp=False,
            clock=("detector", "ioc")[attempt % 2],
            when=lambda attempt=attempt: stamped.pulses() > 60 + 37 * (attempt % 10),
            then=stamped.RE.abort,
        )
        assert aborted.stop()["exit_status"] == "abort"
        assert 0 < aborted.stats["frames_received"] < aborted.start()["num_points"]
        told = stamped.scan(**FASTEST, clock=("detector", "ioc")[attempt // 2 % 2])
        assert NOT_STAMPED not in told.shown
        told.check_whole()


def start_again_and_again(stamped, times):
    """Short scans: none loses its first frame, nor any other."""
    for attempt in range(times):
        told = stamped.scan(width_um=0.6, clock=("detector", "ioc")[attempt % 2])
        assert told.shown[0] == 0
        told.check_whole()


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
    assert FAST["dwell_s"] == 2e-3

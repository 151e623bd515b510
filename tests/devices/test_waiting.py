import threading

import pytest
from bluesky.utils import ProgressBarManager
from ophyd import Device, Signal

from bluesky_ptychonn.devices.waiting import in_background, put_checked, same, wait_until


class Stubborn(Signal):
    """Takes every value, shows its own."""

    def get(self, **kwargs):
        return 3


@pytest.fixture
def device():
    return Device("", name="box")


def test_a_refused_value_is_an_error_with_both_values():
    with pytest.raises(TimeoutError, match=r"knob was set to 5 but reads 3"):
        put_checked(Stubborn(name="knob"), 5, timeout_s=0.05)


@pytest.mark.parametrize(
    ("read", "wanted", "equal"),
    [
        (1, True, True),
        (0.00200000001, 0.002, True),
        (0.0021, 0.002, False),
        ("/data/", "/data", True),
        ("Stream", "None", False),
        (7.0, 7, True),
        (7.6, 7, False),
    ],
)
def test_what_counts_as_the_same(read, wanted, equal):
    assert same(read, wanted) is equal


def test_waiting_ends_with_the_latest_complaint():
    tries = []
    with pytest.raises(TimeoutError, match="still 3"):
        wait_until(lambda: tries.append(1) or False, 0.05, lambda: f"still {3 if tries else 0}")


def test_failed_work_is_a_failed_status(device):
    def work(status):
        raise RuntimeError("no film in the camera")

    status = in_background(device, "expose", work)
    with pytest.raises(RuntimeError, match="no film"):
        status.wait(5)


def test_stopped_work_ends_well_whatever_it_stumbles_over(device):
    begun = threading.Event()

    def work(status):
        begun.set()
        status.stopped.wait(5)
        raise RuntimeError("cut off")

    status = in_background(device, "expose", work)
    assert begun.wait(5)
    status.stopped.set()
    status.wait(5)
    assert status.success


def test_a_lost_connection_is_told_in_words(device):
    from epics.ca import ChannelAccessGetFailure

    def work(status):
        raise ChannelAccessGetFailure("Get failed", 1, 192)

    with pytest.raises(TimeoutError, match=r"box \(expose\): the connection to its IOC was lost"):
        in_background(device, "expose", work).wait(5)


def test_progress_reaches_blueskys_bar(device, capsys):
    go_on = threading.Event()

    def work(status):
        status.report(30, 100, "frames")
        go_on.wait(5)
        status.report(100, 100, "frames")

    status = in_background(device, "frames", work)
    bar = ProgressBarManager()
    bar({status})
    seen = []
    status.watch(lambda **progress: seen.append(progress))
    go_on.set()
    status.wait(5)
    bar(None)
    assert seen[-1]["current"] == seen[-1]["target"] == 100
    assert seen[-1]["fraction"] == 0

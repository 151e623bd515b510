"""Aborts, starts and random faults in great number: no patch at a wrong place, nothing hangs."""

import random
import time

import pytest

pytestmark = [pytest.mark.soak, pytest.mark.production_callbacks, pytest.mark.timeout(1200)]

SCANS = 25
PATIENCE_S = 60.0


def test_20_aborts_at_1_khz_leave_no_frame_in_the_next_image(stamped):
    from stamped import abort_and_restart

    abort_and_restart(stamped, 20)
    stamped.check_safe()


def test_100_starts_in_a_row_lose_no_first_frame(stamped):
    from stamped import start_again_and_again

    start_again_and_again(stamped, 100)
    stamped.check_safe()


def random_faults(points, count):
    """Up to ``count`` triggers of each kind, most often few, near the ends more often than elsewhere."""
    faults = {}
    for kind in ("detector", "plugin", "writer", "unsent"):
        if random.random() < 0.35:
            places = [0, 1, points // 2, points - 2, points - 1, *(random.randrange(points) for _ in range(6))]
            faults[kind] = sorted(set(random.sample(places, random.randint(1, count))))
    return faults


def test_random_faults_never_put_a_patch_at_a_wrong_place(stamped):
    whole = stamped.scan()
    whole.check_whole()
    points = whole.start()["num_points"]
    for number in range(SCANS):
        faults, clock = random_faults(points, 4), random.choice(["detector", "ioc"])
        dwell_s = random.choice([1e-3, 2e-3, 5e-3, 10e-3])
        interrupt = random.choice(["", "", "abort", "stop"])
        after = random.randrange(1, points // 2)
        print(f"scan {number}: {clock} clock, {dwell_s} s, {faults}, {interrupt or 'to the end'} {after}", flush=True)
        moment = {}
        if interrupt:
            moment = {"when": lambda after=after: stamped.pulses() >= after, "then": getattr(stamped.RE, interrupt)}
        began = time.monotonic()
        told = stamped.scan(
            faults, clock=clock, exposure_s=dwell_s / 2, dwell_s=dwell_s, must_interfere=False, **moment
        )

        assert time.monotonic() - began < PATIENCE_S
        told.check_places()
        stats, account = told.stats, told.last("account")
        went = [stats[f"frames_{where}"] for where in ("stitched", "unpaired", "shed", "rejected")]
        assert sum(went) == stats["frames_received"]
        text = account["account_text"]
        assert account["account_state"] == "closed" or "PROBLEM" in text or "unknown" in text, text
        if not faults:
            assert stats["frames_stitched"] == stats["frames_received"]
        if "unsent" not in faults and not interrupt:
            assert told.error == ""
        stamped.check_safe()

"""Random runs through a real edge over real PVA: every account is right, no patch lies wrong, no memory is lost.

What failed is repeated with the ``TORTURE_SEED`` and ``TORTURE_RUN`` that are printed.
"""

import contextlib
import os
import random
import time

import numpy as np
import pytest
from torture import PLAIN, Run
from torture_laws import Torturer
from torture_world import TortureWorld

EQUAL_RUNS = 12
LEAK_KIB = 20.0
"""Memory per run from which on it is a leak; measured is 1 KiB."""


@contextlib.contextmanager
def torturer(folder):
    with contextlib.closing(TortureWorld(folder)) as world:
        yield Torturer(world)


def torture(torturer, runs, seconds=float("inf")):
    """Torture an edge with so many runs, but begin none later than after so many seconds."""
    seed = int(os.environ.get("TORTURE_SEED") or random.randrange(2**31))
    first = int(os.environ.get("TORTURE_RUN") or 0)
    print(f"TORTURE_SEED={seed} from run {first}")
    began_s = time.monotonic()
    for number in range(first, first + runs):
        do(torturer, Run(seed, number))
        if time.monotonic() - began_s > seconds:
            break
    print(f"{time.monotonic() - began_s:.1f} s, {dict(torturer.met)}")


def do(torturer, run):
    try:
        torturer.torture(run)
    except Exception:
        print(f"TORTURE_SEED={run.seed} TORTURE_RUN={run.number}: {run.theme}, {run.clock}, {run}")
        raise


def check_no_leak(torturer):
    """Equal runs, every other one of which is never ended, take no more and more memory of a fresh edge."""
    for number in range(EQUAL_RUNS):
        do(torturer, Run(0, number, PLAIN))
    given_kib = np.array(torturer.memory_kib)[:, 1]
    grown_kib = np.median(given_kib[2:] - given_kib[:-2]) / 2  # a monitor takes 5 MiB, and may end late
    print(f"{grown_kib:.1f} KiB more in each of some equal runs")
    assert grown_kib < LEAK_KIB, given_kib
    torturer.memory_kib.clear()


@pytest.mark.system
@pytest.mark.timeout(180)
def test_50_random_runs(tmp_path):
    with torturer(tmp_path) as edge:
        check_no_leak(edge)
        torture(edge, 50)
        met = edge.met
    for what in ("bad messages", "bad frames", "stitched", "unpaired", "shed", "rejected", "foreign"):
        assert met[what] > 0, f"no {what}: this was no torture"
    assert min(met[f"account {word}"] for word in ("closed", "open", "wrong")) > 0, met


@pytest.mark.soak
@pytest.mark.timeout(2400)
def test_1000_random_runs(tmp_path):
    """A thousand, in at most half the time of the soak."""
    with torturer(tmp_path) as edge:
        check_no_leak(edge)
        torture(edge, 1000, 30 * float(os.environ.get("SOAK_MINUTES") or 50))
        memory_kib = np.array(edge.memory_kib)
    assert len(memory_kib) > 100, edge.met
    _, second, _, last = (np.median(quarter, axis=0) for quarter in np.array_split(memory_kib, 4))
    resident_kib, given_kib = (last - second) / (len(memory_kib) / 2)
    print(f"{resident_kib:.1f} KiB per run more in the last quarter than in the second, {given_kib:.1f} given out")
    assert given_kib < LEAK_KIB
    assert resident_kib < 50 * max(1, 500 / len(memory_kib)), memory_kib  # holes make it uneven by some megabytes

"""The whole loop under a real Slurm: seen in the queue and live at the end; tortured, and true to its laws.

What failed is repeated with the ``LOOP_SEED`` that is printed. The soak draws one, the short torture has its own.
"""

import contextlib
import os
import random

import pytest

pytest.importorskip("psij")
pytest.importorskip("torch")
pytest.importorskip("openvino")
import slurm_world
from loop_torture import Torture
from slurm_world import SlurmWorld, wait_until
from whole_loop import WholeLoop

from bluesky_ptychonn.io.model_store import current_version
from bluesky_ptychonn.training.loop.faults import FAULTS

pytestmark = pytest.mark.skipif(bool(slurm_world.why_not()), reason=slurm_world.why_not())
GENTLE = 4
"""Fault points of a short torture."""


@pytest.fixture
def slurm(tmp_path_factory):
    world = SlurmWorld(tmp_path_factory.mktemp("slurm"))
    try:
        world.start()
        yield world
    finally:
        world.close()


def torture(folder, slurm, seed, **how):
    seed = int(os.environ.get("LOOP_SEED", seed))
    print(f"LOOP_SEED={seed}", flush=True)
    points = random.Random(seed).sample(list(FAULTS), how.pop("fault_points"))
    with contextlib.closing(Torture(folder, slurm, seed, fault_points=points, **how)) as loop:
        loop.run()
        return loop.met


@pytest.mark.system
@pytest.mark.timeout(300)
def test_a_scan_is_seen_in_the_queue_and_its_training_goes_live(tmp_path, slurm):
    with contextlib.closing(WholeLoop(tmp_path, "slurm", slurm.environment, train_minutes=0.3)) as loop:
        assert current_version(loop.store) == "000001"
        loop.start_service()
        uid = loop.scan(1)
        names: set[str] = set()

        def is_over():
            names.update(slurm.client("squeue", "--noheader", "--format=%j").split())
            return any(row.uid == uid for row in loop.journal.scans()) and not loop.under_way()

        wait_until(is_over, "the loop to end", 200)
        (training,) = loop.journal.trainings()
        assert {f"scan-{uid}", f"probe-{uid}", f"train-{training.key}"} <= names
        row = loop.journal.scan(uid)
        assert row.state == "published", loop.told("show", uid)
        assert row.mismatch > 0.1
        assert current_version(loop.store) == row.published_version == training.version > "000001"
        assert f"version {training.version} is live" in loop.told("show", uid[:8])
        assert loop.status()["scans"][0]["published_version"] == training.version


@pytest.mark.system
@pytest.mark.timeout(600)
def test_three_scans_in_trouble(tmp_path, slurm):
    met = torture(tmp_path, slurm, 77, scans=3, fault_points=GENTLE, faults=3, every_s=3.0)
    assert sum(count for what, count in met.items() if what.startswith("fault")) == GENTLE


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_twenty_scans_in_every_trouble_there_is(tmp_path, slurm):
    met = torture(tmp_path, slurm, random.randrange(2**31), scans=20, fault_points=len(FAULTS), faults=15, every_s=6.0)
    assert all(met[f"fault {number}"] for number in FAULTS), met

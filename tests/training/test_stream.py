"""Scans simulated while a network learns: the same for the same seed, whatever happens on the way."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from small_corpus import TINY, small_recipe

from bluesky_ptychonn.training.learning import simulators, stream
from bluesky_ptychonn.training.learning.batches import Augmentation
from bluesky_ptychonn.training.learning.checkpoint import read_checkpoint
from bluesky_ptychonn.training.learning.simulators import Simulation
from bluesky_ptychonn.training.learning.stream import SimulatedBatches, held_out_scans
from bluesky_ptychonn.training.learning.train import train

TWO = Simulation(workers=2)
PLAIN = Augmentation(symmetries=False)


@pytest.fixture(autouse=True)
def few_first_scans(monkeypatch):
    monkeypatch.setattr(stream, "FIRST_SCANS", 4)
    monkeypatch.setattr(stream, "HELD_OUT_SCANS", 1)


@pytest.fixture
def batches():
    """Open streams, closed at the end."""
    opened = []

    def open_stream(simulation=TWO, size=16, augmentation=PLAIN, **options):
        opened.append(
            SimulatedBatches(simulation, size, 3, augmentation, side_px=66, device=torch.device("cpu"), **options)
        )
        return opened[-1]

    yield open_stream
    for one in opened:
        one.close()


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.images, other.images, strict=True))


def test_pairs_are_the_same_on_one_process_or_two_and_from_the_middle(batches):
    often = Simulation(workers=2, visits=0.2, kept=8)  # two new scans per step; the ring of eight goes round
    both, alone = batches(often), batches(replace(often, workers=1))
    last = [[source.batch(step) for step in range(6)][-1] for source in (both, alone)]
    assert same(*last)
    resumed = batches(often).batch(5)
    assert same(resumed, last[0])


def test_pairs_are_those_of_the_simulation(batches):
    batch = batches().batch(0)
    assert batch.patterns.shape == (16, 128, 128)
    assert batch.labels.shape == (16, 2, 66, 66)
    assert batch.patterns[~batch.valid].sum() == 0
    counts, power = batch.patterns.sum((-2, -1)), (batch.probe.abs() ** 2).sum((-2, -1))
    assert ((counts / power - 1).abs() < 0.5).all()  # gaps hide light, objects absorb some
    assert batch.weight.mean((-2, -1)).allclose(torch.ones(16), rtol=1e-4)
    assert torch.isfinite(batch.labels).all()
    assert batch.labels[:, 1].abs().max() > 0.05


def test_thinned_frames_have_fewer_counts_and_a_probe_of_as_many(batches):
    whole, thin = batches().batch(0), batches(augmentation=Augmentation(symmetries=False, thinning=1.0)).batch(0)
    counts = [batch.patterns.sum((-2, -1)) for batch in (whole, thin)]
    power = [(batch.probe.abs() ** 2).sum((-2, -1)) for batch in (whole, thin)]
    part, told = counts[1] / counts[0], power[1] / power[0]
    assert (part < 1).sum() > 8
    assert part.min() > 1e-3
    assert (part / told - 1).abs().max() < 0.15
    assert (power[1] > 0.99 * stream.DOSES[0]).all()
    assert torch.equal(thin.patterns, thin.patterns.round())
    assert (thin.patterns <= whole.patterns).all()


def test_mirrored_and_turned_pairs_are_pairs(batches):
    """A turned label under a turned probe gives the turned pattern: the same counts in the same places."""
    plain, turned = batches(), batches(augmentation=Augmentation(symmetries=True))
    steps = [step for step in range(8) if not same(plain.batch(step), turned.batch(step))]
    assert len(steps) >= 4
    one, other = plain.batch(steps[0]), turned.batch(steps[0])
    found = [same(one.turned(y, x, swap), other) for y in (0, 1) for x in (0, 1) for swap in (0, 1)]
    assert sum(found) == 1


def test_ranks_have_their_own_scans(batches):
    one, two = (batches(Simulation(workers=1), rank=rank, ranks=2).batch(0) for rank in (0, 1))
    assert len(one.patterns) == 8
    assert not same(one, two)


@pytest.mark.parametrize(
    ("simulation", "size", "told"),
    [
        (Simulation(workers=0), 16, "process"),
        (Simulation(visits=0), 16, "visits"),
        (Simulation(kept=3), 16, "kept"),
    ],
)
def test_what_cannot_be_is_said(batches, simulation, size, told):
    with pytest.raises(ValueError, match=told):
        batches(simulation, size)


def test_a_process_that_ends_stops_the_training(batches, monkeypatch):
    monkeypatch.setattr(simulators, "PATIENCE_S", 0.1)
    source = batches(Simulation(workers=1, visits=0.5))
    source.batch(0)
    os.kill(source._workers._processes[0].pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="simulate-0 has ended with exit code -9"):
        source.batch(50)


TRAIN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from small_corpus import TINY, small_recipe
from bluesky_ptychonn.training.learning import simulators, stream
from bluesky_ptychonn.training.learning.train import train
if __name__ == "__main__":
    stream.FIRST_SCANS, stream.HELD_OUT_SCANS, stream.EPOCH_STEPS = 4, 1, 8
    stream.SimulatedBatches.steps_per_epoch = 8
    train(Path(sys.argv[1]), simulators.Simulation(2), recipe=small_recipe(), configuration=TINY,
          epochs=4)
"""


def start(out, script):
    return subprocess.Popen([sys.executable, str(script), str(out), os.path.dirname(__file__)])


@pytest.mark.soak
def test_a_training_on_a_stream_that_was_killed_gives_the_same_weights_and_leaves_no_process(tmp_path):
    script = tmp_path / "learn.py"
    script.write_text(TRAIN)
    assert start(tmp_path / "whole", script).wait(240) == 0
    killed = start(tmp_path / "killed", script)
    while killed.poll() is None and not (tmp_path / "killed" / "figures.json").exists():
        time.sleep(0.001)
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(killed.pid)], capture_output=True, text=True)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert len(children.stdout.split()) >= 2
    deadline = time.monotonic() + 60
    while any(os.path.exists(f"/proc/{pid}") for pid in children.stdout.split()):
        assert time.monotonic() < deadline, "processes that simulate outlive the training"
        time.sleep(0.2)
    assert start(tmp_path / "killed", script).wait(240) == 0
    one, other = (read_checkpoint(tmp_path / name)["kept"] for name in ("whole", "killed"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_stream_holds_out_scans_of_its_own(tmp_path):
    figures = train(
        tmp_path, Simulation(1, visits=50), recipe=small_recipe(validation_steps=2), configuration=TINY, minutes=0.02
    )
    conditions, last = figures["conditions"], figures["results"][0]
    assert conditions["pairs"] >= 160
    assert last["step"] == conditions["steps"]
    assert 0 < last["mae_rad"] < 2 * last["mae_of_nothing_rad"] + 1
    held_out = held_out_scans(Simulation(), 0, 32)
    assert sum(len(batch.patterns) for batch in held_out) == 40
    assert np.isfinite(last["training_loss"])

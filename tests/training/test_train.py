import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from small_corpus import TINY, small_corpus, small_recipe

from bluesky_ptychonn.engines import torch_physics as physics
from bluesky_ptychonn.training.learning.batches import Augmentation, Batches
from bluesky_ptychonn.training.learning.checkpoint import CHECKPOINT, read_checkpoint, trained_network
from bluesky_ptychonn.training.learning.networks import build_network
from bluesky_ptychonn.training.learning.ranks import Ranks, find_ranks
from bluesky_ptychonn.training.learning.recipes import RECIPES, SCHEDULES, errors, loss_of, probe_weighted
from bluesky_ptychonn.training.learning.train import train

TRAIN = """
import sys
from pathlib import Path
import os
sys.path.insert(0, sys.argv[3])
from small_corpus import TINY, small_corpus, small_recipe
from bluesky_ptychonn.training.learning.networks import build_network
from bluesky_ptychonn.training.learning.ranks import find_ranks
from bluesky_ptychonn.training.learning.train import train
print("begins", flush=True)
train(Path(sys.argv[1]), small_corpus(Path(sys.argv[2])), recipe=small_recipe(bf16=sys.argv[4] == "bf16"),
      configuration=TINY, epochs=int(sys.argv[5]), seed=5, ranks=find_ranks(os.environ))
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    small_corpus(folder)
    return folder


def start(out, corpus, *, bf16="bf16", epochs=8, **environment):
    here = os.path.dirname(__file__)
    return subprocess.Popen(
        [sys.executable, "-c", TRAIN, str(out), str(corpus), here, bf16, str(epochs)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    _, told = process.communicate(timeout=150)
    assert process.returncode == 0, told


def weights_of(out):
    return read_checkpoint(out)["kept"]


@pytest.mark.system
def test_a_training_that_was_killed_gives_the_same_weights(corpus, tmp_path):
    """kill -9 after a random epoch, and in the middle of one; the same command goes on to the same end."""
    whole = start(tmp_path / "whole", corpus)
    finish(whole)
    killed = start(tmp_path / "killed", corpus)
    seed = int(time.time())
    epochs = int(np.random.default_rng(seed).integers(1, 7))
    while killed.poll() is None:
        done = tmp_path / "killed" / "figures.json"
        if done.exists() and len(json.loads(done.read_text())["history"]) >= epochs:
            break
        time.sleep(0.001)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL, f"the training ended before it was killed (seed {seed})"
    finish(start(tmp_path / "killed", corpus))
    one, other = weights_of(tmp_path / "whole"), weights_of(tmp_path / "killed")
    assert all(torch.equal(one[name], other[name]) for name in one), f"seed {seed}"


@pytest.mark.system
def test_two_processes_follow_one_with_twice_the_batch(corpus, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    both = [start(tmp_path / "two", corpus, bf16="no", RANK=str(rank), **common) for rank in (0, 1)]
    finish(start(tmp_path / "one", corpus, bf16="no"))
    for process in both:
        finish(process)
    one, two = weights_of(tmp_path / "one"), weights_of(tmp_path / "two")
    apart = max(float((one[name] - two[name]).norm() / one[name].norm()) for name in one if one[name].norm() > 0)
    assert apart < 1e-4
    losses = [read_checkpoint(tmp_path / name)["history"] for name in ("one", "two")]
    for first, second in zip(*losses, strict=True):
        assert second["mae_rad"] == pytest.approx(first["mae_rad"], rel=1e-3)


@pytest.mark.parametrize(
    ("network", "recipe"), [("ptychonn-lift", "robust"), ("ptychonn2", "paper"), ("ptychonn2", "robust")]
)
def test_networks_learn_by_either_recipe(corpus, tmp_path, network, recipe):
    told = []
    figures = train(
        tmp_path,
        small_corpus(corpus),
        recipe=small_recipe(recipe),
        network=network,
        configuration=TINY if network == "ptychonn-lift" else {"channels": 4},
        epochs=2,
        on_epoch=told.append,
    )
    assert [entry["epoch"] for entry in figures["history"]] == [1, 2]
    assert figures["results"] == figures["history"][-1:]
    assert len(told) == 2
    assert json.loads((tmp_path / "figures.json").read_text()) == json.loads(json.dumps(figures))
    assert (tmp_path / "samples.png").stat().st_size > 1000
    again, state = trained_network(tmp_path)
    assert state["network"] == network
    assert not again.training


def test_learning_lowers_the_loss(corpus, tmp_path):
    figures = train(
        tmp_path, small_corpus(corpus), recipe=small_recipe(averaging=0.0), configuration=TINY, epochs=30, seed=1
    )
    losses = [entry["training_loss"] for entry in figures["history"]]
    assert losses[-1] < 0.85 * losses[0]


def test_the_misfit_with_the_counts_joins_the_loss(corpus):
    batch = Batches(small_corpus(corpus), 4, 0, Augmentation(symmetries=False)).batch(0)
    estimate = torch.zeros(4, 2, 64, 64)
    plain, physical = (loss_of(small_recipe(physics=weight), [estimate], batch) for weight in (0.0, 3.0))
    misfit = physics.misfit(batch.patterns, batch.valid, batch.probe, estimate).mean()
    torch.testing.assert_close(physical, plain + 3 * misfit)


def test_learning_further_starts_from_what_was_learned(corpus, tmp_path):
    shards = small_corpus(corpus)
    train(tmp_path / "first", shards, recipe=small_recipe(), configuration=TINY, epochs=6)
    rested = small_recipe(high_rate=1e-9, low_rate=1e-9)
    figures = train(tmp_path / "more", shards, recipe=rested, start=tmp_path / "first", epochs=1)
    assert len(figures["conditions"]["start"]) == 64
    before, after = weights_of(tmp_path / "first"), weights_of(tmp_path / "more")
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)


def test_another_training_is_not_taken_for_this_one(corpus, tmp_path):
    shards = small_corpus(corpus)
    train(tmp_path, shards, recipe=small_recipe(), configuration=TINY, epochs=1)
    with pytest.raises(ValueError, match="seed = 0, not 1"):
        train(tmp_path, shards, recipe=small_recipe(), configuration=TINY, epochs=1, seed=1)
    with pytest.raises(ValueError, match="another snapshot"):
        train(tmp_path, shards[:3], recipe=small_recipe(), configuration=TINY, epochs=1)
    with pytest.raises(ValueError, match="another start"):
        train(tmp_path, shards, recipe=small_recipe(), start=tmp_path, epochs=1)


def test_gradients_are_cut_where_the_recipe_says_so(corpus, tmp_path):
    """Cut to nothing they move nothing; left alone, as the paper leaves them, they do."""
    moved = []
    for clip in (1e-16, 0.0):
        out = tmp_path / str(clip)
        plain = small_recipe(clip=clip, averaging=0.0, weight_decay=0.0)
        train(out, small_corpus(corpus), recipe=plain, configuration=TINY, epochs=1)
        torch.manual_seed(0)
        fresh = build_network("ptychonn-lift", TINY).state_dict()
        moved.append(max(float((fresh[name] - value).abs().max()) for name, value in weights_of(out).items()))
    assert moved[0] < 1e-8 < 1e-4 < moved[1]


def test_time_sets_the_steps_and_a_stop_is_kept(corpus, tmp_path):
    shards = small_corpus(corpus)
    steps = []

    def stop():
        steps.append(1)
        return len(steps) == 45

    train(tmp_path, shards, recipe=small_recipe(), configuration=TINY, minutes=0.2, stop=stop)
    state = read_checkpoint(tmp_path)
    assert state["step"] == 45 < state["total"]
    figures = train(tmp_path, shards, recipe=small_recipe(), configuration=TINY, minutes=0.2)
    assert figures["conditions"]["steps"] == state["total"] == figures["history"][-1]["step"]


@pytest.mark.parametrize("length", [{"minutes": 0.0}, {"minutes": -1.0}, {"epochs": 0}])
def test_no_time_no_training(corpus, tmp_path, length):
    with pytest.raises(ValueError, match="needs a positive time or an epoch"):
        train(tmp_path / "t", small_corpus(corpus), recipe=small_recipe(), **length)
    assert not (tmp_path / "t").exists()


def test_checkpoint_runs_no_code(tmp_path):
    class Harm:
        def __reduce__(self):
            return print, ("harm",)

    torch.save({"network": Harm()}, tmp_path / CHECKPOINT)
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        read_checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        read_checkpoint(tmp_path / "elsewhere")


def test_errors_with_and_without_the_constant():
    label, weight = torch.zeros(2, 8, 8), torch.ones(2, 8, 8)
    absolute, free = errors(label + 0.5, label, weight)
    torch.testing.assert_close(absolute, torch.full((2,), 0.5))
    torch.testing.assert_close(free, torch.zeros(2))


def test_loss_weighs_by_the_probe():
    """An error where no light fell costs nothing."""
    labels, weight = torch.randn(2, 2, 8, 8), torch.ones(2, 8, 8)
    weight[:, :4] = 0
    wrong = labels.clone()
    wrong[:, :, :4] += 1
    assert float(probe_weighted(wrong, labels, weight)) == pytest.approx(0, abs=1e-6)
    wrong[:, :, 4:] += 1
    assert float(probe_weighted(wrong, labels, weight)) > 0.1


def test_schedules():
    ours, paper = RECIPES["robust"], RECIPES["paper"]
    rates = [SCHEDULES["one-cycle"](ours, step, 1000, 100) for step in range(1001)]
    assert max(rates) == pytest.approx(ours.high_rate, rel=1e-3)
    assert np.argmax(rates) == 30
    assert rates[-1] == pytest.approx(ours.low_rate)
    rates = [SCHEDULES["triangular2"](paper, step, 2400, 10) for step in range(361)]
    assert [rates[0], rates[60], rates[120]] == pytest.approx([1e-4, 5e-4, 1e-4])
    assert [rates[180], rates[300]] == pytest.approx([3e-4, 2e-4])  # the height is halved each time


def test_ranks_of_each_launcher():
    assert find_ranks({}) == Ranks(0, 1, 0)
    assert find_ranks({"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "SLURM_NTASKS": "8"}) == Ranks(1, 2, 1)
    assert find_ranks({"PMI_SIZE": "3", "PMI_RANK": "2"}) == Ranks(2, 3, 0)
    assert find_ranks({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}) == Ranks()
    with pytest.raises(ValueError, match="RANK is not set"):
        find_ranks({"WORLD_SIZE": "2"})

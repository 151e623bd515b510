import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from small_corpus import small_corpus

from bluesky_ptychonn.core.lift import lift
from bluesky_ptychonn.core.optics import Geometry, with_counts, zone_plate_probe
from bluesky_ptychonn.training.learning.batches import Augmentation, Batches, thinned, turn
from bluesky_ptychonn.training.learning.held_out import split
from bluesky_ptychonn.training.learning.ranks import Ranks

EVERYTHING = Augmentation(symmetries=True, thinning=0.5, probe_errors=0.5)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return small_corpus(tmp_path_factory.mktemp("corpus"))


def test_every_pair_comes_once_in_an_epoch(shards):
    batches = Batches(shards, 4, 0, Augmentation(symmetries=False))
    assert (batches.pairs, batches.steps_per_epoch) == (24, 6)
    seen = np.concatenate([batches.batch(step).labels.numpy() for step in range(6)])
    every = np.concatenate([shard.labels for shard in shards]).astype(np.float32)
    assert {row.tobytes() for row in seen} == {row.tobytes() for row in every}


def test_a_batch_depends_on_seed_and_step_alone(shards):
    once, again = (Batches(shards, 4, 7, EVERYTHING) for _ in range(2))
    for step in (5, 0, 9):
        torch.testing.assert_close(once.batch(step).patterns, again.batch(step).patterns, rtol=0, atol=0)
    assert not torch.equal(once.batch(5).patterns, Batches(shards, 4, 8, EVERYTHING).batch(5).patterns)


@pytest.mark.parametrize("ranks", [2, 4])
def test_processes_share_the_batch_of_one(shards, ranks):
    whole = Batches(shards, 4, 1, EVERYTHING).batch(3)
    parts = [Batches(shards, 4, 1, EVERYTHING, rank=rank, ranks=ranks).batch(3) for rank in range(ranks)]
    for name in ("patterns", "valid", "probe", "labels", "weight"):
        together = torch.cat([getattr(part, name) for part in parts])
        torch.testing.assert_close(together, getattr(whole, name), rtol=0, atol=0)


def test_a_batch_that_cannot_be_shared(shards):
    with pytest.raises(ValueError, match="cannot be shared among 3"):
        Batches(shards, 4, 0, EVERYTHING, ranks=3)


def test_masked_pixels_are_not_counted(shards):
    batch = Batches(shards, 24, 0, Augmentation(symmetries=False)).batch(0)
    assert (batch.patterns[~batch.valid] == 0).all()
    assert (~batch.valid).any()
    assert float(batch.patterns.max()) < 65535


def test_thinned_counts_are_those_of_a_shorter_exposure():
    """A thinned Poisson variable is one: its variance is its mean; and the probe says how much light was left."""
    rng = np.random.default_rng(0)
    probe = np.full((100, 100), np.sqrt(100.0), np.complex64)
    for _ in range(5):
        counts = rng.poisson(100.0, (100, 100))
        less, dimmer = thinned(rng, counts, probe)
        mean = float(np.mean(np.abs(dimmer) ** 2))
        assert 0.99 < mean <= 100.1
        assert less.mean() == pytest.approx(mean, rel=0.05)
        assert less.var() == pytest.approx(mean, rel=0.1)


@pytest.mark.parametrize("how", [(True, False, False), (False, True, False), (True, True, False), (False, False, True)])
def test_mirrors_and_turns_are_symmetries_of_the_lift(how):
    """The lift of a mirrored pattern with the mirrored probe is the mirrored lift."""
    probe = with_counts(zone_plate_probe(Geometry(), astigmatism_um=30, astigmatism_angle_rad=0.4), 1e5)
    patterns = np.random.default_rng(5).poisson(50, (2, 128, 128)).astype(np.uint16)

    def turned(array):
        return turn(torch.from_numpy(np.ascontiguousarray(array)), *how).numpy()

    both = lift(turned(patterns.astype(np.int32)).astype(np.uint16), turned(probe))
    np.testing.assert_allclose(both, turned(lift(patterns, probe)), atol=2e-3)


def test_whole_scans_are_held_out(shards):
    learning, held_out = split(
        shards, "scan", 0.25, seed=0, size=4, augmentation=Augmentation(symmetries=False), ranks=Ranks()
    )
    assert (learning.pairs, sum(len(batch.labels) for batch in held_out)) == (18, 32)  # the last batch is filled up
    seen = {row.tobytes() for step in range(5) for row in learning.batch(step).labels.numpy()}
    assert not seen & {row.tobytes() for batch in held_out for row in batch.labels.numpy()}


def test_frames_are_held_out_as_the_paper_does(shards):
    learning, held_out = split(
        shards, "frame", 0.25, seed=0, size=4, augmentation=Augmentation(symmetries=False), ranks=Ranks()
    )
    assert learning.pairs == 18
    seen = {row.tobytes() for step in range(5) for row in learning.batch(step).labels.numpy()}
    out = {row.tobytes() for batch in held_out for row in batch.labels.numpy()}
    assert len(out) == 6
    assert not seen & out


def test_one_scan_cannot_be_divided(shards):
    with pytest.raises(ValueError, match="two are needed"):
        split(shards[:1], "scan", 0.1, 0, size=4, augmentation=EVERYTHING, ranks=Ranks())

"""More frames than can be inferred in full: none is shed, and what is kept is inferred in the end."""

import numpy as np

from bluesky_ptychonn.edge import hurry
from bluesky_ptychonn.edge.hurry import Hurry


class Engine:
    """Patches that show the first pixel of the pattern; a guess is negative."""

    name, card, max_batch, frame_px, patch_px = "fake", None, 4, 8, 2

    def infer(self, patterns):
        assert len(patterns) <= self.max_batch
        return np.broadcast_to(patterns[:, :1, :1], (len(patterns), 2, 2)).astype(np.float32)

    def guess(self, patterns):
        return -self.infer(patterns)


class SlowEngine(Engine):
    guess = None


def batches(count, size=4):
    for first in range(0, count, size):
        indices = np.arange(first, first + size)
        yield indices, np.broadcast_to(indices[:, None, None], (size, 8, 8)).astype(np.uint16)


def shown(patches):
    return patches[:, 0, 0].astype(int).tolist()


def test_frames_are_guessed_from_too_many_waiting_until_none_waits():
    hurried, waiting = Hurry(Engine()), [4, 32, 33, 20, 5, 4, 20]
    found = [shown(hurried.infer(*batch, wait)) for batch, wait in zip(batches(28), waiting, strict=True)]
    guessed = [patches[-1] < 0 for patches in found]
    assert guessed == [False, False, True, True, True, False, False]
    assert [abs(value) for patches in found for value in patches] == list(range(28))
    assert hurried.guessed == 12


def test_guessed_frames_are_inferred_in_full_in_the_end():
    hurried = Hurry(Engine())
    for batch in batches(12):
        hurried.infer(*batch, 100)
    indices, patches = hurried.in_full()
    assert indices.tolist() == shown(patches) == list(range(12))
    assert hurried.guessed == 0
    assert [len(part) for part in hurried.in_full()] == [0, 0]


def test_memory_is_bounded_and_the_rest_stays_guessed(monkeypatch):
    monkeypatch.setattr(hurry, "KEPT", 10)
    hurried = Hurry(Engine())
    for batch in batches(20):
        hurried.infer(*batch, 100)
    assert hurried.guessed == 20
    assert hurried.in_full()[0].tolist() == list(range(8))
    assert hurried.guessed == 12


def test_an_engine_without_a_guess_infers_all():
    hurried = Hurry(SlowEngine())
    found = [shown(hurried.infer(*batch, 100)) for batch in batches(8)]
    assert found == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert hurried.guessed == 0

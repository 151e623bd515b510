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


def test_frames_are_guessed_from_too_many_waiting_until_none_waits_and_a_while_longer():
    hurried, waiting = Hurry(Engine()), [4, 32, 33, 20, 4, 4, 4, 4, 4, 4]
    found = [shown(hurried.infer(*batch, wait)) for batch, wait in zip(batches(40), waiting, strict=True)]
    guessed = [patches[-1] < 0 for patches in found]
    assert guessed == [False, False, True, True, True, True, True, False, False, False]
    assert [abs(value) for patches in found for value in patches] == list(range(40))
    assert hurried.guessed == 20


def paid(hurried, **how):
    batches = list(iter(lambda: hurried.pay(**how), None))
    assert all(indices.tolist() == shown(patches) for indices, patches in batches)
    return [index for indices, _ in batches for index in indices.tolist()]


def test_guessed_frames_are_inferred_in_full_when_there_is_time(monkeypatch):
    hurried = Hurry(Engine())
    for batch in batches(12):
        hurried.infer(*batch, 100)
    assert hurried.pay() is None
    monkeypatch.setattr(hurry, "CALM_S", 0)
    assert hurried.pay()[0].tolist() == [0, 1, 2, 3]
    assert hurried.guessed == 8
    assert paid(hurried) == list(range(4, 12))
    assert hurried.guessed == 0


def test_in_the_end_all_are_inferred_in_full_at_once():
    hurried = Hurry(Engine())
    for batch in batches(8):
        hurried.infer(*batch, 100)
    assert paid(hurried, all_of_it=True) == list(range(8))


def test_frames_of_another_probe_come_first_and_are_not_guessed_ones():
    hurried = Hurry(Engine())
    hurried.infer(*next(batches(4)), 100)
    indices = np.arange(20, 29)
    hurried.owe(indices, np.broadcast_to(indices[:, None, None], (9, 8, 8)).astype(np.uint16))
    assert paid(hurried) == list(range(20, 29))
    assert hurried.guessed == 4
    assert paid(hurried, all_of_it=True) == [0, 1, 2, 3]


def test_memory_is_bounded_and_the_rest_stays_guessed(monkeypatch):
    monkeypatch.setattr(hurry, "KEPT", 10)
    hurried = Hurry(Engine())
    for batch in batches(20):
        hurried.infer(*batch, 100)
    assert hurried.guessed == 20
    assert paid(hurried, all_of_it=True) == list(range(8))
    assert hurried.guessed == 12


def test_an_engine_without_a_guess_infers_all():
    hurried = Hurry(SlowEngine())
    found = [shown(hurried.infer(*batch, 100)) for batch in batches(8)]
    assert found == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert hurried.guessed == 0

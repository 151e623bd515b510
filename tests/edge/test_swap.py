"""Models and probes taken up while the edge runs."""

import threading
import time

import numpy as np
import pytest
from fake_engine import PATTERNS, PROBE, Fake, card

from bluesky_ptychonn.core.protocols import Engine
from bluesky_ptychonn.edge.swap import EngineSlot, same_engine

REFINED = 3 * PROBE


def shown(slot):
    """Version whose network makes the next batch, as a run has it made."""
    if (probe := slot.exchange()) is not None:
        slot.set_probe(probe)
    return float(slot.infer(PATTERNS).max())


def test_the_offered_engine_infers_from_the_next_batch_on_with_the_probe_of_the_run():
    slot = EngineSlot(Fake("1"))
    assert isinstance(slot, Engine)
    slot.set_probe(PROBE)
    assert shown(slot) == 1
    other = Fake("2")
    slot.offer(other)
    assert (slot.card.version, slot.swaps) == ("1", 0), "not before a batch comes"
    assert shown(slot) == 2
    assert (slot.card.version, slot.swaps, other.power) == ("2", 1, 1024.0)


def test_only_version_and_probe_change_where_the_network_is_the_same():
    engine = Fake("1")
    slot = EngineSlot(engine, PROBE)
    slot.set_probe(PROBE)
    slot.offer(engine, REFINED, card("2", probe_sha256=64 * "1", files={**engine.card.files, "probe.npy": 64 * "1"}))
    np.testing.assert_array_equal(slot.exchange(), REFINED)
    assert (slot.card.version, slot.swaps) == ("2", 1)
    assert slot.exchange() is None
    slot.offer(engine, REFINED.copy(), card("3"))
    assert slot.exchange() is None, "it is the same probe: nothing is measured anew"
    assert (slot.card.version, slot.probe is not None) == ("3", True)


def test_a_probe_that_others_set_is_waited_for():
    """Where the slot has no probe of its own, as in a consumer, a version with another one waits."""
    engine = Fake("1")
    slot = EngineSlot(engine)
    slot.set_probe(PROBE)
    refined = card("2", probe_sha256=64 * "1", files={**engine.card.files, "probe.npy": 64 * "1"})
    slot.offer(engine, card=refined)
    assert slot.exchange() is None
    assert slot.card.version == "1"
    slot.exchange(another_probe=True)
    assert slot.card.version == "2"


def test_which_engines_are_kept_for_what():
    first, second = Fake("1"), Fake("2", network="2")
    slot = EngineSlot(first, PROBE)
    slot.offer(second)
    assert slot.kept(card("9", network="2", parent="8", training={"ssim": 0.9})) is second
    slot.between_runs()
    assert slot.kept(card("1")) is first
    assert slot.kept(card("1", reference_counts=5.0)) is None
    assert slot.kept(card("3", network="3")) is None
    slot.offer(second, REFINED, card("3", network="2"))
    slot.between_runs()
    assert slot.kept(card("1")) is first, "the engine before this one, however often the probe has changed since"


def test_an_engine_of_another_golden_pair_has_still_to_be_checked():
    other = card("1")
    other = card("1", files={**other.files, "golden.npz": 64 * "5"})
    assert not same_engine(card("1"), other)


@pytest.mark.parametrize("values", [{"patch_px": 4}, {"energy_kev": 9.0}, {"pixel_size_um": 0.02}])
def test_what_does_not_fit_the_run_waits_for_its_end(values):
    slot = EngineSlot(Fake("1"))
    slot.set_probe(PROBE)
    slot.offer(Fake("2", **values))
    assert shown(slot) == 1
    slot.between_runs()
    assert shown(slot) == 2


def test_patterns_of_another_size_need_another_edge():
    slot = EngineSlot(Fake("1"))
    with pytest.raises(ValueError, match="takes patterns of 32 px, the edge runs with 16 px"):
        slot.offer(Fake("2", frame_px=32))


def test_each_batch_is_of_one_network_and_its_probe_while_another_thread_offers():
    """Every version has its own power of the probe; a batch of version n with another one fails in the engine."""

    class Strict(Fake):
        def infer(self, patterns):
            assert self.power == float(self.card.version), "the probe of another version"
            return super().infer(patterns)

    def probe(number):
        return np.full((16, 16), np.sqrt(number) / 16, np.complex64)

    slot = EngineSlot(Strict("1"), probe(1))
    slot.set_probe(probe(1))
    stop = threading.Event()

    def offer():
        number = 4
        while not stop.is_set():
            slot.offer(Strict(str(number)), probe(number))
            number *= 4
            number = number if number < 1e6 else 4

    thread = threading.Thread(target=offer)
    thread.start()
    try:
        deadline = time.monotonic() + 10
        while slot.swaps <= 10:
            assert time.monotonic() < deadline
            assert shown(slot) == float(slot.card.version)
    finally:
        stop.set()
        thread.join()


def test_an_offer_that_fails_is_not_tried_again():
    class Broken(Fake):
        def set_probe(self, probe):
            raise ValueError("no memory")

    slot = EngineSlot(Fake("1"), PROBE)
    slot.set_probe(PROBE)
    slot.offer(Broken("2"))
    with pytest.raises(ValueError, match="no memory"):
        slot.exchange()
    assert shown(slot) == 1

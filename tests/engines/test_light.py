"""The light of a run: the probe that its own frames show."""

import numpy as np
import pytest

from bluesky_ptychonn.core.optics import PROBE_FRAMES, Geometry, far_field, with_counts, zone_plate_probe
from bluesky_ptychonn.engines.light import DarkError, Light

PROBE = zone_plate_probe(Geometry())


class Engine:
    """Remembers the counts of its probes."""

    card = None

    def __init__(self):
        self.counts = []

    def set_probe(self, probe):
        self.counts.append(float(np.sum(np.abs(probe) ** 2)))


def frames(rng, count, counts=1e5):
    return rng.poisson(np.abs(far_field(with_counts(PROBE, counts))) ** 2, (count, 128, 128)).astype(np.uint16)


def test_the_probe_is_there_for_the_first_batch_and_better_later(rng):
    engine = Engine()
    light = Light(engine, PROBE)
    owed = [light.see(np.arange(first, first + 8), frames(rng, 8)) for first in range(0, PROBE_FRAMES + 16, 8)]
    assert len(engine.counts) == 3
    assert engine.counts == pytest.approx([1e5] * 3, rel=0.01)
    assert light.intensity_scale == pytest.approx(1e5, rel=0.01)
    assert [part is not None for part in owed] == [False] * 7 + [True] + [False] * 2
    assert owed[7][0].tolist() == list(range(PROBE_FRAMES - 8))  # the last batch sees the settled probe itself
    assert len(owed[7][1]) == PROBE_FRAMES - 8
    assert light.settle() is None


def test_a_short_run_settles_with_what_it_has(rng):
    light = Light(Engine(), PROBE)
    light.see(np.arange(8), frames(rng, 8))
    assert light.settle()[0].tolist() == list(range(8))
    assert light.settle() is None


def test_darkness_is_told_until_there_is_light(rng):
    light = Light(Engine(), PROBE)
    with pytest.raises(DarkError, match="shutter"):
        light.see(np.arange(8), np.zeros((8, 128, 128), np.uint16))
    assert "dark" in light.message_text
    light.see(np.arange(8, 16), frames(rng, 8))
    assert light.message_text == ""


def test_another_probe_is_measured_anew(rng):
    engine = Engine()
    light = Light(engine, PROBE)
    for first in range(0, PROBE_FRAMES, 8):
        light.see(np.arange(first, first + 8), frames(rng, 8))
    light.take_probe(7 * PROBE)
    assert light.see(np.arange(8), frames(rng, 8)) is None
    assert light.probe_swaps == 1
    assert engine.counts[-1] == pytest.approx(1e5, rel=0.01)


def test_frames_without_beam_say_nothing_of_the_probe(rng):
    """A run whose beam is lost after its first frame is measured by that frame."""
    engine = Engine()
    light = Light(engine, PROBE)
    light.see(np.arange(1), frames(rng, 1))
    light.see(np.arange(1, 9), np.zeros((8, 128, 128), np.uint16))
    indices, patterns = light.settle()
    assert indices.tolist() == [0]
    assert len(patterns) == 1
    assert light.intensity_scale == pytest.approx(1e5, rel=0.02)
    assert engine.counts == pytest.approx([1e5] * len(engine.counts), rel=0.02)


def test_a_probe_that_comes_in_the_dark_has_the_counts_of_before(rng):
    engine = Engine()
    light = Light(engine, PROBE)
    light.see(np.arange(8), frames(rng, 8))
    light.take_probe(7 * PROBE)
    light.see(np.arange(8, 16), np.zeros((8, 128, 128), np.uint16))
    assert len(engine.counts) == 2
    assert engine.counts[-1] == pytest.approx(1e5, rel=0.01)
    light.see(np.arange(16, 24), frames(rng, 8, counts=5e4))
    assert engine.counts[-1] == pytest.approx(5e4, rel=0.01)

"""Models and probes taken up while the edge runs."""

import os
import shutil
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from bluesky_ptychonn.core.model_card import ModelCard
from bluesky_ptychonn.core.protocols import Engine
from bluesky_ptychonn.edge import swap
from bluesky_ptychonn.edge.swap import EngineSlot, Watch, follow_store, is_store
from bluesky_ptychonn.io.model_store import CURRENT, VERSIONS, open_model, publish, rollback

PROBE = np.full((16, 16), 2 + 0j, np.complex64)
PATTERNS = np.ones((3, 16, 16), np.uint16)
FILES = {"model.onnx": b"a network", "golden.npz": b"a pair"}


def card(version, **values):
    hashes = dict.fromkeys(FILES, 64 * "0")
    return ModelCard(
        "test", version, hashes, **{"frame_px": 16, "patch_px": 8, "pixel_size_um": None, "energy_kev": None, **values}
    )


class Fake:
    """Patches that say which version made them, and with what power of the probe."""

    name, max_batch, guess = "fake", 8, None

    def __init__(self, version, **values):
        self.card = card(version, **values)
        self.frame_px, self.patch_px = self.card.frame_px, self.card.patch_px
        self.power = 0.0

    def set_probe(self, probe):
        self.power = float(np.sum(np.abs(probe) ** 2))

    def infer(self, patterns):
        assert self.power, "the engine has no probe"
        return np.full((len(patterns), self.patch_px, self.patch_px), float(self.card.version), np.float32)


def shown(slot):
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
    assert slot.kept("1") is not None
    assert slot.kept("3") is None


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


def test_each_batch_is_of_one_model_while_another_thread_offers():
    slot = EngineSlot(Fake("1"))
    slot.set_probe(PROBE)
    stop = threading.Event()

    def offer():
        number = 2
        while not stop.is_set():
            slot.offer(Fake(str(number)))
            number += 1

    thread = threading.Thread(target=offer)
    thread.start()
    try:
        found = [slot.infer(PATTERNS)]
        deadline = time.monotonic() + 10
        while slot.swaps <= 10:
            assert time.monotonic() < deadline
            found.append(slot.infer(PATTERNS))
    finally:
        stop.set()
        thread.join()
    versions = [float(patches.max()) for patches in found]
    assert all(patches.min() == patches.max() for patches in found)
    assert versions == sorted(versions)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(swap, "LOOK_S", 0.01)


def eventually(told):
    deadline = time.monotonic() + 5
    while not told():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def world(tmp_path, quick):
    """A store with one version, the slot that runs it, a watch, and the folders that were opened."""
    store = tmp_path / "store"
    publish(store, card("x"), FILES)
    opened = []

    def open_version(folder):
        opened.append(folder.name)
        return Fake(open_model(folder).card.version)

    slot = EngineSlot(open_version(store / VERSIONS / "000001"))
    slot.set_probe(PROBE)
    watch = Watch({store / CURRENT: follow_store(store, slot, open_version)})
    yield SimpleNamespace(store=store, slot=slot, watch=watch, opened=opened)
    watch.close()


def test_a_published_version_is_used_and_a_rollback_opens_nothing(world):
    publish(world.store, card("x"), FILES)
    eventually(lambda: shown(world.slot) == 2)
    rollback(world.store)
    eventually(lambda: shown(world.slot) == 1)
    assert world.opened == ["000001", "000002"]
    assert world.watch.refused == 0


def test_what_was_published_while_the_edge_started_is_used(world):
    publish(world.store, card("x"), FILES)
    world.watch.close()
    world.slot.offer(Fake("000001"))
    late = Watch(
        {world.store / CURRENT: follow_store(world.store, world.slot, lambda folder: Fake(folder.name))},
        at_once=[world.store / CURRENT],
    )
    try:
        eventually(lambda: shown(world.slot) == 2)
    finally:
        late.close()


@pytest.mark.parametrize("harm", ["torn", "no card", "no version"])
def test_a_harmed_version_is_refused_and_the_running_one_stays(world, harm):
    name = publish(world.store, card("x"), FILES, make_current=False)
    folder = world.store / VERSIONS / name
    if harm == "torn":
        (folder / "model.onnx").write_bytes(b"a net")
    elif harm == "no card":
        (folder / "card.json").unlink()
    else:
        shutil.rmtree(folder)
    (world.store / CURRENT).write_text(f"{name}\n")
    eventually(lambda: world.watch.refused)
    assert "the one in use stays: " in world.watch.take_problem()
    assert world.watch.take_problem() == "", "it is said once"
    assert shown(world.slot) == 1
    publish(world.store, card("x"), FILES)
    eventually(lambda: shown(world.slot) == float(world.slot.card.version) > 1)


def test_nothing_happens_while_a_file_is_away_and_it_is_read_when_it_is_back(tmp_path, quick):
    path, read = tmp_path / "probe.npy", []
    path.write_bytes(b"one")
    watch = Watch({path: lambda: read.append(path.read_bytes())})
    try:
        path.unlink()
        time.sleep(0.1)
        assert (read, watch.refused) == ([], 0)
        part = tmp_path / "part"
        part.write_bytes(b"two")
        os.replace(part, path)
        eventually(lambda: read == [b"two"])
        time.sleep(0.1)
        assert read == [b"two"], "once for each change"
    finally:
        watch.close()


def test_which_folder_is_a_store(world, tmp_path):
    assert is_store(world.store)
    assert not is_store(world.store / VERSIONS / "000001")
    assert not is_store(None)

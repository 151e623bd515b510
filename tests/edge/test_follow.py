"""A store and a probe file that change while the edge runs."""

import io
import os
import shutil
import time
from types import SimpleNamespace

import numpy as np
import pytest
from fake_engine import PATTERNS, PROBE, Fake, card

from bluesky_ptychonn.core.model_card import PROBE as PROBE_FILE
from bluesky_ptychonn.core.protocols import EngineMismatch
from bluesky_ptychonn.edge import follow
from bluesky_ptychonn.edge.follow import Follower, Watch, is_store
from bluesky_ptychonn.edge.swap import EngineSlot
from bluesky_ptychonn.io.model_store import CURRENT, VERSIONS, open_model, publish, rollback, set_current, sha256_of

REFINED = 3 * PROBE


def files(network, probe=None):
    held = {"model.onnx": network.encode(), "golden.npz": b"a pair"}
    if probe is not None:
        buffer = io.BytesIO()
        np.save(buffer, probe)
        held[PROBE_FILE] = buffer.getvalue()
    return held


def put(store, network, probe=None, **ways):
    """Publish a version, with a probe or without."""
    held = files(network, probe)
    hashes = {name: sha256_of(data) for name, data in held.items()}
    return publish(store, card("x", files=hashes, probe_sha256=hashes.get(PROBE_FILE, "")), held, **ways)


@pytest.fixture
def world(tmp_path):
    """A store with one version, the slot that runs it, what follows the store, and the folders that were opened."""
    store = tmp_path / "store"
    put(store, "one")
    opened = []

    def open_version(folder):
        opened.append(folder.name)
        engine = Fake(folder.name)
        engine.card = open_model(folder).card
        return engine

    slot = EngineSlot(open_version(store / VERSIONS / "000001"), PROBE)
    slot.set_probe(PROBE)
    follower = Follower(slot, open_version, PROBE)
    return SimpleNamespace(store=store, slot=slot, follower=follower, opened=opened, open_version=open_version)


def in_use(world):
    """Take the current version; return the version in use, whose network infers, and its probe's amplitude."""
    world.follower.take_version(world.store)
    return now(world)


def now(world):
    if (probe := world.slot.exchange()) is not None:
        world.slot.set_probe(probe)
    by = int(world.slot.infer(PATTERNS).max())
    assert world.slot._used.engine.power == pytest.approx(256 * np.abs(world.slot.probe).max() ** 2)
    return world.slot.card.version, by, float(np.abs(world.slot.probe).max())


def test_a_refined_probe_is_taken_up_with_the_engine_that_is_open(world):
    put(world.store, "one", REFINED)
    assert in_use(world) == ("000002", 1, 6.0)
    put(world.store, "two")
    assert in_use(world) == ("000003", 3, 2.0)
    put(world.store, "two", 2 * REFINED)
    assert in_use(world) == ("000004", 3, 12.0)
    rollback(world.store)
    assert in_use(world) == ("000003", 3, 2.0), "back to the probe of the settings"
    set_current(world.store, "000002")
    assert in_use(world) == ("000002", 1, 6.0)
    assert world.opened == ["000001", "000003"]


def test_network_and_probe_of_a_version_are_offered_together(world):
    put(world.store, "two", REFINED)
    world.follower.take_version(world.store)
    assert (world.slot.card.version, float(np.abs(world.slot.probe).max())) == ("000001", 2.0)
    assert now(world) == ("000002", 2, 6.0)


def test_the_probe_of_a_version_goes_before_that_of_the_settings(world):
    put(world.store, "one", REFINED)
    assert in_use(world) == ("000002", 1, 6.0)
    world.follower.take_probe(5 * PROBE)
    assert now(world) == ("000002", 1, 6.0)
    assert world.slot.exchange() is None
    rollback(world.store)
    assert in_use(world) == ("000001", 1, 10.0), "that of the settings as it is now"
    world.follower.take_probe(7 * PROBE)
    assert now(world) == ("000001", 1, 14.0)


def test_the_probe_of_the_version_at_the_start_counts_as_its_own(world):
    put(world.store, "one", REFINED)
    assert in_use(world)[2] == 6.0
    late = Follower(world.slot, world.open_version, PROBE, own_probe=REFINED)
    late.take_probe(5 * PROBE)
    assert now(world) == ("000002", 1, 6.0)


def test_a_probe_of_the_settings_does_not_undo_a_version_that_still_waits(world):
    put(world.store, "two")
    world.follower.take_version(world.store)
    world.follower.take_probe(5 * PROBE)
    assert now(world) == ("000002", 2, 10.0)


@pytest.mark.parametrize(
    ("probe", "reason"),
    [
        (np.ones((8, 8), complex), "of shape"),
        (np.zeros((16, 16), complex), "finite complex values"),
        (np.full((16, 16), np.nan + 0j), "finite complex values"),
        ("torn", "has SHA-256"),
    ],
)
def test_a_version_with_a_harmed_probe_is_refused_and_all_stays(world, probe, reason):
    put(world.store, "one", REFINED)
    assert in_use(world) == ("000002", 1, 6.0)
    name = put(world.store, "two", REFINED if isinstance(probe, str) else probe)
    if isinstance(probe, str):
        path = world.store / VERSIONS / name / PROBE_FILE
        path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(EngineMismatch, match=f"model 000003.*{reason}"):
        world.follower.take_version(world.store)
    assert now(world) == ("000002", 1, 6.0)
    world.follower.take_probe(5 * PROBE)
    assert now(world) == ("000002", 1, 6.0), "the version in use still has its own probe"


def test_a_slot_that_knows_no_probes_is_offered_none(world):
    slot = EngineSlot(world.slot.newest.engine)
    put(world.store, "one", REFINED)
    Follower(slot, world.open_version).take_version(world.store)
    slot.between_runs()
    assert (slot.card.version, slot.probe) == ("000002", None)


@pytest.fixture
def watched(world, monkeypatch):
    monkeypatch.setattr(follow, "LOOK_S", 0.01)
    world.watch = Watch({world.store / CURRENT: lambda: world.follower.take_version(world.store)})
    yield world
    world.watch.close()


def eventually(told):
    deadline = time.monotonic() + 5
    while not told():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_published_version_is_used_and_a_rollback_opens_nothing(watched):
    put(watched.store, "two")
    eventually(lambda: now(watched)[0] == "000002")
    rollback(watched.store)
    eventually(lambda: now(watched)[:2] == ("000001", 1))
    assert watched.opened == ["000001", "000002"]
    assert watched.watch.refused == 0


def test_what_was_published_while_the_edge_started_is_used(world, monkeypatch):
    monkeypatch.setattr(follow, "LOOK_S", 0.01)
    put(world.store, "two")
    path = world.store / CURRENT
    late = Watch({path: lambda: world.follower.take_version(world.store)}, at_once=[path])
    try:
        eventually(lambda: now(world)[0] == "000002")
    finally:
        late.close()


@pytest.mark.parametrize("harm", ["torn", "no card", "no version"])
def test_a_harmed_version_is_refused_and_the_running_one_stays(watched, harm):
    name = put(watched.store, "two", make_current=False)
    folder = watched.store / VERSIONS / name
    if harm == "torn":
        (folder / "model.onnx").write_bytes(b"tw")
    elif harm == "no card":
        (folder / "card.json").unlink()
    else:
        shutil.rmtree(folder)
    (watched.store / CURRENT).write_text(f"{name}\n")
    eventually(lambda: watched.watch.refused)
    assert "the one in use stays: " in watched.watch.take_problem()
    assert watched.watch.take_problem() == "", "it is said once"
    assert now(watched)[0] == "000001"
    put(watched.store, "three")
    eventually(lambda: now(watched)[0] > "000001")


def test_nothing_happens_while_a_file_is_away_and_it_is_read_when_it_is_back(tmp_path, monkeypatch):
    monkeypatch.setattr(follow, "LOOK_S", 0.01)
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


def test_which_folder_is_a_store(world):
    assert is_store(world.store)
    assert not is_store(world.store / VERSIONS / "000001")
    assert not is_store(None)

"""The edge past one process: real pvapy consumers share the frames of a real image server, a gatherer adds them up."""

import os
import re
import signal
import time

import numpy as np
import pytest
from gather_world import GatherWorld

pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]

FRAMES, FPS, BAR_RAD = 300, 200.0, 1e-3
ALL = {
    "frames_stitched": FRAMES,
    "frames_received": FRAMES,
    "frames_lost_wire": 0,
    "account": "closed",
    "pairing": "ok",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """An image server and a client."""
    running = GatherWorld(tmp_path_factory.mktemp("gather"), "openvino", FRAMES, FPS)
    try:
        running.start_stream()
        running.start("client")
        yield running
    finally:
        running.close()
        print(running.log()[-3000:])


@pytest.fixture(scope="module")
def image_of_the_edge(world):
    """Final image of the edge in one process."""
    world.start_edge()
    stats, image, _ = world.run("edge", FRAMES)
    assert ALL.items() <= stats.items(), stats
    world.terminate("edge")
    return image


@pytest.fixture(scope="module")
def image_of_one(world, image_of_the_edge):
    """Final image of one consumer, which works although the other is not there; it is ended by Ctrl-C."""
    world.start_gatherer(2)
    process = world.start_consumers(1)
    world.until(150, engine="1 x openvino")
    stats, image, _ = world.run("one", FRAMES)
    assert ALL.items() <= stats.items(), stats
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    world.until(engine="no consumer")
    return image


@pytest.fixture
def two(world, image_of_one):
    """Two consumers: those of one ``pvapy-hpc-consumer``, or what is left of them and another one."""
    there = world.stats()["engine"]
    if there == "no consumer":
        world.start_consumers(2)
    elif there == "1 x openvino":
        world.start_consumers(2, "--consumer-id-list", "2")
    world.until(150, engine="2 x openvino")


def test_two_consumers_give_the_image_of_one(world, image_of_the_edge, image_of_one, two):
    stats, image, attributes = world.run("two", FRAMES)
    assert ALL.items() <= stats.items(), stats
    assert (attributes["frames_stitched"], attributes["frames_missing"]) == (FRAMES, "")
    shares = [world.share(number) for number in (1, 2)]
    ids = np.concatenate([share["unique_id"] for share in shares])
    assert sorted(ids) == list(range(FRAMES))  # none twice
    assert all(len(share["unique_id"]) == FRAMES // 2 for share in shares)
    for name, other in (("one consumer", image_of_one), ("the edge", image_of_the_edge)):
        seen = ~np.isnan(other)
        np.testing.assert_array_equal(seen, ~np.isnan(image))
        difference_rad = np.abs(image - other)[seen].max()
        print(f"largest difference from {name}: {difference_rad:.3g} rad on {np.count_nonzero(seen)} px")
        assert difference_rad <= BAR_RAD


def test_a_consumer_killed_in_a_run_costs_its_frames_and_they_are_named(world, two, image_of_one):
    pid = world.pid(2)
    world.arm("killed")
    world.send("stream", frames=FRAMES, fps=FPS)
    while world.stats()["frames_stitched"] < FRAMES // 3:
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    world.answer("stream")
    stats = world.end("killed", FRAMES)
    image, attributes = world.final()

    missing = numbers(attributes["frames_missing"])
    print(stats["message"])
    assert "consumer 2 ended in the run" in stats["message"]
    assert f"{len(missing)} frames that were sent are in no consumer" in stats["message"]
    assert stats["frames_lost_wire"] == len(missing) == FRAMES - stats["frames_stitched"] > 0
    assert stats["account"] == "closed"
    assert min(missing) > FRAMES // 4  # not the frames that it had reported
    first = world.share(1)["unique_id"]
    assert not set(missing) & set(first)
    assert set(range(max(missing) + 1, FRAMES)) <= set(first)  # nor those after its end
    assert max(missing) < 0.9 * FRAMES
    seen = ~np.isnan(image)
    assert np.count_nonzero(seen) > 0.9 * np.count_nonzero(~np.isnan(image_of_one))
    assert np.median(np.abs(image - image_of_one)[seen]) < 0.01


def test_a_consumer_that_starts_late_takes_its_share_from_then_on(world, two, image_of_one):
    os.kill(world.pid(2), signal.SIGKILL)
    world.until(engine="1 x openvino")
    slow = FRAMES / 12
    world.arm("late", slow)
    world.send("stream", frames=FRAMES, fps=slow)
    world.until(state="running")
    world.start_consumers(2, "--consumer-id-list", "2")
    world.answer("stream")
    stats = world.end("late", FRAMES)
    image, _ = world.final()
    assert ALL.items() <= stats.items(), stats
    assert stats["engine"] == "2 x openvino"
    first, late = (np.array(world.share(number)["trigger_index"]) for number in (1, 2))
    print(f"{len(late)} frames to the late consumer, {stats['frames_foreign']} given twice and shown once")
    assert 0 < len(late) < FRAMES // 2
    assert sorted([*first[first >= 0], *late[late >= 0]]) == list(range(FRAMES))
    assert np.nanmax(np.abs(image - image_of_one)) <= BAR_RAD


def numbers(named: str) -> list[int]:
    """The ids of a list such as ``3, 5-7``."""
    parts = [re.fullmatch(r"(\d+)(?:-(\d+))?", part) for part in named.split(", ")]
    return [number for part in parts if part for number in range(int(part[1]), int(part[2] or part[1]) + 1)]

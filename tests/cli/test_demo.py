"""The demonstration: which beamline it has, and what it tells of the loop; whole runs are in tests/soak."""

import argparse
import time
from types import SimpleNamespace

import numpy as np
import pytest

from bluesky_ptychonn.cli import demo, demo_loop
from bluesky_ptychonn.cli.demo_figures import Field
from bluesky_ptychonn.config import Settings
from bluesky_ptychonn.core.stitch import Canvas
from bluesky_ptychonn.io.journal import Journal


def asked(*arguments):
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    return demo._filled(parser.parse_args(arguments))


@pytest.mark.parametrize(
    ("arguments", "beamline"),
    [
        ([], ("letters", 4e6, 204.0, 20.4)),
        (["--matching"], ("islands", 4e6, 170.0, 0.0)),
        (["--no-loop"], ("letters", 1e6, 170.0, 0.0)),
        (["--no-loop", "--matching", "--photons", "1e4", "--sample", "etched"], ("etched", 1e4, 170.0, 0.0)),
        (["--defocus-um", "0", "--astigmatism-um", "3"], ("letters", 4e6, 0.0, 3.0)),
        (["--source", "scan.npz"], ("letters", 1e6, 170.0, 0.0)),
    ],
)
def test_each_case_has_its_beamline_unless_the_user_names_another(arguments, beamline):
    options = asked(*arguments)
    found = (options.sample, options.photons, options.defocus_um, options.astigmatism_um)
    assert found == (beamline[0], *map(pytest.approx, beamline[1:]))


def test_the_two_areas_share_no_light():
    from bluesky_ptychonn.core.optics import Geometry

    (y0, x0), (y1, x1) = demo_loop.AREAS_UM
    reach_um = Geometry().field_um
    assert y0 == y1
    assert x1 - x0 > demo.WIDTH_UM + reach_um
    assert x1 + (demo.WIDTH_UM + reach_um) / 2 < 6.0  # the sample ends there


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A loop that works, as far as the demonstration sees it: its journal, its folder, and what the edge uses."""
    stats = {"model_version": "000001"}
    monkeypatch.setattr("bluesky_ptychonn.io.pva.PvaChannel", lambda _: SimpleNamespace(get=lambda: stats))
    loop = SimpleNamespace(runs=True, last_words=lambda: "its last words")
    settings = Settings(loop={"directory": tmp_path})  # type: ignore[arg-type]
    journal = Journal(tmp_path / "journal.sqlite")
    journal.note_start({"uid": "5f3a", "time": time.time(), "scan_id": 1, "ptycho": {}})
    told = []
    watch = demo_loop.Watch(SimpleNamespace(settings=settings, loop=loop), journal, told.append)
    yield SimpleNamespace(journal=journal, stats=stats, loop=loop, told=told, watch=watch, folder=tmp_path)
    journal.close()


def test_each_step_of_the_loop_is_told_once(world):
    world.journal.note_stop({"run_start": "5f3a", "time": time.time(), "exit_status": "success"})
    world.journal.move("5f3a", "training", "mismatch 0.400 is 0.1 or more")
    world.journal.request_training("t1", "asked for by scan 1", at_s=time.time())
    world.watch._tell()
    world.stats["model_version"] = "000002"
    world.journal.move("5f3a", "published", "retrained: version 000002 is live", published_version="000002")

    row = world.watch.until_done("5f3a")
    world.watch.until_swapped("000002")

    assert row.published_version == "000002"
    assert [line for line in world.told if "mismatch 0.400" in line] == [
        "loop: scan 1, training: mismatch 0.400 is 0.1 or more"
    ]
    assert "loop: training, queued: asked for by scan 1" in world.told
    assert world.told[-1] == "loop: scan 1, published: retrained: version 000002 is live"


def test_a_long_job_is_not_silent(world, monkeypatch):
    log = world.folder / "jobs" / "scan-5f3a" / "log.txt"
    log.parent.mkdir(parents=True)
    log.write_text("12:00:00 read\n12:00:05 sweep 6 of 60\n")
    world.watch._tell()
    world.told.clear()
    monkeypatch.setattr(demo_loop, "QUIET_S", -1.0)
    for _ in range(2):
        world.watch._tell()
    assert world.told == ["   scan job: 12:00:05 sweep 6 of 60"]


def test_a_loop_that_ends_or_an_edge_that_does_not_swap_is_told(world, monkeypatch):
    monkeypatch.setattr(demo_loop, "SWAPPED_S", 0.0)
    with pytest.raises(RuntimeError, match="the edge does not use version 000009 after 0 s"):
        world.watch.until_swapped("000009")
    world.loop.runs = False
    with pytest.raises(RuntimeError, match="the loop ended; its log says:\nits last words"):
        world.watch.until_done("5f3a")


def test_an_image_is_compared_with_the_truth_and_drawn(rng, tmp_path):
    truth = rng.standard_normal((40, 40))
    region = (slice(4, 36), slice(4, 36))
    seen = np.pad(np.ones((36, 36)), 2)
    field = Field(None, np.empty(0), Canvas((40, 40), (0.0, 0.0), 0.01), truth, truth, seen, region)  # type: ignore[arg-type]
    same, other = field.compare(truth + 0.3), field.compare(rng.standard_normal((40, 40)))
    assert (same.removed, same.region) == (("constant",), "4:36,4:36")
    assert same.ssim == pytest.approx(1)
    assert other.ssim < 0.3
    field.save(tmp_path / "loop.png", {"before": truth}, "a caption")
    assert (tmp_path / "loop.png").stat().st_size > 10_000

"""Two experiments with one beam, played through the whole loop: the second one takes up the model of the first."""

import contextlib
import hashlib
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("psij")
pytest.importorskip("torch")
pytest.importorskip("openvino")
from simulated_scan import DEFOCUS_UM, GEOMETRY, simulate
from slurm_world import wait_until
from tiny_models import write_candidate
from whole_loop import WholeLoop

from bluesky_ptychonn.callbacks.loop_news import LoopNews
from bluesky_ptychonn.core.optics import zone_plate_probe
from bluesky_ptychonn.io.model_probe import give_probe
from bluesky_ptychonn.io.model_store import VERSIONS, StoredModel, current_version, open_model, publish

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]

WRONG = 1.3
"""Defocus that the scans say over the true one: what the loop refines in the first experiment, the second lacks."""


def go_live(store: Path, model: StoredModel) -> str:
    return publish(store, model.card, {name: (model.directory / name).read_bytes() for name in model.card.files})


def another_beam_goes_live(store: Path, folder: Path) -> str:
    """The same network with the probe of another beam, as after an experiment in between."""
    model = open_model(store / VERSIONS / current_version(store))
    shutil.copytree(model.directory, folder)
    give_probe(folder, model.card, zone_plate_probe(GEOMETRY, defocus_um=-2 * DEFOCUS_UM).astype(np.complex64))
    return go_live(store, open_model(folder))


def fly(loop: WholeLoop, number: int, experiment: str) -> str:
    """One scan of an experiment, until the loop has done with it; its uid."""
    uid, now_s, file = f"{number:08x}-7d11", time.time(), loop.folder / f"scan{number}.npz"
    scan, _ = simulate(number, width_um=0.6, start_defocus=WRONG)
    known = {name: getattr(GEOMETRY, name) for name in ("energy_kev", "distance_m", "detector_pixel_um")}
    np.savez(
        file,
        patterns=scan.patterns,
        positions_um=scan.positions_px * GEOMETRY.pixel_size_um,
        probe=scan.probe,
        **known,
    )
    source = {"file": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    start = {"uid": uid, "time": now_s - 1, "scan_id": number, "ptycho": {}, "source": source}
    loop.note("start", {**start, "experiment": experiment})
    loop.note("stop", {"uid": f"stop-{uid}", "run_start": uid, "time": now_s, "exit_status": "success"})
    wait_until(lambda: uid in {row.uid for row in loop.journal.scans()}, "the scan to be noted", 20)
    loop.settle(280)
    return uid


def test_the_second_experiment_begins_with_the_model_of_the_first(tmp_path):
    with contextlib.closing(WholeLoop(tmp_path, "local", mismatch=0.99)) as loop:
        shutil.rmtree(loop.store)
        go_live(loop.store, open_model(write_candidate(tmp_path / "lift", 1.0)))
        told: list[str] = []
        news = LoopNews(loop.journal.path, told.append, poll_s=0.1)
        loop.start_service()
        first = loop.journal.scan(fly(loop, 1, "first"))
        refined = first.published_version
        assert refined, loop.told("show", first.uid)
        other = another_beam_goes_live(loop.store, tmp_path / "other")
        assert current_version(loop.store) == other > refined

        second = loop.journal.scan(fly(loop, 2, "second"))
        story = loop.told("show", second.uid)
        assert second.live_version == refined, story
        assert current_version(loop.store) in (refined, second.published_version)
        live_again = f"version {refined} of an earlier experiment is live again"
        assert story.count(f"{live_again}: on the first ") == 1
        found = loop.result("residual", second.uid)
        assert found is not None
        residuals = found["residuals"]
        assert min(residuals, key=residuals.__getitem__) == refined
        assert residuals[refined] < 0.95 * residuals[other]
        wait_until(lambda: len(told) == 2, "the news", 20)
        news.close()
        assert [live_again in line for line in told] == [False, True]

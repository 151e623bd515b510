"""Replay measured: frames per second from each kind of source, and how far the image is from the live one."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bluesky_ptychonn.engines.registry import NAMES

if TYPE_CHECKING:
    from bluesky_ptychonn.callbacks.replay import Replayed
    from bluesky_ptychonn.config import Settings
    from bluesky_ptychonn.core.stitch import Canvas

WIDTH_UM, HEIGHT_UM, STEP_UM = 2.74, 2.72, 0.088
CATALOG_S, FINAL_S = 60.0, 20.0
SAME_RAD = 1e-3
"""Largest difference between a replayed and the live image."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the case."""
    parser.add_argument("--engine", choices=NAMES, default="openvino", help="of the edge and of the replay")
    parser.add_argument("--fps", type=float, default=500.0, help="of the live scan; default: 500")
    parser.add_argument("--repeat", type=int, default=3, help="replays of each kind; the median counts; default: 3")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")


def run(options: argparse.Namespace) -> int:
    """Scan once on a beamline of its own, replay, compare; 1 if an image is not the live one."""
    from bluesky_ptychonn.cli.figures import conditions, refuse_unwritable, write_figures
    from bluesky_ptychonn.cli.services import Services, temporary_state

    if options.json:
        refuse_unwritable("--json", options.json)
    with temporary_state() as state, Services(state, engine=options.engine, say=_say, sample="letters") as services:
        uid, catalog, documents = _scan(services, options.fps)
        live = final_of(services.settings.edge.prefix, uid)
        if services.edge:
            services.edge.end()  # it would take its share of the processor
        _say("replaying")
        results = [
            _measured(name, source, live, services.settings, options)
            for name, source in _sources(catalog[uid], documents).items()
        ]
    print(f"{'source':28} {'frames/s':>9} {'us/frame':>9} {'off live, rad':>14}  coverage")
    for result in results:
        same = "the same" if result["coverage_same"] else "ANOTHER"
        print(
            f"{result['test']:28} {result['fps']:9.0f} {result['us_per_frame_mean']:9.1f} "
            f"{result['error_max_rad']:14.2e}  {same}"
        )
    if options.json:
        write_figures(options.json, "bench replay", conditions(engine=options.engine), results)
    return 0 if all(result["coverage_same"] and result["error_max_rad"] <= SAME_RAD for result in results) else 1


def _scan(services: Any, fps: float) -> tuple[str, Any, list[tuple[str, Any]]]:
    """Uid, catalog and documents of one scan."""
    from bluesky_ptychonn.cli.session import open_session
    from bluesky_ptychonn.plans.spiral import spiral_ptycho_scan

    session = open_session(
        services.settings, progress=False, interactive=False, need_catalog=True, catalog_timeout_s=CATALOG_S
    )
    documents: list[tuple[str, Any]] = []
    try:
        _say("scanning")
        plan = spiral_ptycho_scan(
            session.detector,
            session.stage,
            width_um=WIDTH_UM,
            height_um=HEIGHT_UM,
            step_um=STEP_UM,
            exposure_s=0.5 / fps,
            dwell_s=1 / fps,
            edge=session.edge,
            shutter=session.shutter,
        )
        (uid,) = session.RE(plan, lambda name, doc: documents.append((name, doc)))
        if not session.recorder.wait(CATALOG_S):
            raise ConnectionError(f"the catalog did not take run {uid} within {CATALOG_S:g} s")
        return uid, session.cat, documents
    finally:
        session.close()


class Final(NamedTuple):
    """The edge's ``final`` image of a run."""

    phase: np.ndarray
    canvas: "Canvas"
    coverage_max: float
    frames: int


def final_of(prefix: str, uid: str) -> Final:
    """Read the edge's ``final`` image of a run.

    Raises
    ------
    TimeoutError
        If it does not come.
    """
    from bluesky_ptychonn.core.stitch import Canvas
    from bluesky_ptychonn.io.ntndarray import read_image
    from bluesky_ptychonn.io.pva import PvaChannel

    deadline = time.monotonic() + FINAL_S
    while PvaChannel(f"{prefix}stats").get()["final_uid"] != uid:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the edge publishes no final image of run {uid} within {FINAL_S:g} s")
        time.sleep(0.05)
    phase, where = read_image(PvaChannel(f"{prefix}final").get())
    canvas = Canvas(phase.shape, (where["origin_y_um"], where["origin_x_um"]), where["pixel_size_um"])
    return Final(phase, canvas, float(where["coverage_max"]), int(where["frames_stitched"]))


def difference(image: "Replayed", live: Final) -> dict[str, Any]:
    """How far a replayed image is from the live one: ``error_max_rad``, and whether it covers the same."""
    seen, covered = np.isfinite(image.phase), np.isfinite(live.phase)
    same = (
        image.phase.shape == live.phase.shape
        and np.allclose(image.canvas.origin_um, live.canvas.origin_um)
        and np.array_equal(seen, covered)
        and np.isclose(image.coverage.max(), live.coverage_max)
        and image.counts["stitched"] == live.frames
    )
    if image.phase.shape != live.phase.shape:
        return {"coverage_same": False, "error_max_rad": float("inf"), "pixels_differing": image.phase.size}
    off = np.abs(image.phase - live.phase)[seen & covered]
    return {
        "coverage_same": bool(same),
        "error_max_rad": float(off.max(initial=0)),
        "pixels_differing": int(np.count_nonzero(off)),
    }


def _sources(run: Any, documents: list[tuple[str, Any]]) -> dict[str, Callable[[], Any]]:
    """What opens the recording of each kind of source."""
    from bluesky_ptychonn.io.run_documents import open_documents
    from bluesky_ptychonn.io.runs import open_run

    return {
        "Tiled, file at hand": lambda: open_run(run),
        "Tiled, blocks over HTTP": lambda: open_run(run, from_files=False),
        "documents": lambda: open_documents(documents),
    }


def _measured(
    name: str, open_source: Callable[[], Any], live: Final, settings: "Settings", options: argparse.Namespace
) -> dict[str, Any]:
    """Figures of one kind of source; what compiles on first use has been used before."""
    from bluesky_ptychonn.callbacks.replay import replay
    from bluesky_ptychonn.cli.edge import probe_and_mask
    from bluesky_ptychonn.engines.team import open_team

    batch = settings.edge.batch
    engine = open_team(options.engine, max_batch=batch, frame_px=settings.geometry.frame_px)
    probe, bad = probe_and_mask(settings)
    took_s, cpu_s, found = [], [], {}
    for repeat in range(1 + options.repeat):
        began_s, cpu_began_s = time.perf_counter(), time.process_time()
        with open_source() as recording:
            image = replay(recording, engine, probe, bad)
        if repeat:
            took_s.append(time.perf_counter() - began_s)
            cpu_s.append(time.process_time() - cpu_began_s)
        found = difference(image, live)
    per_frame_s = np.array(took_s) / image.counts["stitched"]
    return {
        "test": name,
        "engine": engine.name,
        "model": image.model_version,
        "batch": batch,
        "engines": engine.max_batch // batch,
        "frames": image.counts["stitched"],
        "fps": float(1 / np.median(per_frame_s)),
        "us_per_frame_mean": float(1e6 * per_frame_s.mean()),
        "us_per_frame_std": float(1e6 * per_frame_s.std()),
        "cpu_us_per_frame": float(1e6 * np.median(cpu_s) / image.counts["stitched"]),
        "preparation_included": True,
        **found,
    }


def _say(text: str) -> None:
    print(f"-- {text}", flush=True)

"""Detector to stitched phase at a frame rate: what is lost, how long a frame takes, what it costs."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from bluesky_ptychonn.engines.registry import NAMES

FIELD_UM = 2.74
STEP_UM = 0.088


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the case."""
    parser.add_argument("--size", type=int, default=128, choices=(128,), help="side of a frame, px; the model's")
    parser.add_argument("--fps", type=float, default=1000.0, help="frames per second asked of the detector")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long")
    parser.add_argument("--engine", choices=NAMES, default="openvino", help="of the edge; default: openvino")
    parser.add_argument("--model", type=Path, metavar="DIR", help="of the edge, with --detector bare; default: starter")
    parser.add_argument(
        "--detector", choices=("ioc", "bare"), default="ioc", help="the simulated IOC, or frames of a file and no more"
    )
    parser.add_argument(
        "--engine-core", type=int, metavar="CORE", help="a core for inference alone, with --detector bare"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")


def run(options: argparse.Namespace) -> int:
    """Measure; 1 if frames were lost."""
    from tqdm import tqdm

    from bluesky_ptychonn.cli.figures import conditions, refuse_unwritable, write_figures

    frames = round(options.fps * options.seconds)
    if not (1 <= options.fps <= 5000 and 1 <= frames <= 1_000_000):
        raise ValueError(
            f"--fps {options.fps:g} for --seconds {options.seconds:g} makes {frames} frames; "
            "allowed are 1 to 5000 frames/s and 1 to 1,000,000 frames"
        )
    if (options.model or options.engine_core is not None) and options.detector != "bare":
        raise ValueError("--model and --engine-core are for --detector bare; the IOC's edge is as it comes")
    if options.json:
        refuse_unwritable("--json", options.json)
    with tqdm(total=frames, desc="frames", unit="frame") as bar:
        measure = _bare if options.detector == "bare" else _ioc
        measured_under = conditions(seconds_asked=options.seconds, detector=options.detector, hdf5=False)
        stats, more = measure(options, frames, lambda count: bar.update(count - bar.n))
    result = {**figures_of(stats, options.size, options.fps), **more}
    for name, value in result.items():
        print(f"{name:24} {value}")
    if options.json:
        write_figures(options.json, "bench stream", measured_under, [result])
    clean = not any(result[f"frames_{name}"] for name in ("lost", "unpaired", "shed"))
    return 0 if clean and result["frames_stitched"] == frames else 1


def _ioc(options: argparse.Namespace, frames: int, progress: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    from bluesky_ptychonn.cli.services import Services, temporary_state
    from bluesky_ptychonn.cli.stream import stream_frames

    with (
        temporary_state() as state,
        Services(state, catalog=False, engine=options.engine, sample="letters") as services,
    ):
        positions_um = np.resize(_build_trajectory(services.settings, options.fps), (frames, 2))
        return stream_frames(services.settings, positions_um, options.fps, progress=progress), {}


def _bare(options: argparse.Namespace, frames: int, progress: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    from bluesky_ptychonn.cli.bare import BareEdge
    from bluesky_ptychonn.cli.services import temporary_state
    from bluesky_ptychonn.cli.stream import stream_frames

    with temporary_state() as state, BareEdge(state, options.engine, options.model, options.engine_core) as edge:
        positions_um = np.resize(edge.positions_um, (frames, 2))
        stats = stream_frames(edge.settings, positions_um, options.fps, detector=edge.detector, progress=progress)
        return stats, {"source_latest_ms": edge.detector.sent.get("latest_ms")}


def _build_trajectory(settings: Any, fps: float) -> np.ndarray:
    """Have the stage build a scan, so that the detector knows its frames; returns its positions (N, 2), um."""
    from bluesky_ptychonn.cli.session import make_devices
    from bluesky_ptychonn.core.request import ScanRequest

    detector, stage, _, _ = make_devices(settings)
    stage.wait_for_connection(timeout=15)
    detector.cam.acquire_time.put(0.8 / fps, wait=True)  # the frames are computed for this exposure
    dwell_s = max(1 / fps, 2e-3)  # what the simulated stage can follow
    request = ScanRequest(FIELD_UM, FIELD_UM, STEP_UM, 0.2 * dwell_s, dwell_s, settings.geometry.energy_kev)
    stage.stage()
    stage.prepare(request).wait(timeout=120)
    stage.unstage()
    return request.positions_um


def figures_of(stats: dict[str, Any], size: int, fps_asked: float) -> dict[str, Any]:
    """Flat figures of one stream, from the stats of the edge."""
    lost = sum(max(0, stats[f"frames_lost_{place}"]) for place in ("detector", "plugin", "wire"))
    return {
        "test": f"stream {size}x{size}",
        "model": stats["model_version"],
        "engine": stats["engine"],
        "fps_asked": fps_asked,
        "fps_held": round(stats["fps"], 1),
        "frames_stitched": stats["frames_stitched"],
        "frames_lost": lost,
        "frames_unpaired": stats["frames_unpaired"],
        "frames_shed": stats["frames_shed"],
        "frames_guessed": stats["frames_guessed"],
        "account": stats["account"],
        "latency_ms_p50": round(stats["latency_ms_p50"], 2),
        "latency_ms_p99": round(stats["latency_ms_p99"], 2),
        "latency_ms_max": round(stats["latency_ms_max"], 2),
        "published_ms_p50": round(stats["published_ms_p50"], 2),
        "published_ms_p99": round(stats["published_ms_p99"], 2),
        "gap_ms_max": round(stats["gap_ms_max"], 2),
        "cpu_us_per_frame": round(stats["cpu_us_per_frame"], 1),
    }

"""Measure on this machine; figures as JSON with --json.

    bluesky-ptychonn bench stream --size 128 --fps 1000 --seconds 30 --json stream.json
    bluesky-ptychonn bench phase-retrieval --json retrieval.json
    bluesky-ptychonn bench phase-retrieval --source star.npz --modes 1 2
    bluesky-ptychonn bench learning --json learning.json
    bluesky-ptychonn bench training --minutes 30 --json training.json
    bluesky-ptychonn bench tuning TRAINING --json tuning.json

`stream` runs the whole chain: the detector IOC in its own process sends frames of a simulated sample at the rate asked
for, the edge turns them into phase and stitches them. It fails if a frame is lost, shed or unpaired; never for speed.

`phase-retrieval` runs every method on one simulated scan, from the exact probe and from one 11 % wrong in defocus, and
compares with the truth: likeness (SSIM) against time, resolution, errors. With --source it runs on a recorded scan,
where the error on frames that took no part is what can be asked.

`learning` measures the models that come with the package, and others given by --model, against the frozen test sets and
on a real Siemens star, in ten minutes.

`training` trains the paper's network and ours by either recipe and draws the error against computing time, and against
the number of pairs; `tuning` teaches a trained network a new sample in minutes. Both need hours or tens of minutes.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

FIELD_UM = 2.74
STEP_UM = 0.088


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    from bluesky_ptychonn.cli import bench_learning, bench_retrieval, bench_training, bench_tuning

    cases = parser.add_subparsers(dest="case", required=True, metavar="stream|phase-retrieval|learning|training|tuning")
    stream = cases.add_parser("stream", help="detector IOC to stitched phase at a frame rate")
    stream.add_argument("--size", type=int, default=128, choices=(128,), help="side of a frame, px; the model's")
    stream.add_argument("--fps", type=float, default=1000.0, help="frames per second asked of the detector")
    stream.add_argument("--seconds", type=float, default=30.0, help="how long")
    stream.add_argument("--engine", choices=("auto", "openvino", "lift"), default="auto")
    stream.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    stream.set_defaults(measure=_stream)
    retrieval = cases.add_parser("phase-retrieval", help="every method of phase retrieval: quality and time")
    bench_retrieval.add_arguments(retrieval)
    retrieval.set_defaults(measure=bench_retrieval.run)
    learning = cases.add_parser("learning", help="the models on the frozen test sets and on a real star")
    bench_learning.add_arguments(learning)
    learning.set_defaults(measure=bench_learning.run)
    training = cases.add_parser("training", help="networks and recipes against computing time and training pairs")
    bench_training.add_arguments(training)
    training.set_defaults(measure=bench_training.run)
    tuning = cases.add_parser("tuning", help="learn a new sample in minutes: what it gives, and what is forgotten")
    bench_tuning.add_arguments(tuning)
    tuning.set_defaults(measure=bench_tuning.run)


def run(options: argparse.Namespace) -> int:
    """Measure the case asked for."""
    return options.measure(options)


def _stream(options: argparse.Namespace) -> int:
    """Measure; 1 if frames were lost."""
    from tqdm import tqdm

    from bluesky_ptychonn.cli.figures import conditions, write_figures
    from bluesky_ptychonn.cli.services import Services, temporary_state
    from bluesky_ptychonn.cli.stream import stream_frames

    frames = round(options.fps * options.seconds)
    if not (1 <= options.fps <= 5000 and 1 <= frames <= 1_000_000):
        raise ValueError(
            f"--fps {options.fps:g} for --seconds {options.seconds:g} makes {frames} frames; "
            "allowed are 1 to 5000 frames/s and 1 to 1,000,000 frames"
        )
    with (
        temporary_state() as state,
        Services(state, catalog=False, engine=options.engine, sample="letters") as services,
        tqdm(total=frames, desc="frames", unit="frame") as bar,
    ):
        positions_um = _build_trajectory(services.settings, options.fps)
        measured_under = conditions(seconds_asked=options.seconds, detector="ioc", hdf5=False)
        stats = stream_frames(
            services.settings,
            np.resize(positions_um, (frames, 2)),
            options.fps,
            progress=lambda count: bar.update(count - bar.n),
        )
    result = figures_of(stats, options.size, options.fps)
    for name, value in result.items():
        print(f"{name:24} {value}")
    if options.json:
        write_figures(options.json, "bench stream", measured_under, [result])
    clean = not any(result[f"frames_{name}"] for name in ("lost", "unpaired", "shed"))
    return 0 if clean and result["frames_stitched"] == frames else 1


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
        "account": stats["account"],
        "latency_ms_p50": round(stats["latency_ms_p50"], 2),
        "latency_ms_p99": round(stats["latency_ms_p99"], 2),
        "cpu_us_per_frame": round(stats["cpu_us_per_frame"], 1),
    }

"""Detector to stitched phase at a frame rate: what is lost, how long a frame takes, what it costs."""

import argparse
import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bluesky_ptychonn.engines.registry import NAMES
from bluesky_ptychonn.io.codecs import CODECS

FIELD_UM = 2.74
STEP_UM = 0.088
BARE_ONLY = {"model": None, "engine_core": None, "codec": "none", "size": 128}
"""Options that only a bare detector has, and what they are without being given."""
COLUMNS = {
    "fps_asked": 9, "fps_held": 9, "frames_lost": 11, "frames_shed": 11, "frames_guessed": 14, "latency_ms_p50": 14,
    "latency_ms_p99": 14, "published_ms_p99": 16, "cpu_us_per_frame": 16, "cores_edge": 10, "cores_detector": 14,
}  # fmt: skip
"""What the table of several rates shows, and how wide."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the case."""
    parser.add_argument(
        "--size", type=int, default=128, choices=(128, 512), help="side of a frame, px; 512 are binned to 128"
    )
    parser.add_argument(
        "--fps",
        type=float,
        nargs="+",
        default=[1000.0],
        help="frames per second asked of it; several in turn",
    )
    parser.add_argument("--seconds", type=float, default=30.0, help="how long, each rate")
    parser.add_argument("--engine", choices=NAMES, default="openvino", help="of the edge; default: openvino")
    parser.add_argument("--model", type=Path, metavar="DIR", help="of the edge, with --detector bare; default: starter")
    parser.add_argument(
        "--detector", choices=("ioc", "bare"), default="ioc", help="the simulated IOC, or frames of a file and no more"
    )
    parser.add_argument("--codec", choices=CODECS, default="none", help="of the frames, with --detector bare")
    parser.add_argument(
        "--engine-core", type=int, metavar="CORE", help="a core for inference alone, with --detector bare"
    )
    parser.add_argument("--hdf5", action="store_true", help="have the IOC write the frames, too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")


def run(options: argparse.Namespace) -> int:
    """Measure; 1 if frames were lost."""
    from bluesky_ptychonn.cli.figures import conditions, refuse_unwritable, write_figures
    from bluesky_ptychonn.cli.services import temporary_state

    _refuse(options)
    if options.json:
        refuse_unwritable("--json", options.json)
    measured_under = conditions(
        seconds_asked=options.seconds,
        detector=options.detector,
        hdf5=options.hdf5,
        codec=options.codec,
        engine_core=options.engine_core,
    )
    results: list[dict[str, Any]] = []
    with temporary_state() as state, (_bare if options.detector == "bare" else _ioc)(options, state) as chain:
        for fps in options.fps:
            results.append(_measure(chain, fps, options))
            for name, value in results[-1].items() if len(options.fps) == 1 else ():
                print(f"{name:24} {value}")
    if len(results) > 1:
        print("  ".join(name.rjust(width) for name, width in COLUMNS.items()))
        for result in results:
            print("  ".join(str(result[name]).rjust(width) for name, width in COLUMNS.items()))
    if options.json:
        write_figures(options.json, "bench stream", measured_under, results)
    return 0 if all(_is_clean(result, options.seconds) for result in results) else 1


def _refuse(options: argparse.Namespace) -> None:
    for fps in options.fps:
        frames = round(fps * options.seconds)
        if not (1 <= fps <= 5000 and 1 <= frames <= 1_000_000):
            raise ValueError(
                f"--fps {fps:g} for --seconds {options.seconds:g} makes {frames} frames; "
                "allowed are 1 to 5000 frames/s and 1 to 1,000,000 frames"
            )
    if options.detector == "bare":
        if options.hdf5:
            raise ValueError("--hdf5 is for --detector ioc; a bare detector writes nothing")
        return
    for name, otherwise in BARE_ONLY.items():
        if getattr(options, name) != otherwise:
            raise ValueError(f"--{name.replace('_', '-')} is for --detector bare; the IOC's chain is as it comes")


def _is_clean(result: Mapping[str, Any], seconds: float) -> bool:
    lost = any(result[f"frames_{name}"] for name in ("lost", "unpaired", "shed"))
    return not lost and result["frames_stitched"] == round(result["fps_asked"] * seconds)


class _Chain(NamedTuple):
    """A detector and an edge that run."""

    pids: Mapping[str, int]
    stream: Callable[..., tuple[dict[str, Any], dict[str, Any]]]
    """Takes frames, fps and progress; gives the edge's stats, and more figures."""


def _measure(chain: _Chain, fps: float, options: argparse.Namespace) -> dict[str, Any]:
    from tqdm import tqdm

    frames = round(fps * options.seconds)
    before = {name: _processor_s(pid) for name, pid in chain.pids.items()}
    with tqdm(total=frames, desc=f"{fps:g} frames/s", unit="frame") as bar:
        stats, more = chain.stream(frames, fps, lambda count: bar.update(count - bar.n))
    cores = {
        f"cores_{name}": round((_processor_s(pid) - before[name]) / options.seconds, 2)
        for name, pid in chain.pids.items()
    }
    return {**figures_of(stats, options.size, fps), **cores, **more}


def _processor_s(pid: int) -> float:
    """Processor time of a process so far, s; its last seconds, in which a final image is made, among them."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def _ioc(options: argparse.Namespace, state: Path) -> Iterator[_Chain]:
    from bluesky_ptychonn.cli.services import Services
    from bluesky_ptychonn.cli.stream import stream_frames

    with Services(state, catalog=False, engine=options.engine, sample="letters") as services:

        def stream(frames: int, fps: float, progress: Any) -> tuple[dict[str, Any], dict[str, Any]]:
            positions_um = np.resize(_build_trajectory(services.settings, fps), (frames, 2))
            directory = state / "data" if options.hdf5 else None
            stats = stream_frames(services.settings, positions_um, fps, file_directory=directory, progress=progress)
            return stats, {"frames_written": _written(state / "data")} if directory else {}

        edge = services.edge.pid if services.edge else 0
        yield _Chain({"edge": edge, "detector": services.beamline.pids["detector"]}, stream)


def _written(directory: Path) -> int:
    """Frames in the newest file."""
    import time

    import h5py
    import hdf5plugin  # noqa: F401

    time.sleep(1.0)  # the last chunk
    newest = max(directory.glob("*.h5"), key=lambda path: path.stat().st_mtime)
    with h5py.File(newest, "r", locking=False) as file:
        return len(file["entry/data/data"])  # pyright: ignore[reportArgumentType]


@contextlib.contextmanager
def _bare(options: argparse.Namespace, state: Path) -> Iterator[_Chain]:
    from bluesky_ptychonn.cli.bare import BareEdge
    from bluesky_ptychonn.cli.stream import stream_frames

    chosen = options.engine, options.model, options.engine_core, options.size, options.codec
    with BareEdge(state, *chosen) as edge:

        def stream(frames: int, fps: float, progress: Any) -> tuple[dict[str, Any], dict[str, Any]]:
            positions_um = np.resize(edge.positions_um, (frames, 2))
            stats = stream_frames(edge.settings, positions_um, fps, detector=edge.detector, progress=progress)
            return stats, {"source_latest_ms": edge.detector.sent.get("latest_ms")}

        yield _Chain(edge.pids, stream)


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
    times = ["latency_ms_p50", "latency_ms_p99", "latency_ms_max", "published_ms_p50", "published_ms_p99", "gap_ms_max"]
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
        **{name: round(stats[name], 2) for name in times},
        "cpu_us_per_frame": round(stats["cpu_us_per_frame"], 1),
    }

"""A recorded scan through the same chain as a live one."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from bluesky_ptychonn.core.scan_data import ScanData

FPS = 500.0


def stream_recorded(options: argparse.Namespace, state: Path) -> int:
    """Stream a recorded scan from the detector IOC to the edge; picture and figures as for a simulated one."""
    from bluesky_ptychonn.cli.beamline import beamline_options
    from bluesky_ptychonn.cli.demo_figures import write_summary

    source = Path(options.source)
    scan = read_scan(source, options.pixel_size_nm)
    picture = options.output / "live.png"
    figures = stream_scan(scan, state, picture, title=source.name, engine=options.engine, **beamline_options(options))
    write_summary(options.output / "summary.json", figures)
    return 0 if figures["account"] == "closed" else 1


def stream_scan(
    scan: ScanData,
    state: Path,
    picture: Path,
    *,
    title: str,
    engine: str,
    fps: float = FPS,
    **beamline: Any,
) -> dict[str, Any]:
    """Let the simulated detector send a recorded scan to an edge.

    Parameters
    ----------
    scan : ScanData
        With a probe.
    state : Path
        State directory of the beamline and the edge, which end with it.
    picture : Path
        PNG of the live image beside the lift.
    title : str
        Of the scan.
    engine : str
        Of the edge.
    fps : float
        Frames per second.
    **beamline
        Options of `simulation.beamline.start`; its ``source`` is the file of the scan, by default one that is made.

    Returns
    -------
    dict
        Figures; ``account`` says whether the frame account closed.
    """
    from tqdm import tqdm

    from bluesky_ptychonn.cli.pictures import save_comparison
    from bluesky_ptychonn.cli.services import Services
    from bluesky_ptychonn.cli.stream import stream_frames
    from bluesky_ptychonn.core.metrics import compare_phase, covered_region
    from bluesky_ptychonn.engines.offline import stitch_scan
    from bluesky_ptychonn.engines.registry import open_engine

    if "source" not in beamline:
        beamline["source"] = str(_as_file(scan, state / "scan.npz"))
    with Services(state, catalog=False, engine=engine, say=_say, **beamline) as services:
        from bluesky_ptychonn.cli.edge import load_probe
        from bluesky_ptychonn.core.stitch import Canvas
        from bluesky_ptychonn.io.ntndarray import read_image
        from bluesky_ptychonn.io.pva import PvaChannel

        settings = services.settings
        geometry = settings.geometry
        pixel_um = scan.pixel_size_um or geometry.optics.pixel_size_um
        positions_um = scan.positions_px * pixel_um
        with tqdm(total=len(positions_um), desc="frames", unit="frame") as bar:
            stats = stream_frames(
                settings,
                positions_um,
                fps,
                pixel_size_um=pixel_um,
                progress=lambda count: bar.update(count - bar.n),
            )
        live, where = read_image(PvaChannel(f"{settings.edge.prefix}final").get())
        canvas = Canvas(live.shape, (where["origin_y_um"], where["origin_x_um"]), where["pixel_size_um"])
        assert settings.probe.file is not None
        probe = load_probe(settings.probe.file, geometry.frame_px)
        lift = open_engine("lift", frame_px=geometry.frame_px)
        lifted, coverage, _ = stitch_scan(lift, scan.patterns, positions_um, probe, pixel_um, canvas)
    seen = coverage > 0.02 * coverage.max()
    name = f"network ({stats['model_version']}), live" if stats["model_version"] else "lift, live"
    images = [("lift only", lifted), (name, live)]
    likeness = compare_phase(live, lifted, region=covered_region(coverage)).correlation
    caption = (
        f"{title}: {stats['frames_stitched']} recorded frames at {stats['fps']:.0f} frames/s; "
        f"correlation of live and lift {likeness:.2f}"
    )
    save_comparison(
        picture,
        [(name, np.where(seen, image, np.nan)) for name, image in images],
        coverage,
        pixel_um,
        caption,
    )
    keys = ("frames_triggered", "frames_received", "frames_stitched", "frames_unpaired", "account", "model_version")
    lost = sum(max(0, stats[f"frames_lost_{place}"]) for place in ("detector", "plugin", "wire"))
    figures = {key: stats[key] for key in keys} | {"frames_lost": lost, "fps": round(stats["fps"], 1)}
    figures |= {key: round(stats[key], 2) for key in ("latency_ms_p50", "latency_ms_p99")}
    figures["correlation_live_vs_lift"] = round(likeness, 4)
    _say(f"picture: {picture}")
    return figures | {"pixel_size_nm": pixel_um * 1e3}


def _as_file(scan: ScanData, path: Path) -> Path:
    """Write a scan for the simulated detector, which plays files."""
    assert scan.probe is not None
    probe = scan.probe if scan.probe.ndim == 2 else scan.probe[0]
    never = ~scan.valid.any(axis=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, patterns=scan.patterns, positions_px=scan.positions_px, probe=probe, mask=never)
    return path


def read_scan(path: Path, pixel_size_nm: float | None) -> ScanData:
    """Read a recorded scan that can be played: with a probe, and with light and a position in every frame.

    Raises
    ------
    ValueError
        If it cannot be read or lacks something.
    """
    from bluesky_ptychonn.io.scan_files import read_scan_file

    try:
        scan = read_scan_file(path, pixel_size_nm=pixel_size_nm)
    except ValueError as error:
        raise ValueError(f"--source {error}") from error
    if scan.probe is None:
        raise ValueError(f"--source {path} has no probe; save the illumination with it")
    if scan.left_out:
        raise ValueError(f"--source {path}: {'; '.join(scan.notes)}; it is played frame by frame: save it without them")
    return scan


def _say(text: str) -> None:
    print(f"-- {text}", flush=True)

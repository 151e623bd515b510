"""A scan with its live phase image on the simulated beamline; pictures and figures as files.

    bluesky-ptychonn demo                                 963 positions on the fly at 500 frames/s
    bluesky-ptychonn demo --photons 1e4 --sample etched   less light, another sample
    bluesky-ptychonn demo --source scan.npz --pixel-size-nm 10     real frames through the same chain

Starts the beamline (real EPICS servers), a Tiled catalog and the edge, runs one `spiral_ptycho_scan`, writes `live.png`
and `summary.json`, and ends every process it started, also on Ctrl-C. Fails if the frame account does not close.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from bluesky_ptychonn.cli.beamline import add_beamline_options, beamline_options
from bluesky_ptychonn.engines.registry import NAMES

WIDTH_UM, HEIGHT_UM, STEP_UM = 2.74, 2.72, 0.088
EXPOSURE_S, DWELL_S = 0.5e-3, 2e-3
CATALOG_S = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--output", type=Path, default=Path("demo_output"), help="folder for pictures and figures")
    parser.add_argument("--engine", choices=NAMES, default="openvino", help="of the edge")
    parser.add_argument(
        "--pixel-size-nm", type=float, help="object pixel of a recorded scan whose file does not tell it"
    )
    add_beamline_options(parser)


def run(options: argparse.Namespace) -> int:
    """Run the demonstration; 1 if the account does not close."""
    from bluesky_ptychonn.cli.recorded import stream_recorded
    from bluesky_ptychonn.cli.services import temporary_state

    options.output.mkdir(parents=True, exist_ok=True)
    with temporary_state() as state:
        if options.source != "physics":
            return stream_recorded(options, state)
        return _scan_simulated(options, state)


def _scan_simulated(options: argparse.Namespace, state: Path) -> int:
    from bluesky_ptychonn.cli.services import Services
    from bluesky_ptychonn.cli.session import open_session

    with Services(state, engine=options.engine, say=_say, **beamline_options(options)) as services:
        session = open_session(
            services.settings,
            progress=sys.stderr.isatty(),
            interactive=False,
            need_catalog=True,
            catalog_timeout_s=CATALOG_S,
        )
        try:
            from bluesky_ptychonn.plans.spiral import spiral_ptycho_scan

            _say("scanning")
            (uid,) = session.RE(
                spiral_ptycho_scan(
                    session.detector,
                    session.stage,
                    width_um=WIDTH_UM,
                    height_um=HEIGHT_UM,
                    step_um=STEP_UM,
                    exposure_s=EXPOSURE_S,
                    dwell_s=DWELL_S,
                    sample_name=options.sample,
                    edge=session.edge,
                    shutter=session.shutter,
                )
            )
            _say("reading the run back from the catalog")
            if not session.recorder.wait(CATALOG_S):
                raise ConnectionError(f"the catalog did not take run {uid} within {CATALOG_S:g} s")
            summary = _compare(session, uid, services, options)
        finally:
            session.close()
    write_summary(options.output / "summary.json", summary)
    _say(f"picture: {options.output / 'live.png'}; figures: {options.output / 'summary.json'}")
    return 0 if summary["account"] == "closed" else 1


def _compare(session: Any, uid: str, services: Any, options: argparse.Namespace) -> dict[str, Any]:
    """The live image beside truth and lift; figures of the run."""
    import numpy as np
    from scipy import ndimage

    from bluesky_ptychonn.cli.edge import load_probe
    from bluesky_ptychonn.cli.pictures import save_comparison
    from bluesky_ptychonn.core.frames import FrameGeometry
    from bluesky_ptychonn.core.metrics import compare_phase, covered_region
    from bluesky_ptychonn.core.stitch import Canvas
    from bluesky_ptychonn.engines.offline import stitch_scan
    from bluesky_ptychonn.engines.registry import open_engine
    from bluesky_ptychonn.io.ntndarray import read_image
    from bluesky_ptychonn.io.pva import PvaChannel
    from bluesky_ptychonn.io.runs import read_run

    settings = services.settings
    prefix, geometry = settings.edge.prefix, settings.geometry
    stats = PvaChannel(f"{prefix}stats").get()
    live, where = read_image(PvaChannel(f"{prefix}final").get())
    canvas = Canvas(live.shape, (where["origin_y_um"], where["origin_x_um"]), where["pixel_size_um"])

    scan = read_run(session.cat[uid])
    frames = FrameGeometry(
        scan.frames.shape[1:],
        geometry.frame_px,
        geometry.beam_center_px,
        np.load(geometry.bad_pixels_file).astype(bool),
        geometry.orientation,
        geometry.binning,
    )
    probe = load_probe(settings.probe.file, geometry.frame_px)
    lift = open_engine("lift", frame_px=geometry.frame_px)
    lifted, coverage, _ = stitch_scan(
        lift, frames.patterns(scan.frames), scan.positions_um, probe, canvas.pixel_size_um, canvas
    )
    with np.load(services.directory / "truth.npz") as truth_file:
        object_, truth_px = truth_file["object"], float(truth_file["pixel_size_um"])
        truth_origin = truth_file["origin_um"]
    rows, columns = np.indices(live.shape) * canvas.pixel_size_um
    at = (rows + canvas.origin_um[0] - truth_origin[0]), (columns + canvas.origin_um[1] - truth_origin[1])
    truth = ndimage.map_coordinates(np.angle(object_), [part / truth_px for part in at], order=1)
    region = covered_region(coverage)
    network, lift_only = (compare_phase(image, truth, region=region) for image in (live, lifted))

    seen = coverage > 0.02 * coverage.max()
    images = [("truth", truth), ("lift only", lifted), (f"network ({stats['model_version'] or 'lift'}), live", live)]
    caption = (
        f"{options.sample}, {stats['frames_stitched']} frames at {stats['fps']:.0f} frames/s, "
        f"{options.photons:.0e} photons each; SSIM against truth: "
        f"live {network.ssim:.3f}, lift only {lift_only.ssim:.3f}"
    )
    save_comparison(
        options.output / "live.png",
        [(title, np.where(seen, image, np.nan)) for title, image in images],
        coverage,
        canvas.pixel_size_um,
        caption,
    )
    lost = sum(max(0, stats[f"frames_lost_{place}"]) for place in ("detector", "plugin", "wire"))
    account = session.cat[uid]["account"].read()
    return {
        "frames_triggered": stats["frames_triggered"],
        "frames_received": stats["frames_received"],
        "frames_stitched": stats["frames_stitched"],
        "frames_lost": lost,
        "frames_unpaired": stats["frames_unpaired"],
        "frames_recorded": len(scan.frames) + scan.unpaired,
        "account": str(np.asarray(account["account_state"]).ravel()[-1]),
        "fps": round(stats["fps"], 1),
        "ssim_live_vs_truth": round(network.ssim, 4),
        "ssim_lift_vs_truth": round(lift_only.ssim, 4),
        "mae_rad_live_vs_truth": round(network.mae_rad, 4),
        "removed": "+".join(network.removed),
        "data_range": round(network.data_range, 4),
        "region": network.region,
        "photons_per_frame": options.photons,
        "latency_ms_p50": round(stats["latency_ms_p50"], 2),
        "latency_ms_p99": round(stats["latency_ms_p99"], 2),
        "cpu_us_per_frame": round(stats["cpu_us_per_frame"], 1),
        "run_uid": uid,
        "model_version": stats["model_version"],
        "engine": stats["engine"],
    }


def write_summary(path: Path, summary: dict[str, Any]) -> None:
    """Write flat figures as JSON and show them."""
    import json

    text = json.dumps(summary, indent=2)
    path.write_text(text + "\n")
    print(text)


def _say(text: str) -> None:
    print(f"-- {text}", flush=True)

"""Images and figures of the demonstration: each against the truth, on the frames that the catalog gives back."""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bluesky_ptychonn.core.metrics import PhaseComparison, compare_phase
from bluesky_ptychonn.core.recorded_run import RecordedRun
from bluesky_ptychonn.core.stitch import Canvas

SEEN = 0.02
"""Coverage, in units of the highest, from which on a pixel is shown."""


@dataclass(frozen=True)
class Field:
    """What a scan saw, and the truth of it, on one canvas.

    Attributes
    ----------
    recorded : RecordedRun
    patterns : (N, n, n) unsigned integer
    canvas : Canvas
    truth, lifted : (H, W) float
        Phase of the sample, and of the lift alone, rad.
    coverage : (H, W) float
    region : pair of slices
        What is compared.
    """

    recorded: RecordedRun
    patterns: np.ndarray
    canvas: Canvas
    truth: np.ndarray
    lifted: np.ndarray
    coverage: np.ndarray
    region: tuple[slice, slice]

    def compare(self, image: np.ndarray) -> PhaseComparison:
        """An image against the truth; a constant is removed."""
        return compare_phase(image, self.truth, region=self.region)

    def stitched(self, engine: Any, probe: np.ndarray) -> np.ndarray:
        """The image that a model gives of the scan's frames with a probe."""
        from bluesky_ptychonn.engines.offline import stitch_scan

        positions_um, pixel_um = self.recorded.positions_um, self.canvas.pixel_size_um
        return stitch_scan(engine, self.patterns, positions_um, probe, pixel_um, self.canvas)[0]

    def save(self, path: Path, images: Mapping[str, np.ndarray], caption: str) -> None:
        """Draw images beside the truth."""
        from bluesky_ptychonn.cli.pictures import save_comparison

        seen = self.coverage > SEEN * self.coverage.max()
        shown = [(title, np.where(seen, image, np.nan)) for title, image in {"truth": self.truth, **images}.items()]
        save_comparison(path, shown, self.coverage, self.canvas.pixel_size_um, caption)


def read_field(run: Any, services: Any, canvas: Canvas) -> Field:
    """Read a scan back from the catalog, with the truth on the pixels of a canvas."""
    from scipy import ndimage

    from bluesky_ptychonn.cli.edge import load_probe
    from bluesky_ptychonn.core.frames import FrameGeometry
    from bluesky_ptychonn.core.metrics import covered_region
    from bluesky_ptychonn.engines.offline import stitch_scan
    from bluesky_ptychonn.engines.registry import open_engine
    from bluesky_ptychonn.io.runs import read_run

    geometry = services.settings.geometry
    recorded = read_run(run)
    frames = FrameGeometry(
        recorded.frames.shape[1:],
        geometry.frame_px,
        geometry.beam_center_px,
        np.load(geometry.bad_pixels_file).astype(bool),
        geometry.orientation,
        geometry.binning,
    )
    patterns = frames.patterns(recorded.frames)
    probe = load_probe(services.settings.probe.file, geometry.frame_px)
    lift = open_engine("lift", frame_px=geometry.frame_px)
    lifted, coverage, _ = stitch_scan(lift, patterns, recorded.positions_um, probe, canvas.pixel_size_um, canvas)
    with np.load(services.directory / "truth.npz") as truth_file:
        object_, truth_px = truth_file["object"], float(truth_file["pixel_size_um"])
        truth_origin = truth_file["origin_um"]
    rows, columns = np.indices(canvas.shape) * canvas.pixel_size_um
    at = (rows + canvas.origin_um[0] - truth_origin[0]), (columns + canvas.origin_um[1] - truth_origin[1])
    truth = ndimage.map_coordinates(np.angle(object_), [part / truth_px for part in at], order=1)
    return Field(recorded, patterns, canvas, truth, lifted, coverage, covered_region(coverage))


def compare_live(session: Any, uid: str, services: Any, options: argparse.Namespace) -> tuple[dict[str, Any], Field]:
    """Draw the live image of the last scan beside truth and lift; figures of the run, and its field."""
    from bluesky_ptychonn.io.ntndarray import read_image
    from bluesky_ptychonn.io.pva import PvaChannel

    prefix = services.settings.edge.prefix
    stats = PvaChannel(f"{prefix}stats").get()
    live, where = read_image(PvaChannel(f"{prefix}final").get())
    canvas = Canvas(live.shape, (where["origin_y_um"], where["origin_x_um"]), where["pixel_size_um"])
    field = read_field(session.cat[uid], services, canvas)
    network, lift_only = field.compare(live), field.compare(field.lifted)
    field.save(
        options.output / "live.png",
        {"lift only": field.lifted, f"network ({stats['model_version'] or 'lift'}), live": live},
        f"{options.sample}, {stats['frames_stitched']} frames at {stats['fps']:.0f} frames/s, "
        f"{options.photons:.0e} photons each; SSIM against truth: "
        f"live {network.ssim:.3f}, lift only {lift_only.ssim:.3f}",
    )
    lost = sum(max(0, stats[f"frames_lost_{place}"]) for place in ("detector", "plugin", "wire"))
    figures = {
        "frames_triggered": stats["frames_triggered"],
        "frames_received": stats["frames_received"],
        "frames_stitched": stats["frames_stitched"],
        "frames_lost": lost,
        "frames_unpaired": stats["frames_unpaired"],
        "frames_recorded": len(field.recorded.frames) + field.recorded.unpaired,
        "account": account_of(session.cat[uid]),
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
    return figures, field


def account_of(run: Any) -> str:
    """How the frame account of a run in the catalog ends: ``closed``, or why not."""
    return str(np.asarray(run["account"].read()["account_state"]).ravel()[-1])


def write_summary(path: Path, summary: Mapping[str, Any]) -> None:
    """Write flat figures as JSON and show them."""
    text = json.dumps(summary, indent=2)
    path.write_text(text + "\n")
    print(text)

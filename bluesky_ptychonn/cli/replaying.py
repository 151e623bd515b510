"""What `replay` and `export` share: a recorded run or file, the engine, and the image that they make."""

import argparse
import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bluesky_ptychonn.cli.main import Problem
from bluesky_ptychonn.cli.retrieval_source import (
    AUTO,
    FILES,
    IN_BLOCK,
    add_source_options,
    read_source,
    run_of_catalog,
    with_probe,
)
from bluesky_ptychonn.core.optics import Geometry
from bluesky_ptychonn.core.scan_data import ScanData
from bluesky_ptychonn.engines.registry import NAMES

if TYPE_CHECKING:
    from bluesky_ptychonn.callbacks.replay import Replayed
    from bluesky_ptychonn.config import Settings
    from bluesky_ptychonn.core.reconstruction import Reconstruction
    from bluesky_ptychonn.core.recorded_run import Recording


@dataclass(frozen=True)
class Source:
    """A run or a scan file, open.

    Parameters
    ----------
    settings : Settings
    name : str
        For files that are made of it.
    recording : Recording or ScanData
    bad_pixels : (H, W) bool, optional
        Of a run's frames.
    probe : (n, n) or (M, n, n) complex64, optional
        As asked for, else as the source or the settings know it.
    probe_asked : bool
        Whether the user named it: then it goes before the model's own.
    run : tiled client, optional
        The run, if it comes from a catalog.
    """

    settings: "Settings"
    name: str
    recording: "Recording | ScanData"
    bad_pixels: np.ndarray | None
    probe: np.ndarray | None
    probe_asked: bool
    run: Any = None

    @property
    def title(self) -> str:
        """For pictures: sample and number of a run, or the name of a file."""
        if isinstance(self.recording, ScanData):
            return self.name
        start = self.recording.start
        parts = start.get("sample_name"), f"scan {start['scan_id']}" if "scan_id" in start else "", f"run {self.name}"
        return ", ".join(part for part in parts if part)

    @property
    def crop_px(self) -> int:
        """Side of the patterns."""
        if isinstance(self.recording, ScanData):
            return self.recording.patterns.shape[-1]
        return int(self.recording.start["ptycho"]["crop_px"])

    def scan(self) -> ScanData:
        """All diffraction patterns, cut and oriented."""
        if isinstance(self.recording, ScanData):
            return replace(self.recording, probe=self.probe)
        from bluesky_ptychonn.io.runs import scan_from_run

        return scan_from_run(self.recording.read(), bad_pixels=self.bad_pixels, probe=self.probe)


def add_replay_options(parser: argparse.ArgumentParser) -> None:
    """The source, its geometry, and what makes the image."""
    add_source_options(parser)
    image = parser.add_argument_group("the image")
    image.add_argument("--engine", choices=NAMES, help="instead of edge.engine of the settings")
    image.add_argument(
        "--model", type=Path, metavar="DIR", help="model store or version, starter or large; default: edge.model"
    )
    image.add_argument(
        "--reconstruction", type=Path, metavar="FILE", help="of the same scan, as `reconstruct` writes it: goes beside"
    )


@contextlib.contextmanager
def opened(options: argparse.Namespace) -> Iterator[Source]:
    """Open what the options name.

    Raises
    ------
    Problem, ValueError
        If it cannot be read; the message says what to do.
    """
    from bluesky_ptychonn.callbacks.replay import LINES, open_recording
    from bluesky_ptychonn.config import load_settings
    from bluesky_ptychonn.io.scan_files import read_mask

    settings = load_settings(options.settings)
    if options.orientation == AUTO:
        raise Problem("--orientation auto is for `reconstruct`, which can find it out; name one, or leave it out")
    path = Path(options.source)
    if path.suffix in FILES or (path.is_file() and path.suffix != LINES):
        scan, name, _ = read_source(options)
        if options.probe:
            scan = with_probe(scan, options)
        yield Source(settings, name, scan, None, scan.probe, bool(options.probe))
        return
    if options.pixel_size_nm is not None:
        raise Problem("--pixel-size-nm is for files; a run knows its geometry; give --energy-kev, --distance-m, ...")
    run = None if path.suffix == LINES else run_of_catalog(settings, options.source)
    with open_recording(path if run is None else run) as recording:
        asked = {name: getattr(options, name) for name in (*IN_BLOCK, "orientation")}
        block = recording.start["ptycho"] | {name: value for name, value in asked.items() if value is not None}
        recording = replace(recording, start={**recording.start, "ptycho": block})
        mask_file = options.mask or settings.geometry.bad_pixels_file
        bad = None if mask_file is None else read_mask(mask_file, recording.frames.shape[1:], "the mask")
        name = recording.start["uid"][:8]
        yield Source(settings, name, recording, bad, _probe_of_run(options, settings, block), bool(options.probe), run)


def _probe_of_run(options: argparse.Namespace, settings: Any, block: Any) -> np.ndarray | None:
    from bluesky_ptychonn.cli.edge import load_probe, settings_probe

    n = int(block["crop_px"])
    if not options.probe:
        if settings.probe.file is not None:
            return load_probe(settings.probe.file, n)
        return None if settings.probe.defocus_um is None else settings_probe(settings)
    geometry = Geometry(
        block["energy_kev"], block["distance_m"], block["detector_pixel_um"] * block.get("binning", 1), n
    )
    blank = ScanData(np.zeros((1, n, n), np.uint16), np.zeros((1, 2)), geometry.pixel_size_um, geometry)
    return with_probe(blank, options).probe


def replayed(source: Source, options: argparse.Namespace) -> "Replayed":
    """Make the image of a source, with the engine of the options; tells how far it is.

    Raises
    ------
    Problem, ValueError
        If there is no probe, or the engine cannot do it.
    """
    from tqdm import tqdm

    from bluesky_ptychonn.callbacks.replay import replay
    from bluesky_ptychonn.cli.edge import stored_model
    from bluesky_ptychonn.engines.team import open_team
    from bluesky_ptychonn.io.model_probe import probe_of

    settings = source.settings
    name = options.engine or settings.edge.engine
    model = None if name == "lift" else stored_model(options.model or settings.edge.model)
    own = None if model is None else probe_of(model)
    probe = own if own is not None and not source.probe_asked else source.probe
    if probe is None:
        raise Problem(
            f"{options.source} has no probe, and neither the model nor the settings name one; give --probe FILE, "
            "or probe.file in the settings"
        )
    engine = open_team(
        name, None if model is None else model.directory, max_batch=settings.edge.batch, frame_px=source.crop_px
    )
    with tqdm(desc="frames", unit="frame", disable=not sys.stderr.isatty(), leave=False) as bar:

        def show(done: int, of: int) -> None:
            bar.total = of
            bar.update(done - bar.n)

        probe = probe if probe.ndim == 2 else probe[0]
        return replay(source.recording, engine, probe.astype(np.complex64), source.bad_pixels, show)


def reconstruction_beside(options: argparse.Namespace, image: "Replayed") -> "Reconstruction | None":
    """The reconstruction which the options name.

    Raises
    ------
    Problem, ValueError
        If it is of another scan, or cannot be read.
    """
    if options.reconstruction is None:
        return None
    from bluesky_ptychonn.io.reconstruction_files import read_reconstruction

    found = read_reconstruction(options.reconstruction)
    for key in ("run_uid", "sha256"):
        here, there = image.provenance.get(key), found.provenance.get(key)
        if here and there and here != there:
            raise Problem(f"--reconstruction {options.reconstruction} is of another scan, {there}; give that of {here}")
    return found


def on_pixels_of(reconstruction: "Reconstruction", image: "Replayed") -> tuple[np.ndarray, np.ndarray]:
    """Phase and coverage of an image on the pixels of a reconstruction; NaN and 0 where it saw nothing."""
    from scipy import ndimage

    pixel_um = reconstruction.pixel_size_um or image.canvas.pixel_size_um
    y, x = np.indices(reconstruction.object_.shape)
    at_px = [
        ((index + origin_px) * pixel_um - origin_um) / image.canvas.pixel_size_um
        for index, origin_px, origin_um in zip((y, x), reconstruction.origin_px, image.canvas.origin_um)
    ]
    coverage = ndimage.map_coordinates(image.coverage, at_px, order=0, cval=0)
    seen = np.where(np.isfinite(image.phase), image.phase, 0)
    phase = ndimage.map_coordinates(seen, at_px, order=1, cval=0)
    return np.where(coverage > 0, phase, np.nan), coverage


def tell(image: "Replayed", source: str) -> None:
    """Say what became of the frames, and what the user should know."""
    counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in image.counts.items())
    model = f"model {image.model_version}" if image.model_version else "no model"
    print(f"{source}: frames: {counts}; positions {image.positions_source}; {image.engine}, {model}")
    for note in image.notes:
        print(f"note: {note}")

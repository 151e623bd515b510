"""Beam centre and bad pixels from a few frames: no probe and no positions are needed.

    bluesky-ptychonn center scan.h5                 frames of a file: HDF5 of the detector, CXI, NPZ, NPY
    bluesky-ptychonn center --live                  frames as they come over pvAccess, while a scan runs
    bluesky-ptychonn center --live --write          and put both into the settings file

The centre is that about which the mean frame looks the same when turned by half. Frames of a scan with enough light
make it sharp; the margin says how sharp. Only pixels that light reached can be found dead; a picture shows all of it.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from bluesky_ptychonn.cli.settings import add_settings_option

LARGE_MARGIN_PX = 1.0
DATASETS = ("entry/data/data", "entry_1/data_1/data", "entry_1/instrument_1/detector_1/data")
"""Of areaDetector's and Eiger's files, and of CXI."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("frames", metavar="FRAMES", type=Path, nargs="?", help="file of frames: .h5, .cxi, .npz, .npy")
    add_settings_option(parser)
    parser.add_argument("--live", action="store_true", help="frames of the detector of the settings, as they come")
    parser.add_argument("--patterns-path", metavar="PATH", help="of the frames in an HDF5 file")
    parser.add_argument("--count", type=int, default=64, metavar="N", help="frames to use, 8 to 10000; default: 64")
    parser.add_argument("--seconds", type=float, default=60.0, help="with --live: how long to wait; default: 60")
    parser.add_argument("--picture", type=Path, default=Path("center.png"), metavar="FILE", help="default: center.png")
    parser.add_argument("--write", action="store_true", help="put them into the settings file, and the mask beside it")


def run(options: argparse.Namespace) -> int:
    """Find, show, and write."""
    from bluesky_ptychonn.cli.center_output import save_picture, write_into_settings
    from bluesky_ptychonn.cli.figures import refuse_unwritable
    from bluesky_ptychonn.cli.main import Problem
    from bluesky_ptychonn.config import load_settings, settings_path
    from bluesky_ptychonn.core.beam_center import find_bad_pixels, find_beam_center

    settings, path = load_settings(options.settings), settings_path(options.settings)
    if options.live == (options.frames is not None):
        raise Problem("give a file of frames, or --live")
    if not 8 <= options.count <= 10_000:
        raise Problem(f"--count {options.count} is outside 8 to 10000 frames")
    if options.write and path is None:
        raise Problem("--write needs a settings file; begin one with `bluesky-ptychonn config init`")
    refuse_unwritable("--picture", options.picture)
    frames = _live_frames(settings, options) if options.live else read_frames(options)
    bad = find_bad_pixels(frames)
    beam = find_beam_center(frames, bad.mask)
    y, x = beam.center_px
    print(f"{len(frames)} frames of {frames.shape[1]} x {frames.shape[2]} px")
    print(f"beam centre (row, column): {y:.2f}, {x:.2f} px, +- {beam.margin_px:.2f} px")
    print(
        f"bad pixels: {int(bad.mask.sum())} ({bad.missing} without data, {bad.dead} dead, {bad.hot} hot, "
        f"{bad.stuck} stuck); {bad.judged:.0%} of the others saw enough light to be judged"
    )
    if not bad.moved:
        print("the frames are all of one place, or of none: dead pixels were not looked for; take them from a scan")
    if beam.margin_px > LARGE_MARGIN_PX:
        print(
            f"the margin is large: the cone's centre of mass lies {beam.disagreement_px:.1f} px away; take frames "
            "without sample, or more of them, and look at the picture"
        )
    save_picture(options.picture, frames, bad.mask, beam, settings.geometry)
    print(f"{options.picture} shows them")
    if options.write and path is not None:
        print(write_into_settings(path, settings, bad.mask, beam))
    return 0


def read_frames(options: argparse.Namespace) -> np.ndarray:
    """Frames of a file (B, H, W), evenly taken from it, as unsigned counts.

    Raises
    ------
    ValueError
        If it cannot be read, or holds none.
    """
    from bluesky_ptychonn.core.counts import unsigned_counts

    path = options.frames
    try:
        if path.suffix == ".npy":
            return unsigned_counts(_some(np.load(path, mmap_mode="r", allow_pickle=False), options.count))[0]
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return unsigned_counts(_some(file["patterns"], options.count))[0]
        return unsigned_counts(_of_hdf5(path, options))[0]
    except KeyError as error:
        raise ValueError(
            f"{path} holds no {error}; name its frames by --patterns-path, or 'patterns' in NPZ"
        ) from error
    except (OSError, EOFError) as error:
        raise ValueError(f"{path} cannot be read: {error}; give HDF5, CXI, NPZ or NPY") from error


def _of_hdf5(path: Path, options: argparse.Namespace) -> np.ndarray:
    import contextlib

    import h5py

    with contextlib.suppress(ImportError):
        import hdf5plugin  # noqa: F401  # pyright: ignore[reportMissingImports]  # filters of detectors
    with h5py.File(path, "r") as file:
        wanted = (options.patterns_path,) if options.patterns_path else DATASETS
        found = next((name for name in wanted if name in file), None)
        if found is None:
            raise KeyError(" and no ".join(wanted))
        return _some(file[found], options.count)


def _some(frames: Any, count: int) -> np.ndarray:
    if len(getattr(frames, "shape", ())) != 3:
        raise ValueError(f"frames have shape {getattr(frames, 'shape', None)}; (N, H, W) is needed")
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(count, len(frames))).astype(int))
    return np.asarray(frames[chosen])


def _live_frames(settings: Any, options: argparse.Namespace) -> np.ndarray:
    """The next frames of the detector; it is not touched."""
    from bluesky_ptychonn.cli.main import Problem
    from bluesky_ptychonn.io.ntndarray import frame_counts, image_shape
    from bluesky_ptychonn.io.pva import PvaChannel

    settings.apply_epics_environment()
    name = image_channel(settings)
    stream, frames, problems = PvaChannel(name), [], []
    first: list[Any] = []

    def note(update: Any) -> None:
        shape = image_shape(update)
        if not first:  # the present value, of an earlier scan
            first.append(shape)
        elif len(frames) < options.count and not problems:
            try:
                frames.append(frame_counts(update, shape).copy())
            except (ValueError, ImportError) as error:
                problems.append(error)

    print(f"waiting for {options.count} frames of {name}; start a scan, or let the detector expose")
    stream.monitor(note, queue_size=200)
    end_s = time.monotonic() + options.seconds
    while len(frames) < options.count and not problems and time.monotonic() < end_s:
        time.sleep(0.02)
    stream.close()
    if problems:
        raise Problem(f"{name}: {problems[0]}")
    if len(frames) < min(8, options.count):
        raise Problem(
            f"{len(frames)} frames of {name} came within {options.seconds:g} s; start a scan meanwhile, give more "
            "--seconds, or see what `bluesky-ptychonn doctor` says"
        )
    if len({frame.shape for frame in frames}) > 1:
        raise Problem(f"frames of {name} changed their size meanwhile; leave ROI1 alone and try again")
    return np.stack(frames)


def image_channel(settings: Any) -> str:
    """PVA channel of frames: as the IOC names it, or by areaDetector's convention where it cannot be asked."""
    prefix = settings.beamline.detector_prefix
    try:
        from bluesky_ptychonn.cli.doctor_pvs import read_pvs

        told = read_pvs([f"{prefix}Pva1:PvName_RBV"])[f"{prefix}Pva1:PvName_RBV"]
    except ImportError:
        told = None
    return str(told.value) if told is not None and told.value else f"{prefix}Pva1:Image"

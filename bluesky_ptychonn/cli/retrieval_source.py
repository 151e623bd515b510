"""What phase retrieval starts from, as the command line names it: a file or a run, and a probe."""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bluesky_ptychonn.cli.main import Problem
from bluesky_ptychonn.cli.settings import add_settings_option
from bluesky_ptychonn.core.frames import ORIENTATIONS
from bluesky_ptychonn.core.scan_data import ScanData

HDF5 = (".cxi", ".h5", ".hdf5", ".nxs")
FILES = (".npz", *HDF5)
AUTO = "auto"
OPTICS = "optics"
NEWEST = 300
"""Runs whose uids are looked through for one that begins so: as many as Tiled tells at once."""
IN_BLOCK = ("energy_kev", "distance_m", "detector_pixel_um", "crop_px", "beam_center_px")
"""Options which a run's 'ptycho' block has under the same names."""
SAME_PIXEL = 0.02
"""Relative difference of pixel sizes up to which a probe of one scan can start another."""


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """SOURCE, and the options that say what it does not tell or tells wrongly."""
    parser.add_argument(
        "source",
        metavar="RUN|FILE",
        help="a run of the catalog (uid or how it begins, scan id, -1 for the latest), or a file: .npz, .cxi, .h5",
    )
    add_settings_option(parser)
    parser.add_argument(
        "--orientation",
        choices=(AUTO, *sorted(ORIENTATIONS)),
        help="of the frames, instead of the run's own, or of none for a file; "
        "auto: find the one that fits, and stop if it is another than the given one",
    )
    parser.add_argument(
        "--probe",
        metavar="FILE|optics",
        help="to start from, instead of the source's own: .npy (complex), an earlier reconstruction, or `optics`: "
        "the zone plate below",
    )
    parser.add_argument("--defocus-um", type=float, help="optics: sample behind (+) or before (-) the focus")
    parser.add_argument(
        "--zone-plate",
        type=float,
        nargs=3,
        default=(160.0, 30.0, 60.0),
        metavar=("UM", "NM", "UM"),
        help="optics: diameter in um, outermost zone in nm, central stop in um; default: 160 30 60",
    )
    geometry = parser.add_argument_group("geometry, instead of what the source says")
    geometry.add_argument("--energy-kev", type=float)
    geometry.add_argument("--distance-m", type=float, help="sample to detector")
    geometry.add_argument("--detector-pixel-um", type=float)
    geometry.add_argument("--pixel-size-nm", type=float, help="of the object, for a file whose geometry is not known")
    geometry.add_argument("--crop-px", type=int, help="side of the patterns; default: the largest even square")
    geometry.add_argument(
        "--beam-center-px", type=float, nargs=2, metavar=("ROW", "COL"), help="in a frame; default: its middle"
    )
    geometry.add_argument("--mask", type=Path, metavar="FILE", help=".npy (H, W) of a frame; True means bad")
    layout = parser.add_argument_group("plain HDF5: where its arrays are")
    layout.add_argument("--patterns-path", metavar="PATH", help="frames (N, H, W)")
    layout.add_argument(
        "--positions-path", nargs="+", metavar="PATH", help="probe centres (N, 2) as (y, x), or two paths: y and x"
    )
    layout.add_argument("--positions-unit", choices=("m", "mm", "um", "nm", "px"))
    layout.add_argument("--mask-path", metavar="PATH", help="mask (H, W); not 0 means bad")
    layout.add_argument("--probe-path", metavar="PATH", help="complex illumination")


def read_source(
    options: argparse.Namespace, find_run: Callable[[Any, str], Any] | None = None
) -> tuple[ScanData, str, str]:
    """Read what the options name.

    Parameters
    ----------
    options : Namespace
    find_run : callable, optional
        Takes settings and source and gives the run; by default it is looked up in the catalog.

    Returns
    -------
    scan : ScanData
        With its own probe, if it has one.
    name : str
        For files that are made of it.
    orientation : str
        Which has been applied to its frames.

    Raises
    ------
    Problem, ValueError
        If it cannot be read; the message says what to do.
    """
    if Path(options.source).suffix in FILES or Path(options.source).is_file():
        return _read_file(options)
    return _read_run(options, find_run or run_of_catalog)


def with_probe(scan: ScanData, options: argparse.Namespace) -> ScanData:
    """Add the probe which the options name; without one, the scan's own is kept.

    Raises
    ------
    Problem, ValueError
        If there is none, or it cannot be used for this scan.
    """
    probe = _starting_probe(options, scan)
    if probe is None:
        raise Problem(
            f"{options.source} has no probe to start from; give --probe FILE (.npy, or an earlier reconstruction), or "
            "--probe optics --defocus-um D"
        )
    try:
        return replace(scan, probe=probe)
    except ValueError as error:
        raise Problem(f"--probe {options.probe}: {error}; give one of the patterns' size, or --crop-px") from error


def _read_file(options: argparse.Namespace) -> tuple[ScanData, str, str]:
    from bluesky_ptychonn.io.reconstruction_files import is_reconstruction
    from bluesky_ptychonn.io.scan_files import read_scan_file

    path = Path(options.source)
    if is_reconstruction(path):
        raise Problem(f"{path} is a reconstruction, not a scan; give the scan, and --probe {path} to start from it")
    orientation = _asked(options) or "identity"
    scan = read_scan_file(
        path,
        energy_kev=options.energy_kev,
        distance_m=options.distance_m,
        detector_pixel_um=options.detector_pixel_um,
        pixel_size_nm=options.pixel_size_nm,
        mask_file=options.mask,
        crop_px=options.crop_px,
        beam_center_px=options.beam_center_px and tuple(options.beam_center_px),
        orientation=orientation,
        layout=_layout(options),
    )
    return scan, path.stem, orientation


def _layout(options: argparse.Namespace) -> Any:
    from bluesky_ptychonn.io.scan_files import Hdf5Layout

    needed = ("patterns_path", "positions_path", "positions_unit")
    given = [name for name in (*needed, "mask_path", "probe_path") if getattr(options, name) is not None]
    if not given:
        return None
    if Path(options.source).suffix == ".npz":
        raise Problem(f"{_flag(given[0])} is for HDF5 files; an NPZ file names its arrays itself; leave it out")
    if missing := [_flag(name) for name in needed if name not in given]:
        raise Problem(f"{_flag(given[0])} is given, but not {' and '.join(missing)}; a plain HDF5 file needs them all")
    if len(options.positions_path) > 2:
        raise Problem(f"--positions-path names {len(options.positions_path)} datasets; give one (N, 2), or y and x")
    one = len(options.positions_path) == 1
    return Hdf5Layout(
        patterns=options.patterns_path,
        positions=options.positions_path[0] if one else tuple(options.positions_path),
        positions_unit=options.positions_unit,
        mask=options.mask_path,
        probe=options.probe_path,
    )


def _read_run(options: argparse.Namespace, find_run: Callable[[Any, str], Any]) -> tuple[ScanData, str, str]:
    from bluesky_ptychonn.config import load_settings
    from bluesky_ptychonn.io.runs import read_run, scan_from_run
    from bluesky_ptychonn.io.scan_files import read_array, read_mask

    settings = load_settings(options.settings)
    recorded = read_run(find_run(settings, options.source))
    if options.pixel_size_nm is not None:
        raise Problem("--pixel-size-nm is for files; a run knows its geometry; give --energy-kev, --distance-m, ...")
    asked = {name: getattr(options, name) for name in IN_BLOCK} | {"orientation": _asked(options)}
    block = recorded.start["ptycho"] | {name: value for name, value in asked.items() if value is not None}
    recorded = replace(recorded, start={**recorded.start, "ptycho": block})
    mask_file = options.mask or settings.geometry.bad_pixels_file
    scan = scan_from_run(
        recorded,
        bad_pixels=None if mask_file is None else read_mask(mask_file, recorded.frames.shape[1:], "the mask"),
        probe=None if settings.probe.file is None or options.probe else read_array(settings.probe.file, "probe.file"),
    )
    return scan, recorded.start["uid"][:8], block["orientation"]


def run_of_catalog(settings: Any, source: str) -> Any:
    """Look a run up in the catalog.

    Raises
    ------
    Problem
        If the settings name no catalog, or it has no such run.
    ConnectionError
        If it does not answer.
    """
    from bluesky_ptychonn.cli.catalog import open_catalog

    if not settings.catalog.uri:
        raise Problem(
            f"{source} is not a file, and the settings name no catalog in which it could be a run; "
            "correct the path, or give --settings with catalog.uri"
        )
    catalog = open_catalog(settings)
    from tiled.client.utils import ClientError

    try:
        try:
            return catalog[int(source) if source.lstrip("-").isdigit() else source]
        except ClientError:  # Tiled's own database knows whole uids alone
            return catalog[_uid_of(catalog, source)]
    except (KeyError, IndexError, ValueError, ClientError) as error:
        raise Problem(
            f"{source} is neither a file nor a run of {settings.catalog.uri} ({error}); "
            "give a path, a uid, a scan id, or -1 for the latest run"
        ) from error


def _uid_of(catalog: Any, text: str) -> str:
    """The one uid among the newest runs' that begins with a text, as files and pictures show it."""
    found = [uid for uid in catalog.keys().tail(NEWEST) if uid.startswith(text)]
    if len(found) > 1:
        raise KeyError(f"{len(found)} runs begin so: {', '.join(found[:3])}")
    if not found:
        raise KeyError(f"none of the newest {NEWEST} runs begins so")
    return found[0]


def _asked(options: argparse.Namespace) -> str | None:
    """Orientation which the user asks to apply."""
    return None if options.orientation == AUTO else options.orientation


def _starting_probe(options: argparse.Namespace, scan: ScanData) -> np.ndarray | None:
    if options.probe is None:
        return scan.probe
    if options.probe == OPTICS:
        return _probe_of_optics(options, scan)
    from bluesky_ptychonn.io.scan_files import read_array

    path = Path(options.probe)
    if path.suffix not in HDF5:
        probe = read_array(path, "--probe")
        if not np.iscomplexobj(probe) or not np.isfinite(probe).all() or not np.any(probe):
            raise Problem(f"--probe {path} holds {probe.dtype} of shape {probe.shape}; give finite complex values")
        return probe.astype(np.complex64)
    from bluesky_ptychonn.io.reconstruction_files import read_reconstruction

    before = read_reconstruction(path)
    sizes_nm = [1e3 * size for size in (before.pixel_size_um, scan.pixel_size_um) if size]
    if len(sizes_nm) == 2 and abs(sizes_nm[0] / sizes_nm[1] - 1) > SAME_PIXEL:
        raise Problem(
            f"--probe {path} has pixels of {sizes_nm[0]:.4g} nm, this scan of {sizes_nm[1]:.4g} nm; at most 2 % of "
            "difference is allowed; reconstruct with a probe of this geometry first"
        )
    return before.probe


def _probe_of_optics(options: argparse.Namespace, scan: ScanData) -> np.ndarray:
    from bluesky_ptychonn.core.optics import zone_plate_probe

    if options.defocus_um is None or not np.isfinite(options.defocus_um):
        raise Problem(
            f"--probe optics with --defocus-um {options.defocus_um}: give the distance of the sample behind the focus "
            "in um, negative before it"
        )
    if scan.geometry is None:
        raise Problem("--probe optics needs --energy-kev, --distance-m and --detector-pixel-um; the source has no such")
    diameter_um, outermost_nm, stop_um = options.zone_plate
    print(
        f"probe: zone plate of {diameter_um:g} um, outermost zone {outermost_nm:g} nm, central stop {stop_um:g} um, "
        f"sample {options.defocus_um:g} um behind the focus"
    )
    return zone_plate_probe(
        scan.geometry,
        zone_plate_diameter_um=diameter_um,
        outermost_zone_nm=outermost_nm,
        central_stop_um=stop_um,
        defocus_um=options.defocus_um,
    )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")

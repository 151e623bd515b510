"""Write the image of a run or file, its reconstruction, and the scan itself, for other programs.

    bluesky-ptychonn export -1                                       the latest run: -> NAME_export.cxi, .tiff, .png
    bluesky-ptychonn export -1 --reconstruction 7d2f1c9e_reconstruction.cxi
    bluesky-ptychonn export scan.npz --to tiff                       a file; the 32-bit image alone
    bluesky-ptychonn export scan_reconstruction.cxi --to tiff,png    a reconstruction, without its scan

cxi   the whole scan: diffraction patterns, positions, geometry, stitched phase, and object and probe of the
      reconstruction; NeXus NXcxi_ptycho and CXI 1.6 at once, in SI units (`reconstruct` reads it, too)
tiff  phase as 32-bit numbers with their scale and how they were made (ImageJ, Python); of a reconstruction also its
      amplitude
png   a picture

The image is that of `replay`, with the same options. The images of a run of the catalog are registered there, beside
the raw run, in processed/UID; --no-register leaves that out.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bluesky_ptychonn.cli.main import Problem
from bluesky_ptychonn.cli.replaying import add_replay_options, opened, reconstruction_beside, replayed, tell

if TYPE_CHECKING:
    from bluesky_ptychonn.callbacks.replay import Replayed
    from bluesky_ptychonn.cli.replaying import Source
    from bluesky_ptychonn.core.reconstruction import Reconstruction

FORMATS = ("cxi", "tiff", "png")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add_replay_options(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--to", type=_formats, default=FORMATS, metavar="cxi,tiff,png", help="formats; default: all")
    output.add_argument("--output", type=Path, metavar="NAME", help="files begin so; default: NAME_export here")
    output.add_argument("--force", action="store_true", help="overwrite earlier files")
    output.add_argument("--no-register", action="store_true", help="put nothing into the catalog")


def _formats(text: str) -> tuple[str, ...]:
    asked = tuple(text.split(","))
    if unknown := [name for name in asked if name not in FORMATS]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: allowed are {', '.join(FORMATS)}, with commas between")
    return asked


def run(options: argparse.Namespace) -> int:
    """Write the files, and register the images of a run."""
    from bluesky_ptychonn.io.reconstruction_files import is_reconstruction

    if is_reconstruction(Path(options.source)):
        return _export_reconstruction(options)
    with opened(options) as source:
        files = _files(options, source.name, options.reconstruction is not None)
        image = replayed(source, options)
        tell(image, options.source)
        beside = reconstruction_beside(options, image)
        if "cxi" in options.to:
            _write_cxi(files["cxi"], source, image, beside)
        _write_images(files, image, beside, source.title)
        for path in files.values():
            print(f"written: {path}")
        if source.run is not None and not options.no_register:
            _register(source, image, beside, files)
    return 0


def _export_reconstruction(options: argparse.Namespace) -> int:
    from bluesky_ptychonn.cli.reconstruction_picture import save_reconstruction
    from bluesky_ptychonn.io.reconstruction_files import read_reconstruction

    if "cxi" in options.to:
        raise Problem(
            f"{options.source} is a reconstruction, and a CXI file already; give --to tiff,png, or the scan with "
            f"--reconstruction {options.source}"
        )
    found = read_reconstruction(Path(options.source))
    base = options.output or Path(f"{Path(options.source).stem}_export")
    files = {f"{part} tiff": Path(f"{base}_{part}.tiff") for part in ("phase", "amplitude") if "tiff" in options.to}
    files |= {"png": base.with_name(base.name + ".png")} if "png" in options.to else {}
    _refuse_files(files, options)
    for part, path, array in _parts_of(found, files):
        _tiff(path, array, found.pixel_size_um, {**found.provenance, "image": part})
    if "png" in files:
        save_reconstruction(files["png"], found, Path(options.source).name)
    for path in files.values():
        print(f"written: {path}")
    return 0


def _parts_of(found: "Reconstruction", files: dict[str, Path]) -> Iterator[tuple[str, Path, np.ndarray]]:
    for part, array in (("phase", found.phase_rad), ("amplitude", np.abs(found.object_))):
        if f"{part} tiff" in files:
            yield part, files[f"{part} tiff"], array


def _files(options: argparse.Namespace, name: str, with_reconstruction: bool) -> dict[str, Path]:
    """Every file that will be written, by what it holds; refused now if it could not be."""
    base = options.output or Path(f"{name}_export")
    files = {kind: base.with_name(f"{base.name}.{kind}") for kind in options.to}
    if with_reconstruction and "tiff" in options.to:
        files |= {f"{part} tiff": base.with_name(f"{base.name}_object_{part}.tiff") for part in ("phase", "amplitude")}
    _refuse_files(files, options)
    return files


def _refuse_files(files: dict[str, Path], options: argparse.Namespace) -> None:
    from bluesky_ptychonn.cli.figures import refuse_unwritable

    there = [str(path) for path in files.values() if path.exists()]
    if any(path.exists() and path.samefile(options.source) for path in files.values() if Path(options.source).exists()):
        raise Problem(f"the export would overwrite {options.source} itself; give --output another name")
    if there and not options.force:
        raise Problem(f"{' and '.join(there)} would be overwritten; give --force, or --output another name")
    for path in files.values():
        refuse_unwritable("--output", path)


def _write_cxi(path: Path, source: "Source", image: "Replayed", beside: "Reconstruction | None") -> None:
    from bluesky_ptychonn.io.nxcxi import StitchedImage, write_nxcxi

    stitched = StitchedImage(image.phase, image.coverage, image.canvas, image.about())
    stop = source.run.metadata.get("stop") if source.run is not None else None
    write_nxcxi(path, source.scan(), stitched, beside, image.start, stop)


def _write_images(files: dict[str, Path], image: "Replayed", beside: "Reconstruction | None", title: str) -> None:
    from bluesky_ptychonn.cli.replay import save_picture

    if "tiff" in files:
        about = {**image.about(), "image": "stitched phase, rad"}
        _tiff(files["tiff"], image.phase, image.canvas.pixel_size_um, about)
    if beside is not None:
        for part, path, array in _parts_of(beside, files):
            _tiff(path, array, beside.pixel_size_um, {**beside.provenance, "image": f"{part} of the reconstruction"})
    if "png" in files:
        save_picture(files["png"], image, beside, title)


def _tiff(path: Path, array: np.ndarray, pixel_size_um: float | None, about: dict[str, Any]) -> None:
    from bluesky_ptychonn import __version__
    from bluesky_ptychonn.io.images import write_tiff

    write_tiff(path, array, pixel_size_um, {"program": f"bluesky_ptychonn {__version__}", **about})


def _register(source: "Source", image: "Replayed", beside: "Reconstruction | None", files: dict[str, Path]) -> None:
    from bluesky_ptychonn import __version__
    from bluesky_ptychonn.cli.catalog import open_catalog
    from bluesky_ptychonn.io.processed import register

    arrays = {"phase": image.phase, "coverage": image.coverage}
    about = {"program": f"bluesky_ptychonn {__version__}", **image.about()}
    if beside is not None:
        arrays |= {"object": beside.object_, "probe": beside.probe}
        about["reconstruction"] = {"pixel_size_um": beside.pixel_size_um, "origin_px": list(beside.origin_px)}
    about["files"] = [str(path.resolve()) for path in files.values()]
    try:
        where = register(open_catalog(source.settings), image.provenance["run_uid"], arrays, about)
    except PermissionError as error:
        raise Problem(f"the files are written, but {error}; give --no-register, or a key that may write") from error
    print(f"registered: {where}, in the catalog")

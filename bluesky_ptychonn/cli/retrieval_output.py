"""Files that `reconstruct` writes: refused before the work where they could not be, and never lost after it."""

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path

from bluesky_ptychonn.cli.figures import refuse_unwritable
from bluesky_ptychonn.cli.main import Problem
from bluesky_ptychonn.core.reconstruction import Reconstruction


def refuse_figures(options: argparse.Namespace) -> None:
    """Raise `Problem` if --json cannot be written, or names a file which is needed otherwise."""
    if options.json is None:
        return
    for what, path in (("scan", options.source), ("starting probe", options.probe), ("mask", options.mask)):
        if path is not None and _same(options.json, Path(path)):
            raise Problem(f"--json {options.json} is the {what} itself; name another file")
    refuse_unwritable("--json", options.json)


def output_of(options: argparse.Namespace, name: str) -> Path:
    """File to write; its folder is made, and nothing that is there is overwritten unasked."""
    output = options.output or Path(f"{name}_reconstruction.cxi")
    if output.suffix == ".png":
        raise Problem(f"--output {output} would be overwritten by the picture; name it .cxi")
    refuse_unwritable("--output", output)
    if _same(output, Path(options.source)):
        raise Problem(f"--output {output} is the scan itself; name another file")
    picture = output.with_suffix(".png")
    if picture.is_dir():
        raise Problem(f"--output {output}: its picture {picture} is a folder; choose another name")
    for what, path in (("reconstruction", output), ("picture", picture)):
        if options.json is not None and _same(options.json, path):
            raise Problem(f"--json {options.json} would be overwritten by the {what}; name another file")
    there = [str(path) for path in (output, picture) if path.exists()]
    if there and not options.force:
        raise Problem(f"{' and '.join(there)} would be overwritten; give --force, or --output another name")
    return output


def write(output: Path, result: Reconstruction) -> Path:
    """Write a reconstruction, where its place fails to the system's temporary folder; returns where."""
    from bluesky_ptychonn.io.reconstruction_files import write_reconstruction

    try:
        write_reconstruction(output, result)
    except OSError as error:
        print(f"{output} cannot be written: {error}", file=sys.stderr)
        try:
            elsewhere = Path(tempfile.mkdtemp(prefix="reconstruction_")) / output.name
            write_reconstruction(elsewhere, result)
        except OSError as again:
            raise Problem(f"--output {output} cannot be written ({error}), nor another folder ({again})") from again
        print(f"written elsewhere instead: {elsewhere}", file=sys.stderr)
        return elsewhere
    return output


def remove_picture(output: Path) -> None:
    """Remove the picture of an earlier reconstruction: it must not stand beside a new one."""
    with contextlib.suppress(OSError):
        output.with_suffix(".png").unlink()


def save_picture(output: Path, result: Reconstruction, source: str) -> Path:
    """Save the picture beside a reconstruction; returns where."""
    from bluesky_ptychonn.cli.reconstruction_picture import save_reconstruction

    picture = output.with_suffix(".png")
    try:
        save_reconstruction(picture, result, Path(source).name)
    except OSError as error:
        raise Problem(f"the picture {picture} cannot be written: {error}; the reconstruction is") from error
    return picture


def _same(first: Path, second: Path) -> bool:
    """Whether two names, of files that may not be there yet, lead to one file."""
    try:
        return first.resolve() == second.resolve() or (first.exists() and second.exists() and first.samefile(second))
    except OSError:
        return False

"""Corpora: labelled scans that networks learn from.

    bluesky-ptychonn corpus simulate corpus --scans 200        simulated scans; the same command goes on after a stop
    bluesky-ptychonn corpus add corpus scan_reconstruction.cxi scan.npz      a scan, labelled by its reconstruction
    bluesky-ptychonn corpus add corpus 5f3a0c1b_reconstruction.cxi 214       scan id 214 of the catalog
    bluesky-ptychonn corpus list corpus --json corpus.json     what is in it, and the hash of it all
    bluesky-ptychonn corpus verify corpus                      read every byte; 1 if anything is harmed

A corpus is a folder of shards, one for each scan, that never change; each is named by the hash of its content. Remove
the folder of a shard to take a scan out, copy it to take it elsewhere. What a killed writer left is not in the corpus.

`add` takes only a reconstruction whose verdict is `trusted` (`bluesky-ptychonn reconstruct`). The scan is named as it
was for `reconstruct`, with the same options; orientation and side of the patterns are those of the reconstruction.
Frames and places are paired by their triggers, and the patterns must be those that the reconstruction explains.
"""

import argparse
import contextlib
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bluesky_ptychonn.cli.main import Problem
from bluesky_ptychonn.cli.retrieval_source import AUTO, add_source_options, read_source

if TYPE_CHECKING:
    from bluesky_ptychonn.core.reconstruction import Reconstruction
    from bluesky_ptychonn.training.learning.corpus import LabelledScan, Shard

LEFTOVER_S = 24 * 3600
"""Age from which on an unfinished shard is that of a writer which was killed."""
COLUMNS = "{name:16}  {run:24}  {kind:14}  {frames:>8}  {photons:>9}  {mb:>9}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="simulate|add|list|verify")
    simulate = actions.add_parser(
        "simulate",
        help="add simulated scans",
        description="Add simulated scans: random objects, probes and doses, 128 px. What is there is not made again.",
    )
    simulate.add_argument("--scans", type=int, default=100, help="how many the corpus shall have; default: 100")
    simulate.add_argument("--frames", type=int, default=64, help="of each scan; default: 64, some 6 MB")
    simulate.add_argument("--seed", type=int, default=0, help="another one makes other scans; default: 0")
    simulate.set_defaults(act=_simulate)
    add = actions.add_parser(
        "add",
        help="add a scan, labelled by its trusted reconstruction",
        description="Add a scan, labelled by its trusted reconstruction. Options for the starting probe are taken as "
        "`reconstruct` takes them, and change nothing.",
    )
    add.set_defaults(act=_add)
    show = actions.add_parser(
        "list",
        help="the shards, their sum, and the hash of the snapshot",
        description="Show the shards, their sum, and the hash of the snapshot: what a training says it learned from.",
    )
    show.add_argument("--json", type=Path, metavar="FILE", help="write the table here")
    show.set_defaults(act=_list)
    verify = actions.add_parser(
        "verify",
        help="read every byte and compare the hashes",
        description="Read every byte and compare the hashes. What is harmed is told with its reason, the rest is read "
        "all the same; exit status 1 then.",
    )
    verify.set_defaults(act=_verify)
    for action in (simulate, add, show, verify):
        action.add_argument("corpus", type=Path, metavar="CORPUS", help="its folder")
    verify.add_argument("names", nargs="*", metavar="NAME", help="shards; default: all")
    add.add_argument("reconstruction", type=Path, metavar="RECONSTRUCTION", help="file that `reconstruct` wrote")
    add_source_options(add)
    add.add_argument(
        "--network-pixel-nm", type=float, metavar="NM", help="refuse a scan whose pixels differ from it by over 2 %%"
    )


def run(options: argparse.Namespace) -> int:
    """Simulate, add, list or verify."""
    return options.act(options)


def _simulate(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from bluesky_ptychonn.training.learning.corpus import Corpus
    from bluesky_ptychonn.training.learning.simulated import GEOMETRY, add_simulated

    for name, least in (("scans", 1), ("frames", 1), ("seed", 0)):
        if getattr(options, name) < least:
            raise Problem(f"--{name} {getattr(options, name)}: it must be at least {least}")
    corpus = Corpus(options.corpus)
    there = {shard.run: shard for shard in corpus.open()}
    _refuse_other_size(list(there.values()), GEOMETRY.frame_px)
    runs = {f"simulated-{options.seed}-{number}": number for number in range(options.scans)}
    for run in runs.keys() & there.keys():
        if there[run].frames != options.frames:
            raise Problem(
                f"{run} is in {options.corpus} with {there[run].frames} frames; give --frames {there[run].frames}, or "
                "another --seed"
            )
    _remove_leftovers(options.corpus)
    with _told_if_full(options.corpus):
        for run, number in tqdm(runs.items(), desc="scans", unit="scan"):
            if run not in there:
                list(add_simulated(corpus, range(number, number + 1), options.frames, options.seed))
    added = len(runs.keys() - there.keys())
    print(f"{options.corpus}: {added} scans of {options.frames} frames added, {len(runs) - added} were there")
    return 0


def _add(options: argparse.Namespace) -> int:
    from bluesky_ptychonn.io.reconstruction_files import read_reconstruction
    from bluesky_ptychonn.training.learning.corpus import Corpus
    from bluesky_ptychonn.training.learning.labels import label_scan, trusted_report

    pixel_nm = options.network_pixel_nm
    if pixel_nm is not None and not pixel_nm > 0:
        raise Problem(f"--network-pixel-nm {pixel_nm:g} nm: it must be positive")
    reconstruction = read_reconstruction(options.reconstruction)
    trusted_report(reconstruction)
    corpus = Corpus(options.corpus)
    shards = corpus.open()
    _refuse_other_size(shards, reconstruction.probe.shape[-1])
    _follow(reconstruction, options)
    scan, _, _ = read_source(options)
    for note in scan.notes:
        print(f"note: {note}")
    labelled = label_scan(scan, reconstruction, pixel_size_um=None if pixel_nm is None else 1e-3 * pixel_nm)
    same_run = [shard for shard in shards if shard.run == labelled.about.get("run")]
    _remove_leftovers(options.corpus)
    shard = next((shard for shard in same_run if _is_same(shard, labelled)), None)
    if shard is None and same_run:
        raise Problem(
            f"this scan is in {options.corpus} already, labelled by another reconstruction; remove "
            f"{same_run[0].directory} to replace it"
        )
    word = "added" if shard is None else "was there"
    with _told_if_full(options.corpus):
        shard = shard or corpus.add(labelled)
    _tell(shard, word)
    return 0


def _follow(reconstruction: "Reconstruction", options: argparse.Namespace) -> None:
    """Take from the reconstruction what the options leave open; refuse another orientation or side."""
    n, orientation = reconstruction.probe.shape[-1], reconstruction.settings.get("orientation")
    asked = None if options.orientation == AUTO else options.orientation
    for flag, given, own in (("crop-px", options.crop_px, n), ("orientation", asked, orientation)):
        if given is not None and own is not None and given != own:
            raise Problem(f"--{flag} {given}: {options.reconstruction} was made with {own}; leave it out")
    options.crop_px, options.orientation = n, asked or orientation
    options.probe = options.probe or str(options.reconstruction)  # so that none of the settings is read


def _is_same(shard: "Shard", labelled: "LabelledScan") -> bool:
    """Whether a shard holds these labels."""
    import numpy as np

    return shard.labels.shape == labelled.labels.shape and np.array_equal(shard.labels, labelled.labels)


def _refuse_other_size(shards: "list[Shard]", n: int) -> None:
    """One batch holds patterns of one size, so one corpus does."""
    for shard in shards:
        if (side := shard.manifest["frame_px"]) != n:
            raise Problem(
                f"{shard.directory.parents[1]} holds patterns of {side} px, these have {n} px; choose another corpus, "
                f"or patterns cut to {side} px (reconstruct --crop-px)"
            )


@contextlib.contextmanager
def _told_if_full(directory: Path) -> Iterator[None]:
    """Say what to do where a shard cannot be written."""
    try:
        yield
    except OSError as error:
        raise Problem(
            f"{directory} cannot be written: {error}; free some space, or choose another folder; the shards that were "
            "there are unchanged"
        ) from error


def _remove_leftovers(directory: Path) -> None:
    """Remove unfinished shards of writers that were killed more than a day ago."""
    for part in (directory / "shards").glob(".part-*"):
        if time.time() - part.stat().st_mtime > LEFTOVER_S:
            shutil.rmtree(part, ignore_errors=True)


def _tell(shard: "Shard", word: str) -> None:
    about = shard.manifest["about"]
    background = about["removed"]
    print(
        f"{shard.name}: {word}; {shard.frames} frames of {about['photons_per_frame']:.3g} photons, without "
        f"{about['frames_without_place']} that have no place and {about['frames_badly_covered']} where the object is "
        "badly known"
    )
    which = "the background's" if background["found"] == "peak" else "the mean, for no background was found:"
    slope = " x ".join(f"{background[f'slope_{axis}_rad_per_px']:.4f}" for axis in "yx")
    print(
        f"removed: {which} phase of {background['phase_rad']:.3f} rad, amplitude of {background['amplitude']:.3f} and "
        f"slope of {slope} rad/px (y, x), which is the probe's now"
    )


def _list(options: argparse.Namespace) -> int:
    from bluesky_ptychonn.cli.figures import conditions, write_figures
    from bluesky_ptychonn.training.learning.corpus import snapshot_sha256

    shards, harmed = _readable(options.corpus)
    rows = [_row(shard) for shard in shards]
    total = {"shards": len(rows)} | {key: sum(row[key] for row in rows) for key in ("frames", "bytes")}
    snapshot = snapshot_sha256([shard.name for shard in shards])
    print(COLUMNS.format(name="NAME", run="RUN", kind="KIND", frames="FRAMES", photons="PHOTONS/F", mb="MB"))
    for row in rows:
        photons = row["photons_per_frame"]
        shown = {"run": _short(row["file"] or row["run"]), "mb": f"{row['bytes'] / 1e6:.1f}"}
        print(COLUMNS.format(**{**row, **shown}, photons="" if photons is None else f"{photons:.2g}"))
    print(f"{total['shards']} shards, {total['frames']} frames, {total['bytes'] / 1e6:.1f} MB; snapshot {snapshot}")
    if options.json:
        measured = conditions(corpus=str(options.corpus), snapshot_sha256=snapshot, **total)
        write_figures(options.json, "corpus list", measured, rows)
    return 1 if harmed else 0


def _readable(directory: Path) -> "tuple[list[Shard], int]":
    """Shards whose manifests hold, and how many do not; these are told."""
    from bluesky_ptychonn.training.learning.corpus import Corpus, CorpusError

    corpus, shards = Corpus(directory), []
    names = _names(directory)
    for name in names:
        try:
            shards += corpus.open([name])
        except CorpusError as error:
            print(error, file=sys.stderr)
    return shards, len(names) - len(shards)


def _names(directory: Path) -> list[str]:
    from bluesky_ptychonn.training.learning.corpus import Corpus

    names = Corpus(directory).names()
    if not names:
        raise Problem(f"{directory} holds no shards; `bluesky-ptychonn corpus --help` says how to add some")
    return names


def _row(shard: "Shard") -> dict[str, Any]:
    about = shard.manifest["about"]
    return {
        "name": shard.name,
        "run": shard.run,
        "file": about.get("file"),
        "kind": about.get("kind", "simulation"),
        "frames": shard.frames,
        "frame_px": shard.manifest["frame_px"],
        "photons_per_frame": about.get("photons_per_frame"),
        "bytes": sum(file.stat().st_size for file in shard.directory.iterdir()),
    }


def _short(text: str) -> str:
    return text if len(text) <= 24 else f"{text[:21]}..."


def _verify(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from bluesky_ptychonn.training.learning.corpus import Corpus, CorpusError, snapshot_sha256

    corpus = Corpus(options.corpus)
    names = options.names or _names(options.corpus)
    harmed = 0
    for name in tqdm(names, desc="shards", unit="shard", disable=None):
        try:
            corpus.open([name])[0].verify()
        except (CorpusError, OSError) as error:
            tqdm.write(str(error), file=sys.stderr)
            harmed += 1
    print(f"{len(names) - harmed} of {len(names)} shards are whole; snapshot {snapshot_sha256(names)}")
    return 1 if harmed else 0

"""The image of a recorded run or file, as the edge made it, with another model, or with a reconstruction beside it.

    bluesky-ptychonn replay -1                                the latest run of the catalog; or a uid, or a scan id
    bluesky-ptychonn replay 214 --model large                 with another model; a store, a version, starter, large
    bluesky-ptychonn replay scan.npz --reconstruction scan_reconstruction.cxi
    bluesky-ptychonn replay documents_backup/7d2f1c9e.jsonl   from documents; the detector's file has to be here
    bluesky-ptychonn replay -1 --stream --fps 2000            its frames once more over pvAccess, through a real edge

Writes NAME_replay.png, and tells how many frames are in it. With the model of the time it is the `final` image of that
run; frames whose trigger cannot be known are left out, as they were live. `export` writes the image for other programs.

--stream starts a simulated beamline and an edge of its own, with the starter model; its detector sends the frames at
the rate at which they were taken, or at --fps.

In Python: bluesky_ptychonn.callbacks.replay.replay(cat[uid], engine, probe), or of databroker's db[uid].documents().
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bluesky_ptychonn.cli.main import Problem
from bluesky_ptychonn.cli.replaying import (
    Source,
    add_replay_options,
    on_pixels_of,
    opened,
    reconstruction_beside,
    replayed,
    tell,
)

if TYPE_CHECKING:
    from bluesky_ptychonn.callbacks.replay import Replayed
    from bluesky_ptychonn.core.reconstruction import Reconstruction

MOST_FPS = 10_000.0
SEEN = 0.02
"""Coverage, in units of the most, from which on a pixel is shown."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add_replay_options(parser)
    stream = parser.add_argument_group("once more as a stream")
    stream.add_argument("--stream", action="store_true", help="over pvAccess, from a simulated detector to an edge")
    stream.add_argument("--fps", type=float, help="frames per second; default: as they were taken; a file: 500")
    output = parser.add_argument_group("output")
    output.add_argument("--output", type=Path, metavar="FILE.png", help="default: NAME_replay.png here")
    output.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")


def run(options: argparse.Namespace) -> int:
    """Replay and write the picture."""
    from bluesky_ptychonn.cli.figures import conditions, refuse_unwritable, write_figures

    if options.json:
        refuse_unwritable("--json", options.json)
    if options.fps is not None and not (options.stream and 0 < options.fps <= MOST_FPS):
        raise Problem(f"--fps {options.fps:g}: it goes with --stream, and is above 0 and at most {MOST_FPS:g} frames/s")
    if options.stream and (options.model or options.reconstruction or options.json):
        raise Problem("--stream goes without --model, --reconstruction and --json; leave it out for a replay with them")
    with opened(options) as source:
        output = options.output or Path(f"{source.name}_replay.png")
        if output.suffix != ".png":
            raise Problem(f"--output {output}: the picture is a PNG; name it .png")
        refuse_unwritable("--output", output)
        if options.stream:
            return _stream(source, options, output)
        image = replayed(source, options)
        tell(image, options.source)
        beside = reconstruction_beside(options, image)
    likeness = save_picture(output, image, beside, source.title)
    print(f"picture: {output}")
    if options.json:
        write_figures(options.json, "replay", conditions(source=options.source), [{**image.about(), **likeness}])
    return 0


def save_picture(output: Path, image: "Replayed", beside: "Reconstruction | None", title: str) -> dict[str, Any]:
    """Save the image, and the reconstruction beside it where there is one; returns how like they are."""
    from bluesky_ptychonn.cli.pictures import save_comparison

    made_by = f"{image.engine} {image.model_version}".strip()
    caption = f"{title}: {image.counts['stitched']} of {image.counts['recorded']} frames"
    if beside is None:
        seen = image.coverage > SEEN * image.coverage.max()
        phases = [(made_by, np.where(seen, image.phase, np.nan))]
        save_comparison(output, phases, image.coverage, image.canvas.pixel_size_um, caption)
        return {}
    from bluesky_ptychonn.cli.reconstruction_picture import field_of, flattened
    from bluesky_ptychonn.training.learning.likeness import likeness

    phase, coverage = on_pixels_of(beside, image)
    box, seen = field_of(beside.coverage)
    seen &= coverage[box] > 0
    reference, _ = flattened(beside.object_[box], beside.coverage[box] / beside.coverage.max())
    phases = [(made_by, np.where(seen, phase[box], np.nan)), ("reconstruction", np.where(seen, reference, np.nan))]
    try:
        found = likeness(phase, coverage, beside)
    except ValueError as error:
        print(f"note: their likeness cannot be told: {error}")
        found = {}
    else:
        found = {key: value for key, value in found.items() if key not in ("image", "reference")}
        caption += f"; likeness to the reconstruction (SSIM) {found['ssim']:.3f}"
        print(f"likeness to the reconstruction: SSIM {found['ssim']:.4f}, correlation {found['correlation']:.4f}")
    save_comparison(output, phases, coverage[box], image.canvas.pixel_size_um, caption)
    return found


def _stream(source: Source, options: argparse.Namespace, output: Path) -> int:
    """Play the scan from the simulated detector to an edge."""
    from bluesky_ptychonn.cli.recorded import FPS, stream_scan
    from bluesky_ptychonn.cli.services import temporary_state

    scan = source.scan()
    if scan.probe is None:
        raise Problem(f"{options.source} has no probe; give --probe FILE, or probe.file in the settings")
    start = getattr(source.recording, "start", {"ptycho": {}})
    fps = options.fps or min(1 / (start["ptycho"].get("dwell_s") or 1 / FPS), MOST_FPS)
    with temporary_state() as state:
        stats = stream_scan(
            scan, state, output, fps=fps, engine=options.engine or source.settings.edge.engine, title=source.title
        )
    print(
        f"frames: sent at {fps:g} frames/s; {stats['frames_stitched']} stitched, at {stats['fps']:g} frames/s; account "
        f"{stats['account']}"
    )
    return 0 if stats["account"] == "closed" else 1

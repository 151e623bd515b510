"""`models validate` and `models publish`: models on scans."""

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bluesky_ptychonn.cli.main import Problem
from bluesky_ptychonn.core.frames import ORIENTATIONS
from bluesky_ptychonn.core.reconstruction import Reconstruction
from bluesky_ptychonn.core.scan_data import ScanData


def add_validate_options(parser: argparse.ArgumentParser) -> None:
    """Options of `models validate`."""
    parser.add_argument("model", metavar="MODEL", help="a folder, a number in the store, live, starter, large or lift")
    parser.add_argument("--scan", required=True, metavar="FILE", help="a scan: .npz, .cxi, or a run of the catalog")
    parser.add_argument("--reconstruction", type=Path, metavar="FILE", help="what `reconstruct` made of it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument(
        "--picture", type=Path, metavar="PNG", help="draw the stitched image, the reconstruction and their difference"
    )
    _add_reading_options(parser)


def add_publish_options(parser: argparse.ArgumentParser) -> None:
    """Options of `models publish`."""
    parser.add_argument("candidate", metavar="MODEL", help="folder of the model")
    parser.add_argument("--scan", nargs="+", default=[], metavar="FILE", help="held-out scans; none if nothing is live")
    parser.add_argument(
        "--reconstruction", nargs="+", default=[], type=Path, metavar="FILE", help="of these scans, in any order"
    )
    parser.add_argument("--margin", type=float, help="mean gain asked; default: learning.gate_margin of the settings")
    parser.add_argument("--corpus", type=Path, metavar="DIR", help="what it learned from: its scans are no evidence")
    parser.add_argument("--snapshot", type=Path, metavar="FILE", help="names of its shards; default: all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    _add_reading_options(parser)


def _add_reading_options(parser: argparse.ArgumentParser) -> None:
    reading = parser.add_argument_group("how the scans are read, as for `reconstruct`")
    reading.add_argument("--probe", metavar="FILE", help="instead of the scan's own: .npy, or a reconstruction")
    reading.add_argument("--orientation", choices=sorted(ORIENTATIONS), help="default: that of the reconstruction")
    reading.add_argument("--crop-px", type=int, help="side of the patterns; default: the largest even square")
    reading.add_argument("--pixel-size-nm", type=float, help="of the object, where a file does not tell it")


def run_validate(options: argparse.Namespace) -> int:
    """Validate one model on one scan."""
    from bluesky_ptychonn.cli.figures import conditions, refuse_unwritable, write_figures
    from bluesky_ptychonn.cli.models import LIFT, folder_of
    from bluesky_ptychonn.engines.registry import open_engine
    from bluesky_ptychonn.training.learning.validate import validate

    for option, path in (("--json", options.json), ("--picture", options.picture)):
        if path is not None:
            refuse_unwritable(option, path)
    reconstruction = _reconstructions([options.reconstruction] if options.reconstruction else [])
    truth = reconstruction[0] if reconstruction else None
    folder = None if options.model == LIFT else folder_of(options, options.model)
    engine = None if folder is None else open_engine(options.engine, folder)
    scan = _read(options, options.scan, truth)
    engine = engine or open_engine("lift", frame_px=scan.patterns.shape[-1])
    print(f"stitching {len(scan.patterns)} frames of {options.scan} with {engine.name}", flush=True)
    began = time.monotonic()
    found = validate(engine, scan, truth)
    seconds = time.monotonic() - began
    print(f"residual {found.residual:.5f}; of a flat object {found.residual_blank:.5f}; in {seconds:.1f} s")
    if truth is not None and found.ssim is not None:
        print(
            f"SSIM {found.ssim:.4f} (mismatch {found.mismatch:.4f}), mean error {found.mae_rad:.4f} rad, correlation "
            f"{found.correlation:.4f}{_detail(found.frc_cycles_per_px, scan.pixel_size_um)}"
        )
        print(f"  on {found.region}, range {found.data_range:.3g} rad, without {found.removed}")
        if truth.report is not None and not truth.report.trusted:
            print(f"  the reconstruction is NOT TRUSTED, so this says little: {truth.report.reason}")
    if options.json:
        told = {"test": Path(options.scan).name, **found.as_figures(), "seconds_total": seconds}
        told["verdict"] = None if truth is None or truth.report is None else truth.report.verdict
        write_figures(options.json, "models validate", conditions(model=options.model), [told])
    if options.picture:
        from bluesky_ptychonn.cli.models_picture import save_validation

        save_validation(options.picture, found, scan.pixel_size_um, Path(options.scan).name)
        print(f"picture: {options.picture}")
    return 0


def run_publish(options: argparse.Namespace) -> int:
    """Offer a candidate to the gate."""
    from bluesky_ptychonn.cli.figures import conditions, refuse_unwritable, write_figures
    from bluesky_ptychonn.cli.models import folder_of, store_of
    from bluesky_ptychonn.config import load_settings
    from bluesky_ptychonn.engines.registry import open_engine
    from bluesky_ptychonn.io.model_store import CARD
    from bluesky_ptychonn.training.learning.gate import gate

    store, candidate = store_of(options), folder_of(options, options.candidate)
    if (store / CARD).is_file():
        raise Problem(f"{store} is one model, not a store; name another folder with --store")
    margin = load_settings(options.settings).learning.gate_margin if options.margin is None else options.margin
    if not 0 <= margin <= 1:
        raise Problem(f"--margin {margin:g}: allowed is 0 to 1 in SSIM; the default is 0.01")
    if options.json is not None:
        refuse_unwritable("--json", options.json)
    decision = gate(
        candidate,
        store,
        _held_out(options, options.scan, _reconstructions(options.reconstruction)),
        margin=margin,
        learned_runs=_learned_runs(options, candidate),
        open_=lambda folder: open_engine(options.engine, folder),
        on_step=lambda text: print(text, flush=True),
    )
    if options.json:
        summary = {"published": decision.published, "model": decision.version, "reason": decision.reason}
        measured_under = conditions(candidate=str(candidate), store=str(store), margin=margin)
        write_figures(options.json, "models publish", measured_under, [summary, *decision.figures])
    if decision.published:
        print(f"published: version {decision.version} is live in {store}; {decision.reason}")
        return 0
    kept = f"; kept as {store}/refused/{decision.kept}" if decision.kept else ""
    print(f"REFUSED: {decision.reason}{kept}")
    return 1


def _detail(frequency: float | None, pixel_um: float | None) -> str:
    """Down to which detail image and reconstruction agree."""
    if not frequency:
        return ""
    nm = "" if pixel_um is None else f" ({1e3 * pixel_um / (2 * frequency):.1f} nm half period)"
    return f", alike up to {frequency:.3f} cycles/px{nm}"


def _reconstructions(paths: Sequence[Path]) -> list[Reconstruction]:
    from bluesky_ptychonn.io.reconstruction_files import read_reconstruction

    return [read_reconstruction(path) for path in paths]


def _held_out(
    options: argparse.Namespace, sources: Sequence[str], reconstructions: list[Reconstruction]
) -> Iterator[tuple[ScanData, Reconstruction | None]]:
    """Scans, read one after another, each with its reconstruction if it has one."""
    from bluesky_ptychonn.training.learning.validate import is_of

    left = list(reconstructions)
    for source in sources:
        scan = _read(options, source)
        found = next((k for k, reconstruction in enumerate(left) if is_of(reconstruction, scan)), None)
        truth = None if found is None else left.pop(found)
        if truth is not None and _told_orientation(options, truth) not in (None, options.orientation, "identity"):
            scan = _read(options, source, truth)
        yield scan, truth
    if left:
        whose = left[0].provenance.get("file") or left[0].provenance.get("run_uid", "unnamed")
        raise Problem(f"the reconstruction of {whose} is of none of the scans given; give its scan, too")


def _told_orientation(options: argparse.Namespace, truth: Reconstruction | None) -> str | None:
    return options.orientation or (truth.settings.get("orientation") if truth is not None else None)


def _read(options: argparse.Namespace, source: str, truth: Reconstruction | None = None) -> ScanData:
    """Read a scan as `reconstruct` reads it, oriented as its reconstruction is."""
    from bluesky_ptychonn.cli.retrieval_source import add_source_options, read_source, with_probe
    from bluesky_ptychonn.core.scan_checks import refuse_unfit

    parser = argparse.ArgumentParser()
    add_source_options(parser)
    given = {
        "--settings": options.settings,
        "--orientation": _told_orientation(options, truth),
        "--probe": options.probe,
        "--crop-px": options.crop_px,
        "--pixel-size-nm": options.pixel_size_nm,
    }
    words = [word for name, value in given.items() if value is not None for word in (name, str(value))]
    asked = parser.parse_args([*words, "--", source])
    scan, _, _ = read_source(asked)
    refuse_unfit(scan)
    return with_probe(scan, asked) if options.probe else scan


def _learned_runs(options: argparse.Namespace, candidate: Path) -> set[str]:
    """Runs that the candidate learned from, where its corpus is given."""
    from bluesky_ptychonn.core.protocols import EngineMismatch
    from bluesky_ptychonn.io.model_store import read_card
    from bluesky_ptychonn.training.learning.corpus import Corpus, snapshot_sha256

    try:
        snapshot = read_card(candidate).corpus
    except EngineMismatch:  # the gate tells it
        return set()
    if options.corpus is None:
        if snapshot and options.scan:
            print("note: without --corpus nobody checks that it did not learn from these scans")
        return set()
    names = options.snapshot.read_text().split() if options.snapshot else None
    shards = Corpus(options.corpus).open(names)
    if snapshot and snapshot_sha256([shard.name for shard in shards]) != snapshot:
        print(f"note: {options.corpus} is not the snapshot {snapshot[:12]}... that it learned from")
    return {shard.run for shard in shards}

"""The loop on a scripted experiment of 12 simulated scans: does it do about each what it should, and why?

Everything is as at a beamline but the frames, which are simulated into files: documents, journal, service, jobs of the
local runner, corpus, model store and gate. The script is that of the default seed. With other areas the starter may
mismatch on islands already, or the gate refuse what the first rings taught because it loses on an area of islands.
"""

import argparse
import time
import uuid
from pathlib import Path
from typing import Any

from bluesky_ptychonn.io.journal import Journal
from bluesky_ptychonn.io.journal_rows import ScanRow

LOOP = {
    "enabled": True,
    # A field of 1.4 um holds some twenty features: the residual changes by up to a half from one area to the next.
    "residual_drift": 0.6,
    "sweeps": 40,
}
LONGEST_S = 3600.0
TICK_S = 0.3
EXPERIMENT = "bench loop"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the case."""
    parser.add_argument("--train-minutes", type=float, default=3.0, help="computing time of a training; default: 3")
    parser.add_argument(
        "--seed", type=int, default=2, help="of the areas that are scanned; with others it may go otherwise; default: 2"
    )
    parser.add_argument("--output", type=Path, default=Path("bench_loop"), help="a new folder; default: bench_loop")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")


def run(options: argparse.Namespace) -> int:
    """Play the script; 1 if the loop did something else than it should."""
    from bluesky_ptychonn.cli.bench_inference import processor
    from bluesky_ptychonn.cli.bench_loop_scans import PHOTONS
    from bluesky_ptychonn.cli.figures import conditions, refuse_unwritable, write_figures
    from bluesky_ptychonn.cli.main import Problem

    if options.json:
        refuse_unwritable("--json", options.json)
    if options.output.exists() and any(options.output.iterdir()):
        raise Problem(f"--output {options.output} is not empty; name a new folder")
    measured_under = conditions(
        processor=processor(), train_minutes=options.train_minutes, seed=options.seed, photons_per_frame=PHOTONS, **LOOP
    )
    results, page = play(options.output.resolve(), options.train_minutes, options.seed)
    print(f"\n{page}")
    if options.json:
        write_figures(options.json, "bench loop", measured_under, results)
    return 0 if results[0]["as_expected"] == results[0]["scans"] else 1


def play(folder: Path, train_minutes: float, seed: int) -> tuple[list[dict[str, Any]], Path]:
    """Scan after scan, each when the loop has done with the one before; figures of all and of each, and the page."""
    from bluesky_ptychonn.callbacks.retrain import RetrainTrigger
    from bluesky_ptychonn.cli.bench_loop_scans import SCRIPT, publish_starter, write_scan
    from bluesky_ptychonn.cli.loop_page import save_pages
    from bluesky_ptychonn.cli.loop_parts import make_service, terms_of
    from bluesky_ptychonn.config import load_settings, write_settings
    from bluesky_ptychonn.training.loop.serving import only_one

    (folder / "scans").mkdir(parents=True)
    file = folder / "bluesky_ptychonn.toml"
    write_settings({"edge": {"model": "store"}, "loop": {**LOOP, "train_minutes": train_minutes}}, file)
    settings = load_settings(file)
    publish_starter(folder / "store", folder / "starter")
    journal, trigger = Journal(settings.loop.journal_file), RetrainTrigger(settings.loop.journal_file)
    began_s, results = time.monotonic(), []
    with only_one(settings.loop.journal_file):
        watch = _Watch(make_service(settings, journal, str(file)), journal)
        for number, scripted in enumerate(SCRIPT, 1):
            source = write_scan(folder / "scans" / f"{number:02d}.npz", scripted, 1000 * seed + number)
            about = {"scan_id": number, "sample": scripted.title, "experiment": EXPERIMENT, "source": source}
            print(f"scan {number}: {scripted.title}", flush=True)
            row = watch.until_done(_scan(trigger, about))
            results.append(_figures(row, scripted, watch.events[row.uid]))
            (page,) = save_pages(folder / "page", journal, terms_of(settings))
    trigger.close()
    labelled = _labelled_runs(settings.loop.directory / "corpus")
    trusted = {result["run"] for result in results if result["trusted"]}
    trainings = [training.state for training in journal.trainings()]
    journal.close()
    summary = {
        "test": "experiment",
        "scans": len(results),
        "as_expected": sum(result["as_expected"] for result in results),
        "reconstructed": sum(result["trusted"] is not None for result in results),
        "alarms": sum("alarm" in result["events"] for result in results),
        "trainings": len(trainings),
        "trainings_published": trainings.count("published"),
        "labels_exactly_of_what_is_trusted": labelled == sorted(trusted),
        "seconds_total": round(time.monotonic() - began_s, 1),
    }
    return [summary, *results], page


def _scan(trigger: Any, about: dict[str, Any]) -> str:
    """Documents of one scan; its uid."""
    uid = str(uuid.uuid4())
    trigger("start", {"uid": uid, "time": time.time(), "plan_name": "spiral_ptycho_scan", "ptycho": {}, **about})
    stop = {"uid": str(uuid.uuid4()), "run_start": uid, "time": time.time(), "exit_status": "success", "num_events": {}}
    trigger("stop", stop)
    return uid


class _Watch:
    """Lets the service tick until it has done with a scan, and tells each decision as it comes."""

    def __init__(self, service: Any, journal: Journal) -> None:
        self._service, self._journal = service, journal
        self.events: dict[str, list[Any]] = {}

    def until_done(self, uid: str) -> ScanRow:
        """Wait for a scan.

        Raises
        ------
        RuntimeError
            If it takes too long.
        """
        from bluesky_ptychonn.cli.loop_events import events_of
        from bluesky_ptychonn.training.loop.policy import FINAL

        end_s, told = time.monotonic() + LONGEST_S, 0
        while True:
            self._service.tick(time.time())
            history = self._journal.history(uid)
            for line in history[told:]:
                print(f"   {line.new}: {line.sentence}", flush=True)
            told = len(history)
            row = self._journal.scan(uid)
            if row.state in FINAL and row.job is None:
                self.events[uid] = events_of(history)
                return row
            if time.monotonic() > end_s:
                raise RuntimeError(f"the loop has not done with run {uid} after {LONGEST_S:g} s: {row.sentence}")
            time.sleep(TICK_S)


def _figures(row: ScanRow, scripted: Any, found: list[Any]) -> dict[str, Any]:
    met = scripted.is_met(row.state, found) and row.trusted in (None, scripted.is_good)
    if not met:
        print(f"   NOT AS EXPECTED: {scripted.state}, {', '.join(scripted.events) or 'nothing more'}: {scripted.why}")
    after = {f"mismatch_{event.kind}": event.value for event in found if event.version}
    return {
        "test": f"scan {row.scan_id}: {scripted.title}",
        "as_expected": met,
        "why": scripted.why,
        "state": row.state,
        "events": ", ".join(event.kind for event in found),
        "trusted": row.trusted,
        "ssim": row.ssim,
        "mismatch": row.mismatch,
        "residual": row.residual,
        **after,
        "live_version": row.live_version,
        "published_version": row.published_version,
        "sentence": row.sentence,
        "run": row.uid,
    }


def _labelled_runs(corpus: Path) -> list[str]:
    """Runs of the shards in a corpus, each as often as it is there."""
    from bluesky_ptychonn.training.learning.corpus import Corpus

    return sorted(shard.run for shard in Corpus(corpus).open())

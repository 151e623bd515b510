"""The demonstration with the loop: two areas of one sample, and what the loop makes of the first for the second."""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bluesky_ptychonn.io.journal import Journal
from bluesky_ptychonn.io.journal_rows import ScanRow, TrainingRow

LOOP = {"first_scans": 1, "poll_s": 1.0}
"""A second scan of a model that is within tolerance is left alone."""
AREAS_UM = (0.0, -2.2), (0.0, 2.2)
"""Middle (y, x) of each scan; no frame of one sees what a frame of the other does."""
LONGEST_S = 7200.0
SWAPPED_S = 120.0
LOOK_S = 0.5
QUIET_S = 20.0
"""After which the last line of a job's log is told."""


def run_loop(options: argparse.Namespace, state: Path) -> int:
    """Scan, let the loop work, scan again; 1 if an account does not close."""
    from bluesky_ptychonn.cli.beamline import beamline_options
    from bluesky_ptychonn.cli.demo import TOLD_DEFOCUS_UM, open_demo_session, say, scan
    from bluesky_ptychonn.cli.demo_figures import account_of, compare_live, write_summary
    from bluesky_ptychonn.cli.services import Services

    with Services(
        state,
        engine=options.engine,
        loop={**LOOP, "train_minutes": options.train_minutes, "runner": options.runner},
        told_defocus_um=TOLD_DEFOCUS_UM,
        say=say,
        **beamline_options(options),
    ) as services:
        session = open_demo_session(services)
        journal = Journal(services.settings.loop.journal_file)
        watch = Watch(services, journal, say)
        try:
            first = scan(session, options.sample, AREAS_UM[0], experiment="demo")
            account = account_of(session.cat[first])
            began_s = time.monotonic()
            row = watch.until_done(first)
            loop_s = time.monotonic() - began_s
            if row.published_version:
                watch.until_swapped(row.published_version)
            suspended = journal.fact("suspended_until_s") is not None
            if not suspended:
                say("the loop is ended here: it would go on with the next scan")
                services.stop_loop()
            second = scan(session, options.sample, AREAS_UM[1], experiment="demo")
            if suspended:  # it looks at the residual only
                watch.until_done(second)
            figures, field = compare_live(session, second, services, options)
            summary = {
                **figures,
                **_three_models(field, services, first, options),
                "mismatch": row.mismatch,
                "loop_reason": row.sentence,
                "loop_state": row.state if journal.fact("suspended_until_s") is None else "suspended",
                "published_version": row.published_version,
                "loop_seconds": round(loop_s, 1),
                "account_first_scan": account,
            }
            write_summary(options.output / "summary.json", summary)
            _draw_page(journal, services, options.output)
        finally:
            journal.close()
            session.close()
    say(f"pictures: live.png, loop.png and the page of plots in {options.output}; figures: summary.json")
    return 0 if account == summary["account"] == "closed" else 1


class Watch:
    """Waits for the loop and the edge, and tells each step of the loop as it comes into the journal.

    Parameters
    ----------
    services : Services
        With a loop.
    journal : Journal
        Of that loop.
    say : callable
        Is given each line.
    """

    def __init__(self, services: Any, journal: Journal, say: Callable[[str], object]) -> None:
        from bluesky_ptychonn.io.pva import PvaChannel

        self._services, self._journal, self._say = services, journal, say
        self._stats = PvaChannel(f"{services.settings.edge.prefix}stats")
        self._told: dict[str, int] = {}
        self._said_s, self._said = time.monotonic(), ""

    def until_done(self, uid: str) -> ScanRow:
        """Wait until the loop has done with a scan.

        Raises
        ------
        RuntimeError
            If the loop ends, or takes too long.
        """
        from bluesky_ptychonn.training.loop.policy import FINAL

        def done() -> bool:
            row = self._journal.scan(uid)
            return row.state in FINAL and row.job is None

        self._wait(done, f"the loop has not done with run {uid}", LONGEST_S)
        return self._journal.scan(uid)

    def until_swapped(self, version: str) -> None:
        """Wait until the edge uses a version.

        Raises
        ------
        RuntimeError
            If it does not.
        """
        self._wait(
            lambda: str(self._stats.get()["model_version"]) == version,
            f"the edge does not use version {version}",
            SWAPPED_S,
        )

    def _wait(self, done: Callable[[], bool], otherwise: str, timeout_s: float) -> None:
        end_s = time.monotonic() + timeout_s
        while True:
            over = done()
            self._tell()
            if over:
                return
            if not self._services.loop.runs:
                raise RuntimeError(f"the loop ended; its log says:\n{self._services.loop.last_words()}")
            if time.monotonic() > end_s:
                raise RuntimeError(
                    f"{otherwise} after {timeout_s:g} s; the loop's log says:\n{self._services.loop.last_words()}"
                )
            time.sleep(LOOK_S)

    def _tell(self) -> None:
        for name, row in self._rows():
            key = row.uid if isinstance(row, ScanRow) else row.key
            history = self._journal.history(key)
            for line in history[self._told.get(key, 0) :]:
                self._line(f"{name}, {line.new}: {line.sentence}")
            self._told[key] = len(history)
        if time.monotonic() - self._said_s > QUIET_S:
            self._tell_of_job()

    def _rows(self) -> Iterator[tuple[str, ScanRow | TrainingRow]]:
        for row in self._journal.scans():
            yield f"loop: scan {row.scan_id}", row
        for row in self._journal.trainings():
            yield "loop: training", row

    def _tell_of_job(self) -> None:
        """The last line of the log of the job that runs."""
        self._said_s = time.monotonic()
        logs = (self._services.settings.loop.directory / "jobs").glob("*/log.txt")
        newest = max(logs, key=lambda log: log.stat().st_mtime, default=None)
        if newest is None:
            return
        lines = newest.read_text(errors="replace").replace("\r", "\n").splitlines()
        if lines and lines[-1] != self._said:
            self._said = lines[-1]
            self._say(f"   {newest.parent.name.partition('-')[0]} job: {self._said}")

    def _line(self, text: str) -> None:
        self._said_s = time.monotonic()
        self._say(text)


def _three_models(field: Any, services: Any, first: str, options: argparse.Namespace) -> dict[str, Any]:
    """Draw what the model of each step makes of the same frames; their likeness to the truth."""
    from bluesky_ptychonn.cli.edge import load_probe
    from bluesky_ptychonn.cli.job_run import PROBE
    from bluesky_ptychonn.engines.registry import open_engine
    from bluesky_ptychonn.io.model_probe import probe_of
    from bluesky_ptychonn.io.model_store import open_model
    from bluesky_ptychonn.training.loop.jobs import named_directory

    settings = services.settings
    told = load_probe(settings.probe.file, settings.geometry.frame_px)
    refined_file = named_directory(settings.loop.directory, "scan", first) / PROBE
    refined = load_probe(refined_file, settings.geometry.frame_px) if refined_file.is_file() else told
    starter, live = open_engine(options.engine), open_model(settings.edge.model)
    own = probe_of(live)
    images = {
        "before": field.stitched(starter, told),
        "probe": field.stitched(starter, refined),
        "after": field.stitched(open_engine(options.engine, live.directory), told if own is None else own),
    }
    likeness = {name: field.compare(image).ssim for name, image in images.items()}
    titles = {
        "before": "before: starter",
        "probe": "probe: starter, refined probe",
        "after": f"after: version {live.card.version}",
    }
    field.save(
        options.output / "loop.png",
        {f"{titles[name]}\nSSIM {likeness[name]:.3f}": image for name, image in images.items()},
        f"{options.sample}: the second area, which no training has seen; SSIM against truth, a constant removed",
    )
    return {f"ssim_{name}": round(value, 4) for name, value in likeness.items()}


def _draw_page(journal: Journal, services: Any, output: Path) -> None:
    from bluesky_ptychonn.cli.loop_page import save_pages
    from bluesky_ptychonn.cli.loop_parts import terms_of

    save_pages(output / "loop", journal, terms_of(services.settings))

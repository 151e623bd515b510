"""The loop: after every scan reconstruct, label, judge the live model, train, publish; and lose nothing.

    bluesky-ptychonn loop run                     the service, until Ctrl-C; jobs that run go on without it
    bluesky-ptychonn loop run --once              look once at everything, deliver, and leave, as for cron
    bluesky-ptychonn loop status --watch          where every scan stands, as a live table
    bluesky-ptychonn loop show UID                every decision about a scan in one sentence each; also of a training
    bluesky-ptychonn loop pause                   hand out no more jobs; those that run are taken
    bluesky-ptychonn loop resume                  go on; if it is not paused but suspended, end the suspension
    bluesky-ptychonn loop retry UID               try a scan again that was given up, suspended or not trusted
    bluesky-ptychonn loop listen HOST:PORT        note the runs of a RunEngine elsewhere, which publishes over 0MQ
    bluesky-ptychonn loop page                    plots of the experiment: SSIM, mismatch and residual against scans

UID is a run's, or the beginning of it. Sessions note their runs in the journal where `loop.enabled` is set; a run which
only the catalog has is found when the service starts. What is done, and when, is `[loop]` in the settings:
`bluesky-ptychonn config show` shows it. Scans are never slowed down: if the scheduler, the catalog or this service is
away, they wait in the journal.
"""

import argparse
import contextlib
import json
import logging
import sys
import threading
import time
from pathlib import Path
from typing import Any

from bluesky_ptychonn.cli.settings import add_settings_option

logger = logging.getLogger(__name__)

ACTIONS = {
    "run": "work on the journal until Ctrl-C",
    "status": "where every scan stands",
    "show": "every decision about a scan",
    "pause": "hand out no more jobs",
    "resume": "go on; or end a suspension",
    "retry": "try scans again",
    "listen": "note the runs that a 0MQ proxy hands on",
    "page": "draw the page of plots",
}
PAGE_EVERY_S = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="|".join(ACTIONS))
    parsers = {name: actions.add_parser(name, help=purpose, description=purpose) for name, purpose in ACTIONS.items()}
    for one in parsers.values():
        add_settings_option(one)
    parsers["run"].add_argument("--once", action="store_true", help="one look at everything")
    status = parsers["status"]
    status.add_argument(
        "--watch", nargs="?", type=float, const=2.0, metavar="SECONDS", help="again and again, until Ctrl-C"
    )
    status.add_argument("--all", action="store_true", help="all scans, not only the newest ones")
    parsers["show"].add_argument("uid", metavar="UID", help="of a run, or its beginning; or key of a training")
    for name in ("status", "show"):
        parsers[name].add_argument("--json", action="store_true", help="as JSON on standard output")
    retry = parsers["retry"]
    retry.add_argument("uids", metavar="UID", nargs="*", help="of runs, or their beginnings")
    retry.add_argument("--parked", action="store_true", help="every scan that is parked")
    parsers["listen"].add_argument("address", metavar="HOST:PORT", help="the proxy's side for subscribers")
    parsers["page"].add_argument("--out", type=Path, metavar="DIR", help="default: page/ in loop.directory")


def run(options: argparse.Namespace) -> int:
    """Do one of the actions."""
    from bluesky_ptychonn.config import load_settings

    actions = {
        "run": _run,
        "status": _status,
        "show": _show,
        "pause": _pause,
        "resume": _resume,
        "retry": _retry,
        "listen": _listen,
        "page": _page,
    }
    return actions[options.action](options, load_settings(options.settings))


def _run(options: argparse.Namespace, settings: Any) -> int:
    import signal

    from bluesky_ptychonn.cli.loop_parts import (
        delivery_of,
        listen_to_edge,
        make_service,
        settings_file_of,
        start_delivery,
        start_sweep,
    )
    from bluesky_ptychonn.io.journal import Journal
    from bluesky_ptychonn.training.loop.serving import only_one, serve

    path = _local_journal(settings)
    stop = threading.Event()
    with only_one(path):
        journal = Journal(path)
        service = make_service(settings, journal, settings_file_of(options.settings))
        if options.once:
            service.tick(time.time())
            delivery = delivery_of(settings, journal)
            delivered = delivery is None or delivery.look()
            journal.close()
            return 0 if delivered else 1
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        start_sweep(settings, journal, stop)
        start_delivery(settings, journal, stop)
        print(f"loop: {settings.loop.runner} jobs in {settings.loop.directory}, journal {path}", flush=True)
        ear, acknowledgements = listen_to_edge(settings, journal)
        page = _Page(settings, journal)

        def after() -> None:
            acknowledgements.look(time.time())
            page.draw_if_changed()

        serve(service, journal, stop, poll_s=settings.loop.poll_s, after=after)
        ear.close()
        journal.close()
    return 0


class _Page:
    """Draws the page again when a scan has ended, not too often."""

    def __init__(self, settings: Any, journal: Any) -> None:
        self._settings, self._journal = settings, journal
        self._drawn: object = None
        self._drawn_s = float("-inf")

    def draw_if_changed(self) -> None:
        from bluesky_ptychonn.cli.loop_page import save_pages
        from bluesky_ptychonn.cli.loop_parts import terms_of
        from bluesky_ptychonn.training.loop.policy import FINAL

        if time.monotonic() - self._drawn_s < PAGE_EVERY_S:
            return
        rows = self._journal.scans()
        ended = [(row.uid, row.sentence) for row in rows if row.state in FINAL]
        if ended and ended != self._drawn:
            self._drawn, self._drawn_s = ended, time.monotonic()
            save_pages(self._settings.loop.directory / "page", self._journal, terms_of(self._settings))


def _status(options: argparse.Namespace, settings: Any) -> int:
    from bluesky_ptychonn.cli.loop_parts import journal_of, terms_of
    from bluesky_ptychonn.cli.loop_status import SCANS_SHOWN, status_of, table_of

    journal, terms = journal_of(settings), terms_of(settings)
    while True:
        now_s = time.time()
        status = status_of(journal, terms, now_s)
        told = (
            json.dumps(status) if options.json else table_of(status, now_s, shown=None if options.all else SCANS_SHOWN)
        )
        if options.watch and sys.stdout.isatty():
            print("\x1b[H\x1b[2J", end="")
        print(told, flush=True)
        if not options.watch:
            return 0
        time.sleep(options.watch)


def _show(options: argparse.Namespace, settings: Any) -> int:
    from bluesky_ptychonn.cli.loop_parts import journal_of
    from bluesky_ptychonn.cli.loop_status import story_of, told_of

    journal = journal_of(settings)
    try:
        row = journal.scan(options.uid)
    except ValueError:
        keys = [training.key for training in journal.trainings()]
        if options.uid not in keys:
            raise
        row = journal.training(options.uid)
    told = told_of(journal, row, time.time())
    print(json.dumps(told) if options.json else story_of(told))
    return 0


def _pause(options: argparse.Namespace, settings: Any) -> int:
    from bluesky_ptychonn.cli.loop_parts import journal_of

    journal_of(settings).set_fact("paused", True)
    print("paused: no job is handed out; what runs is taken; `bluesky-ptychonn loop resume` goes on")
    return 0


def _resume(options: argparse.Namespace, settings: Any) -> int:
    from bluesky_ptychonn.cli.loop_parts import journal_of, terms_of
    from bluesky_ptychonn.training.loop.service import standing_of

    journal = journal_of(settings)
    standing = standing_of(journal)
    if standing.paused:
        journal.set_fact("paused", False)
        print("no longer paused")
    elif standing.is_suspended(time.time(), terms_of(settings)):
        with journal.transaction():
            journal.set_fact("suspended_until_s", None)
            journal.set_fact("alarm", {})
        print("no longer suspended: the next scan is reconstructed")
    else:
        print("it is neither paused nor suspended")
    return 0


def _retry(options: argparse.Namespace, settings: Any) -> int:
    from bluesky_ptychonn.cli.loop_parts import journal_of, terms_of
    from bluesky_ptychonn.cli.main import Problem
    from bluesky_ptychonn.training.loop import jobs, outcomes

    journal, terms = journal_of(settings), terms_of(settings)
    rows = [journal.scan(uid) for uid in options.uids] + (journal.scans("parked") if options.parked else [])
    if not rows and not options.parked:
        raise Problem("name a run by its uid, or give --parked for all that were given up")
    for row in rows:
        decision = outcomes.retried(row, terms)
        if decision.what == "reconstructing":  # else the markers that are there would be taken again
            for kind in ("scan", "residual", "probe"):
                jobs.reopen(jobs.named_directory(settings.loop.directory, kind, row.uid))
        if not journal.move(row.uid, decision.what, decision.sentence, expect=row.state, **decision.columns):
            raise Problem(f"scan {row.scan_id} was moved on meanwhile; look at it by `loop show {row.uid[:8]}`")
        print(f"scan {row.scan_id} ({row.uid[:8]}): {decision.what}, {decision.sentence}")
    return 0


def _listen(options: argparse.Namespace, settings: Any) -> int:
    import signal

    from bluesky_ptychonn.callbacks.retrain import RetrainTrigger
    from bluesky_ptychonn.cli.main import Problem

    try:
        from bluesky.callbacks.zmq import RemoteDispatcher
    except ImportError as error:
        raise Problem(f"{error}; pip install pyzmq") from error
    trigger = RetrainTrigger(_local_journal(settings))
    dispatcher = RemoteDispatcher(options.address)
    dispatcher.subscribe(trigger)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(f"loop: notes the runs from {options.address} in {settings.loop.journal_file}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        dispatcher.start()
    trigger.close()
    return 0


def _local_journal(settings: Any) -> Path:
    """The journal's file, which must not lie on a network disk."""
    from bluesky_ptychonn.cli.main import Problem
    from bluesky_ptychonn.io.durable import network_disk

    path = settings.loop.journal_file
    if kind := network_disk(path):
        raise Problem(
            f"the journal {path} lies on a network disk ({kind}), where SQLite loses what two machines write; set "
            "loop.journal to a file on a local disk of the machine where sessions and this service run"
        )
    return path


def _page(options: argparse.Namespace, settings: Any) -> int:
    from bluesky_ptychonn.cli.loop_page import save_pages
    from bluesky_ptychonn.cli.loop_parts import journal_of, terms_of

    out = options.out or settings.loop.directory / "page"
    for page in save_pages(out, journal_of(settings), terms_of(settings)):
        print(page)
    return 0

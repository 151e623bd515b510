"""The loop's service, wired from the settings: journal, runner, desk and policy."""

import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

from bluesky_ptychonn.config import FILE_NAME, VARIABLE, Settings
from bluesky_ptychonn.io.journal import Journal, JournalError
from bluesky_ptychonn.training.loop.acknowledge import Acknowledgements, EdgeEar
from bluesky_ptychonn.training.loop.delivery import Delivery
from bluesky_ptychonn.training.loop.desk import FolderDesk
from bluesky_ptychonn.training.loop.patience import Patience
from bluesky_ptychonn.training.loop.policy import Terms
from bluesky_ptychonn.training.loop.service import LoopService

logger = logging.getLogger(__name__)

QUEUED_S = 86400.0
"""How long a job may wait in a scheduler's queue."""
LOCAL = {"more_s": 300.0, "marker_s": 3.0, "ask_s": 2.0, "at_once": 1}
SLURM = {"more_s": QUEUED_S, "marker_s": 30.0, "ask_s": 10.0, "at_once": 4}
WAITS = {"local": LOCAL, "slurm": SLURM, "pbs": {**SLURM, "at_once": 1}}  # some queues of PBS take one of each user
SWEEP_AGAIN_S = 60.0
CATALOG_S = 20.0


def journal_of(settings: Settings) -> Journal:
    """Journal of the settings, which must be there.

    Raises
    ------
    Problem
        If there is none.
    """
    from bluesky_ptychonn.cli.main import Problem

    path = settings.loop.journal_file
    if not path.is_file():
        raise Problem(
            f"there is no journal {path}; `loop.enabled = true` in the settings makes sessions write one, and "
            "`bluesky-ptychonn loop run` works on it (--settings names the settings file)"
        )
    return Journal(path)


def terms_of(settings: Settings) -> Terms:
    """What the policy is given."""
    loop = settings.loop
    return Terms(
        first_scans=loop.first_scans,
        mismatch=loop.mismatch,
        suspend_s=60 * loop.suspend_min,
        residual_drift=loop.residual_drift,
        attempts=loop.attempts,
    )


def settings_file_of(named: Path | None) -> str:
    """The settings file in force, for jobs that start in other folders; "" if there is none."""
    found = named or os.environ.get(VARIABLE) or (FILE_NAME if Path(FILE_NAME).is_file() else None)
    return str(Path(found).resolve()) if found else ""


def job_options(settings: Settings) -> dict[str, dict[str, Any]]:
    """Options of the jobs of each kind."""
    loop, margin = settings.loop, settings.learning.gate_margin
    train: dict[str, Any] = {"minutes": loop.train_minutes, "warm": loop.warm, "margin": margin, "ranks": loop.ranks}
    if loop.launcher:
        train["launcher"] = loop.launcher
    if loop.recipe != "tune":  # that is the job's own choice where it starts from a model
        train["recipe"] = loop.recipe
    return {
        "scan": {"method": loop.method, "sweeps": loop.sweeps},
        "residual": {},
        "probe": {"margin": margin},
        "train": train,
    }


def make_service(settings: Settings, journal: Journal, settings_file: str) -> LoopService:
    """The service of the settings.

    Raises
    ------
    Problem
        If they name no model store.
    """
    from bluesky_ptychonn.cli.main import Problem
    from bluesky_ptychonn.training.loop.runner import Resources, Runner, make_runner
    from bluesky_ptychonn.training.loop.transfer import SendingRunner

    loop = settings.loop
    if settings.edge.model is None:
        raise Problem("the settings name no model store; set edge.model to its folder, which edge and loop share")
    common = {
        "queue": loop.queue,
        "account": loop.account,
        "walltime_min": loop.walltime_min,
        "gpus": loop.gpus,
        "cores": loop.cores,
        "modules": tuple(loop.modules),
        "environment": loop.environment,
    }
    waits = WAITS[loop.runner]
    runner: Runner = make_runner(loop.runner, Resources(**common))
    if loop.transfer == "rsync":
        runner = SendingRunner(runner, loop.directory.resolve())
    desk = FolderDesk(
        loop.directory.resolve(),
        runner,
        settings_file=settings_file,
        options=job_options(settings),
        resources={"train": Resources(**common, nodes=loop.nodes, ranks=loop.ranks)},
    )
    patience = Patience(
        job_s=60 * loop.walltime_min + waits["more_s"], marker_s=waits["marker_s"], ask_s=waits["ask_s"]
    )
    return LoopService(journal, desk, terms_of(settings), patience, at_once=int(waits["at_once"]))


def listen_to_edge(settings: Settings, journal: Journal) -> tuple[EdgeEar, Acknowledgements]:
    """What hears which version the edge uses, and what writes that into the journal; closing the first ends it."""
    settings.apply_epics_environment()
    ear = EdgeEar(settings.edge.prefix)
    return ear, Acknowledgements(journal, lambda: ear.heard, Path(settings.edge.model or ""))


def start_sweep(settings: Settings, journal: Journal, stop: threading.Event) -> threading.Thread | None:
    """Look in the catalog, beside the service, for runs that the journal does not know; again until it answers."""
    if not settings.catalog.uri or not settings.loop.sweep_days:
        return None
    thread = threading.Thread(target=_sweep, args=(settings, journal, stop), name="sweep", daemon=True)
    thread.start()
    return thread


def _sweep(settings: Settings, journal: Journal, stop: threading.Event) -> None:
    from bluesky_ptychonn.cli.catalog import open_catalog
    from bluesky_ptychonn.io.sweep import sweep

    told = ""
    while not stop.is_set():
        try:
            catalog = open_catalog(settings, timeout_s=CATALOG_S)
            noted = sweep(catalog, journal, since_s=time.time() - 86400 * settings.loop.sweep_days)
            if noted:
                logger.warning("%d runs of the catalog were not in the journal, and are now", noted)
            return
        except JournalError as error:
            logger.warning("the sweep of the catalog waits: %s", error)
        except Exception as error:  # whatever a server or its client comes up with
            if str(error) != told:
                told = str(error)
                logger.warning("the catalog is not swept yet: %s", error)
        stop.wait(SWEEP_AGAIN_S)


def delivery_of(settings: Settings, journal: Journal) -> Delivery | None:
    """What keeps the edge's own store like the model store, where the settings name one."""
    loop = settings.loop
    if not loop.edge_store or settings.edge.model is None:
        return None
    return Delivery(journal, settings.edge.model, loop.edge_store, loop.ssh_config)


def start_delivery(settings: Settings, journal: Journal, stop: threading.Event) -> None:
    """Deliver beside the service, again and again."""
    if delivery := delivery_of(settings, journal):
        how = {"args": (stop, settings.loop.poll_s), "name": "delivery", "daemon": True}
        threading.Thread(target=delivery.run, **how).start()

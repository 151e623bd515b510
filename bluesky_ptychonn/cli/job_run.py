"""What every job of the loop has: its folder, its options, its scan, the live model; and how it stops."""

import argparse
import importlib.util
import math
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bluesky_ptychonn.training.loop.jobs import JobSpec, record_path
from bluesky_ptychonn.training.loop.lease import Lease

if TYPE_CHECKING:
    import numpy as np

    from bluesky_ptychonn.core.protocols import Engine
    from bluesky_ptychonn.core.reconstruction import Reconstruction
    from bluesky_ptychonn.core.scan_data import ScanData
    from bluesky_ptychonn.io.model_store import StoredModel

FAULT = "BLUESKY_PTYCHONN_FAULT"
"""Variable of tests: ``job:STEP`` ends the job (SIGKILL) when it has reached that step."""
CORES = ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE", "NCPUS")
"""Variables in which schedulers say how many cores they gave; the first is set only if a number was asked for."""
RECONSTRUCTION, PROBE = "reconstruction.cxi", "probe.npy"


class Preempted(Exception):  # noqa: N818
    """The job was told to make room; it goes on when it is started again."""


@dataclass(frozen=True)
class Live:
    """The live model, opened.

    Parameters
    ----------
    version : str
    model : StoredModel
    engine : Engine
    probe : (n, n) complex64, optional
        That it brings.
    """

    version: str
    model: "StoredModel"
    engine: "Engine"
    probe: "np.ndarray | None"


@dataclass(frozen=True)
class JobRun:
    """A job that is running.

    Parameters
    ----------
    directory : Path
    spec : JobSpec
    stopped : callable
        Whether it was told to make room.
    lease : Lease
        On its folder.
    """

    directory: Path
    spec: JobSpec
    stopped: Callable[[], bool]
    lease: Lease

    def say(self, text: str) -> None:
        """Write a line into the log, and stop if that was asked for."""
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)
        self.make_room()

    def make_room(self) -> None:
        """Raise `Preempted` if the job was told to make room."""
        if self.stopped():
            raise Preempted

    def reached(self, step: str) -> None:
        """Say that a step is done; in tests that may be the last thing it does."""
        print(f"{time.strftime('%H:%M:%S')} {step}", flush=True)
        if os.environ.get(FAULT) == f"job:{step}":
            os.kill(os.getpid(), signal.SIGKILL)
        self.make_room()

    def option(self, name: str, default: Any = None) -> Any:
        """An option of the job."""
        value = self.spec.options.get(name)
        return default if value is None else value

    @cached_property
    def settings(self) -> Any:
        """The settings, for what the options leave out."""
        from bluesky_ptychonn.config import load_settings

        return load_settings(self.spec.settings_file or None)

    @cached_property
    def store(self) -> Path:
        """The model store."""
        store = self.option("store") or self.settings.edge.model
        if store is None:
            raise ValueError("no model store is named; give option `store`, or edge.model in the settings")
        return Path(store)

    @cached_property
    def corpus(self) -> Path:
        """The corpus."""
        return Path(self.option("corpus") or self.directory.parents[1] / "corpus")

    @property
    def engine_name(self) -> str:
        """Engine in which models are judged: that of the CPU that is installed, if none is named."""
        usual = "openvino" if importlib.util.find_spec("openvino") else "onnxruntime"
        return str(self.option("engine", usual))

    @property
    def threads(self) -> int:
        """Cores to use: as many as the scheduler gave."""
        given = self.option("threads") or next(filter(None, map(os.environ.get, CORES)), None)
        return int(given or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1))

    def open_engine(self, folder: Path) -> "Engine":
        """Open a model."""
        from bluesky_ptychonn.engines.registry import open_engine

        return open_engine(self.engine_name, folder)

    def live(self) -> Live | None:
        """The live model of the store; None if nothing is live."""
        from bluesky_ptychonn.io.model_probe import probe_of
        from bluesky_ptychonn.io.model_store import VERSIONS, live_version, open_model

        version = live_version(self.store)
        if not version:
            return None
        model = open_model(self.store / VERSIONS / version)
        return Live(version, model, self.open_engine(model.directory), probe_of(model))

    def scan(self) -> "tuple[ScanData, str]":
        """The scan of the job, and the orientation that was applied to its frames."""
        return read_scan(self.spec.source, self.spec.settings_file, self.spec.key, self.record_of(self.spec.key))

    def record_of(self, key: str) -> Path:
        """Where it is written down what a run consists of, see `io.run_record`."""
        return record_path(self.directory.parents[1], key)

    def folder_of_scan(self, key: str) -> Path:
        """Folder of the job that reconstructed a scan."""
        return self.directory.parent / JobSpec("scan", key).name


def read_scan(source: Mapping[str, Any], settings_file: str, key: str, record: Path) -> "tuple[ScanData, str]":
    """Read what a job's source names.

    Parameters
    ----------
    source : mapping
        See `jobs.JobSpec`.
    settings_file : str
    key : str
        Run that the scan is of, where its file does not say so.
    record : Path
        What a run of the catalog consists of is read here, or written down the first time.

    Returns
    -------
    scan : ScanData
    orientation : str
        Which has been applied to its frames.

    Raises
    ------
    ValueError, Problem
        If it cannot be read, or its file is another one than was meant.
    RuntimeError, OSError
        If that may be otherwise the next time: the catalog does not answer, or does not have the whole run yet.
    """
    from bluesky_ptychonn.cli.job_source import run_for_job
    from bluesky_ptychonn.cli.retrieval_source import add_source_options, read_source, with_probe
    from bluesky_ptychonn.core.scan_checks import refuse_unfit
    from bluesky_ptychonn.io.run_record import read_record

    given = dict(source)
    file, run, sha256 = given.pop("file", None), given.pop("run", None), given.pop("sha256", "")
    if file and (sent := read_record(record)):
        file = sent["file"]
    named = file or run
    if not named:
        raise ValueError(f"source = {dict(source)!r} names no scan; give its file, or the uid of its run")
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_source_options(parser)
    words = ["--settings", settings_file] if settings_file else []
    for name, value in given.items():
        values = value if isinstance(value, list | tuple) else [value]
        words += [f"--{name.replace('_', '-')}", *map(str, values)]
    try:
        asked, unknown = parser.parse_known_args([*words, "--", str(named)])
    except argparse.ArgumentError as error:
        raise ValueError(f"source = {dict(source)!r}: {error}") from error
    if unknown:
        raise ValueError(f"source = {dict(source)!r}: {unknown[0]} is no option of `bluesky-ptychonn reconstruct`")
    scan, _, orientation = read_source(asked, lambda settings, uid: run_for_job(settings, uid, record))
    found = scan.provenance.get("sha256", "")
    if sha256 and found != sha256:
        raise ValueError(
            f"{named} has SHA-256 {found[:12]}..., not {sha256[:12]}...: it was changed or cut short; copy it anew"
        )
    refuse_unfit(scan)
    if asked.probe:
        scan = with_probe(scan, asked)
    return replace(scan, provenance={"run_uid": key, **scan.provenance}), orientation


def read_reconstruction_of(folder: Path) -> "Reconstruction":
    """The reconstruction in the folder of a scan's job."""
    from bluesky_ptychonn.io.reconstruction_files import read_reconstruction

    return read_reconstruction(folder / RECONSTRUCTION)


def plain(value: Any) -> Any:
    """Values for JSON: numbers of NumPy become plain ones, what is not finite None.

    Examples
    --------
    >>> plain({"a": float("nan"), "b": [1, 2.5]})
    {'a': None, 'b': [1, 2.5]}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | type(None)) else str(value)

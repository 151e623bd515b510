"""The doctor's checks of what a scan leans on: engine and GPU, Tiled, folders, and the loop with its scheduler."""

import contextlib
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from bluesky_ptychonn.cli.doctor_checks import Finding
from bluesky_ptychonn.cli.doctor_engine import try_engine
from bluesky_ptychonn.cli.main import EXTRAS
from bluesky_ptychonn.config import Settings
from bluesky_ptychonn.io.catalog import RAW

ENGINE_S, TILED_S, SCHEDULER_S, GPU_S = 45.0, 8.0, 12.0, 8.0
NEEDS_GPU = ("tensorrt", "torch")
LEAST_FREE = 200e6
ASK = {"slurm": ("squeue", "--me", "--noheader"), "pbs": ("qstat", "-q")}


def engine_findings(settings: Settings, timeout_s: float = ENGINE_S) -> list[Finding]:
    """Open the engine and see what a frame costs."""
    edge = settings.edge
    tried = try_engine(edge, settings.geometry.frame_px, timeout_s)
    if "late" in tried:
        what = f"{edge.engine} is not ready after {timeout_s:g} s"
        remedy = "TensorRT builds its engine for minutes at the first start: start `bluesky-ptychonn edge` once"
        return [Finding("engine", "warn", what, remedy)]
    if "error" in tried:
        what, _, remedy = tried["error"].removeprefix(f"engine {edge.engine}: ").partition("; ")
        module = tried.get("module", "").split(".")[0]
        if module in EXTRAS:
            remedy = f"pip install 'bluesky-ptychonn[{EXTRAS[module]}]', or choose another edge.engine"
        remedy = remedy or "choose another edge.engine: openvino and onnxruntime run on any CPU, lift needs no model"
        return [Finding("engine", "bad", f"{edge.engine}: {what}", remedy)]
    rate_hz = 1e6 / tried["us_per_frame"]
    name = ", ".join(filter(None, (tried["engine"], tried["version"])))
    what = f"{name}: {tried['us_per_frame']:.0f} us a frame in batches of {edge.batch}, {rate_hz:.0f} frames/s"
    return [Finding("engine", "ok", what)]


def gpu_findings(settings: Settings) -> list[Finding]:
    """Which GPU is here, and whether the engine needs one."""
    engine = settings.edge.engine
    found, told = _answer(
        ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"), GPU_S
    )
    if found and told:
        return [Finding("GPU", "ok", told.splitlines()[0])]
    if engine in NEEDS_GPU:
        remedy = 'install NVIDIA\'s driver, or set edge.engine = "openvino"'
        level = "warn" if Path("/etc/nv_tegra_release").exists() else "bad"  # Jetsons may lack nvidia-smi
        return [Finding("GPU", level, f"none found ({told}), and the engine {engine} needs one", remedy)]
    return [Finding("GPU", "ok", f"none; the engine {engine} needs none")]


def tiled_findings(settings: Settings, timeout_s: float = TILED_S) -> list[Finding]:
    """Ask the catalog for its runs, and look at where documents go without it."""
    uri = settings.catalog.uri
    return (
        [*_catalog(settings, timeout_s)]
        if uri
        else [Finding("Tiled", "warn", "the settings name no catalog; documents go into files", "set catalog.uri")]
    )


def _catalog(settings: Settings, timeout_s: float) -> Iterator[Finding]:
    uri, key_file = settings.catalog.uri, settings.catalog.api_key_file
    try:
        key = key_file.read_text().strip() if key_file else None
    except OSError as error:
        yield Finding("Tiled", "bad", f"catalog.api_key_file: {error}", "put the key there, readable for you alone")
        return
    try:
        import httpx
        from tiled.client import from_uri
    except ImportError:
        yield Finding("Tiled", "bad", "its client is not installed", "pip install 'bluesky-ptychonn[tiled]'")
        return
    try:
        httpx.get(uri, timeout=timeout_s, follow_redirects=True)  # the client would try for half a minute
        root = from_uri(uri, api_key=key, timeout=timeout_s)
        runs = len(root[RAW]) if RAW in root else 0
    except Exception as error:  # whatever a server or its client comes up with
        remedy = "start it, or correct catalog.uri and catalog.api_key_file; documents go into files meanwhile"
        yield Finding("Tiled", "bad", f"{uri} does not let us in: {type(error).__name__}: {error}", remedy)
    else:
        yield Finding("Tiled", "ok", f"{uri}: {runs} runs")


def folder_findings(settings: Settings) -> list[Finding]:
    """Whether documents and pictures can be kept."""
    places = {
        "catalog.backup_directory": settings.catalog.backup_directory,
        "scan.picture_directory": settings.scan.picture_directory,
    }
    problems = [(key, problem) for key, path in places.items() if (problem := unwritable(path))]
    if problems:
        what = "; ".join(f"{key}: {problem}" for key, problem in problems)
        return [Finding("folders", "bad", what, "make it writable, free some space, or name another")]
    return [Finding("folders", "ok", "documents and pictures can be written")]


def unwritable(path: Path) -> str:
    """Why nothing could be written into a folder, which need not be there yet; empty if it could."""
    there = next(parent for parent in (path.resolve(), *path.resolve().parents) if parent.exists())
    if not there.is_dir():
        return f"{there} is a file, not a folder"
    if not os.access(there, os.W_OK | os.X_OK):
        return f"{there} cannot be written"
    if os.statvfs(there).f_flag & os.ST_RDONLY:
        return f"{there} is mounted read-only"
    free = shutil.disk_usage(there).free
    return f"{there} has {free / 1e6:.3g} MB left" if free < LEAST_FREE else ""


def loop_findings(settings: Settings) -> list[Finding]:
    """Journal, service, scheduler and model store, where the loop is enabled."""
    from bluesky_ptychonn.training.loop.serving import is_served

    loop = settings.loop
    if not loop.enabled:
        return [Finding("loop", "ok", "not enabled")]
    journal = _journal(loop.journal_file)
    findings = [journal, _scheduler(settings)]
    if problem := unwritable(loop.directory):
        findings.append(
            Finding("loop", "bad", problem, "set loop.directory to a folder that jobs and this user can write")
        )
    elif settings.edge.model is None:
        remedy = "set edge.model to a folder: the model store which edge and loop share"
        findings.append(Finding("loop", "bad", "the settings name no model store", remedy))
    elif journal.level == "ok" and not is_served(loop.journal_file):
        remedy = "start `bluesky-ptychonn loop run`; runs are noted meanwhile"
        findings.append(Finding("loop", "warn", "no service works on the journal", remedy))
    elif journal.level == "ok":
        findings.append(Finding("loop", "ok", "its service runs"))
    return findings


def _journal(path: Path) -> Finding:
    from bluesky_ptychonn.io.durable import network_disk

    remedy = "set loop.journal to a file on a local disk that you can write"
    if problem := unwritable(path.parent):
        return Finding("journal", "bad", f"{path}: {problem}", remedy)
    if kind := network_disk(path):
        return Finding("journal", "bad", f"{path} lies on a network disk ({kind}), where SQLite may lose rows", remedy)
    if not path.is_file():
        return Finding("journal", "ok", f"{path} will be made at the first scan")
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=2.0)) as database:
            database.execute("BEGIN IMMEDIATE")
            (count,) = database.execute("SELECT count(*) FROM scans").fetchone()
            database.rollback()
    except sqlite3.Error as error:
        return Finding("journal", "bad", f"{path} cannot be written: {error}", remedy)
    return Finding("journal", "ok", f"{path}: {count} scans")


def _scheduler(settings: Settings) -> Finding:
    kind = settings.loop.runner
    if kind == "local":
        return Finding("scheduler", "ok", "jobs run on this machine")
    answers, told = _answer(ASK[kind], SCHEDULER_S)
    if not answers:
        remedy = "run the loop where jobs are submitted, or ask the operators; jobs wait meanwhile"
        return Finding("scheduler", "bad", f"{kind}: {told}", f'{remedy}; or set loop.runner = "local"')
    try:
        import psij  # noqa: F401  # pyright: ignore[reportMissingImports, reportUnusedImport]
    except ImportError:
        remedy = "pip install 'bluesky-ptychonn[loop]'"
        return Finding("scheduler", "bad", f"{kind} answers, but psij-python is not installed", remedy)
    return Finding("scheduler", "ok", f"{kind} answers")


def _answer(command: Sequence[str], timeout_s: float) -> tuple[bool, str]:
    """Whether a command succeeds in time, and what it says."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except FileNotFoundError:
        return False, f"there is no {command[0]} here"
    except (OSError, subprocess.TimeoutExpired) as error:
        return False, str(error)
    return done.returncode == 0, (done.stdout or done.stderr).strip()

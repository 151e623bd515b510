"""A run of the catalog, for a job: written down once with the hashes of its files, and never another one after that."""

import errno
from pathlib import Path
from typing import Any

CLIENTS = ("httpx", "httpcore", "tiled")
"""Packages whose errors come of a catalog, or of the way to it."""
LASTING = (errno.ENOENT, errno.ENOTDIR)


class NotYetError(RuntimeError):
    """The catalog does not have the whole run; perhaps it will."""


def may_pass(error: BaseException) -> bool:
    """Whether what went wrong may be otherwise later by itself: a catalog, a disk or a machine that does not answer.

    Examples
    --------
    >>> may_pass(TimeoutError("no answer")), may_pass(FileNotFoundError(errno.ENOENT, "no such file"))
    (True, False)
    """
    from bluesky_ptychonn.io.rsync import NotSetUpError, TransferError

    if isinstance(error, OSError):
        known = error.errno is not None or isinstance(error, ConnectionError | TimeoutError)
        return known and error.errno not in LASTING  # HDF5 gives no number for a file that is none
    if isinstance(error, TransferError):
        return not isinstance(error, NotSetUpError)
    if isinstance(error, NotYetError) or type(error).__module__.startswith(CLIENTS):
        return True
    return error.__cause__ is not None and may_pass(error.__cause__)


def run_for_job(settings: Any, uid: str, path: Path) -> Any:
    """Find a run: in its record, else in the catalog, and write its record down.

    Where the files of the frames are on no disk of this machine, the catalog hands them out, and nothing is recorded.

    Parameters
    ----------
    settings : Settings
    uid : str
    path : Path
        Record of the run, there or not.

    Returns
    -------
    RunOfRecord or tiled client
        For `io.runs.read_run`.

    Raises
    ------
    Problem
        If the settings name no catalog.
    ValueError
        If a file of its frames is gone, or is not what it was when the record was written.
    ConnectionError, NotYetError
        If the catalog does not answer, or does not have the whole run yet.
    """
    from bluesky_ptychonn.io.run_record import RunOfRecord, read_record, refuse_changed, with_hashes, write_record

    record = read_record(path)
    if record is not None:
        refuse_changed(record, path)
        return RunOfRecord(record)
    run, record = found_in_catalog(settings, uid)
    if not _seen_here(record):
        print(f"the frames of run {uid} are on no disk of this machine; the catalog hands them out", flush=True)
        return run
    record = with_hashes(record)
    write_record(path, record)
    return RunOfRecord(record)


def found_in_catalog(settings: Any, uid: str) -> tuple[Any, dict[str, Any]]:
    """The run, and what it consists of.

    Raises
    ------
    Problem
        If the settings name no catalog.
    ConnectionError, NotYetError
        If the catalog does not answer, or does not have the whole run yet.
    """
    from bluesky_ptychonn.cli.main import Problem
    from bluesky_ptychonn.cli.retrieval_source import run_of_catalog
    from bluesky_ptychonn.io.run_record import record_of

    try:
        run = run_of_catalog(settings, uid)
    except Problem as error:
        if not settings.catalog.uri:
            raise
        raise NotYetError(_not_yet(settings, uid)) from error
    try:
        if not run.metadata.get("stop"):
            raise NotYetError(_not_yet(settings, uid))
        return run, record_of(run)
    except OSError:
        raise
    except Exception as error:
        if not type(error).__module__.startswith(CLIENTS):
            raise
        raise ConnectionError(f"the catalog {settings.catalog.uri} did not hand out run {uid}: {error}") from error


def _seen_here(record: dict[str, Any]) -> bool:
    from bluesky_ptychonn.io.run_record import files_of

    files = files_of(record)
    return bool(files) and all(Path(file).parent.is_dir() for file in files)


def _not_yet(settings: Any, uid: str) -> str:
    return (
        f"the catalog {settings.catalog.uri} does not have run {uid}, or not to its end; if its documents are in "
        f"{settings.catalog.backup_directory}, send them by `bluesky-ptychonn catalog ingest FILE`"
    )

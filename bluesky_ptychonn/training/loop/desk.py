"""Where the service hands its jobs out: folders on the shared disk, and a runner."""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bluesky_ptychonn.training.loop import jobs, transfer
from bluesky_ptychonn.training.loop.handout import Ending, NotTakenError
from bluesky_ptychonn.training.loop.lease import sign_of_life
from bluesky_ptychonn.training.loop.runner import Resources, Runner, RunnerError

logger = logging.getLogger(__name__)

PREEMPTED_AT_MOST = 50
"""Starts of one job after which making room counts as a failure."""


class FolderDesk:
    """`handout.Desk` of `jobs` and a `Runner`; a disk or scheduler that does not answer raises `NotTakenError`.

    Parameters
    ----------
    loop_directory : Path
        Shared with the machines that run the jobs.
    runner : Runner
    settings_file : str
        For the jobs; "" for what they find as every command does.
    options : mapping
        Of every job of a kind, by the kind.
    resources : mapping
        Of jobs of a kind, where they are not the runner's, by the kind.
    """

    def __init__(
        self,
        loop_directory: Path,
        runner: Runner,
        *,
        settings_file: str = "",
        options: Mapping[str, Mapping[str, Any]] | None = None,
        resources: Mapping[str, Resources] | None = None,
    ) -> None:
        self._directory, self._runner, self._settings_file = Path(loop_directory), runner, settings_file
        self._options, self._resources = options or {}, resources or {}

    def result(self, kind: str, key: str) -> Mapping[str, Any] | None:
        """See `handout.Desk`."""
        with _disk():
            return jobs.result(self._folder(kind, key))

    def set_aside(self, kind: str, key: str) -> None:
        """See `handout.Desk`."""
        with _disk():
            jobs.reopen(self._folder(kind, key))

    def submitted(self, kind: str, key: str) -> str:
        """See `handout.Desk`."""
        with _disk():
            return jobs.submitted(self._folder(kind, key))

    def ending(self, kind: str, key: str) -> Ending:
        """See `handout.Desk`."""
        folder = self._folder(kind, key)
        with _disk():
            attempts, sends = jobs.attempts(folder), transfer.was_last(folder)
        if sends:
            return Ending(f"the transfer of its frames was ended before it was done; see {folder / transfer.LOG}")
        where = f"see {folder / jobs.LOG}"
        if not attempts:
            return Ending(f"it never began; see {folder / jobs.LAUNCH}")
        last = attempts[-1]
        preempted = last.exit_status == jobs.PREEMPTED and len(attempts) < PREEMPTED_AT_MOST
        return Ending(f"{last.reason}; {where}" if last.reason else where, preempted)

    def submit(self, kind: str, key: str, start: Mapping[str, Any], options: Mapping[str, Any]) -> str:
        """See `handout.Desk`."""
        spec = jobs.JobSpec(
            kind, key, self._settings_file, source_of(start), {**self._options.get(kind, {}), **options}
        )
        with _disk():
            folder = jobs.prepare(self._directory, spec)
        try:
            return self._runner.submit(folder, self._resources.get(kind))
        except RunnerError as error:
            raise NotTakenError(str(error)) from error

    def alive(self, native: str) -> bool | None:
        """See `handout.Desk`."""
        try:
            return self._runner.alive(native)
        except RunnerError as error:
            logger.warning("whether job %s runs cannot be told: %s", native, error)
            return None

    def sign_of_life(self, kind: str, key: str) -> str:
        """See `handout.Desk`."""
        return sign_of_life(self._folder(kind, key))

    def cancel(self, native: str) -> None:
        """See `handout.Desk`."""
        try:
            self._runner.cancel(native)
        except RunnerError as error:
            logger.warning("job %s cannot be cancelled: %s", native, error)

    def _folder(self, kind: str, key: str) -> Path:
        return jobs.named_directory(self._directory, kind, key)


def source_of(start: Mapping[str, Any]) -> dict[str, Any]:
    """What names a scan for its job: ``source`` of its start document, else its run in the catalog.

    Examples
    --------
    >>> source_of({"uid": "5f3a0c1b"})
    {'run': '5f3a0c1b'}
    """
    if isinstance(start.get("source"), Mapping):
        return dict(start["source"])
    return {"run": start["uid"]} if "uid" in start else {}


@contextlib.contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NotTakenError(f"the loop's folder cannot be used: {error}") from error

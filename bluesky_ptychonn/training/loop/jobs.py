"""Jobs as folders on a disk that service and job both see: what is to be done, and what came of it.

::

    loop/jobs/scan-5f3a0c1b.../spec.json          what is to be done, complete in itself
                               native.json        what the scheduler calls the last submission
                               attempts/001.json  each start: where, when, and how it ended, if it could tell
                               lock, lease.json   held by the one process that works in the folder, see `lease`
                               log.txt            what the job says; launch.txt: what was said before it could
                               result.json        the completion marker, written last and at once: the only truth

A scheduler's word proves nothing: it forgets jobs and gives their numbers to others. So the marker alone says that a
job is done; a job that is started twice does nothing the second time.
"""

import contextlib
import hashlib
import json
import os
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bluesky_ptychonn.io.durable import replace_file

KINDS = ("scan", "residual", "probe", "train")
KEY = re.compile(r"\w[\w.-]{0,127}")
SPEC, RESULT, NATIVE, LOG, LAUNCH = "spec.json", "result.json", "native.json", "log.txt", "launch.txt"
ATTEMPTS = "attempts"
PREEMPTED = 75
"""Exit status of a job that was told to make room, and goes on when it is started again."""


@dataclass(frozen=True)
class JobSpec:
    """What a job does.

    Parameters
    ----------
    kind : {"scan", "residual", "probe", "train"}
        Reconstruct a scan, label it into the corpus and judge the live model by it; the label-free residual of the live
        model on a scan; a refined probe as a new version; a training.
    key : str
        Run uid of the scan, or name of the training: a word that can name a folder.
    settings_file : str
        For the catalog, and for what ``options`` leave out; "" for what is found as every command finds it.
    source : mapping
        What names the scan: ``run`` (uid in the catalog) or ``file`` (path) with its ``sha256``, and options of
        `bluesky-ptychonn reconstruct` under their names (``probe``, ``orientation``, ``crop_px`` ...).
    options : mapping
        How; `bluesky-ptychonn job --help` lists them.

    Raises
    ------
    ValueError
        If the kind is unknown or the key cannot name a folder.

    Examples
    --------
    >>> spec = JobSpec("scan", "5f3a0c1b", source={"file": "/data/scan.npz"}, options={"sweeps": 60})
    >>> JobSpec.from_dict(spec.to_dict()) == spec
    True
    """

    kind: str
    key: str
    settings_file: str = ""
    source: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind = {self.kind!r}; allowed is one of {', '.join(KINDS)}")
        if not isinstance(self.key, str) or not KEY.fullmatch(self.key):
            raise ValueError(f"key = {self.key!r}; it must be a word of at most 128 letters, digits and _ . -")

    @property
    def name(self) -> str:
        """Of its folder, and of the job in the scheduler's queue."""
        return f"{self.kind}-{self.key}"

    @property
    def sha256(self) -> str:
        """Hash of everything it says."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "JobSpec":
        """Build it from plain values.

        Raises
        ------
        ValueError
            If something is missing, unknown or impossible.
        """
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"{SPEC}: {error}") from error


@dataclass(frozen=True)
class Attempt:
    """One start of a job.

    Parameters
    ----------
    number : int
        From 1.
    host : str
    pid : int
    native : str
        What the scheduler calls the job it runs in; "" without one.
    started_s : float
        s since 1970, as are others.
    ended_s, exit_status : optional
        None while it runs, and for ever if it was killed.
    reason : str
        Why it ended without a result.
    """

    number: int
    host: str
    pid: int
    native: str
    started_s: float
    ended_s: float | None = None
    exit_status: int | None = None
    reason: str = ""


def job_directory(loop_directory: Path, spec: JobSpec) -> Path:
    """Folder of a job, whether it is there or not."""
    return named_directory(loop_directory, spec.kind, spec.key)


def named_directory(loop_directory: Path, kind: str, key: str) -> Path:
    """Folder of the job of a kind and key."""
    return Path(loop_directory) / "jobs" / JobSpec(kind, key).name


def record_path(loop_directory: Path, key: str) -> Path:
    """Where it is written down what a run consists of and where its frames are, see `io.run_record`."""
    return Path(loop_directory) / "runs" / f"{key}.json"


def prepare(loop_directory: Path, spec: JobSpec) -> Path:
    """Make the folder of a job and write down what is to be done.

    Once more is harmless. Another specification under the same kind and key takes the place of the first one, unless
    that one is done.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    directory = job_directory(loop_directory, spec)
    directory.mkdir(parents=True, exist_ok=True)
    text = (json.dumps(spec.to_dict(), indent=1, sort_keys=True) + "\n").encode()
    if result(directory) is None and _bytes(directory / SPEC) != text:
        replace_file(directory / SPEC, text)
    return directory


def read_spec(directory: Path) -> JobSpec:
    """Read what a job shall do.

    Raises
    ------
    FileNotFoundError
        If nothing was prepared there.
    ValueError
        If it cannot be understood.
    """
    path = Path(directory) / SPEC
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(f"{directory} is no folder of a job: it has no {SPEC}") from None
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}; prepare the job anew") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no table; prepare the job anew")
    return JobSpec.from_dict(values)


def result(directory: Path) -> dict[str, Any] | None:
    """The completion marker of a job; None if there is none, or one that is torn."""
    try:
        values = json.loads(_bytes(Path(directory) / RESULT) or b"")
    except ValueError:
        return None
    return values if isinstance(values, dict) and isinstance(values.get("ok"), bool) else None


def write_result(directory: Path, values: Mapping[str, Any]) -> None:
    """Write the completion marker, as a whole or not at all.

    Raises
    ------
    OSError
        If it cannot be written; the job is not done then.
    """
    replace_file(Path(directory) / RESULT, (json.dumps(dict(values), indent=1) + "\n").encode())


def reopen(directory: Path) -> None:
    """Set the marker aside, as ``result-001.json``, so that the job can be done again; what it has reached stays."""
    directory = Path(directory)
    number = 1 + len(list(directory.glob("result-*.json")))
    with contextlib.suppress(FileNotFoundError):
        os.replace(directory / RESULT, directory / f"result-{number:03d}.json")


def note_native(directory: Path, native: str) -> None:
    """Write down what the scheduler calls a submission."""
    replace_file(Path(directory) / NATIVE, json.dumps({"native": native}).encode())


def submitted(directory: Path) -> str:
    """What the scheduler called the last submission; "" if none is known."""
    try:
        return str(json.loads(_bytes(Path(directory) / NATIVE) or b"{}").get("native", ""))
    except (ValueError, AttributeError):
        return ""


def begin_attempt(directory: Path, native: str = "") -> Attempt:
    """Write down that a job starts."""
    folder = Path(directory) / ATTEMPTS
    folder.mkdir(exist_ok=True)
    number = 1 + max((attempt.number for attempt in attempts(directory)), default=0)
    attempt = Attempt(number, socket.gethostname(), os.getpid(), native, time.time())
    _write_attempt(directory, attempt)
    return attempt


def end_attempt(directory: Path, attempt: Attempt, exit_status: int, reason: str = "") -> None:
    """Write down how a start ended."""
    ended = {"ended_s": time.time(), "exit_status": exit_status, "reason": reason}
    _write_attempt(directory, Attempt(**{**asdict(attempt), **ended}))


def attempts(directory: Path) -> list[Attempt]:
    """All starts of a job, in their order; what cannot be read is left out."""
    found = []
    for path in sorted((Path(directory) / ATTEMPTS).glob("*.json")):
        with contextlib.suppress(OSError, ValueError, TypeError):
            found.append(Attempt(**json.loads(path.read_bytes())))
    return found


def _write_attempt(directory: Path, attempt: Attempt) -> None:
    replace_file(
        Path(directory) / ATTEMPTS / f"{attempt.number:03d}.json", json.dumps(asdict(attempt), indent=1).encode()
    )


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None

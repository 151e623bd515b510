"""What a run of the catalog consists of, written down once: its documents' values, and its frames' files with hashes.

With it a job needs no catalog, and a file of frames that changes between two jobs is noticed: the catalog itself would
hand out the other frames without a word.

::

    loop/runs/<uid>.json    {"start": ..., "streams": {"positions": {...}, "counters": {...}},
                             "frames": {"detector_image": {"dataset": ..., "rows": 61, "files": [path, ...]}, ...},
                             "sha256": {path: ..., ...}}
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bluesky_ptychonn.io.durable import replace_file
from bluesky_ptychonn.io.frame_files import HDF5, open_dataset, path_of

STREAMS = ("positions", "counters", "flux")
"""Streams whose values are small and are kept as they are."""


def record_of(run: Any) -> dict[str, Any]:
    """What a run of the catalog consists of; its frames are not read.

    Parameters
    ----------
    run : tiled client
        One run of the catalog, such as ``cat[uid]``.

    Returns
    -------
    dict
        Plain values; ``sha256`` is empty. Where the catalog itself holds the frames, or they are in no HDF5 files,
        ``frames`` is empty.
    """
    streams = set(run)
    kept = {name: _values(run[name].read()) for name in STREAMS if name in streams}
    primary = run["primary"] if "primary" in streams else {}
    frames = {key: _in_files(primary[key]) for key in primary}
    return {
        "start": run.metadata["start"],
        "streams": kept,
        "frames": {key: found for key, found in frames.items() if found} if all(frames.values()) else {},
        "sha256": {},
    }


def files_of(record: Mapping[str, Any]) -> list[str]:
    """Files that hold the frames of a record."""
    return sorted({path for found in record["frames"].values() for path in found["files"]})


def with_hashes(record: Mapping[str, Any], now_at: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The record with the SHA-256 of each of its files; ``now_at`` says which of them have been copied, and where to.

    Raises
    ------
    ValueError
        If a file is gone.
    """
    moved = now_at or {}
    hashes = {moved.get(path, path): sha256_of_file(path) for path in files_of(record)}
    frames = {
        key: {**found, "files": [moved.get(path, path) for path in found["files"]]}
        for key, found in record["frames"].items()
    }
    return {**record, "frames": frames, "sha256": hashes}


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record, as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, json.dumps(record).encode())


def read_record(path: Path) -> dict[str, Any] | None:
    """Read a record; None if there is none.

    Raises
    ------
    ValueError
        If it cannot be understood.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}; remove it, it is written anew") from error


def refuse_changed(record: Mapping[str, Any], path: Path) -> None:
    """Refuse files of frames that are not what they were.

    Parameters
    ----------
    record : mapping
    path : Path
        Where it was read, for the message.

    Raises
    ------
    ValueError
        If one is gone or has another hash.
    ConnectionError
        If its folder is not there: the disk may come back.
    """
    for file, expected in record["sha256"].items():
        found = sha256_of_file(file)
        if found != expected:
            raise ValueError(
                f"{file} has SHA-256 {found[:12]}..., but {expected[:12]}... is written down in {path}: it was changed "
                "or cut short; restore it, or remove that record if the change was meant"
            )


def sha256_of_file(path: str | Path) -> str:
    """SHA-256 of a file, hexadecimal, read piece by piece.

    Raises
    ------
    ValueError
        If the file is gone.
    ConnectionError
        If its folder is not there: the disk may come back.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except FileNotFoundError as error:
        if not Path(path).parent.is_dir():
            raise ConnectionError(f"the folder of {path} is not there; mount its disk on this machine") from error
        raise ValueError(f"{path} is gone, and with it the frames; restore it") from error
    return digest.hexdigest()


class RunOfRecord(dict[str, Any]):
    """A run as `runs.read_run` takes it, whose frames are read from their files.

    Parameters
    ----------
    record : mapping
    """

    def __init__(self, record: Mapping[str, Any]) -> None:
        super().__init__({name: _Table(columns) for name, columns in record["streams"].items()})
        self["primary"] = {key: _External(**found) for key, found in record["frames"].items()}
        self.metadata = {"start": record["start"]}


class _Table:
    def __init__(self, columns: Mapping[str, list[Any]]) -> None:
        self._columns = columns

    def read(self) -> dict[str, np.ndarray]:
        return {key: np.asarray(values) for key, values in self._columns.items()}


class _External:
    """A dataset that lies in one or several HDF5 files, one after the other."""

    def __init__(self, dataset: str, rows: int, files: list[str]) -> None:
        self._dataset, self._rows, self._files = dataset, rows, files

    def read(self) -> np.ndarray:
        pieces, rows = [], 0
        for path in self._files:
            try:
                with open_dataset(Path(path), self._dataset) as found:
                    pieces.append(found[: self._rows - rows])
            except OSError as error:
                raise ValueError(f"{path} cannot be read ({error}); restore it") from error
            rows += len(pieces[-1])
        if rows < self._rows:
            raise ValueError(
                f"{', '.join(self._files)}: {self._dataset} holds {rows} frames, the run's documents name {self._rows};"
                " the file is cut short; restore it"
            )
        return np.concatenate(pieces) if len(pieces) > 1 else pieces[0]


def _values(table: Any) -> dict[str, list[Any]]:
    return {str(key): np.asarray(table[key]).ravel().tolist() for key in table if not str(key).startswith("ts_")}


def _in_files(array: Any) -> dict[str, Any] | None:
    """Where an external array lies; None if it is not in HDF5 files, or the catalog holds it itself."""
    sources = array.data_sources() or []
    if len(sources) != 1 or sources[0].mimetype != HDF5 or "dataset" not in sources[0].parameters:
        return None
    assets = sorted(sources[0].assets, key=lambda asset: asset.num or 0)
    files = [str(path_of(asset.data_uri)) for asset in assets]
    return {"dataset": sources[0].parameters["dataset"], "rows": int(array.shape[0]), "files": files}

"""The corpus: labelled scans as immutable shards, each found by the hash of its content.

::

    corpus/shards/3f9c.../        manifest.json, patterns.npy, labels.npy, probe.npy [, seen.npy]

A shard is complete before it takes its name, which is the start of the SHA-256 of its manifest; the manifest holds the
SHA-256 of every array. A snapshot is a list of shard names; what was trained on can be told, and read again, for ever.
"""

import errno
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bluesky_ptychonn.io.durable import sync_directory, write_through

SCHEMA = 1
MANIFEST = "manifest.json"
NAME_LENGTH = 16
ARRAYS = ("patterns", "labels", "probe", "seen")


class CorpusError(ValueError):
    """A shard is absent, torn or not what its name says."""


@dataclass(frozen=True)
class LabelledScan:
    """Diffraction patterns of one scan, each with what the object is there.

    Parameters
    ----------
    patterns : (B, n, n) unsigned integer
        Counts; the largest value of the type says "no data".
    labels : (B, 2, n, n) float16
        Log amplitude and phase (rad) of the object around each position; the scan's own constants are removed.
    probe : (n, n) complex64
        As an engine would be given it, scaled to the counts per frame.
    seen : (B, n, n) uint8, optional
        How well the label is known, 0 to 255; fully without it.
    about : mapping
        Where it comes from: plain values for the manifest.
    """

    patterns: np.ndarray
    labels: np.ndarray
    probe: np.ndarray
    seen: np.ndarray | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        frames, n = self.patterns.shape[0], self.patterns.shape[-1]
        wanted = {"patterns": (frames, n, n), "labels": (frames, 2, n, n), "probe": (n, n), "seen": (frames, n, n)}
        for name, shape in wanted.items():
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                raise ValueError(f"{name} has shape {array.shape}; for patterns of {self.patterns.shape} it is {shape}")
        if not frames or self.patterns.dtype.kind != "u":
            raise ValueError(f"{frames} patterns of {self.patterns.dtype}; at least one of unsigned counts is needed")
        if not (np.isfinite(self.labels).all() and np.isfinite(self.probe).all() and np.any(self.probe)):
            raise ValueError("labels or probe hold values that are not finite, or the probe is dark")


@dataclass(frozen=True)
class Shard:
    """One labelled scan on disk; its arrays are mapped into memory when first asked for."""

    directory: Path
    manifest: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Start of the hash of the manifest."""
        return self.directory.name

    @property
    def frames(self) -> int:
        """Number of pairs."""
        return int(self.manifest["frames"])

    @property
    def run(self) -> str:
        """Run, file or simulation it was made of: what validation is held out by."""
        return str(self.manifest["about"].get("run", self.name))

    @cached_property
    def patterns(self) -> np.ndarray:
        """(B, n, n) counts."""
        return self._map("patterns")

    @cached_property
    def labels(self) -> np.ndarray:
        """(B, 2, n, n) float16."""
        return self._map("labels")

    @cached_property
    def probe(self) -> np.ndarray:
        """(n, n) complex64."""
        return self._map("probe")

    @cached_property
    def seen(self) -> np.ndarray | None:
        """(B, n, n) uint8, or None where everything is."""
        return self._map("seen") if "seen" in self.manifest["files"] else None

    def _map(self, name: str) -> np.ndarray:
        return np.load(self.directory / f"{name}.npy", mmap_mode="r", allow_pickle=False)

    def verify(self) -> None:
        """Read every byte and compare the hashes.

        Raises
        ------
        CorpusError
            If a file is absent or has changed.
        """
        _check_name(self.directory)
        for name, expected in self.manifest["files"].items():
            try:
                with open(self.directory / f"{name}.npy", "rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
            except FileNotFoundError as error:
                raise CorpusError(f"shard {self.name}: {name}.npy is missing; add the scan anew") from error
            if found != expected:
                raise CorpusError(f"shard {self.name}: {name}.npy was changed or cut short; add the scan anew")


class Corpus:
    """A folder of shards.

    Parameters
    ----------
    directory : Path
        Made when the first shard is added.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = Path(directory)
        self._shards = self.directory / "shards"

    def add(self, scan: LabelledScan) -> Shard:
        """Add a labelled scan; one that is already there is not written again.

        Raises
        ------
        OSError
            If it cannot be written; the corpus is as before.
        """
        self._shards.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".part-", dir=self._shards))
        try:
            files = {}
            for name in ARRAYS:
                array = getattr(scan, name)
                if array is not None:
                    files[name] = _write_array(part / f"{name}.npy", np.ascontiguousarray(array))
            manifest = {
                "schema": SCHEMA,
                "frames": len(scan.patterns),
                "frame_px": scan.patterns.shape[-1],
                "files": files,
                "about": dict(scan.about),
            }
            text = json.dumps(manifest, indent=1, sort_keys=True).encode()
            write_through(part / MANIFEST, text)
            os.chmod(part, 0o755)
            sync_directory(part)
            target = self._shards / hashlib.sha256(text).hexdigest()[:NAME_LENGTH]
            if not target.exists():
                try:
                    os.rename(part, target)
                except OSError as error:  # another process may have added the same scan meanwhile
                    if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                        raise
                sync_directory(self._shards)
            return open_shard(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def names(self) -> list[str]:
        """Names of all complete shards, in alphabetical order."""
        if not self._shards.is_dir():
            return []
        return sorted(p.name for p in self._shards.iterdir() if not p.name.startswith(".") and p.is_dir())

    def open(self, names: Sequence[str] | None = None) -> list[Shard]:
        """Open a snapshot, or every shard.

        Raises
        ------
        CorpusError
            If a name is not there or its manifest cannot be read.
        """
        return [open_shard(self._shards / name) for name in (self.names() if names is None else names)]


def open_shard(directory: Path) -> Shard:
    """Open one shard and check that its manifest is the one its name promises."""
    return Shard(directory, _check_name(directory))


def snapshot_sha256(names: Sequence[str]) -> str:
    """Hash of a snapshot, whatever the order of its names: the identity of what was trained on."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()


def _check_name(directory: Path) -> dict[str, Any]:
    try:
        text = (directory / MANIFEST).read_bytes()
    except OSError as error:
        raise CorpusError(f"no shard {directory.name} in {directory.parent}: {error.strerror}") from error
    if hashlib.sha256(text).hexdigest()[:NAME_LENGTH] != directory.name:
        raise CorpusError(f"shard {directory.name}: its manifest was changed; remove the folder and add the scan anew")
    manifest = json.loads(text)
    if manifest.get("schema") != SCHEMA:
        raise CorpusError(f"shard {directory.name}: schema {manifest.get('schema')!r}; this version reads {SCHEMA}")
    return manifest


def _write_array(path: Path, array: np.ndarray) -> str:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=False)
    write_through(path, buffer.getbuffer())  # a plain write tells why it failed, that of NumPy does not
    return hashlib.sha256(buffer.getbuffer()).hexdigest()

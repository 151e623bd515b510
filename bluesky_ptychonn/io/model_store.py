"""The model store: immutable versions in folders, and one file which says which of them is current.

::

    store/CURRENT                  "000042"
    store/versions/000042/         card.json, model.onnx, golden.npz ...
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bluesky_ptychonn.core.model_card import ModelCard
from bluesky_ptychonn.core.protocols import EngineMismatch
from bluesky_ptychonn.io.durable import sync_directory, write_through

CARD = "card.json"
CURRENT = "CURRENT"


@dataclass(frozen=True)
class StoredModel:
    """A model whose files were just found to have the hashes of its card.

    Parameters
    ----------
    card : ModelCard
    directory : Path
    """

    card: ModelCard
    directory: Path

    @property
    def graph_path(self) -> Path:
        """The network."""
        return self.directory / self.card.graph_file

    @property
    def golden_path(self) -> Path:
        """Patterns, probe and patches to check an engine with."""
        return self.directory / self.card.golden_file


def open_model(path: Path) -> StoredModel:
    """Open a model and check every file against its card.

    Parameters
    ----------
    path : Path
        A store, whose current version is opened, or the folder of one version.

    Raises
    ------
    FileNotFoundError
        If there is no model.
    EngineMismatch
        If the card cannot be read or a file has another hash.
    """
    directory = Path(path)
    if (directory / CURRENT).is_file():
        directory = directory / "versions" / current_version(directory)
    try:
        text = (directory / CARD).read_text()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"no model in {path}: neither {CURRENT} nor {CARD} is there") from error
    try:
        card = ModelCard.from_dict(json.loads(text))
    except (ValueError, AttributeError) as error:
        raise EngineMismatch(f"{directory / CARD} cannot be read: {error}") from error
    for name, expected in card.files.items():
        try:
            found = sha256_of((directory / name).read_bytes())
        except FileNotFoundError as error:
            raise EngineMismatch(
                f"model {card.version}: {name} is missing in {directory}; copy the version anew"
            ) from error
        if found != expected:
            raise EngineMismatch(
                f"model {card.version}: {name} has SHA-256 {found[:12]}..., its card says {expected[:12]}...; "
                f"the file was changed or cut short; copy the version anew or roll back"
            )
    return StoredModel(card, directory)


def sha256_of(data: bytes) -> str:
    """SHA-256 of some bytes, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def current_version(store: Path) -> str:
    """Name of the version that ``CURRENT`` points to."""
    name = (Path(store) / CURRENT).read_text().strip()
    if not re.fullmatch(r"\d{6,}", name):
        raise EngineMismatch(f"{Path(store) / CURRENT} holds {name[:40]!r}; it must hold a version such as 000042")
    return name


def versions(store: Path) -> list[str]:
    """Complete versions of a store, oldest first."""
    found = (Path(store) / "versions").glob("*/" + CARD)
    return sorted(path.parent.name for path in found if path.parent.name.isdigit())


def set_current(store: Path, version: str) -> None:
    """Make a version the current one, in one step; also the way back.

    Raises
    ------
    FileNotFoundError, EngineMismatch
        If the version is absent or harmed; the current one stays.
    """
    open_model(Path(store) / "versions" / version)
    write_through(Path(store) / (CURRENT + ".part"), f"{version}\n".encode())
    os.replace(Path(store) / (CURRENT + ".part"), Path(store) / CURRENT)
    sync_directory(Path(store))


def publish(store: Path, card: ModelCard, files: Mapping[str, bytes], *, make_current: bool = True) -> str:
    """Add a version: written in full under another name, then renamed into place, then made current.

    Parameters
    ----------
    store : Path
        Made if it does not exist.
    card : ModelCard
        Its version and hashes are filled in here.
    files : mapping of str to bytes
        Files beside the card.
    make_current : bool
        Point ``CURRENT`` to it.

    Returns
    -------
    str
        Name of the new version.
    """
    folder = Path(store) / "versions"
    folder.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=folder))
    try:
        for name, data in files.items():
            write_through(part / name, data)
        while True:
            taken = [int(path.name) for path in folder.iterdir() if path.name.isdigit()]
            version = f"{max(taken, default=0) + 1:06d}"
            write_card(part, replace(card, version=version, files={n: sha256_of(d) for n, d in files.items()}))
            os.chmod(part, 0o755)
            try:
                os.rename(part, folder / version)
                break
            except OSError:
                if not (folder / version).exists():
                    raise
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    sync_directory(folder)
    if make_current:
        set_current(store, version)
    return version


def write_card(directory: Path, card: ModelCard) -> None:
    """Write ``card.json`` into a folder."""
    write_through(directory / CARD, (json.dumps(card.to_dict(), indent=1) + "\n").encode())

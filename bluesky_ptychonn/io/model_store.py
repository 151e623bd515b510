"""The model store: immutable versions in folders, and one file which says which of them is current.

::

    store/CURRENT                  "000042"
    store/versions/000042/         card.json, model.onnx, golden.npz [, probe.npy] ...
    store/refused/000007/          a candidate that the gate refused: its files as they came, and decision.json

The card of a version names the one that was current before it, its parent. That chain is the history of the store: it
is as immutable as the versions, and needs no file of its own that could disagree with them.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bluesky_ptychonn.core.model_card import ModelCard
from bluesky_ptychonn.core.protocols import EngineMismatch
from bluesky_ptychonn.io.durable import replace_file, sync_directory, write_through

CARD = "card.json"
CURRENT = "CURRENT"
DECISION = "decision.json"
VERSIONS, REFUSED = "versions", "refused"
NUMBER = re.compile(r"\d{6,}")


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
        If the card cannot be read, a file has another hash, or the model was refused.
    """
    directory = Path(path)
    if (directory / CURRENT).is_file():
        directory = directory / VERSIONS / current_version(directory)
    if (directory / DECISION).is_file():
        reason = read_decision(directory)["reason"]
        raise EngineMismatch(f"{directory} was refused: {reason}; to try it again, copy it without {DECISION}")
    card = read_card(directory)
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


def read_card(directory: Path) -> ModelCard:
    """Read the card of one version; its files are not looked at.

    Raises
    ------
    FileNotFoundError
        If there is none.
    EngineMismatch
        If it cannot be read.
    """
    try:
        text = (directory / CARD).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"no model in {directory}: neither {CURRENT} nor {CARD} is there") from error
    try:
        return ModelCard.from_dict(json.loads(text))
    except (ValueError, AttributeError) as error:
        raise EngineMismatch(f"{directory / CARD} cannot be read: {error}") from error


def sha256_of(data: bytes) -> str:
    """SHA-256 of some bytes, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def current_version(store: Path) -> str:
    """Name of the version that ``CURRENT`` points to."""
    name = (Path(store) / CURRENT).read_text().strip()
    if not NUMBER.fullmatch(name):
        raise EngineMismatch(f"{Path(store) / CURRENT} holds {name[:40]!r}; it must hold a version such as 000042")
    return name


def live_version(store: Path) -> str:
    """Name of the current version; empty where nothing was published yet."""
    return current_version(store) if (Path(store) / CURRENT).is_file() else ""


def versions(store: Path) -> list[str]:
    """Complete versions of a store, oldest first."""
    return _numbered(Path(store) / VERSIONS, CARD)


def refused(store: Path) -> list[str]:
    """Numbers of the refused candidates of a store, oldest first."""
    return _numbered(Path(store) / REFUSED, DECISION)


def _numbered(folder: Path, held: str) -> list[str]:
    return sorted(path.parent.name for path in folder.glob(f"*/{held}") if path.parent.name.isdigit())


def set_current(store: Path, version: str) -> None:
    """Make a version the current one, in one step; also the way back.

    Raises
    ------
    FileNotFoundError, EngineMismatch
        If the version is absent or harmed; the current one stays.
    """
    if not NUMBER.fullmatch(version):
        raise FileNotFoundError(f"{version!r} is no version of a store; give one such as 000042")
    open_model(Path(store) / VERSIONS / version)
    replace_file(Path(store) / CURRENT, f"{version}\n".encode())


def rollback(store: Path, version: str | None = None) -> str:
    """Make the parent of the current version current, or another version.

    Parameters
    ----------
    store : Path
    version : str, optional
        Any complete version, also a later one.

    Returns
    -------
    str
        The version that is current now.

    Raises
    ------
    FileNotFoundError, EngineMismatch
        If there is no way back or that version is harmed; the current one stays.
    """
    if version is None:
        now = current_version(store)
        try:
            version = read_card(Path(store) / VERSIONS / now).parent
        except (FileNotFoundError, EngineMismatch) as error:
            raise EngineMismatch(f"what came before {now} is not known: {error}; {_choice(store, now)}") from error
        if not version:
            raise EngineMismatch(f"{now} has no parent, it was the first; {_choice(store, now)}")
    try:
        set_current(store, version)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no version {version} in {store}; {_choice(store)}") from error
    return version


def _choice(store: Path, apart_from: str = "") -> str:
    others = [name for name in versions(store) if name != apart_from]
    return f"name one of {', '.join(others)}" if others else "there is no other version"


def publish(store: Path, card: ModelCard, files: Mapping[str, bytes], *, make_current: bool = True) -> str:
    """Add a version: written in full under another name, then renamed into place, then made current.

    Parameters
    ----------
    store : Path
        Made if it does not exist.
    card : ModelCard
        Its version, its hashes and, as its parent, the version that is current are filled in here.
    files : mapping of str to bytes
        Files beside the card.
    make_current : bool
        Point ``CURRENT`` to it.

    Returns
    -------
    str
        Name of the new version.

    Raises
    ------
    OSError
        If the disk is full or the store cannot be written; the current version stays.
    """
    filled = replace(card, parent=live_version(store), files={name: sha256_of(data) for name, data in files.items()})
    version = _add(
        Path(store) / VERSIONS, files, lambda part, number: write_card(part, replace(filled, version=number))
    )
    if make_current:
        set_current(store, version)
    return version


def keep_refused(store: Path, candidate: Path, decision: Mapping[str, Any]) -> str:
    """Keep a refused candidate beside the versions, as it came, with the decision; no engine opens it there.

    Parameters
    ----------
    store : Path
    candidate : Path
        Folder of a model, which may be harmed.
    decision : mapping
        Plain values, with a ``reason``.

    Returns
    -------
    str
        Its number among the refused ones.

    Raises
    ------
    OSError
        If the disk is full or the store cannot be written; nothing has changed then.
    """
    text = (json.dumps(dict(decision), indent=1) + "\n").encode()
    held = {path.name: path.read_bytes() for path in sorted(candidate.iterdir()) if path.is_file()}
    return _add(Path(store) / REFUSED, {**held, DECISION: text})


def read_decision(directory: Path) -> dict[str, Any]:
    """Read why a candidate was refused; a file that cannot be read says so in its ``reason``."""
    try:
        return {"reason": "no reason was given", **json.loads((directory / DECISION).read_bytes())}
    except (OSError, ValueError, TypeError) as error:
        return {"reason": f"{DECISION} cannot be read: {error}"}


def write_card(directory: Path, card: ModelCard) -> None:
    """Write ``card.json`` into a folder."""
    write_through(directory / CARD, (json.dumps(card.to_dict(), indent=1) + "\n").encode())


def _add(folder: Path, files: Mapping[str, bytes], finish: Callable[[Path, str], None] | None = None) -> str:
    """Add a folder under the next number: complete, with what ``finish`` writes, before it takes its name."""
    folder.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=folder))
    try:
        for name, data in files.items():
            write_through(part / name, data)
        while True:
            taken = [int(path.name) for path in folder.iterdir() if path.name.isdigit()]
            number = f"{max(taken, default=0) + 1:06d}"
            if finish is not None:
                finish(part, number)
            os.chmod(part, 0o755)
            sync_directory(part)
            try:
                os.rename(part, folder / number)
                break
            except OSError:
                if not (folder / number).exists():
                    raise
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    sync_directory(folder)
    return number

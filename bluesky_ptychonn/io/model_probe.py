"""The probe that goes with a version of the model store.

A refined probe is a new version, beside the same network: its card names the hash of ``probe.npy``. A version without
one is used with the probe of the settings.
"""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np

from bluesky_ptychonn.core.model_card import PROBE, ModelCard
from bluesky_ptychonn.core.protocols import EngineMismatch
from bluesky_ptychonn.io.durable import write_through
from bluesky_ptychonn.io.model_store import StoredModel, sha256_of, write_card


def probe_of(model: StoredModel) -> np.ndarray | None:
    """Read the probe that goes with a model, (N, N) complex64; None if it takes that of the settings.

    Raises
    ------
    EngineMismatch
        If it is none for patterns of this size.
    """
    card, n = model.card, model.card.frame_px
    if not card.probe_sha256:
        return None
    try:
        probe = np.load(model.directory / PROBE, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise EngineMismatch(f"model {card.version}: {PROBE} cannot be read: {error}") from error
    if probe.shape != (n, n) or not np.iscomplexobj(probe) or not np.isfinite(probe).all() or not probe.any():
        raise EngineMismatch(
            f"model {card.version}: {PROBE} holds {probe.dtype} of shape {probe.shape}; finite complex values of "
            f"({n}, {n}) are needed"
        )
    return probe.astype(np.complex64)


def write_probe(path: Path, probe: np.ndarray) -> str:
    """Write a probe through to the disk; returns its hash."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(probe, np.complex64), allow_pickle=False)
    write_through(path, buffer.getbuffer())
    return sha256_of(buffer.getvalue())


def give_probe(directory: Path, card: ModelCard, probe: np.ndarray | None) -> ModelCard:
    """Put a probe, or none, beside the files of a model, and write its card.

    Parameters
    ----------
    directory : Path
        Of the model; not one of a store, which never changes.
    card : ModelCard
    probe : (N, N) complex, optional

    Returns
    -------
    ModelCard
        With the hash of the probe.
    """
    files = {name: sha256 for name, sha256 in card.files.items() if name != PROBE}
    if probe is None:
        (directory / PROBE).unlink(missing_ok=True)
    else:
        files[PROBE] = write_probe(directory / PROBE, probe)
    given = replace(card, files=files, probe_sha256=files.get(PROBE, ""))
    write_card(directory, given)
    return given

"""A copy of the model store on another machine: the edge's own."""

import tempfile
from pathlib import Path

from bluesky_ptychonn.io.model_store import CURRENT, VERSIONS, live_version, open_model
from bluesky_ptychonn.io.rsync import send


def send_live_version(store: Path, to: str, *, ssh_config: Path | None = None, timeout_s: float = 1800.0) -> str:
    """Copy the live version and its parent, and only then what says that it is live.

    So the copy's ``CURRENT`` always names a version that is there as a whole; earlier ones stay there.

    Parameters
    ----------
    store : Path
    to : str
        ``host:/folder`` of the copy.
    ssh_config, timeout_s
        See `rsync.send`.

    Returns
    -------
    str
        The version; "" if none is live.

    Raises
    ------
    TransferError
        If it did not get there; the copy's current version is the one of before then.
    EngineMismatch, FileNotFoundError
        If the live version is harmed; nothing is sent then.
    """
    version = live_version(store)
    if not version:
        return ""
    parent = open_model(store / VERSIONS / version).card.parent
    held = [name for name in (parent, version) if name and (store / VERSIONS / name).is_dir()]
    send(
        {f"{VERSIONS}/{name}": store / VERSIONS / name for name in held}, to, ssh_config=ssh_config, timeout_s=timeout_s
    )
    with tempfile.TemporaryDirectory() as made:
        current = Path(made, CURRENT)
        current.write_text(f"{version}\n")
        send({CURRENT: current}, to, ssh_config=ssh_config, timeout_s=timeout_s)
    return version

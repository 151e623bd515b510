"""Files that are whole or not there."""

import contextlib
import os
import uuid
from pathlib import Path

NETWORK_DISKS = ("nfs", "cifs", "smb", "9p", "afs", "lustre", "gpfs", "beegfs", "ceph", "fuse.sshfs", "fuse.gluster")


def replace_file(path: Path, data: bytes | memoryview) -> None:
    """Write a file under another name, through to the disk, and rename it into place.

    Whatever happens before the rename, a full disk or a kill, leaves the file that was there. A link stays one: the
    file to which it leads is replaced.

    Raises
    ------
    OSError
        If it cannot be written; nothing has changed then.
    """
    path = Path(os.path.realpath(path))
    part = _part(path)
    try:
        with open(part, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        remedy = "free some space, or choose another folder; what was there before is unchanged"
        raise OSError(error.errno, f"{error.strerror}; {remedy}", str(path)) from error
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):  # some file systems cannot; the file is there all the same
        sync_directory(path.parent)


def write_through(path: Path, data: bytes | memoryview) -> None:
    """Write a file through to the disk, for a folder that is renamed into place when it is complete."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Write the names in a folder through to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def try_to_write(path: Path) -> None:
    """Write and remove a small file beside the one that `replace_file` will write.

    Raises
    ------
    OSError
        If the folder cannot be written or the name is too long.
    """
    part = _part(Path(os.path.realpath(path)))
    try:
        part.write_bytes(b"x")
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def network_disk(path: Path, mounts: str | None = None) -> str:
    """Kind of network file system on which a path lies, whether it exists or not; "" if it is on none.

    Parameters
    ----------
    path : Path
    mounts : str, optional
        Mounted file systems, as Linux lists them in ``/proc/self/mounts``; elsewhere none is known.

    Examples
    --------
    >>> network_disk(Path("/data/loop/journal.sqlite"), "rootfs / ext4 rw 0 0\\nserver:/export /data nfs4 rw 0 0")
    'nfs4'
    """
    if mounts is None:
        try:
            mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return ""
    parts = Path(os.path.realpath(path)).parts
    kind, depth = "", 0
    for line in mounts.splitlines():
        _, where, found, *_ = line.split(" ")
        at = Path(where.replace("\\040", " ")).parts
        if len(at) >= depth and parts[: len(at)] == at:
            kind, depth = found, len(at)
    return kind if kind.startswith(NETWORK_DISKS) else ""


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")

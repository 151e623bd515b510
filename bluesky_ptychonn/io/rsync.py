"""Files to another machine by rsync over ssh: host keys are checked, what was cut off goes on, arrival is verified.

No password is ever asked for, and a host whose key is not known, or is another, gets nothing. Ports, users and keys of
hosts belong into an ssh configuration file.
"""

import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

SSH = (
    "ssh",
    *("-o", "BatchMode=yes"),
    *("-o", "StrictHostKeyChecking=yes"),
    *("-o", "ConnectTimeout=15"),
    *("-o", "ServerAliveInterval=15"),
    *("-o", "ServerAliveCountMax=4"),
)
SILENT_S = 60
"""Without a byte so long, rsync gives up."""
PARTIAL = ".rsync-partial"
"""Folder beside an unfinished file in which its beginning waits for the next attempt."""
HOST_KEY = ("Host key verification failed", "REMOTE HOST IDENTIFICATION HAS CHANGED")


class TransferError(RuntimeError):
    """Files did not get there; a later attempt goes on where this one ended."""


class NotSetUpError(TransferError):
    """There is no rsync, or the other machine is not known, or is another one: a later attempt ends in the same way."""


def send(files: Mapping[str, Path], to: str, *, ssh_config: Path | None = None, timeout_s: float) -> None:
    """Copy files and folders into a folder of another machine, and verify by their hashes that they are there.

    What is there already, with the same content, is not sent again; each file takes its name when it is whole.

    Parameters
    ----------
    files : mapping of str to Path
        What is sent, by its path under ``to``; a folder with all that it holds.
    to : str
        ``host:/folder``; the folder is made if it is missing in a folder that is there.
    ssh_config : Path, optional
        Instead of the user's own.
    timeout_s : float
        For everything.

    Raises
    ------
    TransferError
        If it fails, takes too long, or something else arrived.
    """
    with tempfile.TemporaryDirectory(prefix="rsync-") as made:
        for name, path in files.items():
            link = Path(made, name)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(Path(path).resolve())
        shell = " ".join(f"'{word}'" for word in (*SSH, *(("-F", str(ssh_config)) if ssh_config else ())))
        how = ["-rtLsO", "--checksum", f"--timeout={SILENT_S}", f"--partial-dir={PARTIAL}", f"--rsh={shell}"]
        _rsync([*how, f"{made}/", f"{to}/"], to, timeout_s)
        told = _rsync([*how, "--dry-run", "--itemize-changes", f"{made}/", f"{to}/"], to, timeout_s)
    other = [line.split(" ", 1)[1] for line in told.splitlines() if line[1:2] == "f"]
    if other:
        raise TransferError(
            f"{', '.join(other)} arrived at {to} with another content; see whether its disk is in order"
        )


def _rsync(arguments: list[str], to: str, timeout_s: float) -> str:
    """Run rsync, not for ever; what it says."""
    try:
        process = subprocess.Popen(
            ["rsync", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
    except FileNotFoundError as error:
        raise NotSetUpError(f"nothing is sent to {to}: there is no rsync on this machine; install it") from error
    try:
        told, problems = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise TransferError(f"not everything got to {to} within {timeout_s:.0f} s; the next attempt goes on") from None
    finally:
        process.kill()  # its ssh ends with it
        process.wait()
    if process.returncode:
        kind = NotSetUpError if any(text in problems for text in HOST_KEY) else TransferError
        raise kind(_reason(problems, to, process.returncode))
    return told


def _reason(problems: str, to: str, status: int) -> str:
    host = to.split(":", 1)[0]
    if any(text in problems for text in HOST_KEY):
        return (
            f"nothing is sent to {host}: its host key is not the one in the known hosts, or is not among them; compare "
            f"it with what its administrator says, and enter it there"
        )
    lines = [line.strip() for line in problems.splitlines() if line.strip()]
    own = [line for line in lines if not line.startswith(("rsync error:", "rsync: connection unexpectedly closed"))]
    return f"not everything got to {to}: {(own or lines or [f'rsync ended with {status}'])[-1]}"

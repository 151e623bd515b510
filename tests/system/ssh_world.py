"""A real sshd on loopback for a test: its own folder, keys, known hosts and free port; reached by its ssh config."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

HOST = "there"


def why_not() -> str:
    """Why there can be no sshd here; "" if there can."""
    missing = [name for name in ("sshd", "ssh", "ssh-keygen", "rsync") if not shutil.which(name, path=_path())]
    return f"not installed: {', '.join(missing)} (apt-get install openssh-server rsync)" if missing else ""


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin"


class Sshd:
    """A running sshd.

    Attributes
    ----------
    config : Path
        For `ssh -F`; names the host `HOST`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.config = folder, folder / "ssh config"  # a space, as it may have one
        folder.mkdir(mode=0o700)
        for name in ("host", "user"):
            self._key(name)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        shutil.copy(folder / "user.pub", folder / "authorized")
        self.know("host")
        user = pwd.getpwuid(os.getuid()).pw_name
        self.config.write_text(
            f"Host {HOST}\n  HostName 127.0.0.1\n  Port {self.port}\n  User {user}\n"
            f"  IdentityFile {folder}/user\n  IdentitiesOnly yes\n  UserKnownHostsFile {folder}/known\n"
            "  GlobalKnownHostsFile none\n"
        )
        (folder / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1:{self.port}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\n"
            f"PidFile {folder}/pid\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n"
        )
        if os.getuid() == 0:  # where it leaves its privileges
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        command = [shutil.which("sshd", path=_path()), "-D", "-e", "-f", str(folder / "sshd_config")]
        with open(folder / "log", "wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self._wait()

    def _key(self, name: str) -> None:
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name)]
        subprocess.run(command, check=True)

    def know(self, key: str) -> None:
        """Write the key of a name into the known hosts; "" for none."""
        public = (self.folder / f"{key}.pub").read_text().rsplit(" ", 1)[0] if key else ""
        (self.folder / "known").write_text(f"[127.0.0.1]:{self.port} {public}\n" if key else "")

    def _wait(self) -> None:
        deadline = time.monotonic() + 20
        while True:
            assert self.process.poll() is None, (self.folder / "log").read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def end(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(10)


@contextlib.contextmanager
def sshd(folder: Path) -> Iterator[Sshd]:
    """Within, an sshd runs."""
    running = Sshd(folder)
    try:
        yield running
    finally:
        running.end()

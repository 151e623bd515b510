"""A real Slurm of one node for a test: its own folder, its own free ports, no systemd, ended by its pid files.

It is Debian's Slurm (`slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge`), run as root; `why_not` says why
there can be none.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "srun")
CREDENTIAL_S = 5
"""Life of a credential: a requeued job waits for so long."""
CONFIGURATION = """\
ClusterName=testing
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/sock,cred_expire={credential_s}
CredType=cred/munge
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=bf_interval=5,sched_interval=5,batch_sched_delay=0
PreemptMode=OFF
MpiDefault=none
ReturnToService=2
JobRequeue=1
KillWait=5
MinJobAge=3600
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory_mb} State=UNKNOWN
PartitionName=debug Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
"""


def why_not() -> str:
    """Why no Slurm can be started here; empty if one can."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed: apt-get install slurmctld slurmd slurm-client munge"
    return "" if os.geteuid() == 0 else "Slurm of a test runs as root"


class SlurmWorld:
    """munge, slurmctld and slurmd in a folder.

    Parameters
    ----------
    folder : Path
        With a short name: a socket lies in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder).resolve()
        self.host = socket.gethostname().split(".")[0]
        self.environment = {"SLURM_CONF": str(self.folder / "slurm.conf")}
        """What every client needs."""

    def start(self) -> None:
        """Start all three and wait until the node is idle."""
        for name in ("munge", "state", "spool", "log"):
            (self.folder / name).mkdir(parents=True, mode=0o700)
        key = self.folder / "munge/key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        munge = {name: f"--{name}-file={self.folder}/munge/{file}" for name, file in MUNGE_FILES.items()}
        _run("munged", "--force", f"--socket={self.folder}/munge/sock", *munge.values())
        (self.folder / "slurm.conf").write_text(self._configuration())
        self.start_controller()
        self.start_node()
        self.wait_for_node()

    def start_controller(self, *, amnesiac: bool = False) -> None:
        """Start slurmctld; an amnesiac one has forgotten all jobs."""
        self._daemon("slurmctld", *(["-c"] if amnesiac else []))

    def start_node(self) -> None:
        """Start slurmd."""
        self._daemon("slurmd")

    def stop_controller(self, number: int = signal.SIGTERM) -> None:
        """End slurmctld and wait until it is gone."""
        self._stop("slurmctld", number)

    def stop_node(self, number: int = signal.SIGTERM) -> None:
        """End slurmd, not what it has started, and wait until it is gone."""
        self._stop("slurmd", number)

    @contextlib.contextmanager
    def hung_controller(self) -> Iterator[None]:
        """Within, slurmctld takes connections and never answers."""
        pid = self._pid("slurmctld")
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def client(self, *command: str, timeout_s: float = 30) -> str:
        """Output of one of Slurm's commands."""
        return _run(*command, env={**os.environ, **self.environment}, timeout_s=timeout_s)

    def queue(self) -> dict[str, str]:
        """State of each job that is waiting or running, by its number."""
        lines = self.client("squeue", "--noheader", "--format=%i %T").splitlines()
        return dict(line.split() for line in lines)

    def wait_for_node(self, timeout_s: float = 40) -> None:
        """Wait until jobs can run."""
        wait_until(lambda: self._node() in ("idle", "mixed", "allocated"), "the node to be up", timeout_s)

    def wait_for_state(self, job: str, states: tuple[str, ...], timeout_s: float = 60) -> None:
        """Wait until a job is in one of some states; "" is for one that is not in the queue."""
        wait_until(lambda: self.queue().get(job, "") in states, f"job {job} to be {' or '.join(states)}", timeout_s)

    def close(self) -> None:
        """End the jobs and everything that was started."""
        with contextlib.suppress(Exception):
            os.kill(self._pid("slurmctld"), signal.SIGCONT)
            self.client("scancel", "--user=root", "--signal=KILL", "--full", timeout_s=10)
            self.client("scancel", "--user=root", timeout_s=10)
            wait_until(lambda: not self.queue(), "jobs to end", 15)
        for name in ("slurmd", "slurmctld", "munge/pid"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, TimeoutError, ValueError):
                self._stop(name, signal.SIGTERM if name == "munge/pid" else signal.SIGKILL)

    def _configuration(self) -> str:
        found = dict(re.findall(r"(\w+)=(\S+)", _run("slurmd", "-C")))
        ports = free_ports(2)
        return CONFIGURATION.format(
            folder=self.folder,
            host=self.host,
            controller_port=ports[0],
            node_port=ports[1],
            cpus=found["CPUs"],
            memory_mb=int(found["RealMemory"]) - 500,
            credential_s=CREDENTIAL_S,
        )

    def _daemon(self, name: str, *options: str) -> None:
        (self.folder / f"{name}.pid").unlink(missing_ok=True)
        _run(name, "-f", self.environment["SLURM_CONF"], *options, env={**os.environ, **self.environment})
        wait_until(lambda: self._alive(name), f"{name} to start; see {self.folder}/log/{name}.log", 20)

    def _stop(self, name: str, number: int) -> None:
        pid = self._pid(name)
        os.kill(pid, number)
        wait_until(lambda: not _exists(pid), f"{name} to end", 30)

    def _alive(self, name: str) -> bool:
        try:
            return _exists(self._pid(name))
        except (FileNotFoundError, ValueError):
            return False

    def _pid(self, name: str) -> int:
        return int((self.folder / (name if "/" in name else f"{name}.pid")).read_text())

    def _node(self) -> str:
        try:
            return self.client("sinfo", "--noheader", "--format=%T").strip()
        except (RuntimeError, subprocess.TimeoutExpired):
            return ""


MUNGE_FILES = {"key": "key", "pid": "pid", "log": "log", "seed": "seed"}


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody uses now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def wait_until(true, what: str, timeout_s: float = 60, step_s: float = 0.1) -> None:
    """Wait until something is true.

    Raises
    ------
    TimeoutError
        If it does not become so in time.
    """
    end_s = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > end_s:
            raise TimeoutError(f"waited {timeout_s:g} s for {what}")
        time.sleep(step_s)


def _exists(pid: int) -> bool:
    """Whether a process runs; one that only waits to be looked after does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _run(*command: str, env: dict[str, str] | None = None, timeout_s: float = 30) -> str:
    done = subprocess.run(
        command, env=env, timeout=timeout_s, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout

"""The settings of the loop: what happens after each scan."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from bluesky_ptychonn.io.toml_tables import Section

METHODS = Literal["poisson", "batched", "epie", "rpie", "ptychi-lsqml", "ptychi-epie", "ptychi-rpie"]
REMOTE = r"^(\w[\w.@-]*:/.*)?$"
"""A folder of another machine, or nothing."""


class LoopSettings(Section):
    """After each scan. With ``enabled`` a session notes its runs in the journal, and `bluesky-ptychonn loop run` acts.

    Paper: Babu et al., Nat. Commun. 14, 7059 (2023). The model store is ``edge.model``.
    """

    enabled: bool = Field(default=False, description="note each run for the loop; off: scans and live image alone")
    directory: Path = Field(
        default=Path("loop"), description="of jobs, corpus and pictures, on a disk that the jobs' machine sees, too"
    )
    journal: Path | None = Field(
        default=None, description="a file on a local disk, never on NFS or Lustre; default: in directory"
    )
    runner: Literal["local", "slurm", "pbs"] = Field(
        default="local", description="where jobs run; local: on the machine of `loop run`, without a scheduler"
    )
    queue: str = Field(default="", description="queue or partition of the jobs; empty: the scheduler's own default")
    account: str = Field(default="", description="that jobs are charged to; empty: the scheduler's own default")
    walltime_min: int = Field(
        default=60, ge=1, le=14400, description="limit of a job, minutes; four times the default train_minutes"
    )
    nodes: int = Field(default=1, ge=1, le=1024, description="of a training; all other jobs take one")
    ranks: int = Field(
        default=1, ge=1, le=8192, description="processes that share each batch of a training; one for each GPU is usual"
    )
    gpus: int = Field(default=0, ge=0, le=64, description="of each node; 0: jobs compute on CPU cores")
    cores: int = Field(default=0, ge=0, le=1024, description="CPU cores of each rank; 0: what the scheduler gives")
    modules: list[str] = Field(default_factory=list, description="environment modules that a job loads first")
    environment: dict[str, str] = Field(default_factory=dict, description="variables that a job sets")
    launcher: Literal["", "srun", "mpiexec"] = Field(
        default="", description="starts the ranks of a training; needed with more than one"
    )
    transfer: Literal["none", "rsync"] = Field(
        default="none", description="how frames get to the jobs' machine; none: it sees the detector's disk"
    )
    transfer_to: str = Field(default="", pattern=REMOTE, description="host:/folder there, for rsync over ssh")
    edge_store: str = Field(default="", pattern=REMOTE, description="host:/folder of the edge's own model store")
    ssh_config: Path | None = Field(default=None, description="of ssh, instead of the user's own: ports, users, keys")
    first_scans: int = Field(
        default=2, ge=0, le=1000, description="trusted scans that an experiment begins with, suspended or not"
    )
    mismatch: float = Field(
        default=0.10,
        gt=0,
        lt=1,
        description="1 - SSIM of live image and reconstruction, from which a training is asked for; the paper's 10 %",
    )
    suspend_min: float = Field(
        default=60.0, ge=0, le=10080, description="no checks for so long after a scan within tolerance, minutes; paper"
    )
    residual_drift: float = Field(
        default=0.25,
        gt=0,
        le=10,
        description="relative rise of the residual that ends a suspension; 19 of 20 pairs of areas differ by less",
    )
    attempts: int = Field(
        default=3, ge=1, le=100, description="failures of one job, outages apart, after which its scan is parked"
    )
    poll_s: float = Field(default=2.0, gt=0, le=600, description="time between two looks at journal and jobs, s")
    sweep_days: float = Field(
        default=7.0, ge=0, le=3650, description="runs of the catalog so old are taken up if nobody noted them; 0: none"
    )
    sweeps: int = Field(
        default=60, ge=1, le=10000, description="passes of phase retrieval over all frames; as many as `reconstruct`"
    )
    method: METHODS = Field(
        default="poisson", description="of phase retrieval, as for `reconstruct`; poisson counts photons in the end"
    )
    train_minutes: float = Field(
        default=15.0, gt=0, le=14400, description="length of a training, minutes of computing; more on shared cores"
    )
    recipe: Literal["robust", "large", "tune", "paper"] = Field(
        default="tune", description="of a training; tune learns one sample gently, from the live model"
    )
    warm: bool = Field(default=True, description="begin with the live model's weights, not with random ones")

    @property
    def journal_file(self) -> Path:
        """The journal."""
        return self.journal or self.directory / "journal.sqlite"

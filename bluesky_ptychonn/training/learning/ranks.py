"""Which process of a distributed training this is, by whatever launcher started it."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed

FIRST_PORT, PORTS = 20_000, 20_000
PATIENCE = timedelta(minutes=2)

LAUNCHERS = (
    ("WORLD_SIZE", "RANK", "LOCAL_RANK"),
    ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID"),
    ("PMI_SIZE", "PMI_RANK", "PMI_LOCAL_RANK"),
)
"""torchrun, srun, mpiexec: variables for how many, which, and which on this node."""


@dataclass(frozen=True)
class Ranks:
    """One process among ``size``, number ``rank`` of all and ``local`` of its node."""

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """The GPU of this process, or the CPU."""
        if torch.cuda.is_available():
            return torch.device("cuda", self.local % torch.cuda.device_count())
        return torch.device("cpu")

    def any(self, flag: bool) -> bool:
        """Whether any process says so; all of them get the same answer."""
        if self.size == 1:
            return flag
        value = torch.tensor([float(flag)], device=self.device)
        distributed.all_reduce(value, distributed.ReduceOp.MAX)
        return bool(value.item())


def find_ranks(environment: Mapping[str, str]) -> Ranks:
    """Read the launcher's variables; without any, this process is alone.

    Raises
    ------
    ValueError
        If one says that there are several processes and does not say which this is.

    Examples
    --------
    >>> find_ranks({"SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"})
    Ranks(rank=3, size=4, local=1)
    """
    for size, rank, local in LAUNCHERS:
        if int(environment.get(size, "1")) > 1:
            if rank not in environment:
                raise ValueError(f"{size} = {environment[size]}, but {rank} is not set; start it by a launcher")
            return Ranks(int(environment[rank]), int(environment[size]), int(environment.get(local, "0")))
    return Ranks()


@contextlib.contextmanager
def joined(ranks: Ranks) -> Iterator[None]:
    """Join the other processes, and leave them at the end; a process that does not come ends it within minutes.

    The address is the launcher's ``MASTER_ADDR`` (this machine without it), the port its ``MASTER_PORT`` or one made of
    the job's number.
    """
    if ranks.size == 1:
        yield
        return
    job = int(os.environ.get("SLURM_JOB_ID") or os.environ.get("PBS_JOBID", "0").split(".")[0] or 0)
    address = os.environ.get("MASTER_ADDR", "127.0.0.1")
    port = os.environ.get("MASTER_PORT", str(FIRST_PORT + job % PORTS))
    distributed.init_process_group(
        "nccl" if torch.cuda.is_available() else "gloo",
        init_method=f"tcp://{address}:{port}",
        rank=ranks.rank,
        world_size=ranks.size,
        timeout=PATIENCE,
    )
    try:
        yield
    finally:
        distributed.destroy_process_group()

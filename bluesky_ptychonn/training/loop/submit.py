"""Hands one job to PSI/J, in a process of its own: ``python -m bluesky_ptychonn.training.loop.submit < asked.json``.

A scheduler may never answer, and PSI/J waits for it; a process can be ended, a thread cannot. It also keeps PSI/J's
own threads and its signal handler out of the service. What the job is called is written into its folder before this
process says so, so that a service which is killed meanwhile finds the job again.
"""

import io
import json
import os
import re
import shlex
import sys
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

from bluesky_ptychonn.training.loop.jobs import LAUNCH, note_native, read_spec

GRACE = "USR1@60"
"""Slurm tells the steps of a job so many seconds before its end."""
WALLTIME = "BLUESKY_PTYCHONN_WALLTIME_S"
"""Variable that tells a job how long it may run, s."""
LONGEST_NAME = 230
"""Of a job of PBS."""
MODULES = """\
type module > /dev/null 2>&1 || for file in /etc/profile.d/{modules,lmod,z00_lmod}.sh; do
    if [ -r "$file" ]; then . "$file"; fi
done
"""


def main() -> None:
    """Submit what standard input asks for, and write its native id to standard output."""
    asked = json.load(sys.stdin)
    native = submit(asked["executor"], Path(asked["directory"]), asked["command"], asked["resources"])
    print(json.dumps({"native": native}), flush=True)
    os._exit(0)  # PSI/J's threads would wait for the job


def submit(executor: str, directory: Path, command: list[str], resources: dict[str, Any]) -> str:
    """Submit a job through PSI/J; returns what it is called from now on, see `runner`."""
    import psij

    work = directory / "scheduler"
    work.mkdir(exist_ok=True)
    config = psij.JobExecutorConfig(work_directory=work)
    job = psij.Job(_specification(executor, directory, command, resources))
    instance: Any = psij.JobExecutor.get_instance(executor, config=config)
    if executor == "pbs":
        instance.generator = _PbsScript(instance.generator, resources)
    instance.submit(job)
    if executor == "local":
        native = _process(int(str(job.native_id)))
    else:
        native = f"{job.native_id}:{read_spec(directory).name}"
    note_native(directory, native)
    return native


class _PbsScript:
    """PSI/J's script for PBS Pro, which asks for one core of each process and for no GPUs, with what is asked for."""

    def __init__(self, generator: Any, resources: dict[str, Any]) -> None:
        self._generator, self._resources = generator, resources

    def generate_submit_script(self, job: Any, context: dict[str, object], out: IO[str]) -> None:
        nodes, each = self._resources["nodes"], self._resources["ranks"] // self._resources["nodes"]
        select = f"select={nodes}:ncpus={each * max(1, self._resources['cores'])}:mpiprocs={each}"
        if self._resources["gpus"]:
            select += f":ngpus={self._resources['gpus']}"
        script = io.StringIO()
        self._generator.generate_submit_script(job, context, script)
        text, count = re.subn(r"(?m)^#PBS -l select=.*$", f"#PBS -l {select}", script.getvalue())
        if count != 1:
            raise RuntimeError("PSI/J's script for PBS asks for resources in another way than version 0.9.11 does")
        out.write(text)


def _process(pid: int) -> str:
    """A process, so that another one which gets its number later is not taken for it."""
    import psutil

    try:
        began_s = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        began_s = 0.0
    return f"{pid}:{began_s:.2f}:{os.getsid(0)}"


def _specification(executor: str, directory: Path, command: list[str], resources: dict[str, Any]) -> Any:
    import psij

    nodes, ranks = resources["nodes"], resources["ranks"]
    walltime = timedelta(minutes=resources["walltime_min"])
    name = read_spec(directory).name
    custom: dict[str, dict[str, object]] = {
        "slurm": {"slurm.job-name": name, "slurm.signal": GRACE},
        "pbs": {"pbs.N": name[:LONGEST_NAME]},
    }
    return psij.JobSpec(
        executable=command[0],
        arguments=command[1:],
        directory=directory,
        environment={**resources["environment"], WALLTIME: f"{walltime.total_seconds():.0f}"},
        stderr_path=directory / LAUNCH,
        pre_launch=_modules_script(directory, resources["modules"]),
        launcher="single",
        resources=psij.ResourceSpecV1(
            node_count=nodes,
            process_count=ranks,
            cpu_cores_per_process=resources["cores"] or None,
            gpu_cores_per_process=max(1, resources["gpus"] * nodes // ranks) if resources["gpus"] else None,
        ),
        attributes=psij.JobAttributes(
            duration=walltime,
            queue_name=resources["queue"] or None,
            account=resources["account"] or None,
            custom_attributes=custom.get(executor),
        ),
    )


def _modules_script(directory: Path, modules: list[str]) -> Path | None:
    """Script that loads environment modules, sourced before the job."""
    if not modules:
        return None
    script = directory / "modules.sh"
    script.write_text(f"{MODULES}module load {' '.join(map(shlex.quote, modules))}\n")
    return script


if __name__ == "__main__":
    main()

"""Sends the frames of a job to the machine of the jobs: ``python -m bluesky_ptychonn.cli.job_send JOBDIR``.

Started by the loop service, see `training.loop.transfer`. A run of the catalog is looked up there, so that the job
needs no catalog.
"""

import sys
import time
import traceback
from pathlib import Path
from typing import Any

SEND_S = 4 * 3600.0


def main() -> int:
    """Send the frames of the folder that is named; exit status 1 if that failed, and the marker says why."""
    from bluesky_ptychonn.cli.job_source import may_pass
    from bluesky_ptychonn.training.loop import jobs

    directory = Path(sys.argv[1])
    spec = jobs.read_spec(directory)
    try:
        send_frames(spec, jobs.record_path(directory.parents[1], spec.key))
        return 0
    except Exception as error:
        traceback.print_exc()
        told = f"its frames cannot be sent: {error or type(error).__name__}"
        marker = {"kind": spec.kind, "key": spec.key, "ok": False, "reason": told}
        jobs.write_result(directory, {**marker, "transient": may_pass(error)})
        return 1


def send_frames(spec: Any, record_file: Path) -> None:
    """Send the files of a job's source, and write down where they are.

    Raises
    ------
    Problem, ValueError
        If there is nothing that could be sent, or its hash is not the one that was asked for.
    ConnectionError, RuntimeError
        If the catalog does not answer, or the other machine.
    """
    from bluesky_ptychonn.cli.job_source import found_in_catalog
    from bluesky_ptychonn.cli.main import Problem
    from bluesky_ptychonn.config import load_settings
    from bluesky_ptychonn.io.rsync import send
    from bluesky_ptychonn.io.run_record import files_of, sha256_of_file, with_hashes, write_record

    settings = load_settings(spec.settings_file or None)
    to = settings.loop.transfer_to
    if named := spec.source.get("file"):
        record: dict[str, Any] = {}
        files = [str(named)]
    else:
        _, record = found_in_catalog(settings, str(spec.source["run"]))
        files = files_of(record)
    if not files:
        raise Problem(f"run {spec.key} has no HDF5 files that could be sent; set loop.transfer = 'none'")
    names = {file: f"{spec.key}/{number:03d}-{Path(file).name}" for number, file in enumerate(files)}
    folder = to.split(":", 1)[1].rstrip("/")
    now_at = {file: f"{folder}/{name}" for file, name in names.items()}
    if named:
        record = {"file": now_at[str(named)], "sha256": {now_at[str(named)]: sha256_of_file(str(named))}}
    else:
        record = with_hashes(record, now_at)
    print(f"{time.strftime('%H:%M:%S')} sends {', '.join(files)} to {to}", flush=True)
    sent = {name: Path(file) for file, name in names.items()}
    send(sent, to, ssh_config=settings.loop.ssh_config, timeout_s=SEND_S)
    write_record(record_file, record)
    print(f"{time.strftime('%H:%M:%S')} they are there", flush=True)


if __name__ == "__main__":
    sys.exit(main())

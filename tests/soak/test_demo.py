"""The demonstration on a beamline that the network knows, where the loop suspends itself; and by a real Slurm."""

import json
import os
import subprocess
import sys
import time

import pytest

pytest.importorskip("psij")
pytest.importorskip("torch")
import slurm_world
from slurm_world import SlurmWorld

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]


def start_demo(folder, *options, **environment):
    """In a process of its own, because EPICS takes its environment once."""
    command = [sys.executable, "-m", "bluesky_ptychonn.cli.main", "demo", "--output", str(folder / "output"), *options]
    with (folder / "demo.log").open("w") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, "TMPDIR": str(folder), **environment}
        )


def summary_of(folder, demo):
    """What it wrote, when it has ended well."""
    code = demo.wait(1700)
    told = folder.joinpath("demo.log").read_text()
    assert code == 0, told
    assert not list(folder.glob("ptychonn-*"))
    for picture in ("live.png", "loop.png", "loop/demo/plots.png"):
        assert (folder / "output" / picture).stat().st_size > 10_000
    return json.loads((folder / "output/summary.json").read_text()), told


def test_a_matching_model_suspends_the_loop(tmp_path):
    """4 minutes on two cores."""
    summary, told = summary_of(tmp_path, start_demo(tmp_path, "--matching"))
    assert summary["loop_state"] == "suspended", told
    assert summary["mismatch"] < 0.10
    assert "reconstruction and training are suspended until" in summary["loop_reason"]
    assert summary["published_version"] == ""
    assert summary["model_version"] == "000001"
    assert summary["ssim_after"] == summary["ssim_before"]
    assert abs(summary["ssim_probe"] - summary["ssim_before"]) < 0.03  # there was nothing to refine


@pytest.mark.skipif(bool(slurm_world.why_not()), reason=slurm_world.why_not())
def test_the_loop_by_slurm_makes_the_image_better(tmp_path, tmp_path_factory):
    """The whole demonstration; its jobs are seen in the queue. 6 minutes on two cores."""
    slurm = SlurmWorld(tmp_path_factory.mktemp("slurm"))
    names = set()
    try:
        slurm.start()
        demo = start_demo(tmp_path, "--runner", "slurm", **slurm.environment)
        while demo.poll() is None:
            names.update(slurm.client("squeue", "--noheader", "--format=%j").split())
            time.sleep(1.0)
    finally:
        slurm.close()
    summary, told = summary_of(tmp_path, demo)
    assert {name.partition("-")[0] for name in names} == {"scan", "probe", "train"}, told
    assert summary["loop_state"] == "published", told
    assert summary["mismatch"] > 0.10
    assert summary["model_version"] == summary["published_version"] > "000001"  # the edge's, in the second scan
    assert summary["ssim_after"] - summary["ssim_before"] >= 0.03

"""The demonstration on a beamline that the network knows: the loop looks, finds nothing to do, and suspends itself."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("psij")
pytest.importorskip("torch")

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]


def test_a_matching_model_suspends_the_loop(tmp_path):
    """In a process of its own, because EPICS takes its environment once; 4 minutes on two cores."""
    output = tmp_path / "output"
    command = [sys.executable, "-m", "bluesky_ptychonn.cli.main", "demo", "--matching", "--output", str(output)]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    summary = json.loads((output / "summary.json").read_text())
    assert summary["loop_state"] == "suspended", told
    assert summary["mismatch"] < 0.10
    assert "reconstruction and training are suspended until" in summary["loop_reason"]
    assert summary["published_version"] == ""
    assert summary["model_version"] == "000001"
    assert summary["ssim_after"] == summary["ssim_before"]
    assert abs(summary["ssim_probe"] - summary["ssim_before"]) < 0.03  # there was nothing to refine
    for picture in ("live.png", "loop.png", "loop/demo/plots.png"):
        assert (output / picture).stat().st_size > 10_000
    assert not list(Path(tmp_path).glob("ptychonn-*"))

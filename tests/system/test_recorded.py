"""A recorded scan through the chain of a live one."""

import json
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]


def test_the_star_is_stitched_where_it_was_measured(real_data, tmp_path):
    """In a process of its own, because EPICS takes its environment once."""
    source = ["--source", str(real_data / "siemens_star_128.npz"), "--pixel-size-nm", "10"]
    command = [sys.executable, "-m", "bluesky_ptychonn.cli.main", "demo", *source, "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)

    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["frames_stitched"], summary["account"]) == (516, "closed")
    assert summary["correlation_live_vs_lift"] > 0.4  # frames at wrong positions give about 0

"""An edge in its own process whose models and probe change in a stream, as `bench swap` and `bench stream` drive it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("openvino")
pytest.importorskip("onnx")

pytestmark = pytest.mark.system


def bench(tmp_path, *arguments):
    file = tmp_path / "figures.json"
    command = [sys.executable, "-m", "bluesky_ptychonn.cli.main", "bench", *arguments, "--json", str(file)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=tmp_path, env=os.environ)
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    return json.loads(file.read_text()), ended.stdout


def test_models_and_probe_change_in_a_stream_and_no_frame_is_lost(tmp_path):
    written, told = bench(
        tmp_path, "swap", "--fps", "100", "--seconds", "30", "--swaps", "2", "--probes", "1", "--rollbacks", "1",
        "--refined", "1",
    )  # fmt: skip
    result = written["results"][0]
    assert (result["frames_stitched"], result["frames_lost"], result["frames_unpaired"]) == (3000, 0, 0)
    assert [result[f"changes_{kind}"] for kind in ("model", "probe", "rollback", "refined", "missed")] == [
        2,
        1,
        1,
        1,
        0,
    ]
    assert result["models_refused"] == 6
    assert result["outputs"] > 10
    assert result["outputs_unversioned"] == 0
    for kind, reason in (
        ("torn file", "the file was changed or cut short"),
        ("wrong hash", "the file was changed or cut short"),
        ("wrong shape", "its card says"),
        ("NaN weights", "misses its golden patches"),
        ("golden pair off", "misses its golden patches"),
        ("dark probe", "finite complex values"),
    ):
        line = next(line for line in told.splitlines() if line.startswith(f"refused: {kind}: "))
        assert reason in line


def test_a_refined_probe_is_acknowledged_and_the_next_run_carries_its_version(tmp_path):
    """The edge takes a version up between two scans, says so to the loop, and goes back as quickly."""
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "plans")]
    ended = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("swap_session.py")), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    told = json.loads(ended.stdout.splitlines()[-1])
    assert told["versions"] == ["000001", "000002", "000001"]
    assert told["edges"] == ["ptychonn:"] * 3
    found = re.fullmatch(r"the edge uses version 000002 since .*, (\d+\.\d) s after it was published", told["line"])
    assert float(found[1]) <= told["seconds"] + 0.2
    assert any(re.fullmatch(r"edge: heard at .*, uses version 000002", line) for line in told["status"])


def test_a_bare_stream_is_stitched_whole(tmp_path):
    written, _ = bench(tmp_path, "stream", "--detector", "bare", "--fps", "300", "--seconds", "4", "--engine", "lift")
    result = written["results"][0]
    assert written["conditions"]["detector"] == "bare"
    assert (result["frames_stitched"], result["frames_lost"], result["frames_shed"]) == (1200, 0, 0)
    assert result["account"] == "closed"
    assert result["gap_ms_max"] > 0

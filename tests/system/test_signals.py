"""Signals while the demo runs: nothing of it is left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]


def as_in_a_terminal():
    """A job in the background of a script starts with SIGINT ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def processes_of(folder):
    """Command lines in which the folder is named."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().decode(errors="replace").replace("\0", " ")
        except OSError:
            continue
        if str(folder) in words:
            found.append(words)
    return found


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("moment", "signals", "code"),
    [
        ("starting the simulated beamline", [signal.SIGHUP], 129),
        ("starting the catalog", [signal.SIGINT] * 4, 130),
        pytest.param("reconstructing", [signal.SIGINT] * 2, 130, marks=pytest.mark.soak),
        ("scanning", [signal.SIGINT] * 3, 130),
        pytest.param("scanning", [signal.SIGTERM], 143, marks=pytest.mark.soak),
    ],
)
def test_the_demo_leaves_nothing_behind(moment, signals, code, tmp_path):
    demo = subprocess.Popen(
        [sys.executable, "-m", "bluesky_ptychonn.cli.main", "demo", "--output", str(tmp_path / "output")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        start_new_session=True,
        preexec_fn=as_in_a_terminal,
    )
    told = []
    try:
        assert demo.stdout is not None
        for line in demo.stdout:
            told.append(line)
            if moment in line:
                break
        time.sleep(1.0)  # in the middle of it
        assert demo.poll() is None, told
        assert len(processes_of(tmp_path)) > 3
        for number in signals:
            demo.send_signal(number)
            time.sleep(0.2)
        rest, _ = demo.communicate(timeout=90)
    finally:
        if demo.poll() is None:
            demo.kill()
            demo.wait()
    text = "".join(told) + rest
    assert demo.returncode == code, text
    assert "Traceback" not in text
    assert processes_of(tmp_path) == []
    assert not list(tmp_path.glob("ptychonn-*"))

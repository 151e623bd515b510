"""Each shipped settings file at the simulated IOCs of its detector: all devices connect, and the doctor is content."""

import json
import os
import subprocess
import sys

import pytest

from bluesky_ptychonn.cli.config_text import example_names
from bluesky_ptychonn.config import load_settings
from bluesky_ptychonn.simulation import beamline
from bluesky_ptychonn.simulation.detector_kinds import KINDS

pytestmark = [pytest.mark.soak, pytest.mark.timeout(300)]

CONNECT = """
from bluesky_ptychonn.cli.session import make_devices
from bluesky_ptychonn.config import load_settings

settings = load_settings("bluesky_ptychonn.toml")
settings.apply_epics_environment()
detector, stage, edge, shutter = make_devices(settings)
for device in (detector, stage, shutter, edge.stats):
    if device is not None:
        device.wait_for_connection(timeout=20)
"""


@pytest.mark.parametrize("example", example_names())
def test_an_example_at_its_beamline(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*command, **more):
        return subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, **more)

    cli = ("-m", "bluesky_ptychonn.cli.main")
    assert run(*cli, "config", "init", "--example", example).returncode == 0
    kind = KINDS[load_settings("bluesky_ptychonn.toml").beamline.detector]
    started = run(*cli, "beamline", "start", "--detector", kind.name, "--directory", ".beamline")
    assert started.returncode == 0, started.stderr
    edge = None
    try:
        told = dict(line.removeprefix("export ").split("=", 1) for line in started.stdout.splitlines())
        env = {**os.environ, **{name: value.strip('"') for name, value in told.items()}}
        file = tmp_path / "bluesky_ptychonn.toml"
        text = file.read_text()
        for ours, theirs in (
            ("26ID:EIG:", kind.prefix),
            ("26ID:MPX:", kind.prefix),
            ("26ID:STAGE:", "SIM:STAGE:"),
            ('"/data/eiger"', '".beamline/data"'),
            ('"/data/medipix"', '".beamline/data"'),
            ('"probe.npy"', '".beamline/probe.npy"'),
            ("environment = {EPICS", "# environment = {EPICS"),
        ):
            text = text.replace(ours, theirs)
        file.write_text(text)

        edge = subprocess.Popen([sys.executable, *cli, "edge"], env=env, stdout=subprocess.PIPE, text=True)
        assert edge.stdout is not None
        assert "serves" in edge.stdout.readline()
        connected = run("-c", CONNECT, env=env)
        assert connected.returncode == 0, connected.stderr
        found = run(*cli, "doctor", "--json", env=env)
        findings = {finding["name"]: finding for finding in json.loads(found.stdout)["findings"]}
        assert found.returncode == 0, findings
        content = {name for name, finding in findings.items() if finding["level"] == "ok"}
        assert set(findings) - content <= {"Tiled", "bad pixels", "clock skew"}, findings  # none was asked for
    finally:
        if edge is not None:
            edge.terminate()
            edge.communicate(timeout=20)
        beamline.stop(tmp_path / ".beamline")

"""The BITS instrument of the documentation, in an environment of its own with apsbits from the package index."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bluesky_ptychonn.cli.services import Services

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NEEDED = (
    "apsbits==2.0.4",
    "pvapy",
    "h5py",
    "numba",
    "scipy",
    "scikit-image",
    "pydantic",
    "tifffile",
    "tomlkit",
    "tqdm",
)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What a session of the instrument tells after a scan on the simulated beamline."""
    folder = tmp_path_factory.mktemp("bits")
    python = folder / "venv/bin/python"
    for command in ([sys.executable, "-m", "venv", folder / "venv"], [python, "-m", "pip", "install", "-q", *NEEDED]):
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no package index: {done.stderr.strip().splitlines()[-1]}")
    with Services(folder / "beamline", catalog=False) as services:
        env = {
            **os.environ,
            **services.beamline.env,
            "BLUESKY_PTYCHONN_SETTINGS": str(services.settings_file),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "docs")]),
        }
        command = [str(python), str(HERE / "bits_session.py"), str(folder / "told.json")]
        done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "told.json").read_text())


def test_the_instrument_makes_our_devices_and_they_connect(told):
    assert told["apsbits"] == "2.0.4"
    assert told["devices"] == dict.fromkeys(("detector", "stage", "edge", "shutter"), True)


def test_its_run_engine_scans_and_its_catalog_has_the_run(told):
    documents = told["documents"]
    start = next(doc for name, doc in documents if name == "start")
    assert told["catalog"] == start["uid"] == told["uid"]
    assert (start["beamline_id"], start["instrument_name"]) == ("simulated", "ptychography")  # of iconfig.yml
    assert (start["plan_name"], start["num_points"]) == ("spiral_ptycho_scan", 44)
    stop = next(doc for name, doc in documents if name == "stop")
    assert stop["exit_status"] == "success"
    assert {"primary", "positions", "counters", "account"} <= {doc["name"] for n, doc in documents if n == "descriptor"}


def test_its_subscribers_arm_the_edge_whose_account_closes(told):
    (account,) = [doc["data"] for name, doc in told["documents"] if name == "event" and "account_state" in doc["data"]]
    assert account["account_state"] == "closed", account["account_text"]
    assert "44 received = 44 stitched" in account["account_text"]

"""The house stands: modules import alone, constraints are portable, files stay small."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

IMPORT_ALL = """
import importlib, pkgutil, socket, sys

def refuse(*_):
    raise OSError("an import opened a connection")

socket.socket.connect = refuse
socket.socket.connect_ex = refuse
import bluesky_ptychonn
for module in pkgutil.walk_packages(bluesky_ptychonn.__path__, "bluesky_ptychonn."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(sorted({"tensorrt", "pycuda", "pvaccess", "openvino"} & set(sys.modules)))
"""


@pytest.mark.timeout(120)
def test_every_module_imports_without_a_network_and_opens_no_hardware():
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_constraints_carry_no_local_versions():
    lines = (ROOT / "constraints.txt").read_text().split()
    assert len(lines) > 50
    assert not [line for line in lines if "+" in line or "@" in line or "://" in line]


def test_files_hold_one_thing():
    long = {
        str(path.relative_to(ROOT)): count
        for path in (ROOT / "bluesky_ptychonn").rglob("*.py")
        if (count := len(path.read_text().splitlines())) > 320
    }
    assert not long

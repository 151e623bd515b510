"""Replay from databroker 1.2.5 and 2, each in an environment of its own."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from catalog_world import Server
from replay_world import FACE, PROBE, N, make_run

from bluesky_ptychonn.callbacks.record import ingest
from bluesky_ptychonn.callbacks.replay import replay
from bluesky_ptychonn.engines.registry import open_engine

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]

HERE = Path(__file__).parent
ROOT, WORLD = HERE.parents[1], HERE.parent / "system"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    made = make_run(folder / "frames.h5")
    made.write_lines(folder / "run.jsonl")
    image = replay(made.documents, open_engine("lift", frame_px=N), PROBE, FACE.bad_pixels)
    return folder, made.start["uid"], image


def install(*arguments):
    done = subprocess.run([*arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no package index: {done.stderr.strip().splitlines()[-1]}")


def replay_elsewhere(python, version, source, folder, **environment):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(WORLD), *environment.pop("paths", ())])}
    image = folder / f"image{version}.npz"
    command = [str(python), str(HERE / "databroker_replay.py"), version, source, str(image)]
    done = subprocess.run(command, env={**env, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return np.load(image)


def test_documents_of_databroker_1_2_5(run, tmp_path):
    folder, _, expected = run
    install(sys.executable, "-m", "venv", str(tmp_path / "venv"))
    python = tmp_path / "venv" / "bin" / "python"
    needed = ("databroker==1.2.5", "h5py", "numba", "scipy", "scikit-image", "pydantic")
    install(str(python), "-m", "pip", "install", "--quiet", *needed)
    found = replay_elsewhere(python, "1", str(folder / "run.jsonl"), tmp_path)
    assert str(found["version"]) == "1.2.5"
    np.testing.assert_array_equal(np.isnan(found["phase"]), np.isnan(expected.phase))
    np.testing.assert_allclose(found["phase"], expected.phase, atol=1e-3)
    np.testing.assert_allclose(found["coverage"], expected.coverage, rtol=1e-6)


def test_a_catalog_of_databroker_2(run, tmp_path):
    folder, uid, expected = run
    install(
        sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path), "databroker==2.*"
    )
    server = Server(folder / "catalog", folder)
    try:
        ingest(folder / "run.jsonl", server.start())
        settings = server.settings()
        key = Path(settings["api_key_file"]).read_text()
        (tmp_path / "ours.yml").write_text(f"ours:\n  uri: {settings['uri']}\n")
        found = replay_elsewhere(
            sys.executable,
            "2",
            f"ours/{uid}",
            tmp_path,
            TILED_PROFILES=str(tmp_path),
            TILED_API_KEY=key,
            paths=[str(tmp_path)],
        )
    finally:
        server.end()
    np.testing.assert_array_equal(found["phase"], expected.phase)
    np.testing.assert_array_equal(found["coverage"], expected.coverage)

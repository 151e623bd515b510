"""An export in the eyes of another program: ptychodus, in an environment of its own."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from replay_world import FACE, GEOMETRY, PROBE, N, make_run

from bluesky_ptychonn.callbacks.replay import open_recording, replay
from bluesky_ptychonn.core.reconstruction import Reconstruction
from bluesky_ptychonn.engines.registry import open_engine
from bluesky_ptychonn.io.nxcxi import StitchedImage, write_nxcxi
from bluesky_ptychonn.io.runs import scan_from_run

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]


def test_ptychodus_opens_scan_and_reconstruction(tmp_path):
    made = make_run(tmp_path / "frames.h5")
    image = replay(made.documents, open_engine("lift", frame_px=N), PROBE, FACE.bad_pixels)
    with open_recording(made.documents) as recording:
        scan = scan_from_run(recording.read(), bad_pixels=FACE.bad_pixels, probe=PROBE)
    low_px = scan.positions_px.min(axis=0) - N // 2
    reconstruction = Reconstruction(
        object_=np.ones((130, 140), np.complex64),
        probe=PROBE[None],
        positions_px=scan.positions_px - low_px,
        origin_px=tuple(low_px.tolist()),
        pixel_size_um=scan.pixel_size_um,
        coverage=np.ones((130, 140), np.float32),
        trigger_index=scan.trigger_index,
        held_out=np.zeros(len(scan.patterns), bool),
        errors=np.ones(2),
        errors_heldout=np.ones(2),
    )
    stitched = StitchedImage(image.phase, image.coverage, image.canvas, image.about())
    write_nxcxi(tmp_path / "scan.cxi", scan, stitched, reconstruction, made.start)

    python = tmp_path / "venv" / "bin" / "python"
    for command in ([sys.executable, "-m", "venv", python.parents[1]], [python, "-m", "pip", "install", "ptychodus"]):
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"ptychodus does not install: {done.stderr.strip().splitlines()[-1]}")
    reader = Path(__file__).with_name("ptychodus_reader.py")
    done = subprocess.run(
        [str(python), str(reader), str(tmp_path / "scan.cxi")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])

    never = ~scan.valid.any(axis=0)
    assert found["shape"] == list(scan.patterns.shape)
    assert found["counts"] == int(np.where(never, 0, scan.patterns).sum())
    assert found["bad"] == np.count_nonzero(never)
    assert found["energy_ev"] == pytest.approx(1e3 * GEOMETRY.energy_kev)
    assert (found["distance_m"], found["pixel_m"]) == (0.9, 75e-6)
    measured_m = 1e-6 * scan.pixel_size_um * scan.positions_px
    np.testing.assert_allclose(np.stack([found["y_m"], found["x_m"]], axis=1), measured_m, atol=1e-12)
    assert found["object"][-2:] == [130, 140]
    assert found["probe"][-3:] == [1, N, N]

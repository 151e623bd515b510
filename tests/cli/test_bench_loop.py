"""`bench loop`: its scans, and what counts as expected; the whole of it is in tests/soak."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from bluesky_ptychonn.cli.bench_loop_scans import SCRIPT, draw_area, write_scan
from bluesky_ptychonn.cli.job_run import read_scan
from bluesky_ptychonn.cli.loop_events import Event
from bluesky_ptychonn.cli.main import main


def test_scans_are_files_that_a_job_reads(tmp_path):
    for number in (0, 3, 6, 9):
        source = write_scan(tmp_path / "scan.npz", SCRIPT[number], seed=1)
        assert source["sha256"] == hashlib.sha256((tmp_path / "scan.npz").read_bytes()).hexdigest()
        scan, _ = read_scan(source, "", "a", tmp_path / "record.json")
        assert scan.patterns.shape == ((55 if number == 6 else 349), 64, 64)
        assert scan.patterns.sum(axis=(1, 2)).mean() == pytest.approx(300 if number == 3 else 4e6, rel=0.3)
        assert scan.pixel_size_um == pytest.approx(0.01162, rel=1e-3)


def test_rings_are_rings_twice_as_thick():
    phase = np.angle(draw_area("rings", 200, seed=2))
    assert (phase.max(), phase.min()) == pytest.approx((0, -1.2), abs=0.01)
    assert np.array_equal(phase, np.angle(draw_area("rings", 200, seed=2)))
    assert not np.array_equal(phase, np.angle(draw_area("rings", 200, seed=3)))


def test_what_is_expected_is_met_or_not():
    first, dark, drift = SCRIPT[0], SCRIPT[3], SCRIPT[9]
    assert first.is_met("validated", [Event("suspends")])
    assert not first.is_met("published", [Event("suspends")])
    assert not first.is_met("validated", [Event("alarm"), Event("suspends")])
    assert not dark.is_met("validated", [Event("alarm")])
    assert drift.is_met("published", [Event("alarm"), Event("probe", "000002"), Event("refused")])
    assert not drift.is_met("published", [Event("alarm"), Event("retrained", "000002")])


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path, capsys):
    (tmp_path / "journal.sqlite").touch()
    assert main(["bench", "loop", "--output", str(tmp_path)]) == 1
    assert "is not empty; name a new folder" in capsys.readouterr().err
    assert [path.name for path in Path(tmp_path).iterdir()] == ["journal.sqlite"]

import os
import resource
import signal
import subprocess
import sys
from dataclasses import fields, replace

import h5py
import numpy as np
import pytest

from bluesky_ptychonn.core.reconstruction import Reconstruction, RetrievalReport
from bluesky_ptychonn.io.durable import replace_file
from bluesky_ptychonn.io.reconstruction_files import read_reconstruction, write_reconstruction

REPORT = RetrievalReport(
    trusted=True,
    reason="the object explains what no probe alone does",
    error=0.0151,
    error_heldout=1 / 3,
    error_blank=0.177,
    error_noise=0.012,
    frc_cycles_per_px=0.41,
    frc_nm=None,
    covered_fraction=0.97,
    overlap_ratio=0.88,
    photons_per_frame=4.6e5,
    orientation_margin=float("inf"),
)


def complex_noise(rng, *shape):
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


@pytest.fixture
def reconstruction(rng):
    return Reconstruction(
        object_=complex_noise(rng, 50, 61),
        probe=complex_noise(rng, 2, 16, 16),
        positions_px=rng.uniform(8, 40, (9, 2)),
        origin_px=(-70.25, 12.0),
        pixel_size_um=0.0116,
        coverage=rng.random((50, 61)).astype(np.float32),
        trigger_index=np.arange(9) * 3,
        held_out=np.arange(9) % 4 == 0,
        errors=np.array([0.5, 0.1, np.nan]),
        errors_heldout=np.zeros(0),
        settings={"method": "epie", "sweeps": 60, "alpha": 0.7, "orientation": None, "modes": [1, 2]},
        provenance={"run_uid": "a1b2", "software": "bluesky_ptychonn µ"},
        report=REPORT,
    )


def assert_identical(one, other):
    for item in fields(Reconstruction):
        ours, theirs = getattr(one, item.name), getattr(other, item.name)
        if isinstance(ours, np.ndarray):
            assert (ours.dtype, ours.shape, ours.tobytes()) == (theirs.dtype, theirs.shape, theirs.tobytes()), item.name
        else:
            assert ours == theirs, item.name


@pytest.mark.parametrize("without", [{}, {"report": None}, {"pixel_size_um": None}, {"settings": {}, "provenance": {}}])
def test_what_is_written_is_read_bit_by_bit(reconstruction, tmp_path, without):
    written = replace(reconstruction, **without)
    write_reconstruction(tmp_path / "r.cxi", written)
    assert_identical(written, read_reconstruction(tmp_path / "r.cxi"))
    assert os.listdir(tmp_path) == ["r.cxi"]


def test_numpy_numbers_in_settings_become_plain(reconstruction, tmp_path):
    settings = {"sweeps": np.int64(3), "beta": np.float32(0.5), "shape": (4, 5), "range": np.arange(2)}
    write_reconstruction(tmp_path / "r.cxi", replace(reconstruction, settings=settings))
    read = read_reconstruction(tmp_path / "r.cxi").settings
    assert read == {"sweeps": 3, "beta": 0.5, "shape": [4, 5], "range": [0, 1]}


def test_settings_that_no_file_can_hold_change_nothing(reconstruction, tmp_path):
    write_reconstruction(tmp_path / "r.cxi", reconstruction)
    with pytest.raises(TypeError, match="cannot be written to a reconstruction's settings"):
        write_reconstruction(tmp_path / "r.cxi", replace(reconstruction, settings={"engine": object()}))
    assert_identical(reconstruction, read_reconstruction(tmp_path / "r.cxi"))


def test_the_layout_is_that_of_cxi(reconstruction, tmp_path):
    write_reconstruction(tmp_path / "r.cxi", reconstruction)
    with h5py.File(tmp_path / "r.cxi") as file:
        assert file["cxi_version"][()] == 160
        for probe in ("image_1", "probe"):
            np.testing.assert_array_equal(file[f"entry_1/{probe}/data"], reconstruction.probe)
        for object_ in ("image_2", "object", "data_1"):
            np.testing.assert_array_equal(file[f"entry_1/{object_}/data"], reconstruction.object_)
        translation = file["entry_1/sample_1/geometry_1/translation"][()]
        expected_um = 0.0116 * (reconstruction.positions_px + reconstruction.origin_px)
        np.testing.assert_allclose(1e6 * translation, np.column_stack([expected_um[:, ::-1], np.zeros(9)]))
        assert file["entry_1/image_1/data_space"].asstr()[()] == "real"
        np.testing.assert_allclose(file["entry_1/image_2/image_size"], [61 * 0.0116e-6, 50 * 0.0116e-6, 0])


def test_ptychodus_cuts_the_same_patches(reconstruction, tmp_path):
    """Its patch of a probe of n px starts at (place - object centre) / pixel + W/2 - n/2."""
    write_reconstruction(tmp_path / "r.cxi", reconstruction)
    with h5py.File(tmp_path / "r.cxi") as file:
        theirs = file["entry_1/ptychodus"]
        for axis, (name, side) in enumerate((("y", "height"), ("x", "width"))):
            place_m = file["entry_1/sample_1/geometry_1/translation"][()][:, 1 - axis]
            pixel_m = theirs[f"object_pixel_{side}_m"][()]
            start_px = (place_m - theirs[f"object_center_{name}_m"][()]) / pixel_m + reconstruction.object_.shape[
                axis
            ] / 2
            np.testing.assert_allclose(start_px, reconstruction.positions_px[:, axis])


def test_pixels_of_unknown_size_have_no_metres(reconstruction, tmp_path):
    write_reconstruction(tmp_path / "r.cxi", replace(reconstruction, pixel_size_um=None))
    with h5py.File(tmp_path / "r.cxi") as file:
        assert "sample_1" not in file["entry_1"]


@pytest.mark.parametrize("part", [0.0, 0.001, 0.01, 0.5, 0.99])
def test_a_torn_file_is_told(reconstruction, tmp_path, part):
    path = tmp_path / "r.cxi"
    write_reconstruction(path, reconstruction)
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(ValueError, match=r"r.cxi was (torn or changed|not written as a reconstruction .* or is torn)"):
        read_reconstruction(path)


def test_no_harmed_byte_is_read_as_if_it_were_whole(reconstruction, tmp_path, rng):
    path = tmp_path / "r.cxi"
    write_reconstruction(path, reconstruction)
    data = path.read_bytes()
    for place in [0, 511, 512, len(data) - 1, *rng.integers(0, len(data), 100)]:
        harmed = bytearray(data)
        harmed[place] ^= 0x10
        path.write_bytes(harmed)
        with pytest.raises(ValueError, match=r"r.cxi was (torn or changed|not written)"):
            read_reconstruction(path)


def test_a_missing_or_foreign_file_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere.cxi cannot be read: .*; name the file"):
        read_reconstruction(tmp_path / "nowhere.cxi")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["object"] = np.zeros(3)
    with pytest.raises(ValueError, match=r"other.h5 was not written as a reconstruction by this package"):
        read_reconstruction(tmp_path / "other.h5")


def test_another_schema_is_refused(reconstruction, tmp_path, monkeypatch):
    write_reconstruction(tmp_path / "r.cxi", reconstruction)
    monkeypatch.setattr("bluesky_ptychonn.io.reconstruction_files.SCHEMA_VERSION", 0)
    with pytest.raises(ValueError, match="schema_version = 1, this version reads 0; update"):
        read_reconstruction(tmp_path / "r.cxi")


def test_a_full_disk_leaves_the_old_file_whole(reconstruction, tmp_path):
    path = tmp_path / "r.cxi"
    write_reconstruction(path, reconstruction)
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"what was there before is unchanged.*r.cxi"):
            write_reconstruction(path, replace(reconstruction, origin_px=(0.0, 0.0)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert_identical(reconstruction, read_reconstruction(path))
    assert os.listdir(tmp_path) == ["r.cxi"]


def test_a_kill_before_the_end_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "file"
    replace_file(path, b"old")
    code = (
        "import os, signal, sys, pathlib; from bluesky_ptychonn.io.durable import replace_file;"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL); replace_file(pathlib.Path(sys.argv[1]), b'new')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"


def test_a_folder_that_is_not_there_is_told(reconstruction, tmp_path):
    with pytest.raises(OSError, match=r"No such file or directory.*choose another folder"):
        write_reconstruction(tmp_path / "none" / "r.cxi", reconstruction)


def test_a_link_stays_a_link_and_a_folder_need_not_be_synced(tmp_path, monkeypatch):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    fsync, folder = os.fsync, os.path.isdir

    def refusing(number):
        if folder(f"/proc/self/fd/{number}"):
            raise OSError(22, "Invalid argument")
        fsync(number)

    monkeypatch.setattr(os, "fsync", refusing)
    replace_file(link, b"new")
    assert (link.is_symlink(), target.read_bytes(), len(list(tmp_path.iterdir()))) == (True, b"new", 2)

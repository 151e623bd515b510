"""The exported file in the eyes of h5py, by the list of the application definition, and read back as a scan."""

import h5py
import numpy as np
import pytest

from bluesky_ptychonn.core.optics import Geometry, zone_plate_probe
from bluesky_ptychonn.core.reconstruction import Reconstruction
from bluesky_ptychonn.core.scan_data import ScanData
from bluesky_ptychonn.core.stitch import Canvas
from bluesky_ptychonn.io.nxcxi import StitchedImage, write_nxcxi
from bluesky_ptychonn.io.scan_files import read_scan_file

GEOMETRY = Geometry(frame_px=32)
INSTRUMENT, DETECTOR, SAMPLE = "instrument_1", "instrument_1/detector_1", "sample_1"
REQUIRED = {
    "": "NXentry",
    "definition": None,
    INSTRUMENT: "NXinstrument",
    f"{INSTRUMENT}/source_1": "NXsource",
    **{f"{INSTRUMENT}/source_1/{name}": None for name in ("name", "energy", "probe", "type")},
    f"{INSTRUMENT}/beam_1": "NXbeam",
    **{f"{INSTRUMENT}/beam_1/{name}": "J" for name in ("energy", "incident_beam_energy", "incident_energy_spread")},
    DETECTOR: "NXdetector",
    f"{DETECTOR}/transformations": "NXtransformations",
    f"{DETECTOR}/transformations/vector": None,
    **{f"{DETECTOR}/{name}": "m" for name in ("translation", "x_pixel_size", "y_pixel_size", "distance")},
    f"{DETECTOR}/data": None,
    f"{DETECTOR}/data_1": None,
    "data": "NXdata",
    **{f"data/{name}": None for name in ("data", "x", "y", "x_indices", "y_indices")},
    "data_1": "NXcollection",
    **{f"data_1/{name}": None for name in ("data", "translation")},
    SAMPLE: "NXsample",
    f"{SAMPLE}/transformations": "NXtransformations",
    **{f"{SAMPLE}/transformations/{axis}": "m" for axis in "xy"},
    f"{SAMPLE}/geometry_1": "NXcollection",
    f"{SAMPLE}/geometry_1/translation": "m",
}
"""What NXcxi_ptycho requires (nexusformat/definitions, applications), with the class of groups and units of fields."""


@pytest.fixture
def scan(rng):
    patterns = rng.poisson(5, (6, 32, 32)).astype(np.uint16)
    patterns[:, 3, :4] = 65535
    return ScanData(
        patterns,
        rng.uniform(-20, 20, (6, 2)),
        GEOMETRY.pixel_size_um,
        GEOMETRY,
        zone_plate_probe(GEOMETRY, defocus_um=10, outermost_zone_nm=100),
        np.array([0, 1, 2, 4, 5, 9]),
        provenance={"run_uid": "a1b2"},
    )


@pytest.fixture
def stitched(rng):
    phase = rng.normal(size=(40, 50)).astype(np.float32)
    phase[0] = np.nan
    return StitchedImage(phase, np.ones((40, 50), np.float32), Canvas((40, 50), (-1.0, -2.0), 0.05), {"engine": "lift"})


def reconstruction_of(scan):
    return Reconstruction(
        object_=np.ones((70, 80), np.complex64),
        probe=scan.probe[None],
        positions_px=scan.positions_px + 33,
        origin_px=(-33.0, -33.0),
        pixel_size_um=scan.pixel_size_um,
        coverage=np.ones((70, 80), np.float32),
        trigger_index=scan.trigger_index,
        held_out=np.zeros(6, bool),
        errors=np.ones(2),
        errors_heldout=np.ones(2),
        settings={"method": "poisson"},
    )


START = {"uid": "a1b2", "time": 1.7e9, "scan_id": 7, "sample_name": "star", "ptycho": {"exposure_s": 0.5e-3}}


@pytest.mark.parametrize("with_reconstruction", [False, True])
def test_everything_required_is_there_in_si_units(scan, stitched, tmp_path, with_reconstruction):
    path = tmp_path / "scan.cxi"
    write_nxcxi(path, scan, stitched, reconstruction_of(scan) if with_reconstruction else None, START, {"time": 1.71e9})

    with h5py.File(path) as file:
        entry = file["entry_1"]
        for name, about in REQUIRED.items():
            item = entry[name] if name else entry
            if isinstance(item, h5py.Group):
                assert item.attrs["NX_class"] == about, name
            elif about:
                assert item.attrs["units"] == about, name
        assert entry["definition"].asstr()[()] == "NXcxi_ptycho"
        assert file["cxi_version"][()] == 160
        assert entry["start_time"].asstr()[()].startswith("2023-11-14T22:13:20")
        assert entry["instrument_1/beam_1/energy"][()] == pytest.approx(10e3 * 1.602176634e-19)
        assert entry["instrument_1/detector_1/distance"][()] == 0.9
        assert entry["instrument_1/detector_1/x_pixel_size"][()] == 75e-6
        assert entry["data_1/data"].shape == (6, 32, 32)
        y_m, x_m = 1e-6 * scan.pixel_size_um * scan.positions_px.T
        np.testing.assert_allclose(entry["data_1/translation"][()], np.stack([x_m, y_m, 0 * x_m], axis=1))
        np.testing.assert_allclose(entry["data/x"][()], x_m)
        np.testing.assert_array_equal(entry["stitched/data"][()], stitched.phase)
        assert entry["stitched/x"][0] == pytest.approx(-2e-6)
        assert ("image_3" in entry) == with_reconstruction
        assert b'"engine": "lift"' in entry["process_1/note"][()]


def test_it_is_read_back_as_the_same_scan(scan, stitched, tmp_path):
    path = tmp_path / "scan.cxi"
    write_nxcxi(path, scan, stitched, None, START)
    found = read_scan_file(path)
    np.testing.assert_array_equal(found.patterns, scan.patterns)
    np.testing.assert_allclose(found.positions_px, scan.positions_px)
    np.testing.assert_array_equal(found.probe, scan.probe)
    assert found.geometry.energy_kev == pytest.approx(10)
    assert found.pixel_size_um == pytest.approx(scan.pixel_size_um)


def test_an_unknown_geometry_is_refused_and_nothing_is_left(scan, stitched, tmp_path):
    unknown = ScanData(scan.patterns, scan.positions_px, scan.pixel_size_um)
    with pytest.raises(ValueError, match="photon energy, distance and detector pixel"):
        write_nxcxi(tmp_path / "scan.cxi", unknown, stitched)
    with pytest.raises(OSError, match="No such file"):
        write_nxcxi(tmp_path / "nowhere" / "scan.cxi", scan, stitched)
    assert not list(tmp_path.iterdir())

import hashlib

import h5py
import numpy as np
import pytest

from bluesky_ptychonn.core.frames import no_data
from bluesky_ptychonn.core.optics import Geometry
from bluesky_ptychonn.io.scan_files import Hdf5Layout, open_raw_scan, read_scan_file

GEOMETRY = {"energy_kev": 10.0, "distance_m": 0.9, "detector_pixel_um": 75.0}
PIXEL_UM = Geometry(**GEOMETRY, frame_px=16).pixel_size_um


@pytest.fixture
def patterns(rng):
    return rng.poisson(20, size=(9, 16, 16)).astype(np.uint16)


@pytest.fixture
def positions_um(rng):
    return rng.uniform(-1, 1, size=(9, 2))


@pytest.fixture
def npz(tmp_path, patterns, positions_um):
    """Writes a scan of these arrays; others replace or add to them, None leaves one out."""

    def write(**arrays):
        held = {"patterns": patterns, "positions_um": positions_um, **GEOMETRY} | arrays
        np.savez(tmp_path / "scan.npz", **{name: value for name, value in held.items() if value is not None})
        return tmp_path / "scan.npz"

    return write


def test_a_full_npz_is_read_as_it_is(npz, patterns, positions_um):
    probe, mask = np.full((2, 16, 16), 1 + 1j, np.complex64), np.zeros((16, 16), bool)
    mask[3, 4] = True
    path = npz(probe=probe, mask=mask, pixel_size_nm=1e3 * PIXEL_UM)
    scan = read_scan_file(path)

    assert scan.geometry == Geometry(**GEOMETRY, frame_px=16)
    assert (scan.pixel_size_um, scan.notes) == (pytest.approx(PIXEL_UM), ())
    np.testing.assert_allclose(scan.positions_px * PIXEL_UM, positions_um)
    np.testing.assert_array_equal(scan.patterns, np.where(mask, no_data(np.uint16), patterns))
    np.testing.assert_array_equal(scan.probe, probe)
    assert scan.provenance == {"file": "scan.npz", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def test_pixels_alone_are_enough(npz, positions_um):
    nothing = dict.fromkeys(GEOMETRY)
    scan = read_scan_file(npz(positions_px=positions_um, positions_um=None, **nothing))
    assert (scan.geometry, scan.pixel_size_um) == (None, None)
    np.testing.assert_array_equal(scan.positions_px, positions_um)
    given = read_scan_file(npz(positions_px=positions_um, positions_um=None, **nothing), pixel_size_nm=10)
    assert given.pixel_size_um == pytest.approx(0.01)
    np.testing.assert_array_equal(given.positions_px, positions_um)


def test_of_two_kinds_of_positions_the_usable_ones_are_taken(npz, positions_um):
    assert np.abs(read_scan_file(npz(positions_px=0 * positions_um)).positions_px).max() > 0
    without = read_scan_file(npz(positions_px=0 * positions_um, energy_kev=None))
    assert not without.positions_px.any()


@pytest.mark.parametrize("name", GEOMETRY)
def test_micrometres_ask_for_what_is_missing(npz, name):
    path = npz(**{name: None})
    with pytest.raises(ValueError, match=rf"scan.npz: positions are in um .*give {name}, or pixel_size_nm"):
        read_scan_file(path)
    assert read_scan_file(path, **{name: GEOMETRY[name]}).pixel_size_um == pytest.approx(PIXEL_UM)


def test_what_is_given_goes_before_the_file(npz):
    assert read_scan_file(npz(), energy_kev=5.0).geometry == Geometry(5.0, 0.9, 75.0, 16)
    assert read_scan_file(npz(energy_kev=None, pixel_size_nm=7.0), pixel_size_nm=8.0).pixel_size_um == pytest.approx(
        8e-3
    )


def test_a_mask_file_adds_to_that_of_the_file(npz, tmp_path):
    ours, theirs = np.zeros((16, 16), bool), np.zeros((16, 16), np.uint8)
    ours[1, 2], theirs[5, 6] = True, 3
    np.save(tmp_path / "mask.npy", ours)
    scan = read_scan_file(npz(mask=theirs), mask_file=tmp_path / "mask.npy")
    assert np.argwhere(~scan.valid[0]).tolist() == [[1, 2], [5, 6]]


def test_crop_centre_and_orientation_reach_the_patterns(npz, patterns):
    scan = read_scan_file(npz(), crop_px=8, beam_center_px=(7, 9), orientation="transpose")
    np.testing.assert_array_equal(scan.patterns, patterns[:, 3:11, 5:13].swapaxes(1, 2))
    assert scan.pixel_size_um == pytest.approx(2 * PIXEL_UM)


REFUSED = [
    (
        {"patterns": None},
        r"no array 'patterns', only \['detector_pixel_um', 'distance_m', 'energy_kev', 'positions_um'\]",
    ),
    ({"positions_um": None}, "the scan has no positions; give positions_um or positions_px"),
    ({"positions_um": np.zeros((8, 2))}, r"9 frames and positions of shape \(8, 2\)"),
    ({"energy_kev": np.array([10.0, 11.0])}, r"energy_kev is float64 of shape \(2,\); give one number"),
    ({"energy_kev": "ten"}, "energy_kev is <U3"),
    ({"mask": np.zeros((15, 16), bool)}, r"mask of bad pixels is \(15, 16\) px for frames of \(16, 16\) px"),
    ({"mask": np.zeros((16, 16))}, "the mask is float64 .* True means bad"),
    ({"patterns": np.zeros((9, 16, 16), complex)}, "frames are complex128"),
]


@pytest.mark.parametrize(("wrong", "message"), REFUSED)
def test_what_an_npz_lacks_is_named(npz, wrong, message):
    with pytest.raises(ValueError, match=f"scan.npz: .*{message}"):
        read_scan_file(npz(**wrong))


@pytest.mark.parametrize("content", [None, b"", b"no archive", "half"])
@pytest.mark.parametrize("suffix", ["npz", "cxi", "h5"])
def test_a_file_that_is_none_is_told(npz, tmp_path, content, suffix):
    path = tmp_path / f"broken.{suffix}"
    if content == "half":
        whole = npz().read_bytes()
        if suffix != "npz":
            with h5py.File(tmp_path / "whole", "w") as file:
                file["entry_1/data_1/data"] = np.zeros((3, 16, 16))
            whole = (tmp_path / "whole").read_bytes()
        content = whole[: len(whole) // 2]
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"broken.{suffix}(: it is cut short| cannot be read)"):
        read_scan_file(path)


@pytest.mark.parametrize(
    ("mask", "message"), [(None, "cannot be read"), (np.zeros((2, 2), bool), r"has \(2, 2\) px for")]
)
def test_a_wrong_mask_file_is_told(npz, tmp_path, mask, message):
    if mask is not None:
        np.save(tmp_path / "mask.npy", mask)
    with pytest.raises(ValueError, match=f"mask_file = .*{message}"):
        read_scan_file(npz(), mask_file=tmp_path / "mask.npy")


@pytest.mark.parametrize(("unit", "per_um"), [("m", 1e-6), ("mm", 1e-3), ("um", 1.0), ("nm", 1e3)])
@pytest.mark.parametrize("split", [False, True])
def test_plain_hdf5_is_read_by_its_paths(tmp_path, patterns, positions_um, unit, per_um, split):
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("entry/frames", data=patterns, chunks=(1, 16, 16), compression="gzip")
        file["stage/yx"] = per_um * positions_um
        file["stage/y"], file["stage/x"] = (per_um * positions_um).T
        file["mask"] = np.eye(16, dtype=np.uint8)
        file["probe"] = np.ones((16, 16), complex)
    where = ("stage/y", "stage/x") if split else "stage/yx"
    scan = read_scan_file(path, layout=Hdf5Layout("entry/frames", where, unit, "mask", "probe"), **GEOMETRY)

    np.testing.assert_allclose(scan.positions_px * PIXEL_UM, positions_um)
    np.testing.assert_array_equal(scan.patterns, np.where(np.eye(16) > 0, no_data(np.uint16), patterns))
    assert scan.probe is not None


def test_hdf5_without_paths_or_with_wrong_ones_says_what_it_holds(tmp_path, patterns):
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["a/frames"], file["b"] = patterns, np.zeros((9, 2))
    with pytest.raises(ValueError, match=r"no CXI file .* but holds \['a', 'b'\]; give the paths of patterns"):
        read_scan_file(tmp_path / "scan.h5")
    with pytest.raises(ValueError, match=r"no dataset 'frames', only a/frames, b"):
        read_scan_file(tmp_path / "scan.h5", layout=Hdf5Layout("frames", "b", "px"))
    with pytest.raises(ValueError, match="positions_unit = 'furlong'; allowed is one of m, mm, um, nm, px"):
        Hdf5Layout("a/frames", "b", "furlong")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("yx", np.array([b"a", b"b"]), r"dataset 'yx' holds \|S1, not numbers"),
        ("yx", np.zeros(9, [("y", float), ("x", float)]), r"dataset 'yx' holds .*, not numbers"),
        ("yx", h5py.Empty("f"), "dataset 'yx' is empty"),
        ("frames", h5py.Empty("u2"), "dataset 'frames' is empty"),
        ("mask", h5py.Empty("u1"), "dataset 'mask' is empty"),
        ("probe", h5py.Empty("c8"), "dataset 'probe' is empty"),
        ("mask", np.zeros((16, 16), [("a", int)]), "the mask is"),
    ],
)
def test_datasets_without_numbers_are_told(tmp_path, patterns, name, value, message):
    arrays = {"frames": patterns, "yx": np.zeros((9, 2)), "mask": np.eye(16, dtype=int), "probe": np.ones((16, 16))}
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        for key, array in {**arrays, name: value}.items():
            file[key] = array
    with pytest.raises(ValueError, match=message):
        read_scan_file(tmp_path / "scan.h5", layout=Hdf5Layout("frames", "yx", "px", "mask", "probe"))


def test_lengths_of_y_and_x_are_named(tmp_path, patterns):
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["frames"], file["y"], file["x"] = patterns, np.zeros(9), np.zeros(8)
    with pytest.raises(ValueError, match="y holds 9 positions along y, x 8 along x"):
        read_scan_file(tmp_path / "scan.h5", layout=Hdf5Layout("frames", ("y", "x"), "px"))


def test_problems_within_the_context_name_the_file(npz):
    with pytest.raises(ValueError, match=r"scan.npz: this is wrong"), open_raw_scan(npz()):
        raise ValueError("this is wrong")


def test_the_real_star_is_read(real_data):
    scan = read_scan_file(real_data / "siemens_star_128.npz")
    with np.load(real_data / "siemens_star_128.npz") as star:
        np.testing.assert_array_equal(scan.patterns, star["patterns"])
        np.testing.assert_array_equal(scan.positions_px, star["positions_px"])
        np.testing.assert_array_equal(scan.probe, star["probe"])
    assert (scan.pixel_size_um, scan.geometry, scan.left_out, scan.notes) == (None, None, 0, ())

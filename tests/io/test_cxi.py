import h5py
import numpy as np
import pytest

from bluesky_ptychonn.core.frames import no_data
from bluesky_ptychonn.io.scan_files import open_raw_scan, read_scan_file

DETECTOR, SOURCE = "entry_1/instrument_1/detector_1", "entry_1/instrument_1/source_1"
TRANSLATION = "entry_1/sample_1/geometry_1/translation"
TEN_KEV_J = 1.602176634e-15


@pytest.fixture
def cxi(tmp_path, rng):
    """Writes a small scan; others replace or add to its datasets, None leaves one out."""
    sample_m = np.column_stack([rng.uniform(-1e-6, 1e-6, (7, 2)), np.zeros(7)])
    held = {
        f"{DETECTOR}/data": rng.poisson(20, size=(7, 16, 16)).astype(np.int32),
        f"{DETECTOR}/distance": 0.9,
        f"{DETECTOR}/x_pixel_size": 75e-6,
        f"{DETECTOR}/y_pixel_size": 75e-6,
        f"{SOURCE}/energy": TEN_KEV_J,
        TRANSLATION: sample_m,
    }

    def write(changes=(), units=()):
        path = tmp_path / "scan.cxi"
        with h5py.File(path, "w") as file:
            for name, value in (held | dict(changes)).items():
                if value is not None:
                    file[name] = value
            for name, unit in dict(units).items():
                file[name].attrs["units"] = unit
        return path

    write.sample_m = sample_m
    return write


def positions_um(path):
    with open_raw_scan(path) as raw:
        return raw.positions


def test_si_units_become_ours(cxi):
    scan = read_scan_file(cxi())
    assert scan.geometry is not None
    assert scan.geometry.energy_kev == pytest.approx(10)
    assert (scan.geometry.distance_m, scan.geometry.detector_pixel_um) == (0.9, pytest.approx(75))
    assert scan.patterns.dtype == np.uint16


def test_places_follow_the_axes_of_the_detector(cxi):
    """The sample's translation and the detector's default axes are both reversed: (row, column) is (+y, +x)."""
    yx_um = 1e6 * cxi.sample_m[:, [1, 0]]
    np.testing.assert_allclose(positions_um(cxi()), yx_um)
    default = np.array([[0, -75e-6, 0], [-75e-6, 0, 0]])
    for axes in (default, default.T):
        np.testing.assert_allclose(positions_um(cxi({f"{DETECTOR}/basis_vectors": axes})), yx_um)
    upright = cxi({f"{DETECTOR}/basis_vectors": [[0, 75e-6, 0], [75e-6, 0, 0]]})
    np.testing.assert_allclose(positions_um(upright), -yx_um)
    turned = cxi({f"{DETECTOR}/basis_vectors": [[-75e-6, 0, 0], [0, -75e-6, 0]]})
    np.testing.assert_allclose(positions_um(turned), yx_um[:, ::-1])


@pytest.mark.parametrize("path", ["entry_1/data_1/translation", TRANSLATION, f"{DETECTOR}/translation"])
@pytest.mark.parametrize("form", [lambda t: t, lambda t: t[:, :2], lambda t: t.T])
def test_translations_are_found_where_and_how_others_write_them(cxi, path, form):
    file = cxi({TRANSLATION: None} | {path: form(cxi.sample_m)})
    np.testing.assert_allclose(positions_um(file), 1e6 * cxi.sample_m[:, [1, 0]])


def test_units_of_a_dataset_count(cxi):
    units = {f"{DETECTOR}/distance": "mm", f"{SOURCE}/energy": "eV", TRANSLATION: "um"}
    changes = {f"{DETECTOR}/distance": 900.0, f"{SOURCE}/energy": 10_000.0, TRANSLATION: 1e6 * cxi.sample_m}
    scan, plain = read_scan_file(cxi(changes, units)), read_scan_file(cxi())
    assert scan.pixel_size_um == pytest.approx(plain.pixel_size_um)
    np.testing.assert_allclose(scan.positions_px, plain.positions_px)


def test_bits_of_the_mask(cxi):
    """No bit is good, "has signal" is no fault, every other is."""
    mask = np.zeros((16, 16), np.uint32)
    mask[0, :4] = 0x1, 0x200, 0x1000, 0x1001
    scan = read_scan_file(cxi({f"{DETECTOR}/mask": mask}))
    assert np.argwhere(scan.patterns[0] == no_data(np.uint16)).tolist() == [[0, 0], [0, 1], [0, 3]]


@pytest.mark.parametrize(
    ("changes", "energy_kev"),
    [
        ({f"{SOURCE}/energy": None, f"{SOURCE}/wavelength": 1.239841984e-10}, 10),
        ({f"{SOURCE}/energy": np.full(7, TEN_KEV_J)}, 10),
        ({f"{SOURCE}/energy": 0.0}, None),
    ],
)
def test_energy_is_told_in_several_ways(cxi, changes, energy_kev):
    with open_raw_scan(cxi(changes)) as raw:
        assert raw.energy_kev == (None if energy_kev is None else pytest.approx(energy_kev))


def test_pixels_may_be_told_by_the_axes_alone(cxi):
    axes = {f"{DETECTOR}/{axis}_pixel_size": None for axis in "xy"}
    with open_raw_scan(cxi({**axes, f"{DETECTOR}/basis_vectors": [[0, -55e-6, 0], [-55e-6, 0, 0]]})) as raw:
        assert raw.detector_pixel_um == pytest.approx(55)


@pytest.mark.parametrize("shape", [(16, 16), (2, 16, 16), (1, 2, 16, 16)])
def test_illumination_is_the_probe(cxi, shape):
    probe = np.full(shape, 1j, np.complex64)
    scan = read_scan_file(cxi({f"{SOURCE}/illumination": probe}))
    assert scan.probe is not None
    assert scan.probe.shape == shape[-3:]


REFUSED = [
    ({f"{DETECTOR}/data": None}, "it has no frames at entry_1/data_1/data or .*; entry_1 holds"),
    ({TRANSLATION: None}, "the scan has no positions"),
    ({TRANSLATION: np.zeros((7, 4))}, r"translation has shape \(7, 4\); give \(x, y, z\) in m"),
    ({f"{SOURCE}/energy": [1e-15, 2e-15]}, "energy goes from 1e-15 to 2e-15; one value is needed"),
    ({f"{SOURCE}/energy": 10_000.0}, "energy_kev = .* is outside 0.1 to 200 keV"),
    ({f"{SOURCE}/energy": None}, "energy_kev is missing; give energy_kev, or pixel_size_nm"),
    ({f"{DETECTOR}/y_pixel_size": 172e-6}, "detector pixels of 0.000172 x 7.5e-05 m are not square"),
    ({f"{DETECTOR}/basis_vectors": np.ones((2, 3))}, "two perpendicular vectors"),
    ({f"{DETECTOR}/mask": np.zeros((7, 16, 16), np.uint32)}, r"mask of bad pixels is \(7, 16, 16\) px"),
    ({f"{DETECTOR}/mask": np.zeros((16, 16), [("a", int), ("b", int)])}, "an array holds text or tables, not numbers"),
    ({f"{DETECTOR}/data": h5py.Empty("u2")}, "it has no frames at"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_what_a_file_lacks_is_named(cxi, changes, message):
    with pytest.raises(ValueError, match=f"scan.cxi: .*{message}"):
        read_scan_file(cxi(changes))


def test_an_unknown_unit_is_refused(cxi):
    with pytest.raises(ValueError, match="distance is in 'inch'; allowed are m, mm"):
        read_scan_file(cxi(units={f"{DETECTOR}/distance": "inch"}))


def test_the_real_file_is_read_right(real_data):
    scan = read_scan_file(real_data / "petra3_p25_nearfield.cxi")
    assert scan.patterns.shape == (200, 100, 100)
    assert scan.patterns.dtype == np.uint16
    assert scan.geometry is not None
    assert scan.geometry.energy_kev == pytest.approx(12.658, abs=1e-3)
    assert (scan.geometry.distance_m, scan.geometry.detector_pixel_um) == (pytest.approx(1.12), pytest.approx(55))
    with h5py.File(real_data / "petra3_p25_nearfield.cxi") as file:
        np.testing.assert_allclose(
            scan.positions_px * scan.pixel_size_um, 1e6 * file[TRANSLATION][()][:, [1, 0]], rtol=1e-6
        )
        bad = file[f"{DETECTOR}/mask"][()] != 0
        np.testing.assert_array_equal(scan.patterns[:, ~bad], file[f"{DETECTOR}/data"][()][:, ~bad])
    assert np.count_nonzero(bad) == 5
    assert np.all(scan.patterns[:, bad] == no_data(np.uint16))
    assert (scan.left_out, scan.notes) == (0, ())

"""Read ptychography scans in CXI files (Coherent X-ray Imaging file format 1.6).

CXI is in SI units. Its z axis points downstream, y up and, right-handed, x to the left of who looks downstream; a
detector without ``basis_vectors`` has rows along -y and columns along -x. ``translation`` moves the *sample*, so the
probe moves on it by the opposite. In the axes of the detector both signs cancel: the probe's centre (row, column) is
(+y, +x) of ``translation``, which is also how ptychodus reads and writes it. Files with other ``basis_vectors`` are
turned accordingly.

In ``mask`` a pixel without any bit is good; the bit "has signal" does not make it bad.

References
----------
Maia, Nat. Methods 9, 854 (2012); The CXI File Format for Coherent X-ray Imaging, version 1.6, sections 5 to 8.
"""

from typing import Any

import h5py
import numpy as np

from bluesky_ptychonn.core.optics import HC_KEV_UM
from bluesky_ptychonn.core.raw_scan import RawScan

ENTRY = "entry_1"
DETECTOR = f"{ENTRY}/instrument_1/detector_1"
SOURCE = f"{ENTRY}/instrument_1/source_1"
DATA = (f"{ENTRY}/data_1/data", f"{DETECTOR}/data")
TRANSLATION = (
    f"{ENTRY}/data_1/translation",
    f"{ENTRY}/sample_1/geometry_1/translation",
    f"{DETECTOR}/translation",
)
HAS_SIGNAL = 0x1000
KEV_J = 1.602176634e-16
IN_SI = {"m": 1.0, "mm": 1e-3, "um": 1e-6, "nm": 1e-9, "j": 1.0, "kev": KEV_J, "ev": 1e-3 * KEV_J}
DEFAULT_AXES = np.array([[0.0, -1.0, 0.0], [-1.0, 0.0, 0.0]])
SAME = 1e-3
"""Relative spread up to which several values of one quantity count as one."""


def read_cxi(file: h5py.File) -> RawScan:
    """Read what a CXI file tells; its frames stay in the file and are read when they are used.

    Parameters
    ----------
    file : h5py.File
        Open for as long as the frames are needed.

    Returns
    -------
    RawScan
        Positions in um along the rows and columns of the detector.

    Raises
    ------
    ValueError
        If frames or positions are missing, or a value cannot be used.
    """
    frames = _first(file, DATA)
    if frames is None:
        raise ValueError(f"it has no frames at {' or '.join(DATA)}; {ENTRY} holds {_names(file[ENTRY])}")
    energy_j = _quantity(file, f"{SOURCE}/energy")
    wavelength_m = _quantity(file, f"{SOURCE}/wavelength")
    distance_m = _quantity(file, f"{DETECTOR}/distance")
    pixel_m = _pixel_m(file)
    energy_kev = None if energy_j is None else energy_j / KEV_J
    if energy_kev is None and wavelength_m:
        energy_kev = HC_KEV_UM / (1e6 * wavelength_m)
    return RawScan(
        frames=frames,
        positions=_positions_um(file),
        probe=_probe(file),
        bad_pixels=_bad_pixels(file),
        energy_kev=energy_kev,
        distance_m=distance_m,
        detector_pixel_um=None if pixel_m is None else 1e6 * pixel_m,
    )


def _first(file: h5py.File, paths: tuple[str, ...]) -> Any:
    """First dataset that holds something; None where none does."""
    found = (file.get(path) for path in paths)
    return next((item for item in found if isinstance(item, h5py.Dataset) and item.shape is not None), None)


def _names(item: Any) -> list[str]:
    return sorted(item) if isinstance(item, h5py.Group) else []


def _in_si(item: h5py.Dataset) -> np.ndarray:
    unit = item.attrs.get("units", "")
    unit = (unit.decode() if isinstance(unit, bytes) else str(unit)).strip()
    if unit and unit.lower() not in IN_SI:
        raise ValueError(f"{item.name} is in {unit!r}; allowed are {', '.join(IN_SI)}, or no unit for SI; correct it")
    return np.asarray(item[()], np.float64) * IN_SI.get(unit.lower(), 1.0)


def _quantity(file: h5py.File, path: str) -> float | None:
    """One value in SI units; None where the file does not tell, or says 0 as writers do that do not know."""
    item = _first(file, (path,))
    if item is None:
        return None
    values = _in_si(item).ravel()
    if not values.size or not np.any(values):
        return None
    if not np.ptp(values) <= SAME * abs(values.mean()):
        raise ValueError(f"{path} goes from {values.min():g} to {values.max():g}; one value is needed; correct it")
    return float(values.mean())


def _axes(file: h5py.File) -> np.ndarray | None:
    """Vectors (2, 3) from a pixel to the next row and to the next column, m; some writers transpose them."""
    item = _first(file, (f"{DETECTOR}/basis_vectors",))
    if item is None:
        return None
    axes = _in_si(item)
    axes = axes.T if axes.shape == (3, 2) else axes
    lengths = np.linalg.norm(axes, axis=-1)
    if axes.shape != (2, 3) or not np.all(lengths > 0) or abs(axes[0] @ axes[1]) > 0.01 * lengths.prod():
        raise ValueError(f"{item.name} = {axes.tolist()} m; two perpendicular vectors (2, 3) are needed; correct them")
    return axes


def _pixel_m(file: h5py.File) -> float | None:
    sides = [_quantity(file, f"{DETECTOR}/{axis}_pixel_size") for axis in ("y", "x")]
    known = [side for side in sides if side is not None]
    axes = _axes(file)
    if not known and axes is not None:
        known = [float(length) for length in np.linalg.norm(axes, axis=1)]
    if known and max(known) - min(known) > SAME * max(known):
        raise ValueError(f"detector pixels of {known[0]:g} x {known[1]:g} m are not square; bin them to squares")
    return known[0] if known else None


def _positions_um(file: h5py.File) -> np.ndarray | None:
    item = _first(file, TRANSLATION)
    if item is None:
        return None
    sample_m = _in_si(item)
    if sample_m.ndim == 2 and sample_m.shape[0] == 3 != sample_m.shape[1]:
        sample_m = sample_m.T  # as PyNX writes it
    if sample_m.ndim != 2 or sample_m.shape[1] not in (2, 3):
        raise ValueError(f"{item.name} has shape {sample_m.shape}; give (x, y, z) in m for each frame")
    axes = _axes(file)
    axes = DEFAULT_AXES if axes is None else axes / np.linalg.norm(axes, axis=1, keepdims=True)
    return -1e6 * (sample_m @ axes[:, : sample_m.shape[1]].T)


def _bad_pixels(file: h5py.File) -> np.ndarray | None:
    item = _first(file, (f"{DETECTOR}/mask",))
    if item is None:
        return None
    return (np.asarray(item[()]).astype(np.int64) & ~HAS_SIGNAL) != 0


def _probe(file: h5py.File) -> np.ndarray | None:
    """Illumination, or its incoherent modes; of several coherent ones the first."""
    item = _first(file, (f"{SOURCE}/illumination",))
    if item is None:
        return None
    probe = np.asarray(item[()])
    return probe[0] if probe.ndim == 4 else probe

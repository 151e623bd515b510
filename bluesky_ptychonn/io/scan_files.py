"""Read recorded scans: NPZ, CXI, and plain HDF5 by the paths of its datasets.

An NPZ file holds ``patterns`` (N, H, W), ``positions_um`` or ``positions_px`` (N, 2) as (y, x), and if known ``probe``,
``energy_kev``, ``distance_m``, ``detector_pixel_um``, ``pixel_size_nm`` and ``mask`` (H, W), in which True means bad.
"""

import contextlib
import hashlib
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import h5py
import numpy as np

from bluesky_ptychonn.core.raw_scan import RawScan, prepare_scan
from bluesky_ptychonn.core.scan_data import ScanData
from bluesky_ptychonn.io.cxi import ENTRY, read_cxi

UM_PER_UNIT = {"m": 1e6, "mm": 1e3, "um": 1.0, "nm": 1e-3}
ARRAYS = ("patterns", "positions_um", "positions_px", "probe", "mask")
NUMBERS = ("energy_kev", "distance_m", "detector_pixel_um", "pixel_size_nm")


@dataclass(frozen=True)
class Hdf5Layout:
    """Where the arrays of a scan are in a plain HDF5 file.

    Parameters
    ----------
    patterns : str
        Path of the frames (N, H, W).
    positions : str or (str, str)
        Path of the probe centres (N, 2) as (y, x), or paths of y (N,) and x (N,).
    positions_unit : {"m", "mm", "um", "nm", "px"}
    mask : str, optional
        Path of the mask (H, W); not 0 means bad.
    probe : str, optional
        Path of the complex illumination.
    """

    patterns: str
    positions: str | tuple[str, str]
    positions_unit: Literal["m", "mm", "um", "nm", "px"]
    mask: str | None = None
    probe: str | None = None

    def __post_init__(self) -> None:
        allowed = (*UM_PER_UNIT, "px")
        if self.positions_unit not in allowed:
            raise ValueError(f"positions_unit = {self.positions_unit!r}; allowed is one of {', '.join(allowed)}")


def read_scan_file(
    path: Path,
    *,
    energy_kev: float | None = None,
    distance_m: float | None = None,
    detector_pixel_um: float | None = None,
    pixel_size_nm: float | None = None,
    mask_file: Path | None = None,
    crop_px: int | None = None,
    beam_center_px: tuple[float, float] | None = None,
    orientation: str = "identity",
    layout: Hdf5Layout | None = None,
) -> ScanData:
    """Read a recorded scan; what is given here goes before what the file says.

    Whether its patterns and positions can be true is another question: `core.scan_checks.refuse_unfit`.

    Parameters
    ----------
    path : Path
    energy_kev, distance_m, detector_pixel_um : float, optional
        Geometry.
    pixel_size_nm : float, optional
        Side of an object pixel of the patterns as cut.
    mask_file : Path, optional
        NPY file (H, W) in which True means bad, on top of the file's own mask.
    crop_px : int, optional
        Side of the patterns, even; the largest even square by default.
    beam_center_px : (float, float), optional
        Row and column of the beam in a frame; the frame's middle by default.
    orientation : str
        Of the frames, one of `core.frames.ORIENTATIONS`.
    layout : Hdf5Layout, optional
        Of a plain HDF5 file.

    Raises
    ------
    ValueError
        If the file cannot be read or something in it is missing or wrong; the message names the file and the remedy.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "scan.npz"
    >>> np.savez(file, patterns=np.ones((3, 8, 8), np.uint16), positions_px=np.zeros((3, 2)))
    >>> read_scan_file(file).patterns.shape
    (3, 8, 8)
    """
    given = {"energy_kev": energy_kev, "distance_m": distance_m, "detector_pixel_um": detector_pixel_um}
    with open_raw_scan(path, layout) as raw:
        raw = replace(raw, **{name: value for name, value in given.items() if value is not None})
        if mask_file is not None:
            mask = read_mask(mask_file, raw.frames.shape[1:])
            raw = replace(raw, bad_pixels=mask if raw.bad_pixels is None else mask | raw.bad_pixels)
        return prepare_scan(
            raw,
            crop_px=crop_px,
            beam_center_px=beam_center_px,
            orientation=orientation,
            pixel_size_um=None if pixel_size_nm is None else 1e-3 * pixel_size_nm,
            provenance={"file": Path(path).name, "sha256": _sha256(Path(path))},
        )


@contextlib.contextmanager
def open_raw_scan(path: Path, layout: Hdf5Layout | None = None) -> Iterator[RawScan]:
    """Open a scan file; the frames of an HDF5 file can be read as long as the context lasts.

    Raises
    ------
    ValueError
        As `read_scan_file`; problems found within the context are told with the name of the file, too.
    """
    try:
        if Path(path).suffix == ".npz":
            yield _read_npz(Path(path))
        else:
            with contextlib.suppress(ImportError):
                import hdf5plugin  # noqa: F401  # pyright: ignore[reportMissingImports]  # filters of detectors
            with h5py.File(path, "r") as file:
                try:
                    raw = _read_hdf5(file, layout)
                except TypeError as error:
                    raise ValueError(f"an array holds text or tables, not numbers: {error}; give numbers") from error
                yield raw
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {_reason(error)}") from error


def _reason(error: OSError) -> str:
    text = str(error)
    if "filter" in text:
        return f"{text}; its compression is not known here: pip install hdf5plugin"
    if "signature" in text or "truncated" in text:
        return f"{text}; it is cut short or no HDF5 file; give NPZ, CXI or HDF5"
    return text


def _read_npz(path: Path) -> RawScan:
    try:
        with np.load(path, allow_pickle=False) as file:
            names = sorted(file)
            held = {name: file[name] for name in names if name in ARRAYS + NUMBERS}
    except (zipfile.BadZipFile, zlib.error, EOFError, TypeError, ValueError) as error:
        raise ValueError(f"it is cut short or no NPZ file: {error}; save it anew") from error
    if "patterns" not in held:
        raise ValueError(f"it has no array 'patterns', only {names}; give a scan with patterns")
    numbers = {name: _number(name, held[name]) for name in NUMBERS if name in held}
    pixel_size_nm = numbers.pop("pixel_size_nm", None)
    geometry_known = {"energy_kev", "distance_m", "detector_pixel_um"} <= numbers.keys()
    in_um = "positions_um" in held and (pixel_size_nm or geometry_known or "positions_px" not in held)
    return RawScan(
        frames=held["patterns"],
        positions=held.get("positions_um" if in_um else "positions_px"),
        positions_unit="um" if in_um else "px",
        probe=held.get("probe"),
        bad_pixels=_bad(held["mask"]) if "mask" in held else None,
        pixel_size_um=None if pixel_size_nm is None else 1e-3 * pixel_size_nm,
        **numbers,
    )


def _number(name: str, value: np.ndarray) -> float:
    if value.size != 1 or value.dtype.kind not in "iuf":
        raise ValueError(f"{name} is {value.dtype} of shape {value.shape}; give one number")
    return float(value.ravel()[0])


def _bad(mask: np.ndarray) -> np.ndarray:
    if mask.ndim != 2 or mask.dtype.kind not in "biu":
        raise ValueError(f"the mask is {mask.dtype} of shape {mask.shape}; give (H, W) in which True means bad")
    return mask.astype(bool)


def read_array(path: Path, what: str) -> np.ndarray:
    """Read an NPY file; ``what`` names it in messages.

    Raises
    ------
    ValueError
        If it cannot be read or holds several arrays.
    """
    try:
        with open(path, "rb") as file:
            array = np.load(file, allow_pickle=False)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{what} {path} cannot be read: {error}; give a .npy file") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{what} {path} holds several arrays; give a .npy file of one")
    return array


def read_mask(path: Path, frame_shape: tuple[int, ...], what: str = "mask_file =") -> np.ndarray:
    """Read a mask (H, W) of frames from an NPY file; True means bad.

    Raises
    ------
    ValueError
        If it cannot be read or is none of such frames.
    """
    array = read_array(path, what)
    try:
        mask = _bad(array)
    except ValueError as error:
        raise ValueError(f"{what} {path} cannot be used: {error}") from error
    if mask.shape != tuple(frame_shape):
        raise ValueError(f"{what} {path} has {mask.shape} px for frames of {frame_shape} px; give (H, W) of them")
    return mask


def _read_hdf5(file: h5py.File, layout: Hdf5Layout | None) -> RawScan:
    if layout is None:
        if ENTRY not in file:
            raise ValueError(
                f"it is no CXI file (no {ENTRY}) but holds {sorted(file)}; give the paths of patterns and positions, "
                "and the unit of the positions"
            )
        return read_cxi(file)
    if isinstance(layout.positions, str):
        positions = _numbers(file, layout.positions)
    else:
        y, x = (_numbers(file, axis).ravel() for axis in layout.positions)
        if len(y) != len(x):
            raise ValueError(
                f"{layout.positions[0]} holds {len(y)} positions along y, {layout.positions[1]} {len(x)} along x; "
                "give one of each for each frame"
            )
        positions = np.stack([y, x], axis=1)
    in_px = layout.positions_unit == "px"
    return RawScan(
        frames=_dataset(file, layout.patterns),
        positions=positions if in_px else positions * UM_PER_UNIT[layout.positions_unit],
        positions_unit="px" if in_px else "um",
        probe=None if layout.probe is None else _dataset(file, layout.probe)[()],
        bad_pixels=None if layout.mask is None else _bad(_dataset(file, layout.mask)[()]),
    )


def _dataset(file: h5py.File, path: str) -> h5py.Dataset:
    item = file.get(path)
    if not isinstance(item, h5py.Dataset):
        held: list[str] = []
        file.visititems(lambda name, found: held.append(name) if isinstance(found, h5py.Dataset) else None)
        raise ValueError(f"it has no dataset {path!r}, only {', '.join(held[:20])}")
    if item.shape is None:
        raise ValueError(f"dataset {path!r} is empty; give one with values")
    return item


def _numbers(file: h5py.File, path: str) -> np.ndarray:
    item = _dataset(file, path)
    if item.dtype.kind not in "iuf":
        raise ValueError(f"dataset {path!r} holds {item.dtype}, not numbers; give the positions' own dataset")
    return item[()]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()

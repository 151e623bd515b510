"""Read a run back from Tiled: every frame with its trigger and its position."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from bluesky_ptychonn.core.beam import MIN_COUNTS
from bluesky_ptychonn.core.raw_scan import RawScan, prepare_scan
from bluesky_ptychonn.core.recorded_run import RecordedRun, Recording, pair_recorded
from bluesky_ptychonn.core.scan_data import ScanData
from bluesky_ptychonn.io.frame_files import nearest_rows

TABLES = ("counters", "positions", "flux")
"""Streams beside the frames."""
TABLE = "internal"
"""What Tiled calls the table of a stream."""
IMAGE, UNIQUE_ID, TIME = "_image", "_unique_id", "_time_stamp"
TO_PAIR = ("first_unique_id", "clock", "dwell_s", "fly")
NEEDED = ("energy_kev", "distance_m", "detector_pixel_um", "crop_px", "beam_center_px", "orientation")

REMEDY = "so its frames cannot be paired with positions; export them and read the file instead"


def read_run(run: Any) -> RecordedRun:
    """Read a ptychography run and pair its frames with the captured positions.

    Parameters as for `open_run`.

    Returns
    -------
    RecordedRun

    Raises
    ------
    ValueError
        As `open_run`.
    """
    with open_run(run) as recording:
        return recording.read()


@contextlib.contextmanager
def open_run(run: Any, *, from_files: bool = True) -> Iterator[Recording]:
    """Open a ptychography run; its frames can be read as long as the context lasts.

    Frames pair by the driver's number, never by row, so frames that the file writer dropped shift nothing.

    Parameters
    ----------
    run : tiled client
        One run of the catalog, such as ``cat[uid]`` of Tiled or of databroker 2.
    from_files : bool
        Read frames from the detector's file if it is on this machine; else in blocks over the network.

    Raises
    ------
    ValueError
        If the run is not a ptychography run, recorded no frames, or lacks what pairs them with positions.
    """
    try:
        run = getattr(run, "v3", run)  # databroker 2 may have another layout in force
    except NotImplementedError:  # it lies in MongoDB
        from bluesky_ptychonn.io.run_documents import open_documents

        with open_documents(run.documents()) as recording:
            yield recording
        return
    start = run.metadata["start"]
    _refuse_other_plans(start)
    streams = _streams(run)
    primary = _members(streams.get("primary", {}))
    detector = detector_of(start, set(primary))
    image, ids, times = (primary[f"{detector}{part}"] for part in (IMAGE, UNIQUE_ID, TIME))
    time_s = np.asarray(times.read(), float).ravel()
    near = nearest_rows((image, ids), times, time_s) if from_files else contextlib.nullcontext((image, ids))
    with near as (frames, unique_ids):
        unique_id = np.asarray(unique_ids[:]).ravel().astype(np.int64)
        paired = pair(start, unique_id, time_s, *(_columns(streams, name) for name in TABLES))
        yield replace(paired, frames=frames)


def detector_of(start: Mapping[str, Any], keys: set[str]) -> str:
    """Name of the detector among the keys of stream ``primary``.

    Raises
    ------
    ValueError
        If its frames are not there, or not what pairs them.
    """
    _refuse_other_plans(start)
    names = [key.removesuffix(UNIQUE_ID) for key in keys if key.endswith(UNIQUE_ID)]
    if not names:
        raise ValueError(f"run {start['uid']} recorded no frames; stream 'primary' holds {sorted(keys)}")
    missing = [f"{names[0]}{part}" for part in (TIME, IMAGE) if f"{names[0]}{part}" not in keys]
    missing += [name for name in ("num_points",) if name not in start]
    missing += [f"ptycho.{name}" for name in TO_PAIR if name not in start["ptycho"]]
    if missing:
        raise ValueError(f"run {start['uid']} lacks {', '.join(missing)}, {REMEDY}")
    return names[0]


def pair(
    start: Mapping[str, Any],
    unique_id: np.ndarray,
    time_s: np.ndarray,
    counters: Mapping[str, np.ndarray],
    positions: Mapping[str, np.ndarray],
    flux: Mapping[str, np.ndarray],
) -> Recording:
    """Find trigger and captured position of each recorded frame.

    Parameters
    ----------
    start : mapping
        Start document.
    unique_id, time_s : (M,)
        Of each row of the detector's file.
    counters, positions, flux : mapping of str to (n,) array
        Columns of these streams; empty where a run has none.

    Returns
    -------
    Recording
        Still without its frames.

    Raises
    ------
    ValueError
        If the positions cannot be told apart.
    """
    trigger_index, doubt = pair_recorded(unique_id, time_s, start, **_totals(counters, start))
    captured_um = _captured(positions, start)
    no_frames, flux_ = np.empty((0, 0, 0), np.uint16), _flux(flux, start["num_points"])
    return Recording(no_frames, trigger_index, unique_id, captured_um, doubt, start, flux_)


def _refuse_other_plans(start: Mapping[str, Any]) -> None:
    if "ptycho" not in start:
        raise ValueError(f"run {start['uid']} has no 'ptycho' block; its plan was {start.get('plan_name')!r}")


def scan_from_run(
    run: RecordedRun, *, bad_pixels: np.ndarray | None = None, probe: np.ndarray | None = None
) -> ScanData:
    """Make diffraction patterns of a run, cut, binned and oriented as its start document says.

    Parameters
    ----------
    run : RecordedRun
    bad_pixels : (H, W) bool, optional
        Gaps, dead and hot pixels of a frame; True where bad.
    probe : (n, n) or (M, n, n) complex, optional
        Illumination to start from.

    Returns
    -------
    ScanData
        Without the frames which have no beam or no captured position; the notes say how many.

    Raises
    ------
    ValueError
        If the start document lacks the geometry, or no frame is left.
    """
    uid, block = run.start["uid"], run.start["ptycho"]
    missing = [name for name in NEEDED if name not in block]
    if missing:
        raise ValueError(
            f"run {uid}: its 'ptycho' block lacks {', '.join(missing)}; export it and read the file instead"
        )
    raw = RawScan(
        frames=run.frames,
        positions=run.positions_um,
        probe=probe,
        bad_pixels=bad_pixels,
        energy_kev=float(block["energy_kev"]),
        distance_m=float(block["distance_m"]),
        detector_pixel_um=float(block["detector_pixel_um"]),
    )
    row, column = block["beam_center_px"]
    scan = prepare_scan(
        raw,
        crop_px=int(block["crop_px"]),
        beam_center_px=(float(row), float(column)),
        orientation=block["orientation"],
        binning=int(block.get("binning", 1)),
        trigger_index=run.trigger_index,
        min_counts=float(block.get("min_counts", MIN_COUNTS)),
        has_flux=run.has_flux,
        provenance={"run_uid": uid},
    )
    if not run.unpaired:
        return scan
    note = f"{run.unpaired} frames whose trigger cannot be known are left out: {run.doubt}"
    return replace(scan, left_out=scan.left_out + run.unpaired, notes=(*scan.notes, note))


def _streams(run: Any) -> dict[str, Any]:
    """Streams of a run; of Tiled with where their data lie, in few requests."""
    base = getattr(run, "base", None)
    found = dict(base.include_data_sources().items()) if base is not None else {}
    return found if "primary" in found else {name: run[name] for name in set(run)}


def _members(stream: Any) -> dict[str, Any]:
    """Columns of a stream which are arrays of their own."""
    base = getattr(stream, "base", None)
    found = dict(base.items()) if base is not None else {}
    external = any(key.endswith(UNIQUE_ID) for key in found)
    return found if external else {key: stream[key] for key in stream}


def _columns(streams: Mapping[str, Any], name: str) -> dict[str, np.ndarray]:
    """Values of a stream which Tiled keeps as a table."""
    if name not in streams:
        return {}
    base = getattr(streams[name], "base", None)
    found = dict(base.items()) if base is not None else {}
    table = (found[TABLE] if found.keys() == {TABLE} else streams[name]).read()
    return {str(key): np.asarray(table[key]).ravel() for key in table if not str(key).startswith("ts_")}


def _totals(counters: Mapping[str, np.ndarray], start: Any) -> dict[str, int | None]:
    """Totals of the run; None where the counters do not know."""
    keys = {
        "slots": "trigger_slots" if start["ptycho"]["fly"] else "triggers_sent",
        "lost_in_detector": "lost_in_detector",
        "lost_before_file": "lost_before_file",
    }
    values = {name: counters[key] if key in counters else np.array([-1]) for name, key in keys.items()}
    return {name: int(value[-1]) if value[-1] >= 0 else None for name, value in values.items()}


def _flux(table: Mapping[str, np.ndarray], triggers: int) -> np.ndarray:
    """Incident flux (N,) of each trigger, NaN where it is not known; empty without such a stream."""
    if not {"trigger_index", "flux"} <= table.keys():
        return np.empty(0)
    index, flux = table["trigger_index"].astype(np.int64), np.full(triggers, np.nan)
    inside = (index >= 0) & (index < triggers)
    flux[index[inside]] = table["flux"][inside]
    return flux


def _captured(table: Mapping[str, np.ndarray], start: Any) -> np.ndarray:
    """Captured positions (N, 2), um; NaN where none was captured."""
    positions_um = np.full((start["num_points"], 2), np.nan)
    if table:
        motors = list(start.get("motors", ()))[:2]  # (y, x)
        missing = [name for name in ("trigger_index", *motors) if name not in table]
        if missing or len(motors) < 2:
            lacks = (
                f"stream 'positions' lacks {', '.join(missing)}" if missing else "its start document names no motors"
            )
            raise ValueError(f"run {start['uid']}: {lacks}, {REMEDY}")
        index = table["trigger_index"].astype(np.int64)
        if len(index) and not 0 <= index.min() <= index.max() < len(positions_um):
            raise ValueError(
                f"run {start['uid']} has positions of triggers {index.min()} to {index.max()}, but num_points = "
                f"{len(positions_um)}, {REMEDY}"
            )
        positions_um[index] = np.stack([table[motors[0]], table[motors[1]]], axis=1)
    return positions_um

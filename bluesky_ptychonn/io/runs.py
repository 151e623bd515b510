"""Read a run back from Tiled: every frame with its trigger and its position."""

from dataclasses import replace
from typing import Any

import numpy as np

from bluesky_ptychonn.core.raw_scan import RawScan, prepare_scan
from bluesky_ptychonn.core.recorded_run import RecordedRun, pair_recorded
from bluesky_ptychonn.core.scan_data import ScanData

UNIQUE_ID = "_unique_id"
TO_PAIR = ("first_unique_id", "clock", "dwell_s", "fly")
NEEDED = ("energy_kev", "distance_m", "detector_pixel_um", "crop_px", "beam_center_px", "orientation")

REMEDY = "so its frames cannot be paired with positions; export them and read the file instead"


def read_run(run: Any) -> RecordedRun:
    """Read a ptychography run and pair its frames with the captured positions.

    Frames pair by the driver's number, never by row, so frames that the file writer dropped shift nothing.

    Parameters
    ----------
    run : tiled client
        One run of the catalog, such as ``cat[uid]``.

    Returns
    -------
    RecordedRun

    Raises
    ------
    ValueError
        If the run is not a ptychography run, recorded no frames, or lacks what pairs them with positions.
    """
    start = run.metadata["start"]
    if "ptycho" not in start:
        raise ValueError(f"run {start['uid']} has no 'ptycho' block; its plan was {start.get('plan_name')!r}")
    primary = run["primary"] if "primary" in set(run) else {}
    names = [key.removesuffix(UNIQUE_ID) for key in primary if key.endswith(UNIQUE_ID)]
    if not names:
        raise ValueError(f"run {start['uid']} recorded no frames; stream 'primary' holds {sorted(primary)}")
    detector = names[0]
    missing = [f"{detector}{part}" for part in ("_time_stamp", "_image") if f"{detector}{part}" not in set(primary)]
    missing += [name for name in ("num_points",) if name not in start]
    missing += [f"ptycho.{name}" for name in TO_PAIR if name not in start["ptycho"]]
    if missing:
        raise ValueError(f"run {start['uid']} lacks {', '.join(missing)}, {REMEDY}")
    unique_id = np.asarray(primary[f"{detector}{UNIQUE_ID}"].read()).ravel().astype(np.int64)
    time_s = np.asarray(primary[f"{detector}_time_stamp"].read(), float).ravel()
    trigger_index, doubt = pair_recorded(unique_id, time_s, start, **_totals(run, start))
    known = np.flatnonzero(trigger_index >= 0)
    frames = np.asarray(primary[f"{detector}_image"].read())
    return RecordedRun(
        frames=frames[known],
        positions_um=_captured(run, start)[trigger_index[known]],
        trigger_index=trigger_index[known],
        unique_id=unique_id[known],
        unpaired=int(len(unique_id) - len(known)),
        doubt=doubt,
        start=start,
    )


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
        Without the frames which have no light or no captured position; the notes say how many.

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
        provenance={"run_uid": uid},
    )
    if not run.unpaired:
        return scan
    note = f"{run.unpaired} frames whose trigger cannot be known are left out: {run.doubt}"
    return replace(scan, left_out=scan.left_out + run.unpaired, notes=(*scan.notes, note))


def _columns(run: Any, stream: str) -> dict[str, np.ndarray]:
    if stream not in set(run):
        return {}
    table = run[stream].read()
    return {str(key): np.asarray(table[key]).ravel() for key in table if not str(key).startswith("ts_")}


def _totals(run: Any, start: Any) -> dict[str, int | None]:
    """Totals of the run; None where the counters do not know."""
    counters = _columns(run, "counters")
    keys = {
        "slots": "trigger_slots" if start["ptycho"]["fly"] else "triggers_sent",
        "lost_in_detector": "lost_in_detector",
        "lost_before_file": "lost_before_file",
    }
    values = {name: counters[key] if key in counters else np.array([-1]) for name, key in keys.items()}
    return {name: int(value[-1]) if value[-1] >= 0 else None for name, value in values.items()}


def _captured(run: Any, start: Any) -> np.ndarray:
    """Captured positions (N, 2), um; NaN where none was captured."""
    positions_um = np.full((start["num_points"], 2), np.nan)
    table = _columns(run, "positions")
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

"""Read a run back from Tiled: every frame with its trigger and its position."""

from typing import Any

import numpy as np

from bluesky_ptychonn.core.scan_data import ScanData, pair_recorded

UNIQUE_ID = "_unique_id"


def read_run(run: Any) -> ScanData:
    """Read a ptychography run and pair its frames with the captured positions.

    Frames pair by the driver's number, never by row, so frames that the file writer dropped shift nothing.

    Parameters
    ----------
    run : tiled client
        One run of the catalog, such as ``cat[uid]``.

    Returns
    -------
    ScanData

    Raises
    ------
    ValueError
        If the run is not a ptychography run, or recorded no frames.
    """
    start = run.metadata["start"]
    if "ptycho" not in start:
        raise ValueError(f"run {start['uid']} has no 'ptycho' block; its plan was {start.get('plan_name')!r}")
    primary = run["primary"] if "primary" in run else {}
    names = [key.removesuffix(UNIQUE_ID) for key in primary if key.endswith(UNIQUE_ID)]
    if not names:
        raise ValueError(f"run {start['uid']} recorded no frames; stream 'primary' holds {sorted(primary)}")
    detector = names[0]
    unique_id = np.asarray(primary[f"{detector}{UNIQUE_ID}"].read()).ravel().astype(np.int64)
    time_s = np.asarray(primary[f"{detector}_time_stamp"].read(), float).ravel()
    totals = _totals(run)
    trigger_index, doubt = pair_recorded(
        unique_id,
        time_s,
        start,
        triggered=totals["triggered"],
        lost_in_detector=totals["lost_in_detector"],
        lost_before_file=totals["lost_before_file"],
    )
    known = np.flatnonzero(trigger_index >= 0)
    frames = np.asarray(primary[f"{detector}_image"].read())
    return ScanData(
        frames=frames[known],
        positions_um=_captured(run, start["num_points"])[trigger_index[known]],
        trigger_index=trigger_index[known],
        unique_id=unique_id[known],
        unpaired=int(len(unique_id) - len(known)),
        doubt=doubt,
        start=start,
    )


def _columns(run: Any, stream: str, suffixes: tuple[str, ...]) -> dict[str, np.ndarray]:
    if stream not in run:
        return {}
    table = run[stream].read()
    return {
        suffix: np.asarray(table[key]).ravel()
        for suffix in suffixes
        for key in [str(name) for name in table]
        if key.endswith(suffix) and not key.startswith("ts_")
    }


def _totals(run: Any) -> dict[str, int | None]:
    suffixes = ("triggered", "lost_in_detector", "lost_before_file")
    read = _columns(run, "counters", tuple(f"_{suffix}" for suffix in suffixes))
    totals: dict[str, int | None] = {}
    for suffix in suffixes:
        values = read.get(f"_{suffix}", np.array([]))
        totals[suffix] = int(values[-1]) if values.size and values[-1] >= 0 else None
    return totals


def _captured(run: Any, points: int) -> np.ndarray:
    positions_um = np.full((points, 2), np.nan)
    captured = _columns(run, "positions", ("trigger_index", "_y", "_x"))
    if captured:
        index = captured["trigger_index"].astype(np.int64)
        positions_um[index, 0], positions_um[index, 1] = captured["_y"], captured["_x"]
    return positions_um

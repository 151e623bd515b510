"""The doctor's checks over pvAccess: frames as they come, and the edge."""

import time
from typing import Any

import numpy as np

from bluesky_ptychonn.cli.doctor_checks import Finding, read_mask
from bluesky_ptychonn.config import Settings

WATCH_S, ANSWER_S = 2.0, 3.0
NO_PVA = "run it where frames arrive, or pip install 'bluesky-ptychonn[edge]'"


def frame_findings(
    settings: Settings, channel: str, roi_shape: tuple[int, int], watch_s: float = WATCH_S
) -> list[Finding]:
    """Look at the stream of frames for a while: shape, type and rate, and whether the settings fit them.

    Parameters
    ----------
    settings : Settings
    channel : str
        PVA name of the stream.
    roi_shape : (int, int)
        Rows and columns that the IOC cuts, px; for a stream in which no frame has come yet.
    watch_s : float
        How long.
    """
    try:
        import pvaccess  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError:
        return [Finding("frames", "warn", "not looked at: pvapy is not installed here", NO_PVA)]
    from bluesky_ptychonn.io.ntndarray import image_shape
    from bluesky_ptychonn.io.pva import PvaChannel

    stream, seen = PvaChannel(channel, ANSWER_S), []

    def note(update: Any) -> None:
        kind, codec = update.getSelectedUnionFieldName().removesuffix("Value"), update.getString("codec.name")
        seen.append((image_shape(update), f"{kind}{', ' + codec if codec else ''}", time.monotonic()))

    try:
        stream.get("uniqueId")
    except TimeoutError as error:
        remedy = "is Pva1 loaded, does st.cmd start a PVA server, and does EPICS_PVA_ADDR_LIST reach it?"
        return [Finding("frames", "bad", str(error).split(";")[0], remedy)]
    stream.monitor(note)
    time.sleep(watch_s)
    stream.close()
    if not seen or seen[-1][0] == (0, 0):
        return [shape_finding(settings, roi_shape, f"ROI1 cuts {_size(roi_shape)}; no frame since the IOC started")]
    shape, kind, last_s = seen[-1]
    rate_hz = (len(seen) - 2) / (last_s - seen[1][2]) if len(seen) > 3 else 0.0  # the first is the present value
    coming = f"{rate_hz:.4g} frames/s" if rate_hz else "none comes now, this was the last one"
    return [shape_finding(settings, shape, f"{_size(shape)}, {kind}; {coming}")]


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} x {shape[1]} px"


def shape_finding(settings: Settings, shape: tuple[int, int], told: str) -> Finding:
    """Whether beam centre, crop, binning and mask fit frames of this shape."""
    geometry = settings.geometry
    center, side = geometry.beam_center_px, geometry.frame_px * geometry.binning
    if not all(0 <= place < size for place, size in zip(center, shape)):
        what = f"{told}; geometry.beam_center_px = {list(center)} lies outside"
        return Finding("frames", "bad", what, "find it with `bluesky-ptychonn center --live --write`, or correct ROI1")
    if side > 2 * max(shape):
        what = f"{told}; patterns of {geometry.frame_px} px, binned by {geometry.binning}, want {side} px"
        return Finding("frames", "bad", what, "correct geometry.frame_px or binning, or ROI1:SizeX and SizeY")
    mask = read_mask(geometry.bad_pixels_file) if geometry.bad_pixels_file else None
    if isinstance(mask, np.ndarray) and mask.shape != shape:
        what = f"{told}; the mask of bad pixels is {_size(mask.shape)}"
        return Finding(
            "frames", "bad", what, "find it anew with `bluesky-ptychonn center --live --write`, or correct ROI1"
        )
    return Finding("frames", "ok", told)


def edge_findings(settings: Settings) -> tuple[list[Finding], bool]:
    """Ask the edge how it is; whether it serves."""
    try:
        import pvaccess  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError:
        return [Finding("edge", "warn", "not looked at: pvapy is not installed here", NO_PVA)], False
    from bluesky_ptychonn.io.pva import PvaChannel

    name = f"{settings.edge.prefix}stats"
    try:
        stats = PvaChannel(name, ANSWER_S).get()
    except TimeoutError:
        remedy = "start it with `bluesky-ptychonn edge`; is it on a host that EPICS_PVA_ADDR_LIST names?"
        return [
            Finding("edge", "warn", f"{name} does not answer: a scan is recorded, without a live image", remedy)
        ], False
    told = ", ".join(str(stats[key]) for key in ("state", "engine", "model_version") if stats.get(key))
    return [Finding("edge", "ok", f"{name}: {told}")], True

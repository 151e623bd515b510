"""The PVs that the devices use, with their types, and their values now, read over Channel Access in bounded time."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

CONNECT_S, READ_S = 4.0, 6.0
KINDS = {
    "enum": "enum", "double": "number", "float": "number", "long": "number", "int": "number", "short": "number",
    "char": "text", "string": "text",
}  # fmt: skip

EIGER2 = """
enum cam1:Acquire+ cam1:Armed cam1:ArrayCallbacks+ cam1:DataSource+ cam1:DetectorState_RBV cam1:ManualTrigger+
    cam1:StreamAsTSSource+ cam1:StreamDecompress+ cam1:StreamEnable+ cam1:StreamVersion+ cam1:TriggerMode+
number cam1:AcquirePeriod+ cam1:AcquireTime+ cam1:ArrayCounter+ cam1:BitDepthImage_RBV cam1:CountCutoff_RBV
    cam1:DeadTime_RBV cam1:NumImages+ cam1:NumImagesCounter_RBV cam1:NumTriggers+ cam1:PhotonEnergy+
    cam1:StreamDropped_RBV cam1:ThresholdEnergy+ cam1:Trigger
text cam1:PortName_RBV cam1:StatusMessage_RBV
"""
MEDIPIX3 = """
enum cam1:Acquire+ cam1:ArrayCallbacks+ cam1:BothCounters+ cam1:DetectorState_RBV cam1:ImageMode+
    cam1:ImgAccumulationEnable+ cam1:ImgFileFmt+ cam1:ImgFileMode+ cam1:PixelDepth+ cam1:TriggerMode+ cam1:WriteData
    cam1:WriteImg+
number cam1:AcquirePeriod+ cam1:AcquireTime+ cam1:ArrayCounter+ cam1:DroppedFrames_RBV cam1:ImgIntgSize+
    cam1:NumImages+
text cam1:ImgFilePath+ cam1:ImgThs+ cam1:PortName_RBV cam1:StatusMessage_RBV cam1:Status_RBV
"""
PLUGINS = """
enum ROI1:BlockingCallbacks+ ROI1:EnableCallbacks+ Pva1:BlockingCallbacks+ Pva1:EnableCallbacks+
    HDF1:BlockingCallbacks+ HDF1:EnableCallbacks+ HDF1:AutoIncrement+ HDF1:Capture+ HDF1:FilePathExists_RBV
    HDF1:FileWriteMode+ HDF1:LazyOpen+ HDF1:StoreAttr+ HDF1:SWMRMode+ HDF1:WriteStatus
number ROI1:ArrayCounter+ ROI1:DroppedArrays+ ROI1:NDArrayAddress+ ROI1:QueueFree ROI1:QueueSize+ ROI1:SizeX+
    ROI1:SizeY+ Pva1:DroppedArrays+ Pva1:NDArrayAddress+ Pva1:QueueFree Pva1:QueueSize+
    HDF1:DroppedArrays+ HDF1:FileNumber+ HDF1:NDArrayAddress+ HDF1:NumCapture+ HDF1:NumCaptured_RBV
    HDF1:NumFramesChunks+ HDF1:QueueFree HDF1:QueueSize+
text ROI1:NDArrayPort+ ROI1:PortName_RBV Pva1:NDArrayPort+ Pva1:PvName_RBV HDF1:FileName+ HDF1:FilePath+
    HDF1:FileTemplate+ HDF1:FullFileName_RBV HDF1:NDArrayPort+ HDF1:WriteMessage
"""
DETECTORS = {"eiger2": EIGER2 + PLUGINS, "medipix3": MEDIPIX3 + PLUGINS}
"""By the name of the detector in the settings, behind its prefix, by type; ``+``: NAME_RBV is needed, too."""

STAGE = """
enum Prof1:Abort Prof1:Build Prof1:BuildState Prof1:BuildStatus Prof1:Execute Prof1:ExecuteState Prof1:ExecuteStatus
    Prof1:MoveMode Prof1:Readback Prof1:ReadbackState Prof1:ReadbackStatus Prof1:TimeMode Prof1:M1UseAxis
    Prof1:M2UseAxis
number Y.VAL Y.RBV Y.DMOV Y.VELO Y.ACCL Y.VMAX Y.HLM Y.LLM X.VAL X.RBV X.DMOV X.VELO X.ACCL X.VMAX X.HLM X.LLM
    Prof1:Acceleration Prof1:CurrentPoint Prof1:EndPulses Prof1:NumActualPulses Prof1:NumPoints Prof1:NumPulses
    Prof1:StartPulses Prof1:Times Prof1:M1Positions Prof1:M2Positions Prof1:M1Readbacks Prof1:M2Readbacks
text Y.EGU X.EGU Prof1:BuildMessage Prof1:ExecuteMessage Prof1:ReadbackMessage
"""
"""The same behind the stage's prefix."""

TABLE = """
enum Arm
number NumCaptured Y X
"""
"""The same of a table of captured positions, behind its prefix."""

CHOICES = {
    "cam1:DataSource": {"Stream"},
    "cam1:StreamVersion": {"Stream2"},
    "cam1:ImageMode": {"Multiple"},
    "cam1:ImgFileFmt": {"jsonimage"},
    "cam1:ImgFileMode": {"count"},
    "HDF1:FileWriteMode": {"Stream"},
    "Prof1:MoveMode": {"Absolute"},
    "Prof1:TimeMode": {"Array"},
    "Arm": {"Arm", "Disarm"},
}
"""What a scan writes into enums, by their words: choices that they must have."""


ARRAY = ()
"""Stands for the value of a PV with many elements, which is not read."""


@dataclass(frozen=True)
class Reading:
    """What a PV is and says.

    Parameters
    ----------
    kind : {"enum", "number", "text"}
    value : object
        A choice of an enum, a number or `ARRAY`, or text; None if the IOC did not answer in time.
    choices : tuple of str
        Of an enum.
    """

    kind: str
    value: Any
    choices: tuple[str, ...] = ()


def needed(listing: str) -> Iterator[tuple[str, str]]:
    """Names and kinds of one of `DETECTORS`, of `STAGE`, or of `TABLE`.

    Examples
    --------
    >>> list(needed("number A:Size+"))
    [('A:Size', 'number'), ('A:Size_RBV', 'number')]
    """
    for line in listing.replace("\n    ", " ").split("\n"):
        kind, *names = line.split() or [""]
        for name in names:
            yield name.rstrip("+"), kind
            if name.endswith("+"):
                yield f"{name.rstrip('+')}_RBV", kind


def read_pvs(names: Iterable[str]) -> dict[str, Reading | None]:
    """Read PVs, of one thread; None where nothing answers to the name. Long arrays are told by their type only.

    All of them together have `CONNECT_S` to connect and `READ_S` to answer.
    """
    import epics

    pvs = {name: epics.PV(name, form="time", auto_monitor=False, connection_timeout=CONNECT_S) for name in names}
    _wait_for(lambda: all(pv.connected for pv in pvs.values()), CONNECT_S)
    end_s = time.monotonic() + READ_S
    return {name: _read(pv, end_s) if pv.connected else None for name, pv in pvs.items()}


def _read(pv: Any, end_s: float) -> Reading:
    import epics

    kind, value = "", None
    while value is None:
        try:
            kind = KINDS.get((pv.type or "").removeprefix("time_"), str(pv.type))
            if kind == "number" and pv.nelm > 1:
                return Reading(kind, ARRAY)
            patience_s = max(0.05, end_s - time.monotonic())
            value = pv.get(as_string=kind != "number", timeout=patience_s, use_monitor=False)
            if kind == "enum" and value is not None:
                return Reading(kind, value, tuple(str(name) for name in pv.enum_strs or ()))
        except (epics.ca.ChannelAccessException, epics.ca.ChannelAccessGetFailure):  # its connection comes and goes
            epics.poll(evt=1e-4, iot=0.05)
        if time.monotonic() > end_s:
            break
    return Reading(kind, value)


def skew_of(name: str, patience_s: float, clock: Callable[[], float] = time.time) -> float | None:
    """How far this computer's clock is ahead of an IOC's, s: at the moment when a record is processed anew.

    Parameters
    ----------
    name : str
        A record that is processed every second, whether its value changes or not.
    patience_s : float
        How long to wait for that; None if it does not come.
    clock : callable
        Of this computer, s since 1970.
    """
    import epics

    pv = epics.PV(name, form="time", auto_monitor=False, connection_timeout=patience_s)
    if not pv.wait_for_connection(timeout=patience_s):
        return None
    end_s, before = time.monotonic() + patience_s, None
    while time.monotonic() < end_s:
        told = pv.get_with_metadata(form="time", use_monitor=False, timeout=1.0)
        now = None if told is None else told["timestamp"]
        if before is not None and now is not None and now != before:
            return clock() - now
        before = now
        time.sleep(0.05)
    return None


def _wait_for(condition: Callable[[], bool], timeout_s: float) -> None:
    import epics

    end_s = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < end_s:
        epics.poll(evt=1e-4, iot=0.02)

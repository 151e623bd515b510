"""The doctor's checks of detector and stage over Channel Access; nothing is written to a PV."""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bluesky_ptychonn.cli.doctor_checks import Finding
from bluesky_ptychonn.cli.doctor_pvs import ARRAY, CHOICES, DETECTORS, STAGE, TABLE, Reading, needed, read_pvs, skew_of
from bluesky_ptychonn.config import Settings

Readings = Mapping[str, Reading | None]
PLUGINS = ("ROI1:", "Pva1:", "HDF1:")
SHORT_QUEUE, GOOD_QUEUE = 10, 100
"""Frames in the queue of a plugin: fewer are lost at the first hiccup, more hold 50 ms at 2 kHz."""
SKEW_S, LARGE_SKEW_S = 0.5, 5.0
NAMED = 6
SCAN_FRAMES = 1000
MICROMETRES = ("um", "µm", "μm", "micron", "microns", "micrometer", "micrometre")
SECOND = "cam1:ArrayRate_RBV"
"""NDArrayBase processes it every second, which shows the IOC's clock."""


@dataclass(frozen=True)
class Part:
    """A device: its name, the setting of its prefix, the prefix, kinds of its PVs, and what to do if it lacks some."""

    name: str
    key: str
    prefix: str
    kinds: Mapping[str, str]
    if_lacking: str = "load the template and the plugins that have them (docs/howto/beamline.md), or update the IOC"

    @property
    def pvs(self) -> list[str]:
        """Full names."""
        return [self.prefix + name for name in self.kinds]

    def of(self, readings: Readings) -> Readings:
        """Readings of this part, by their names without the prefix."""
        return {name: readings[self.prefix + name] for name in self.kinds}


@dataclass(frozen=True)
class Stream:
    """PVA channel of frames, "" if it is not known, and rows and columns that ROI1 cuts, px."""

    channel: str = ""
    roi_shape: tuple[int, int] = (0, 0)


def beamline_findings(settings: Settings, clock: Callable[[], float] = time.time) -> tuple[list[Finding], Stream]:
    """Check what the settings name over Channel Access.

    Call in the main thread, whose context the library uses.

    Parameters
    ----------
    settings : Settings
        Their EPICS environment has been applied.
    clock : callable
        Of this computer, s since 1970.

    Returns
    -------
    list of Finding
    Stream
    """
    try:
        import epics  # noqa: F401
    except ImportError:
        remedy = "run it where the RunEngine lives, or pip install 'bluesky-ptychonn[beamline]'"
        return [Finding("beamline", "warn", "not looked at: pyepics is not installed here", remedy)], Stream()
    beamline = settings.beamline
    detector = Part(
        "detector", "beamline.detector_prefix", beamline.detector_prefix, dict(needed(DETECTORS[beamline.detector]))
    )
    stage = Part("stage", "beamline.stage_prefix", beamline.stage_prefix, dict(needed(STAGE)))
    table = Part(
        "position table",
        "beamline.position_table",
        beamline.position_table,
        dict(needed(TABLE)) if beamline.position_table else {},
        'put records of these names in front of what captures, or set beamline.position_table = ""',
    )
    shutter = [beamline.shutter_pv] if beamline.shutter_pv else []
    readings = read_pvs([*detector.pvs, *stage.pvs, *table.pvs, *shutter])
    of_detector, of_stage = detector.of(readings), stage.of(readings)
    findings = [*part_findings(detector, of_detector)]
    if not any(finding.level == "bad" for finding in findings):
        findings += [
            _state(of_detector),
            *_plugins(beamline.detector_prefix, of_detector),
            _stamping(settings, of_detector),
            _skew(skew_of(beamline.detector_prefix + SECOND, 2.5, clock)),
            _data_disk(settings, of_detector),
        ]
    findings += [*part_findings(stage, of_stage), *_units(beamline.stage_prefix, of_stage)]
    if table.kinds:
        findings += table_findings(table, table.of(readings))
    findings += _shutter(settings, readings)
    return findings, _stream(of_detector)


def _stream(readings: Readings) -> Stream:
    channel = _value(readings, "Pva1:PvName_RBV")
    sides = [_value(readings, f"ROI1:Size{axis}_RBV") for axis in "YX"]
    return Stream(channel or "", (0, 0) if None in sides else (int(sides[0]), int(sides[1])))


def part_findings(part: Part, readings: Readings) -> Iterator[Finding]:
    """Whether all PVs of a device are there, answer, and are of the right type."""
    title, count = f"{part.name} PVs", len(part.kinds)
    missing = [part.prefix + name for name, reading in readings.items() if reading is None]
    if missing:
        all_of_them = len(missing) == count
        remedy = (
            f"is its IOC running, does EPICS_CA_ADDR_LIST reach it, and is {part.key} = {part.prefix!r} right?"
            if all_of_them
            else part.if_lacking
        )
        what = f"{len(missing)} of {count} do not answer: {_some(missing)}"
        yield Finding(title, "bad", "none answers" if all_of_them else what, remedy)
        return
    silent = [part.prefix + name for name, reading in readings.items() if reading is not None and reading.value is None]
    if silent:
        remedy = "its IOC is connected but does not answer in time: restart it, or relieve it"
        yield Finding(title, "bad", f"{len(silent)} of {count} are silent: {_some(silent)}", remedy)
        return
    wrong = list(_wrong_types(part.prefix, part.kinds, readings))
    if wrong:
        remedy = f"another record has this name: load the right template, or correct {part.key}"
        yield Finding(title, "bad", _some(wrong), remedy)
        return
    yield Finding(title, "ok", f"{count} answer, of the right types")


def table_findings(table: Part, readings: Readings) -> Iterator[Finding]:
    """Whether positions can stream from the table: its PVs, a row per trigger, and nobody else at it."""
    (pvs,) = part_findings(table, readings)
    short = [table.prefix + name for name in "YX" if _value(readings, name) != ARRAY]
    if pvs.level != "ok":
        yield pvs
    elif short:
        what = f"{', '.join(short)} hold one number, where a row per trigger is needed"
        yield Finding(pvs.name, "bad", what, "make them waveforms with as many elements as a scan has triggers")
    elif _value(readings, "Arm") == "Arm":
        what = f"it captures now, {_value(readings, 'NumCaptured')} rows so far"
        yield Finding(pvs.name, "warn", what, f"a scan empties it; if none runs, caput {table.prefix}Arm Disarm")
    else:
        yield Finding(pvs.name, "ok", f"{pvs.what}; disarmed, {_value(readings, 'NumCaptured')} rows")


def _wrong_types(prefix: str, kinds: Mapping[str, str], readings: Readings) -> Iterator[str]:
    for name, kind in kinds.items():
        reading = readings[name]
        if reading is not None and reading.kind != kind:
            yield f"{prefix}{name} is {reading.kind}, where {kind} is needed"
        elif reading is not None and not CHOICES.get(name, set()) <= set(reading.choices):
            lacking = ", ".join(sorted(CHOICES[name] - set(reading.choices)))
            yield f"{prefix}{name} lacks the choice {lacking}; it has {', '.join(reading.choices)}"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _value(readings: Readings, name: str) -> Any:
    reading = readings[name]
    return None if reading is None else reading.value


def _state(readings: Readings) -> Finding:
    state, message = _value(readings, "cam1:DetectorState_RBV"), _value(readings, "cam1:StatusMessage_RBV")
    if state in ("Error", "Disconnected", "Initializing"):
        remedy = "initialize the detector (cam1:Initialize), or look at its server"
        return Finding("detector", "bad", f"{state}: {message}", remedy)
    if _value(readings, "cam1:Acquire_RBV") != "Done":
        return Finding("detector", "warn", f"it is acquiring ({state})", "a scan waits until it is done")
    return Finding("detector", "ok", f"{state}")


def _plugins(prefix: str, readings: Readings) -> Iterator[Finding]:
    off = [name for name in PLUGINS if _value(readings, f"{name}EnableCallbacks_RBV") != "Enable"]
    blocking = [name for name in PLUGINS if _value(readings, f"{name}BlockingCallbacks_RBV") == "Yes"]
    feeds = ", ".join(f"{name} from {_value(readings, name + 'NDArrayPort_RBV')}" for name in PLUGINS)
    if off:
        remedy = "; ".join(f"caput {prefix}{name}EnableCallbacks Enable" for name in off)
        yield Finding("plugins", "bad", f"{', '.join(off)} disabled: frames do not pass", remedy)
    elif blocking:
        remedy = "; ".join(f"caput {prefix}{name}BlockingCallbacks No" for name in blocking)
        yield Finding("plugins", "warn", f"{', '.join(blocking)} hold up the driver", remedy)
    else:
        yield Finding("plugins", "ok", feeds)
    sizes = {name: int(_value(readings, f"{name}QueueSize_RBV")) for name in PLUGINS}
    lost = {name: int(_value(readings, f"{name}DroppedArrays_RBV")) for name in PLUGINS}
    what = ", ".join(f"{name} {size}" for name, size in sizes.items())
    dropped = ", ".join(f"{name} {count}" for name, count in lost.items() if count)
    short = [name for name, size in sizes.items() if size < GOOD_QUEUE]
    remedy = "; ".join(f"caput {prefix}{name}QueueSize 2000" for name in short)
    if short:
        worst = min(sizes.values())
        level = "bad" if worst < SHORT_QUEUE else "warn"
        what += f" frames; {worst} last {1e3 * worst / 2000:.3g} ms at 2 kHz, then frames are lost"
        yield Finding("plugin queues", level, what, f"{remedy}; and in st.cmd, for the next start")
    elif dropped:
        yield Finding("plugin queues", "warn", f"{what} frames; dropped since their reset: {dropped}", "")
    else:
        yield Finding("plugin queues", "ok", f"{what} frames; none dropped")


def _stamping(settings: Settings, readings: Readings) -> Finding:
    """Whose clock stamps frames, and whose a scan will ask for."""
    if settings.beamline.detector == "medipix3":
        return Finding("clock", "ok", "the IOC stamps frames: ADTimePix3 passes no time of the detector on")
    source, version = _value(readings, "cam1:StreamAsTSSource_RBV"), _value(readings, "cam1:StreamVersion_RBV")
    now = "detector" if source == "Yes" and version == "Stream2" else "ioc"
    wanted = settings.beamline.stream_clock
    what = f"the {now if now == 'detector' else 'IOC'} stamps frames (StreamAsTSSource {source}, {version})"
    asked = "detector's" if wanted == "detector" else "IOC's"
    return Finding("clock", "ok", what if now == wanted else f"{what}; a scan asks for the {asked}")


def _skew(skew_s: float | None) -> Finding:
    if skew_s is None:
        remedy = f"{SECOND} should be processed every second, as NDArrayBase.template has it"
        return Finding("clock skew", "warn", "not known: no record of the IOC was processed meanwhile", remedy)
    what = f"this computer is {abs(skew_s):.2f} s {'ahead of' if skew_s > 0 else 'behind'} the IOC"
    remedy = "let both follow one time server (chrony or NTP): documents and frames carry their times"
    if abs(skew_s) > LARGE_SKEW_S:
        return Finding("clock skew", "bad", what, remedy)
    return Finding("clock skew", "warn" if abs(skew_s) > SKEW_S else "ok", what, remedy * (abs(skew_s) > SKEW_S))


def _data_disk(settings: Settings, readings: Readings) -> Finding:
    directory = settings.beamline.data_directory or _value(readings, "HDF1:FilePath_RBV")
    if not directory:
        remedy = "set beamline.data_directory to a folder that the IOC can write and this computer sees"
        return Finding("disk of frames", "bad", "nobody says where frames go: HDF1:FilePath is empty", remedy)
    height, width = _stream(readings).roi_shape
    return disk_finding("disk of frames", Path(directory), SCAN_FRAMES * height * width * 4, "beamline.data_directory")


def disk_finding(name: str, directory: Path, scan_bytes: float, key: str) -> Finding:
    """Whether a folder holds another scan, and ten."""
    if not directory.is_dir():
        what = f"{directory} is not there, as this computer sees it"
        return Finding(name, "bad", what, f"make it, mount it here, or set {key} to another")
    free = shutil.disk_usage(directory).free
    needed_gb = scan_bytes / 1e9
    what = f"{directory} has {free / 1e9:.3g} GB left; a scan of {SCAN_FRAMES} frames takes up to {needed_gb:.2g} GB"
    remedy = f"free some space, or set {key} to another disk"
    if free < 1.1 * scan_bytes:
        return Finding(name, "bad", what, remedy)
    return Finding(name, "warn" if free < 10 * scan_bytes else "ok", what, remedy * (free < 10 * scan_bytes))


def _units(prefix: str, readings: Readings) -> Iterator[Finding]:
    units = {axis: _value(readings, f"{axis}.EGU") for axis in "YX"}
    if None in units.values():
        return
    wrong = [f"{prefix}{axis} is in {unit!r}" for axis, unit in units.items() if unit not in MICROMETRES]
    if wrong:
        remedy = (
            "positions are in um here: give the motor records um (EGU, MRES), or put records in um in front of them"
        )
        yield Finding("stage units", "bad", ", ".join(wrong), remedy)
    else:
        places = ", ".join(f"{axis} at {float(_value(readings, f'{axis}.RBV')):.3f}" for axis in "YX")
        yield Finding("stage units", "ok", f"{places} um")


def _shutter(settings: Settings, readings: Readings) -> Iterator[Finding]:
    name = settings.beamline.shutter_pv
    if not name:
        return
    reading = readings[name]
    if reading is None or reading.value is None:
        remedy = 'is its IOC running? beamline.shutter_pv = "" if there is none'
        yield Finding("shutter", "bad", f"{name} does not answer", remedy)
    elif not {"Open", "Close"} <= set(reading.choices):
        remedy = "name a record which takes Open and Close, such as a bo in front of it"
        yield Finding("shutter", "bad", f"{name} is {reading.kind} {', '.join(reading.choices)}", remedy)
    else:
        yield Finding("shutter", "ok", f"{name}: {reading.value}")

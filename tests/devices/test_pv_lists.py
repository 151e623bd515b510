"""Every signal of every device is a record of the databases, and the simulated IOCs serve what the databases hold."""

import csv
from pathlib import Path

import pytest
from ophyd import Device

from bluesky_ptychonn.devices.detector_pvs import FilePlugin, RoiPlugin, StreamPlugin
from bluesky_ptychonn.devices.eiger import Eiger
from bluesky_ptychonn.devices.medipix import Medipix3
from bluesky_ptychonn.devices.monitor import FluxScaler
from bluesky_ptychonn.devices.stage import SpiralStage
from bluesky_ptychonn.simulation.cable import CableOut
from bluesky_ptychonn.simulation.records import record_specs
from bluesky_ptychonn.simulation.stage import Stage
from bluesky_ptychonn.simulation.stage_ioc import records as stage_records

INPUTS = {"ao": "ai", "bo": "bi", "mbbo": "mbbi", "busy": "bi", "longout": "longin", "stringout": "stringin"}
"""Types of readbacks."""
PLUGIN_LISTS = {"ROI1:": ("plugin", "roi"), "Pva1:": ("plugin", "pva"), "HDF1:": ("plugin", "file", "hdf5")}


def read_lists():
    lines = [line for line in Path(__file__).with_name("pv_lists.csv").open() if not line.startswith("#")]
    lists = {}
    for row in csv.DictReader(lines):
        lists.setdefault(row["list"], {})[row["record"]] = row
    return lists


LISTS = read_lists()


def database(*names):
    """Records of some lists by name, readbacks included; a later list replaces what an earlier one says."""
    merged = {}
    for name in names:
        merged |= LISTS[name]
    found = {}
    for name, row in merged.items():
        found[name] = row
        if row["readback"]:
            found[name + "_RBV"] = {**row, "type": INPUTS.get(row["type"], row["type"])}
    return found


DATABASES = {
    "eiger2": {"cam1:": database("eiger2"), **{plugin: database(*lists) for plugin, lists in PLUGIN_LISTS.items()}},
    "medipix3": {"cam1:": database("medipix3"), **{plugin: database(*lists) for plugin, lists in PLUGIN_LISTS.items()}},
    "scaler": {"": database("scaler")},
    "stage": {"Y": database("motor"), "X": database("motor"), "Prof1:": database("profile", "profile axis")},
}


def pvs(device_class, prefix=""):
    """Names of all PVs of a device class."""
    for attribute in device_class.component_names:
        component = getattr(device_class, attribute)
        parts = component.defn.values() if hasattr(component, "defn") else [(component.cls, component.suffix, {})]
        for cls, suffix, _ in parts:
            if issubclass(cls, Device):
                yield from pvs(cls, prefix + (suffix or ""))
            elif suffix:
                yield prefix + suffix
                if "WithRBV" in cls.__name__ or "PathSignal" in cls.__name__:
                    yield f"{prefix}{suffix}_RBV"


@pytest.mark.parametrize(
    ("device_class", "kind", "least"),
    [(Eiger, "eiger2", 40), (Medipix3, "medipix3", 40), (SpiralStage, "stage", 40), (FluxScaler, "scaler", 8)],
)
def test_every_signal_of_a_device_is_a_record(device_class, kind, least):
    records = {place + name for place, database in DATABASES[kind].items() for name in database}
    names = [name.format(prefix="", channel=2) for name in pvs(device_class)]
    assert len(names) > least
    assert sorted(name for name in names if name not in records and name.split(".")[0] not in records) == []


def test_a_signal_that_no_template_has_is_found():
    """The check above can fail."""
    from ophyd.areadetector.cam import EigerDetectorCam
    from ophyd.areadetector.plugins import PluginBase

    assert {"TriggerExposure", "FWClear", "Link0_RBV"} <= set(pvs(EigerDetectorCam)) - set(database("eiger2"))
    assert "PoolMaxBuffers" in set(pvs(PluginBase)) - set(database("plugin"))
    for plugin, lists in zip((RoiPlugin, StreamPlugin, FilePlugin), PLUGIN_LISTS.values(), strict=True):
        assert "PoolMaxBuffers" not in set(pvs(plugin))
        assert "EnableCallbacks" in set(pvs(plugin)) & set(database(*lists))


SIMPLER = {"busy": "bo", "int64in": "longin", **dict.fromkeys(("calc", "calcout", "asyn", "fanout", "dfanout"), "ai")}
"""Types which the simulation replaces."""


def simulated_types(row):
    kind = row["type"]
    if kind.startswith("waveform CHAR"):
        return {"text", "textin"}
    if kind.startswith(("waveform", "subArray")):
        return {"ints"}
    return {SIMPLER.get(kind, kind)}


@pytest.mark.parametrize("kind", ["eiger2", "medipix3"])
def test_the_simulated_detector_serves_exactly_these_records(kind):
    expected = {place + name: row for place, database in DATABASES[kind].items() for name, row in database.items()}
    served = {spec.name: spec for spec in record_specs(kind)}
    assert set(served) ^ set(expected) == set()
    wrong = {}
    for name, spec in served.items():
        row = expected[name]
        choices = tuple(row["choices"].split("|")) if row["choices"] else spec.choices
        if spec.type not in simulated_types(row) or spec.choices != choices:
            wrong[name] = (spec.type, spec.choices, row["type"], row["choices"])
    assert wrong == {}


def test_the_simulated_stage_serves_exactly_these_records(tmp_path):
    served = stage_records(Stage(CableOut(tmp_path), seed=0), tmp_path)
    prefix = "SIM:STAGE:Prof1:"
    profile = {name.removeprefix(prefix) for name in served if name.startswith(prefix)}
    assert profile == set(DATABASES["stage"]["Prof1:"])
    for axis in "YX":
        assert f"SIM:STAGE:{axis}" in served

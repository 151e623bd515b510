import pytest

from bluesky_ptychonn.simulation.records import record_specs

ABSENT = {"PoolMaxBuffers", "FileNumber_Sync", "FileNumber_write", "DataType_RBV.DISA"}
"""In ophyd's classes, but not in the templates of today's ADCore."""
EIGER_1 = {"TriggerExposure", "FWClear", "DCUBufferFree_RBV", *(f"Link{i}_RBV" for i in range(4))}
SPECS = {spec.name: spec for spec in record_specs()}


def signals(device_class):
    """Suffix and whether there is a readback, of every signal of an ophyd class."""
    for name in device_class.component_names:
        component = getattr(device_class, name)
        parts = component.defn.values() if hasattr(component, "defn") else [(component.cls, component.suffix, {})]
        for cls, suffix, _ in parts:
            if suffix:
                yield suffix, "WithRBV" in cls.__name__


@pytest.mark.parametrize(
    ("prefix", "class_name"),
    [
        ("cam1:", "EigerDetectorCam"),
        ("ROI1:", "ROIPlugin_V34"),
        ("Pva1:", "PvaPlugin_V34"),
        ("HDF1:", "HDF5Plugin_V34"),
        ("HDF1:", "HDF5Plugin"),
    ],
)
def test_every_signal_of_ophyd_has_its_record(prefix, class_name):
    from ophyd.areadetector import cam, plugins

    device_class = getattr(cam, class_name, None) or getattr(plugins, class_name)
    missing = set()
    for suffix, readback in signals(device_class):
        if suffix in ABSENT | EIGER_1:
            continue
        for name in [suffix, suffix + "_RBV"] if readback else [suffix]:
            if prefix + name not in SPECS:
                missing.add(name)
    assert missing == set()


def test_records_are_what_the_templates_say():
    trigger_mode = SPECS["cam1:TriggerMode"]
    assert trigger_mode.type == "mbbo"
    assert trigger_mode.choices[:4] == ("Internal Series", "Internal Enable", "External Series", "External Enable")
    assert SPECS["cam1:TriggerMode_RBV"].type == "mbbi"
    assert SPECS["cam1:Armed"].choices == ("Unarmed", "Armed")
    assert SPECS["HDF1:FilePath_RBV"].type == "textin"
    assert SPECS["Pva1:QueueFree"].type == "longin"
    names = [spec.name for spec in record_specs()]
    assert len(names) == len(set(names))

"""The PVs of the sample stage: two motor records and a trajectory controller."""

from ophyd import Component as Cpt
from ophyd import Device, EpicsMotor, EpicsSignal, EpicsSignalRO

from bluesky_ptychonn.devices.signals import Setting


class StageMotor(EpicsMotor):
    """Motor record of one axis, um."""

    max_velocity = Cpt(EpicsSignalRO, ".VMAX", kind="omitted", doc="0: no limit")


class ProfileMove(Device):
    """profileMoveController.template and two axes of profileMoveAxis.template: M1 is y, M2 is x."""

    num_points = Cpt(EpicsSignal, "NumPoints", kind="omitted")
    time_mode = Cpt(EpicsSignal, "TimeMode", string=True, kind="omitted")
    times = Cpt(EpicsSignal, "Times", kind="omitted", doc="s, from each point to the next")
    move_mode = Cpt(EpicsSignal, "MoveMode", string=True, kind="omitted")
    acceleration = Cpt(EpicsSignal, "Acceleration", kind="omitted", doc="s of lead-in and run-out, without pulses")
    start_pulses = Cpt(EpicsSignal, "StartPulses", kind="omitted", doc="element, from 1")
    end_pulses = Cpt(EpicsSignal, "EndPulses", kind="omitted", doc="element, from 1")
    num_pulses = Cpt(EpicsSignal, "NumPulses", kind="omitted")
    actual_pulses = Cpt(EpicsSignalRO, "NumActualPulses", kind="omitted")
    current_point = Cpt(EpicsSignalRO, "CurrentPoint", kind="omitted")
    abort = Cpt(EpicsSignal, "Abort", kind="omitted")

    build = Cpt(EpicsSignal, "Build", kind="omitted")
    build_state = Cpt(EpicsSignalRO, "BuildState", string=True, kind="omitted")
    build_status = Cpt(EpicsSignalRO, "BuildStatus", string=True, kind="omitted")
    build_message = Cpt(EpicsSignalRO, "BuildMessage", string=True, kind="omitted")
    execute = Cpt(EpicsSignal, "Execute", kind="omitted")
    execute_state = Cpt(EpicsSignalRO, "ExecuteState", string=True, kind="omitted")
    execute_status = Cpt(EpicsSignalRO, "ExecuteStatus", string=True, kind="omitted")
    execute_message = Cpt(EpicsSignalRO, "ExecuteMessage", string=True, kind="omitted")
    readback = Cpt(EpicsSignal, "Readback", kind="omitted")
    readback_state = Cpt(EpicsSignalRO, "ReadbackState", string=True, kind="omitted")
    readback_status = Cpt(EpicsSignalRO, "ReadbackStatus", string=True, kind="omitted")
    readback_message = Cpt(EpicsSignalRO, "ReadbackMessage", string=True, kind="omitted")

    use_y = Cpt(EpicsSignal, "M1UseAxis", string=True, kind="omitted")
    use_x = Cpt(EpicsSignal, "M2UseAxis", string=True, kind="omitted")
    positions_y = Cpt(EpicsSignal, "M1Positions", kind="omitted")
    positions_x = Cpt(EpicsSignal, "M2Positions", kind="omitted")
    readbacks_y = Cpt(EpicsSignalRO, "M1Readbacks", kind="omitted")
    readbacks_x = Cpt(EpicsSignalRO, "M2Readbacks", kind="omitted")


class PositionTable(Device):
    """A table of the positions captured at each trigger, um, which grows while the stage flies.

    Such as the position capture of a PandA, or encoders counted by a scaler, behind records of these names.
    """

    arm = Cpt(EpicsSignal, "Arm", string=True, kind="omitted", doc="Arm empties the table and begins to capture")
    captured = Cpt(EpicsSignalRO, "NumCaptured", kind="omitted", doc="rows, written after those of Y and X")
    y = Cpt(EpicsSignalRO, "Y", kind="omitted")
    x = Cpt(EpicsSignalRO, "X", kind="omitted")


class StageCounters(Device):
    """What the controller says about its triggers; -1 is unknown."""

    pulses = Cpt(Setting, value=-1, kind="normal", doc="triggers sent")
    trigger_slots = Cpt(Setting, value=-1, kind="normal", doc="triggers gone through, those not sent included")

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        for attr in self.component_names:
            getattr(self, attr).name = attr  # plain keys: one stage per run counts

    def trigger(self):
        """Ask the controller for the figures of the present run."""
        return self.parent.refresh_counters()  # type: ignore[union-attr]

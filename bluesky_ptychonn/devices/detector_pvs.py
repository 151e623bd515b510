"""What area detectors share as ophyd components: plugins, the beam on their frames, and the counts of a run."""

from ophyd import Component as Cpt
from ophyd import Device, EpicsSignalRO
from ophyd.areadetector.base import ADComponent as ADCpt
from ophyd.areadetector.base import EpicsSignalWithRBV
from ophyd.areadetector.plugins import HDF5Plugin_V34, PvaPlugin_V34, ROIPlugin_V34

from bluesky_ptychonn.core.beam import MIN_COUNTS
from bluesky_ptychonn.devices.signals import Setting

UNKNOWN = -1


class _Plugin:
    """Plugins are staged by the detector, in its order; ophyd's own staging would make them block the driver."""

    asyn_pipeline_config = None
    pool_max_buffers = None  # gone from ADCore

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.stage_sigs.clear()  # type: ignore[attr-defined]

    def read_configuration(self):
        return Device.read_configuration(self)  # type: ignore[arg-type]

    def describe_configuration(self):
        return Device.describe_configuration(self)  # type: ignore[arg-type]


class RoiPlugin(_Plugin, ROIPlugin_V34):
    """``ROI1:``, the crop that is streamed and written."""


class StreamPlugin(_Plugin, PvaPlugin_V34):
    """``Pva1:``, the live frames."""

    pv_name = ADCpt(EpicsSignalRO, "PvName_RBV", string=True)


class FilePlugin(_Plugin, HDF5Plugin_V34):
    """``HDF1:``, the frames on disk."""

    file_write_mode = ADCpt(EpicsSignalWithRBV, "FileWriteMode", string=True)
    auto_increment = ADCpt(EpicsSignalWithRBV, "AutoIncrement", string=True)
    write_status = ADCpt(EpicsSignalRO, "WriteStatus", string=True)
    write_message = ADCpt(EpicsSignalRO, "WriteMessage", string=True)


class BeamGeometry(Device):
    """How frames lie in the beam; values come from the settings."""

    energy_kev = Cpt(Setting, value=10.0, kind="config", doc="photon energy unless a scan gives its own")
    distance_m = Cpt(Setting, value=0.9, kind="config", doc="sample to detector")
    detector_pixel_um = Cpt(Setting, value=75.0, kind="config")
    crop_px = Cpt(Setting, value=128, kind="config", doc="side of a diffraction pattern, after binning")
    binning = Cpt(Setting, value=1, kind="config", doc="side of a superpixel in detector pixels")
    beam_center_y_px = Cpt(Setting, value=64.0, kind="config", doc="in the streamed frame")
    beam_center_x_px = Cpt(Setting, value=64.0, kind="config", doc="in the streamed frame")
    orientation = Cpt(Setting, value="identity", kind="config", doc="from detector axes to stage axes")
    probe_diameter_um = Cpt(Setting, value=1.0, kind="config", doc="90 % of the power on the sample")
    min_counts = Cpt(
        Setting, value=MIN_COUNTS, kind="config", doc="of a frame with beam; below 1, part of a typical one"
    )
    min_flux = Cpt(Setting, value=0.0, kind="config", doc="part of the median flux per trigger")


class FrameCounters(Device):
    """What became of the frames of a run; -1 is unknown. ``trigger`` asks the IOC."""

    triggers_sent = Cpt(Setting, value=0, kind="normal", doc="software triggers of a step scan")
    driver_frames = Cpt(Setting, value=UNKNOWN, kind="normal", doc="frames that reached the driver")
    lost_in_detector = Cpt(Setting, value=UNKNOWN, kind="normal", doc="frames lost with no gap in the ids")
    lost_in_plugin = Cpt(Setting, value=UNKNOWN, kind="normal", doc="frames lost before PVA: a gap in the ids")
    lost_before_file = Cpt(Setting, value=UNKNOWN, kind="normal", doc="other frames lost before the file")
    written = Cpt(Setting, value=UNKNOWN, kind="normal", doc="frames in the file")

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        for attr in self.component_names:
            getattr(self, attr).name = attr  # plain keys: one detector per run counts

    def trigger(self):
        """Ask the IOC for the figures of the present run."""
        return self.parent.refresh_counters()  # type: ignore[union-attr]

"""The detectors that can be simulated: an Eiger2 behind ADEiger, a Medipix3 behind ADTimePix3."""

from dataclasses import dataclass

from bluesky_ptychonn.core.optics import Geometry
from bluesky_ptychonn.simulation.names import DETECTOR, MEDIPIX


@dataclass(frozen=True)
class DetectorKind:
    """What distinguishes one detector from another.

    Parameters
    ----------
    name : str
        In the settings and on the command line.
    prefix, port : str
        Of its records, and of its driver.
    manufacturer, model : str
    sensor_px, corner_px : (int, int)
        Rows and columns of the sensor; where the simulated region lies on it, which cannot be moved.
    frame_px, binning : int
        Side of the region, and of the superpixels into which clients are told to bin it.
    detector_pixel_um, distance_m : float
    dead_time_s, shortest_period_s : float
    most_counts : int
        What a pixel can count.
    address : int
        Where the driver hands out the frames.
    dropped : str
        Record that counts the frames lost in the detector.
    """

    name: str
    prefix: str
    port: str
    manufacturer: str
    model: str
    sensor_px: tuple[int, int]
    corner_px: tuple[int, int]
    frame_px: int
    binning: int
    detector_pixel_um: float
    distance_m: float
    dead_time_s: float
    shortest_period_s: float
    most_counts: int
    address: int
    dropped: str

    @property
    def image_channel(self) -> str:
        """PVA name of the frames."""
        return self.prefix + "Pva1:Image"

    @property
    def counter_channels(self) -> tuple[str, str]:
        """PVA names of the counts of frames lost in the detector and in the PVA plugin."""
        return self.prefix + self.dropped, self.prefix + "Pva1:DroppedArrays_RBV"

    def geometry(self, frame_px: int | None = None) -> Geometry:
        """Geometry of its frames, not binned."""
        return Geometry(
            distance_m=self.distance_m, detector_pixel_um=self.detector_pixel_um, frame_px=frame_px or self.frame_px
        )


EIGER2 = DetectorKind(
    name="eiger2",
    prefix=DETECTOR,
    port="EIG",
    manufacturer="Dectris (simulated)",
    model="Eiger2 500K",
    sensor_px=(512, 1028),
    corner_px=(190, 450),
    frame_px=128,
    binning=1,
    detector_pixel_um=75.0,
    distance_m=0.9,
    dead_time_s=1e-7,
    shortest_period_s=1 / 4500,
    most_counts=65534,
    address=0,
    dropped="cam1:StreamDropped_RBV",
)
MEDIPIX3 = DetectorKind(
    name="medipix3",
    prefix=MEDIPIX,
    port="MPX3",
    manufacturer="ASI (simulated)",
    model="Medipix3 quad",
    sensor_px=(516, 516),
    corner_px=(0, 0),
    frame_px=516,
    binning=4,
    detector_pixel_um=55.0,
    distance_m=1.55,
    dead_time_s=5e-4,
    shortest_period_s=1 / 2000,
    most_counts=4095,
    address=1,
    dropped="cam1:DroppedFrames_RBV",
)
KINDS = {kind.name: kind for kind in (EIGER2, MEDIPIX3)}

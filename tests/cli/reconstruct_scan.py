"""The small simulated scan on which the command `reconstruct` is tried."""

from bluesky_ptychonn.core.optics import Geometry, zone_plate_probe

KNOWN = {"energy_kev": 10.0, "distance_m": 0.45, "detector_pixel_um": 75.0}
GEOMETRY = Geometry(**KNOWN, frame_px=64)
PIXEL_UM = GEOMETRY.pixel_size_um
DEFOCUS_UM = 60.0
PROBE = zone_plate_probe(GEOMETRY, defocus_um=DEFOCUS_UM)
FIELD = slice(50, -50)
QUICK = ("--sweeps", 2, "--no-report")

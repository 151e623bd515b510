"""Plan a scan before anything moves: where the probe goes, how long it takes, and what the sample gets.

Ptychography needs every place of the sample to be seen several times. Neighbouring positions overlap by
1 - step / probe diameter; 0.6 to 0.9 is usual. More overlap costs time and dose in proportion to its points, and makes
the light fall more evenly; at 0.5 there are holes between the spots, and below 0.45 no reconstruction is trusted.

A spiral (Fermat's, golden angle from point to point) has no rows and columns, which would leave artefacts. It is not
flown in the order of its angle, but along a short route, so that the stage never has to jump.

At a beamline, `RE(spiral_ptycho_scan(...))` makes the same request of its arguments, and asks detector, stage and edge
what they have against it: all of it is told before the shutter opens.
"""

from matplotlib.figure import Figure
from matplotlib.patches import Circle

from bluesky_ptychonn.core.optics import Geometry, probe_diameter_um, zone_plate_probe
from bluesky_ptychonn.core.preview import preview_scan
from bluesky_ptychonn.core.request import ScanRequest, step_from

PHOTONS = 1e6  # per frame

geometry = Geometry(energy_kev=10.0, distance_m=0.9, detector_pixel_um=75.0, frame_px=128)
probe = zone_plate_probe(geometry, defocus_um=170.0)
diameter_um = probe_diameter_um(probe, geometry.pixel_size_um)  # holds 90 % of its power

figure = Figure(figsize=(13, 7.4), layout="constrained")
axes = figure.subplots(2, 3)
for (route, light), overlap_ratio in zip(axes.T, (0.5, 0.75, 0.9), strict=True):
    request = ScanRequest(
        width_um=2.0,
        height_um=2.0,
        step_um=step_from(None, overlap_ratio, diameter_um),
        exposure_s=0.5e-3,
        dwell_s=2e-3,
        energy_kev=geometry.energy_kev,
        probe_diameter_um=diameter_um,
    )
    plan = preview_scan(request, probe, geometry.pixel_size_um, PHOTONS)
    print(
        f"overlap {overlap_ratio}: {request.points} points, {plan.duration_s:.2f} s, {plan.exposed_s:.2f} s exposed; "
        f"at most {plan.speed_um_per_s:.0f} um/s; {plan.fluence.max():.1e} photons/um2, uneven by {plan.unevenness:.0%}"
    )
    y, x = request.positions_um.T
    route.plot(x, y, ".-", color="black", linewidth=0.5, markersize=2)
    route.add_patch(Circle((x[0], y[0]), diameter_um / 2, color="tab:orange", alpha=0.4, label="probe"))
    route.set(title=f"overlap {overlap_ratio}: {request.points} points, {plan.duration_s:.1f} s", aspect="equal")
    image = light.imshow(plan.fluence, extent=plan.canvas.extent_um)
    figure.colorbar(image, ax=light, label="photons per square um", shrink=0.8)
    light.set(title=f"light on the sample, uneven by {plan.unevenness:.0%}", xlabel="x (um)", ylabel="y (um)")
    route.set(xlim=light.get_xlim(), ylim=light.get_ylim(), xlabel="x (um)", ylabel="y (um)")
figure.savefig("plan.png", dpi=100)

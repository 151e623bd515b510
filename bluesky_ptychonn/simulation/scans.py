"""Scans of simulated samples without a beamline: patterns, positions and probe, as a file would hold them."""

import numpy as np

from bluesky_ptychonn.core.optics import Geometry, intensities, with_counts
from bluesky_ptychonn.core.scan import fermat_spiral
from bluesky_ptychonn.core.scan_data import ScanData
from bluesky_ptychonn.simulation.sample import Kind, make_sample


def simulated_scan(
    kind: Kind,
    probe: np.ndarray,
    geometry: Geometry,
    *,
    width_um: float = 1.5,
    step_um: float = 0.1,
    photons: float = 1e6,
    seed: int = 0,
) -> ScanData:
    """Scan a simulated sample along a Fermat spiral and count photons.

    Parameters
    ----------
    kind : {"etched", "letters", "islands"}
        See `simulation.sample.make_sample`.
    probe : (n, n) complex
        Illumination of any power; the scan says that it is known.
    geometry : Geometry
    width_um, step_um : float
        Side of the scanned square, and square root of the area per point.
    photons : float
        Per frame in vacuum.
    seed : int
        Another one is another place of the sample, with other noise.

    Examples
    --------
    >>> from bluesky_ptychonn.core.optics import zone_plate_probe
    >>> scan = simulated_scan("etched", zone_plate_probe(Geometry()), Geometry(), width_um=0.5)
    >>> scan.patterns.shape, scan.provenance["run_uid"]
    ((24, 128, 128), 'simulated-etched-0')
    """
    pixel_um = geometry.pixel_size_um
    positions_px = fermat_spiral(width_um, width_um, step_um) / pixel_um
    field_um = 2 * np.abs(positions_px).max() * pixel_um + geometry.field_um + 4 * pixel_um
    object_ = make_sample(kind, field_um=field_um, pixel_size_um=pixel_um, seed=seed)
    positions_px = positions_px + len(object_) // 2
    expected = intensities(object_, with_counts(probe, photons), positions_px)
    patterns = np.minimum(np.random.default_rng(seed).poisson(expected), np.iinfo(np.uint16).max - 1)
    return ScanData(
        patterns.astype(np.uint16),
        positions_px,
        pixel_size_um=pixel_um,
        geometry=geometry,
        probe=probe.astype(np.complex64),
        provenance={"run_uid": f"simulated-{kind}-{seed}"},
    )

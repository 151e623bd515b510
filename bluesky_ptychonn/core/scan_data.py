"""What phase retrieval starts from: diffraction patterns, each with the place where it was taken."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from bluesky_ptychonn.core.frames import no_data
from bluesky_ptychonn.core.optics import Geometry


@dataclass(frozen=True)
class ScanData:
    """Diffraction patterns of one scan.

    Positions are kept in object pixels, because that is all that phase retrieval sees; a scan of which only pixels are
    known has no `pixel_size_um`.

    Parameters
    ----------
    patterns : (N, n, n) unsigned integer
        Counts, the zero frequency at pixel (n/2, n/2); the largest value of the type says "no data".
    positions_px : (N, 2) float64
        Probe centres (y, x) on the sample at mid exposure, object pixels, from any origin.
    pixel_size_um : float, optional
        Side of an object pixel, um.
    geometry : Geometry, optional
        Where energy, distance and detector pixel are known.
    probe : (n, n) or (M, n, n) complex64, optional
        Illumination of any power to start from, or its incoherent modes.
    trigger_index : (N,) int64, optional
        Trigger of each pattern; the row by default.
    left_out : int
        Recorded frames which are not here, because they are dark or their position cannot be known.
    notes : tuple of str
        What the reader of a file or run noticed and its user should know.
    provenance : mapping of str to str
        Where it comes from: ``run_uid`` or ``file`` and ``sha256``.

    Raises
    ------
    ValueError
        If the lengths or shapes do not belong together, or the patterns are not unsigned integers.
    """

    patterns: np.ndarray
    positions_px: np.ndarray
    pixel_size_um: float | None = None
    geometry: Geometry | None = None
    probe: np.ndarray | None = None
    trigger_index: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    left_out: int = 0
    notes: tuple[str, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = self.patterns.shape
        if len(shape) != 3 or shape[1] != shape[2] or shape[1] % 2:
            raise ValueError(f"patterns have shape {shape}; they must be (N, n, n) with an even n; crop them")
        if self.patterns.dtype.kind != "u":
            raise ValueError(f"patterns are {self.patterns.dtype}; they must be unsigned integer counts")
        if self.positions_px.shape != (shape[0], 2):
            raise ValueError(
                f"{shape[0]} patterns and positions of shape {self.positions_px.shape}; give one (y, x) each"
            )
        if self.probe is not None and (self.probe.ndim not in (2, 3) or self.probe.shape[-2:] != shape[1:]):
            raise ValueError(f"the probe has shape {self.probe.shape} px for patterns of {shape[1:]} px")
        if self.probe is not None and not np.all(
            np.isfinite(self.probe) & np.any(self.probe, axis=(-2, -1), keepdims=True)
        ):
            raise ValueError("the probe holds values that are not finite, or a mode without power; give another")
        if not len(self.trigger_index):
            object.__setattr__(self, "trigger_index", np.arange(shape[0]))
        if len(self.trigger_index) != shape[0]:
            raise ValueError(f"{shape[0]} patterns and {len(self.trigger_index)} triggers; give one each")

    @property
    def valid(self) -> np.ndarray:
        """Pixels which hold a measurement, (N, n, n) bool."""
        return self.patterns != no_data(self.patterns.dtype)

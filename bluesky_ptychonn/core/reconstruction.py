"""What phase retrieval gives: object, probe, positions, and whether to believe it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np


@dataclass(frozen=True)
class RetrievalReport:
    """Whether a reconstruction is real.

    Parameters
    ----------
    trusted : bool
        The verdict.
    reason : str
        Why, in one sentence.
    error, error_heldout : float
        sum (modelled - measured amplitude)^2 / sum of counts: over all frames, and over those never used for an update.
    error_blank : float
        The same without any object: what there was to explain.
    error_noise : float
        The same for a perfect model: what counting statistics leave.
    frc_cycles_per_px : float, optional
        Frequency at which the Fourier ring correlation of two half data sets falls below 0.5; 0.5 if it never does.
    frc_nm : float, optional
        Half period there; None where the pixel size is not known.
    covered_fraction : float
        Share of the scanned field which is well covered.
    overlap_ratio : float, optional
        1 - step / probe diameter, the step being sqrt(area / points); None if the positions span no area.
    photons_per_frame : float
    orientation : str
        Orientation in which the data fit best (`core.frames.ORIENTATIONS`), as seen from the one they have.
    orientation_margin : float
        Error of the next best class over that of the best.
    orientation_gain : float
        Error of the orientation that the data have over that of ``orientation``.
    twin : {"decided", "not decidable"}
        Whether the probe tells that orientation from its twin, half a turn away, which the data cannot.
    position_scale : float
        Factor on the positions with which the data fit best; not 1 if energy, distance or pixel size are wrong.
    """

    trusted: bool
    reason: str
    error: float
    error_heldout: float
    error_blank: float
    error_noise: float
    frc_cycles_per_px: float | None
    frc_nm: float | None
    covered_fraction: float
    overlap_ratio: float | None
    photons_per_frame: float
    orientation: str = "identity"
    orientation_margin: float | None = None
    orientation_gain: float = 1.0
    twin: str = "not decidable"
    position_scale: float = 1.0

    @property
    def verdict(self) -> str:
        """``"trusted"`` or ``"not trusted"``."""
        return "trusted" if self.trusted else "not trusted"

    def as_figures(self) -> dict[str, Any]:
        """Flat keys for a figures file."""
        return asdict(self)

    @classmethod
    def from_figures(cls, figures: Mapping[str, Any]) -> "RetrievalReport":
        """Inverse of `as_figures`; keys of later versions are ignored."""
        return cls(**{item.name: figures[item.name] for item in fields(cls) if item.name in figures})


@dataclass(frozen=True)
class Reconstruction:
    """Object and probe that explain a scan.

    Parameters
    ----------
    object_ : (H, W) complex64
        Transmission of the sample.
    probe : (M, n, n) complex64
        Incoherent modes of the illumination, brightest first; their power is the counts per frame.
    positions_px : (N, 2) float64
        Probe centres (y, x) as used, in pixels of ``object_``: the pixel n/2 of the probe lies there.
    origin_px : (float, float)
        What was taken off the scan's own positions, px: they were ``positions_px + origin_px`` before any correction.
    pixel_size_um : float, optional
        None where only pixels are known.
    coverage : (H, W) float32
        Light that each object pixel received in the scan, photons.
    trigger_index : (N,) int64
        Trigger of each position.
    held_out : (N,) bool
        Frames which never took part in an update.
    errors, errors_heldout : (S,) float64
        Error after each sweep, over the frames in use and over those held out; see `RetrievalReport`.
    settings : mapping
        Method and its values, as asked for and as chosen.
    provenance : mapping of str to str
        Run uid or file, hashes, versions.
    report : RetrievalReport, optional
    """

    object_: np.ndarray
    probe: np.ndarray
    positions_px: np.ndarray
    origin_px: tuple[float, float]
    pixel_size_um: float | None
    coverage: np.ndarray
    trigger_index: np.ndarray
    held_out: np.ndarray
    errors: np.ndarray
    errors_heldout: np.ndarray
    settings: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)
    report: RetrievalReport | None = None

    @property
    def phase_rad(self) -> np.ndarray:
        """Phase of the object, (H, W) float32, rad."""
        return np.angle(self.object_)

"""What the detector sees: a coherent forward model with a real detector face, or a recorded scan."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import scipy.fft

from bluesky_ptychonn.core.counts import unsigned_counts
from bluesky_ptychonn.core.frames import INVERSE, no_data, orient_patterns
from bluesky_ptychonn.core.optics import Geometry, shifted
from bluesky_ptychonn.io.scan_files import open_raw_scan

NO_DATA = no_data(np.uint16)
BATCH_PX = 16 * 128**2
"""Pixels of the frames that are computed at once."""
NOISES = 16
FINE = 8
"""Probe positions per object pixel."""


class Source(Protocol):
    """Where frames come from."""

    beam_center_px: tuple[int, int]
    """Zero frequency (y, x) in the frame."""
    orientation: str
    """From detector axes to stage axes."""
    different_frames: int
    """After so many frames at one place a free-running series may begin again."""
    stamp_pixel: tuple[int, int] | None
    """First pixel of the module gap, which may carry a trigger index; None where there is no gap."""
    bad_pixels: np.ndarray
    probe: np.ndarray | None

    @property
    def frame_shape(self) -> tuple[int, int]:
        """Rows and columns of a frame."""
        ...

    def frames(self, positions_um: np.ndarray, photons: float, first: int = 0) -> np.ndarray:
        """Frames (B, H, W) uint16 exposed along ``positions_um`` (B, K, 2); ``first`` counts from the run's start."""
        ...

    def dark(self) -> np.ndarray:
        """A frame (H, W) taken with the shutter closed."""
        ...


@dataclass(frozen=True)
class DetectorFace:
    """The part of the detector under the beam: gap, dead and hot pixels, beam centre off the middle.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns of a frame.
    beam_center_px : (int, int)
        Zero frequency (y, x) in the frame.
    gap_columns : (int, int)
        First column of the module gap, and the one behind its last.
    dead, hot : (n, 2) int
        Pixels (y, x) which always read zero, or always far too much.
    gap_rows : (int, int)
        The same of a gap between rows.
    gap_value, most_counts : int
        What a pixel of a gap reads, and the most that any other counts.
    """

    shape: tuple[int, int]
    beam_center_px: tuple[int, int]
    gap_columns: tuple[int, int]
    dead: np.ndarray
    hot: np.ndarray
    gap_rows: tuple[int, int] = (0, 0)
    gap_value: int = NO_DATA
    most_counts: int = NO_DATA - 1

    @classmethod
    def of(cls, frame_px: int, seed: int = 0) -> "DetectorFace":
        """Lay a face over a square frame: gap at 0.81 of the width, ten dead and four hot pixels."""
        gap = round(0.8125 * frame_px)
        return cls((frame_px, frame_px), _off_middle(frame_px), (gap, gap + 4), *_spoiled(frame_px, seed))

    @classmethod
    def quad(cls, frame_px: int, most_counts: int, seed: int = 0) -> "DetectorFace":
        """Four chips with a cross of four dead rows and columns between them, and ten dead and four hot pixels."""
        cross = (frame_px // 2 - 2, frame_px // 2 + 2)
        pixels = _spoiled(frame_px, seed)
        return cls((frame_px, frame_px), _off_middle(frame_px), cross, *pixels, cross, 0, most_counts)

    def with_beam_moved(self, offset_px: tuple[int, int]) -> "DetectorFace":
        """The same detector with the beam (y, x) further down and right."""
        y, x = (int(place + offset) for place, offset in zip(self.beam_center_px, offset_px))
        if not (0 <= y < self.shape[0] and 0 <= x < self.shape[1]):
            raise ValueError(f"a beam moved by {offset_px} px leaves the frame of {self.shape} px")
        return replace(self, beam_center_px=(y, x))

    @property
    def bad_pixels(self) -> np.ndarray:
        """Mask (H, W) bool of gap, dead and hot pixels."""
        bad = np.zeros(self.shape, bool)
        bad[:, slice(*self.gap_columns)] = True
        bad[slice(*self.gap_rows)] = True
        for y, x in (*self.dead, *self.hot):
            bad[y, x] = True
        return bad

    def read(self, patterns: np.ndarray) -> np.ndarray:
        """Frames (B, H, W) uint16 of photon patterns whose zero frequency is at pixel (N/2, N/2)."""
        n = patterns.shape[-1]
        shift = np.subtract(self.beam_center_px, n // 2)
        frames = np.roll(np.minimum(patterns, self.most_counts).astype(np.uint16), tuple(shift), axis=(-2, -1))
        frames[:, self.dead[:, 0], self.dead[:, 1]] = 0
        frames[:, self.hot[:, 0], self.hot[:, 1]] = min(20_000, self.most_counts)
        frames[:, :, slice(*self.gap_columns)] = self.gap_value
        frames[:, slice(*self.gap_rows)] = self.gap_value
        return frames


def _off_middle(frame_px: int) -> tuple[int, int]:
    return frame_px // 2 - 3, frame_px // 2 + 2


def _spoiled(frame_px: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Places of ten dead and four hot pixels."""
    pixels = np.random.default_rng(seed).permutation(frame_px**2)[:14]
    places = np.stack(np.divmod(pixels, frame_px), axis=1)
    return places[:10], places[10:]


class PhysicsSource:
    """Coherent diffraction of a known sample under a known probe.

    Intensities are summed over the motion during the exposure, then counted photon by photon. Around the sample
    there is vacuum.

    Parameters
    ----------
    object_ : (H, W) complex64
        Transmission of the sample; its middle is at stage position (0, 0).
    probe : (N, N) complex64
        Probe of unit power.
    geometry : Geometry
    seed : int
        Of the photon noise.
    face : DetectorFace, optional
        That of an Eiger2 if not given.
    orientation : str
        What must be done to frames to turn them to the stage's axes (`core.frames.ORIENTATIONS`).
    """

    def __init__(
        self,
        object_: np.ndarray,
        probe: np.ndarray,
        geometry: Geometry,
        seed: int = 0,
        face: DetectorFace | None = None,
        orientation: str = "identity",
    ) -> None:
        self.probe: np.ndarray | None = probe
        self.pixel_size_um = geometry.pixel_size_um
        self.origin_um = -self.pixel_size_um * (np.array(object_.shape) // 2)
        self.face = face or DetectorFace.of(geometry.frame_px, seed)
        self.beam_center_px = self.face.beam_center_px
        self.orientation = orientation
        self.different_frames = NOISES
        self.stamp_pixel: tuple[int, int] | None = (0, self.face.gap_columns[0])
        self.bad_pixels = self.face.bad_pixels
        self._object = object_
        self._rng = np.random.default_rng(seed)
        steps_px = np.arange(-(FINE // 2), FINE // 2 + 1) / FINE
        moves_px = np.stack(np.meshgrid(steps_px, steps_px, indexing="ij"), axis=-1)
        n = geometry.frame_px
        self._probes = shifted(probe, moves_px.reshape(-1, 2)).reshape(FINE + 1, FINE + 1, n, n)

    @property
    def frame_shape(self) -> tuple[int, int]:
        return self.face.shape

    @property
    def object(self) -> np.ndarray:
        """The truth (H, W) complex64; pixel (0, 0) is centred on `origin_um`."""
        return self._object

    def frames(self, positions_um: np.ndarray, photons: float, first: int = 0) -> np.ndarray:
        """Expose one frame along each row of ``positions_um`` (B, K, 2); ``photons`` per frame in vacuum."""
        positions_um = np.asarray(positions_um, np.float64)
        frames = np.empty((len(positions_um), *self.frame_shape), np.uint16)
        batch = max(1, BATCH_PX // frames[:1].size)
        for start in range(0, len(positions_um), batch):
            part = slice(start, start + batch)
            patterns = self._rng.poisson(photons * self.mean_intensities(positions_um[part]))
            frames[part] = self.face.read(orient_patterns(patterns, INVERSE.get(self.orientation, self.orientation)))
        return frames

    def mean_intensities(self, positions_um: np.ndarray) -> np.ndarray:
        """Mean patterns (B, N, N) along ``positions_um`` (B, K, 2) of a beam of unit power.

        They are those of `core.optics.intensities`, with positions rounded to an eighth of a pixel.
        """
        count, steps, _ = positions_um.shape
        n = self.frame_shape[0]
        fine = np.rint((positions_um.reshape(-1, 2) - self.origin_um) / self.pixel_size_um * FINE).astype(int)
        whole = np.rint(fine / FINE).astype(int)
        waves = self._probes[tuple((fine - FINE * whole).T + FINE // 2)]
        for wave, corner in zip(waves, whole - n // 2, strict=True):
            wave *= self._window(corner)
        far: Any = scipy.fft.fft2(waves, norm="ortho", overwrite_x=True)
        power = (far.real**2 + far.imag**2).reshape(count, steps, n, n).mean(axis=1)
        return scipy.fft.fftshift(power, axes=(-2, -1))

    def dark(self) -> np.ndarray:
        """Expose with the shutter closed."""
        return self.face.read(np.zeros((1, *self.frame_shape)))[0]

    def _window(self, corner: np.ndarray) -> np.ndarray:
        """The part of the sample in the field whose top-left pixel is ``corner``."""
        n = self.frame_shape[0]
        low, high = np.clip([corner, corner + n], 0, self._object.shape)
        seen = self._object[low[0] : high[0], low[1] : high[1]]
        if seen.shape == (n, n):
            return seen
        window = np.ones((n, n), np.complex64)
        (top, left), (bottom, right) = low - corner, high - corner
        if seen.size:
            window[top:bottom, left:right] = seen
        return window


class RecordedSource:
    """A recorded scan, played frame by frame and over again, wherever the stage stands.

    Parameters
    ----------
    path : Path
        A scan file (`io.scan_files`) with ``patterns``, and optionally ``probe`` and ``mask``.

    Raises
    ------
    ValueError
        If the file holds no patterns, or they are no counts.
    """

    def __init__(self, path: Path) -> None:
        with open_raw_scan(path) as raw:
            patterns, _ = unsigned_counts(raw.frames, raw.bad_pixels)
        if patterns.dtype != np.uint16:
            invalid = patterns == no_data(patterns.dtype)
            patterns = np.where(invalid, NO_DATA, np.minimum(patterns, NO_DATA - 1)).astype(np.uint16)
        self._patterns = patterns
        probe = raw.probe
        self.probe: np.ndarray | None = None if probe is None else (probe / np.linalg.norm(probe)).astype(np.complex64)
        self.beam_center_px = (patterns.shape[1] // 2, patterns.shape[2] // 2)
        self.orientation = "identity"
        self.different_frames = len(patterns)
        self.stamp_pixel: tuple[int, int] | None = None
        self.bad_pixels = np.zeros(patterns.shape[1:], bool) if raw.bad_pixels is None else raw.bad_pixels

    @property
    def frame_shape(self) -> tuple[int, int]:
        rows, columns = self._patterns.shape[1:]
        return rows, columns

    def frames(self, positions_um: np.ndarray, photons: float, first: int = 0) -> np.ndarray:
        """Return the next frames of the record; position and photons are those of the record."""
        return self._patterns[(first + np.arange(len(positions_um))) % len(self._patterns)]

    def dark(self) -> np.ndarray:
        """Return a frame without counts."""
        return np.where(self._patterns[0] == NO_DATA, NO_DATA, 0).astype(np.uint16)

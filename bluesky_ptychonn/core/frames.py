"""From detector frames to diffraction patterns: crop, binning, mask, orientation."""

import numpy as np
from numpy.typing import DTypeLike

ORIENTATIONS = {
    "identity": lambda a: a,
    "flip_y": lambda a: a[..., ::-1, :],
    "flip_x": lambda a: a[..., ::-1],
    "rot180": lambda a: a[..., ::-1, ::-1],
    "transpose": lambda a: a.swapaxes(-1, -2),
    "rot90": lambda a: a.swapaxes(-1, -2)[..., ::-1, :],
    "rot270": lambda a: a.swapaxes(-1, -2)[..., ::-1],
    "antitranspose": lambda a: a.swapaxes(-1, -2)[..., ::-1, ::-1],
}
"""What is done to the frame, last of all, to make its rows and columns grow with the stage's +y and +x."""
INVERSE = {"rot90": "rot270", "rot270": "rot90"}
"""Orientations which another one undoes; the others undo themselves."""
MAX_BINNING = 8
"""Largest side of a superpixel, px."""


def orient_patterns(patterns: np.ndarray, orientation: str) -> np.ndarray:
    """Turn or flip diffraction patterns (B, n, n) about their zero frequency, pixel (n/2, n/2), n even.

    Examples
    --------
    >>> spot = np.zeros((1, 4, 4), int)
    >>> spot[0, 2, 3] = 1
    >>> np.argwhere(orient_patterns(spot, "flip_x")[0]).tolist()
    [[2, 1]]
    """
    turned = ORIENTATIONS[orientation](patterns)
    n = patterns.shape[-1]
    where = int(np.flatnonzero(ORIENTATIONS[orientation](np.arange(n * n).reshape(n, n)) == (n // 2) * (n + 1))[0])
    return np.roll(turned, (n // 2 - where // n, n // 2 - where % n), axis=(-2, -1))


def no_data(dtype: DTypeLike) -> int:
    """Return the value that means "no measurement" in a pattern: the type's largest, as an Eiger writes it."""
    return int(np.iinfo(np.dtype(dtype).name).max)


class FrameGeometry:
    """Where the diffraction pattern lies in a frame, and which pixels do not count.

    Parameters
    ----------
    frame_shape : (int, int)
        Rows and columns of a frame, px.
    crop_px : int
        Side N of the pattern, after binning; the beam comes to its pixel (N/2, N/2).
    beam_center_px : (float, float)
        Row and column of the beam in the frame, px; the crop is moved by whole pixels until the beam is nearest to the
        middle of its superpixel.
    bad_pixels : (H, W) bool, optional
        Gaps, dead and hot pixels of the frame.
    orientation : str
        One of `ORIENTATIONS`, applied once, here.
    binning : int
        Side of a superpixel, px: so many detector pixels, squared, make one of the pattern, see `core.binning`. The
        field of a pattern on the sample shrinks by this factor.

    Raises
    ------
    ValueError
        If the beam is outside the frame, the mask has another shape, or orientation or binning cannot be.

    Examples
    --------
    >>> geometry = FrameGeometry((4, 4), 4, (1, 2))
    >>> geometry.patterns(np.arange(16, dtype=np.uint16).reshape(1, 4, 4))[0, 2].tolist()
    [4, 5, 6, 7]
    """

    def __init__(
        self,
        frame_shape: tuple[int, int],
        crop_px: int,
        beam_center_px: tuple[float, float],
        bad_pixels: np.ndarray | None = None,
        orientation: str = "identity",
        binning: int = 1,
    ) -> None:
        if orientation not in ORIENTATIONS:
            raise ValueError(f"orientation = {orientation!r}; allowed is one of {sorted(ORIENTATIONS)}")
        if crop_px < 2 or crop_px % 2:
            raise ValueError(f"crop_px = {crop_px} px; it must be even and at least 2")
        if not 1 <= binning <= MAX_BINNING:
            raise ValueError(f"binning = {binning} px; allowed is 1 to {MAX_BINNING} px")
        if bad_pixels is not None and bad_pixels.shape != tuple(frame_shape):
            raise ValueError(f"the mask of bad pixels is {bad_pixels.shape} px for frames of {tuple(frame_shape)} px")
        if not all(-0.5 <= place < size - 0.5 for place, size in zip(beam_center_px, frame_shape)):
            raise ValueError(
                f"beam_center_px = {tuple(beam_center_px)} lies outside the frame of {tuple(frame_shape)} px; "
                "give (row, column) in the region of interest"
            )
        self.frame_shape = tuple(frame_shape)
        self.crop_px = crop_px
        self.binning = binning
        self.orientation = orientation
        self._orient = ORIENTATIONS[orientation]
        # The beam's pixel after the orientation must be N/2, so the part that is cut depends on the flips.
        sees = self._orient(np.arange(crop_px * crop_px).reshape(crop_px, crop_px))
        at = divmod(int(sees[crop_px // 2, crop_px // 2]), crop_px)
        to_first_px = 0.5 - (binning - 1) / 2
        top, left = (int(np.floor(place + to_first_px)) - binning * index for place, index in zip(beam_center_px, at))
        self._corner = top, left
        side = crop_px * binning
        self._from = tuple(
            slice(max(0, start), min(size, start + side)) for start, size in zip((top, left), frame_shape)
        )
        self._to = tuple(
            slice(piece.start - start, piece.stop - start) for piece, start in zip(self._from, (top, left))
        )
        self._bad = np.zeros(frame_shape, bool) if bad_pixels is None else bad_pixels.astype(bool)
        invalid = np.ones((side, side), bool)
        invalid[self._to] = self._bad[self._from]
        never = invalid.reshape(crop_px, binning, crop_px, binning).all(axis=(1, 3))
        self._invalid = np.ascontiguousarray(self._orient(never))
        if binning > 1:
            from bluesky_ptychonn.core.binning import bin_frames  # compiled now, before the first frame

            self._bin = bin_frames

    @property
    def masked_fraction(self) -> float:
        """Part of the pattern's pixels which never count."""
        return float(self._invalid.mean())

    @property
    def inside(self) -> np.ndarray:
        """Which pixels of a frame (H, W) lie in the pattern, bad ones included."""
        inside = np.zeros(self.frame_shape, bool)
        inside[self._from] = True
        return inside

    def patterns(self, frames: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Cut, bin, orient and mask frames (B, H, W) into patterns (B, N, N) of the same type, no-data where masked."""
        if frames.shape[1:] != self.frame_shape:
            raise ValueError(f"frames of {frames.shape[1:]} px where {self.frame_shape} px were announced")
        n = self.crop_px
        if out is None:
            out = np.empty((len(frames), n, n), frames.dtype)
        before_turning = ORIENTATIONS[INVERSE.get(self.orientation, self.orientation)](out)
        if self.binning > 1:
            binned = before_turning if before_turning.flags.c_contiguous else np.empty(before_turning.shape, out.dtype)
            self._bin(frames, self._corner, self.binning, binned, self._bad)
            if binned is not before_turning:
                before_turning[:] = binned
            return out
        before_turning[:, self._to[0], self._to[1]] = frames[:, self._from[0], self._from[1]]
        np.copyto(out, out.dtype.type(no_data(out.dtype)), where=self._invalid)
        return out

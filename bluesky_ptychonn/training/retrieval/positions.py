"""Position correction: where the probe was, as the frames themselves tell it.

Moving a probe by c changes its exit wave by c times P grad O; the difference that the measurement asks for, projected
on that, is the correction. It is bounded, its steps are damped, and it never moves the scan as a whole: a common shift
moves the object, a common stretch, shear or turn trades against the probe's defocus, and neither can be known from the
frames alone.

References
----------
Guizar-Sicairos and Fienup, Opt. Express 16, 7264 (2008), eqs. 21 to 24: gradient with respect to the positions.
"""

import numpy as np
import torch

from bluesky_ptychonn.training.retrieval.forward import State, Waves, squared

DAMPING = 0.7
TINY = 1e-12


class PositionCorrection:
    """Corrections of one reconstruction.

    Parameters
    ----------
    positions_px : (N, 2) float64
        As given, (y, x).
    bound_px : float
        Furthest that a position may move along each axis.
    start : int
        First sweep (from 0) after which positions move; before it the object says too little.
    """

    def __init__(self, positions_px: np.ndarray, *, bound_px: float, start: int = 4) -> None:
        if not (np.isfinite(bound_px) and bound_px > 0):
            raise ValueError(f"bound_px = {bound_px} px; it must be positive")
        self._given, self._bound, self._start = positions_px.copy(), bound_px, start
        self._wanted = np.zeros_like(positions_px)

    def add(self, rows: np.ndarray, waves: Waves, difference: torch.Tensor, state: State) -> None:
        """Take note of where the frames of a batch want to go."""
        width, flat = state.object_.shape[1], state.object_.view(-1)
        slopes = [(flat[waves.index + step] - flat[waves.index - step]) / 2 for step in (width, 1)]
        along = [waves.probe * slope[:, None] for slope in slopes]
        wanted = [(difference * part.conj()).real.sum((1, 2, 3)) for part in along]
        yy, xx = (squared(part).sum((1, 2, 3)) + TINY for part in along)
        yx = (along[0] * along[1].conj()).real.sum((1, 2, 3))
        determinant = (yy * xx - yx**2).clamp(min=TINY) + 0.01 * yy * xx
        self._wanted[rows, 0] = ((xx * wanted[0] - yx * wanted[1]) / determinant).cpu().double().numpy()
        self._wanted[rows, 1] = ((yy * wanted[1] - yx * wanted[0]) / determinant).cpu().double().numpy()

    def apply(self, state: State, number: int) -> None:
        """Move the positions at the end of a sweep."""
        if number >= self._start:
            moved = state.positions.cpu().numpy() - self._given + DAMPING * self._wanted
            moved = np.clip(moved - _affine(self._given, moved), -self._bound, self._bound)
            state.positions = torch.from_numpy(self._given + moved).to(state.positions.device)
        self._wanted[:] = 0


def _affine(positions_px: np.ndarray, moved_px: np.ndarray) -> np.ndarray:
    """The part of a displacement field (N, 2) which is a shift, stretch, shear or turn."""
    basis = np.column_stack([np.ones(len(positions_px)), positions_px - positions_px.mean(axis=0)])
    return basis @ np.linalg.lstsq(basis, moved_px, rcond=None)[0]

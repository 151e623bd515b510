"""What the data leave open is fixed by the starting probe.

A ramp of phase can go from the probe to the object, and power too, and modes can mix, without any change of the
patterns. Left alone they drift. The cone on the detector stays where the starting probe had it, the power stays the
counts per frame, and the modes stay orthogonal, brightest first.
"""

import numpy as np
import torch

from bluesky_ptychonn.training.retrieval.forward import State, squared
from bluesky_ptychonn.training.retrieval.problem import cone_of, shift_of


class Gauge:
    """Reference of one reconstruction.

    Parameters
    ----------
    probe : (M, n, n) complex64
        The starting probe.
    """

    def __init__(self, probe: np.ndarray) -> None:
        self._cone = cone_of(probe)
        self._power = float(np.sum(np.abs(probe) ** 2, dtype=np.float64))

    def restore(self, state: State, pace: list[torch.Tensor]) -> None:
        """Put the ramp, the power and the order of the modes back; ``pace`` of object and probe turns with them."""
        shift_px = shift_of(cone_of(state.probe.cpu().numpy()), self._cone)
        slope = [2 * np.pi * part / state.side for part in shift_px]
        power = float(squared(state.probe).sum(dtype=torch.float64))
        scale = float(np.sqrt(self._power / power)) if power > 0 else 1.0
        tilt = _ramp(state.probe.shape[-2:], slope, state.probe.device)
        state.probe, pace[1] = state.probe * tilt.conj() * scale, pace[1] * tilt.conj() * scale
        tilt = _ramp(state.object_.shape, slope, state.object_.device)
        state.object_, pace[0] = state.object_ * tilt / scale, pace[0] * tilt / scale
        if len(state.probe) > 1:
            flat = state.probe.reshape(len(state.probe), -1)
            turn = torch.linalg.eigh(flat.conj() @ flat.T).eigenvectors.flip(1).T
            state.probe = torch.tensordot(turn, state.probe, dims=1)
            pace[1] = torch.tensordot(turn, pace[1], dims=1)


def _ramp(shape: torch.Size, slope: list[float], device: torch.device) -> torch.Tensor:
    y, x = (torch.arange(side, device=device) * part for side, part in zip(shape, slope, strict=True))
    return torch.exp(1j * (y[:, None] + x[None, :])).to(torch.complex64)

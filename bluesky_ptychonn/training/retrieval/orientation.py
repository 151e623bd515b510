"""Which way up: flips, transpose and signs, ranked by how well the data fit.

A pattern turned by half a turn is explained as well by the complex conjugates of object and probe, so only four classes
of two can be told apart by the data. Within a class the probe decides: its defocus has a sign, and a probe that is held
fixed fits one of the two only. Without a probe to be trusted, or in focus, the twin is not decidable.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from bluesky_ptychonn.core.optics import far_field, near_field
from bluesky_ptychonn.core.scan_data import ScanData
from bluesky_ptychonn.training.retrieval.forward import pick_device
from bluesky_ptychonn.training.retrieval.trials import curvature, trial_error

CLASSES = (("identity", "rot180"), ("flip_x", "flip_y"), ("transpose", "antitranspose"), ("rot90", "rot270"))
"""Orientations, in pairs that the data alone cannot tell apart."""
DECIDED = 1.03
"""Ratio of the errors from which on one of two twins is the better one."""
IN_FOCUS_RAD = 1.0
"""Phase that the defocus makes across the cone below which a probe is as good as in focus."""


@dataclass(frozen=True)
class Orientation:
    """What fits best, and by how much.

    Parameters
    ----------
    best : str
        Orientation to be done to the patterns as they are; ``"identity"`` if they are right.
    margin : float
        Error of the next best class over that of the best; near 1 nothing is decided.
    errors : dict
        Least error of each class, by the name of its first member.
    gain : float
        Error of the patterns as they are over that of ``best``.
    twin : {"decided", "not decidable"}
        Whether the probe tells ``best`` from the other member of its class; else it is the first one.
    twin_margin : float, optional
        Error of the worse of the two twins over that of the better one, the probe held fixed.
    """

    best: str
    margin: float
    errors: dict[str, float]
    gain: float
    twin: str
    twin_margin: float | None


def find_orientation(
    scan: ScanData,
    *,
    trusted_probe: bool = True,
    seed: int = 0,
    device: torch.device | None = None,
    on_step: Callable[[str], None] | None = None,
) -> Orientation:
    """Try all orientations on the middle of a scan and rank them.

    Parameters
    ----------
    scan : ScanData
        With a probe.
    trusted_probe : bool
        Whether the sign of the probe's defocus is known.
    seed : int
    device : torch.device, optional
    on_step : callable, optional
        Told what is tried.

    Raises
    ------
    ValueError
        If the scan has no probe.
    """
    if scan.probe is None:
        raise ValueError("there is no probe to try orientations with; give one")
    device = device or pick_device()
    sides = (scan, replace(scan, probe=_twin(scan.probe)))
    errors = {}
    for first, second in CLASSES:
        if on_step:
            on_step(f"orientation {first} or {second}")
        errors[first] = min(trial_error(side, orientation=first, seed=seed, device=device) for side in sides)
    ranked = sorted(errors, key=errors.__getitem__)
    members = next(members for members in CLASSES if members[0] == ranked[0])
    twin, twin_margin = "not decidable", None
    gain = errors[CLASSES[0][0]] / max(errors[ranked[0]], 1e-30)
    if trusted_probe and _phase_of_defocus(scan.probe) > IN_FOCUS_RAD:
        held = [trial_error(scan, orientation=name, fixed_probe=True, seed=seed, device=device) for name in members]
        twin_margin = max(held) / max(min(held), 1e-30)
        if twin_margin > DECIDED:
            twin = "decided"
            members = members if held[0] < held[1] else members[::-1]
            if members[0] == CLASSES[0][1]:
                gain = twin_margin
    return Orientation(
        best=members[0],
        margin=errors[ranked[1]] / max(errors[ranked[0]], 1e-30),
        errors=errors,
        gain=gain,
        twin=twin,
        twin_margin=twin_margin,
    )


def _twin(probe: np.ndarray) -> np.ndarray:
    """The conjugate of the probe: its cone stays if it is centred, its defocus changes sign."""
    spectrum = np.conj(far_field(probe))
    return near_field(spectrum).astype(np.complex64)


def _phase_of_defocus(probe: np.ndarray) -> float:
    """Phase, rad, that the defocus makes from the middle of the cone to its edge (root mean square radius)."""
    power = np.abs(far_field(probe if probe.ndim == 2 else probe[0])) ** 2
    n = probe.shape[-1]
    q = np.arange(n) - n / 2
    radius2 = float(np.sum(power * (q[:, None] ** 2 + q[None, :] ** 2)) / np.sum(power))
    return abs(curvature(probe)) * radius2

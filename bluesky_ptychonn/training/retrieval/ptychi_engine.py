"""Phase retrieval by pty-chi, an optional package, behind the call of our own engines.

Pty-chi counts otherwise and changes the process it runs in; both stay in here. Its far field is not orthonormal, so its
probe is smaller by the side of the frame; an origin of half a pixel makes its positions ours; a pixel without data is a
negative count, which it is told to leave out.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from bluesky_ptychonn.core.frames import no_data
from bluesky_ptychonn.training.retrieval.problem import Problem, Sweep

METHODS = {"ptychi-lsqml": "LSQMLOptions", "ptychi-epie": "EPIEOptions", "ptychi-rpie": "RPIEOptions"}
"""Methods, and what pty-chi calls their options."""
ORIGIN_PX = -0.5
"""Where pty-chi's position 0 must lie for the pixel n/2 of its probe to lie on pixel 0 of the object."""
NO_DATA = -1e-8
"""Count of a pixel without data: below every count, and near enough to 0 for pty-chi's square roots."""
RPIE_ALPHA = 0.1
"""How far rPIE holds its steps back where the probe is weak, 0 to 1; at 1 it is ePIE."""
POSITIONS_FROM = 5
"""Sweeps before positions move: the object must say something about them first."""
POSITION_STEP = 1.0
"""Of pty-chi's own steps; 1 px rms of wrong positions are 0.2 px after 50 sweeps, with its default of 0.3 still 0.6."""


def why_not() -> str:
    """Say why pty-chi cannot be used here; empty where it can."""
    try:
        _import_ptychi()
    except ImportError as error:
        return str(error)
    return ""


def ptychi_sweeps(
    problem: Problem,
    *,
    method: str,
    sweeps: int,
    batch: int = 96,
    seed: int = 0,
    position_bound_px: float | None = None,
    threads: int | None = None,
) -> Iterator[Sweep]:
    """Iterate with pty-chi, on a GPU where torch sees one.

    Pty-chi moves only the first mode by the parts of a pixel in a position; further modes stay on whole pixels.

    Parameters
    ----------
    problem : Problem
        Pty-chi sees only the frames which are ``used``.
    method : {"ptychi-lsqml", "ptychi-epie", "ptychi-rpie"}
    sweeps : int
    batch : int
        Frames per update. ePIE and rPIE take shorter steps where frames of a batch overlap; 1 is ePIE as published.
    seed : int
        Of the order of the frames.
    position_bound_px : float, optional
        Move positions too, each by at most this much along y and x, from sweep `POSITIONS_FROM` on; frames held out
        follow their neighbours in the scan.
    threads : int, optional
        Of torch, while pty-chi works.

    Returns
    -------
    iterator of Sweep

    Raises
    ------
    ValueError
        If there is no such method.
    ImportError
        If pty-chi cannot be imported.

    References
    ----------
    M. Odstrcil et al., "Iterative least-squares solver for generalized maximum-likelihood ptychography", Opt. Express
    26, 3108 (2018); A. Maiden et al., "Further improvements to the ptychographical iterative engine", Optica 4, 736
    (2017), table 1.
    """
    if method not in METHODS:
        raise ValueError(f"method = {method!r}; allowed are {', '.join(METHODS)}")
    api, new_task = _import_ptychi()
    with _contained(threads):
        options = _options(api, problem, method, min(batch, len(problem.used)))
        options.probe_position_options.optimizable = position_bound_px is not None
        task = _task(new_task, options, problem)
        task.reconstructor.dataloader.generator.manual_seed(seed)  # the seed in its options does not order the frames
    return _iterate(task, problem, sweeps, threads, position_bound_px)


def _iterate(task: Any, problem: Problem, sweeps: int, threads: int | None, bound_px: float | None) -> Iterator[Sweep]:
    for _ in range(sweeps):
        with _contained(threads):
            task.run(1)
            object_, probe, used_px = (
                task.get_data_to_cpu(name, as_numpy=True) for name in ("object", "probe", "probe_positions")
            )
        yield Sweep(
            object_=object_[0],
            probe=probe[0] * np.float32(probe.shape[-1]),
            positions_px=problem.positions_px.copy() if bound_px is None else _moved(problem, used_px, bound_px),
        )


def _moved(problem: Problem, used_px: np.ndarray, bound_px: float) -> np.ndarray:
    """Positions of all frames, within the object, from those of the used ones."""
    rows = np.arange(len(problem.positions_px))
    shifts = used_px - problem.positions_px[problem.used]
    shifts = np.stack([np.interp(rows, problem.used, shifts[:, axis]) for axis in (0, 1)], axis=1)
    half = problem.probe.shape[-1] // 2
    return np.clip(
        problem.positions_px + np.clip(shifts, -bound_px, bound_px), half, np.subtract(problem.object_.shape, half)
    )


def _options(api: Any, problem: Problem, method: str, batch: int) -> Any:
    options = getattr(api, METHODS[method])()
    reconstructor, object_options = options.reconstructor_options, options.object_options
    reconstructor.batch_size = batch
    reconstructor.default_device = api.Devices.GPU if _device() == "cuda" else api.Devices.CPU
    reconstructor.exclude_measured_pixels_below = NO_DATA / 2
    object_options.determine_position_origin_coords_by = api.ObjectPosOriginCoordsMethods.SPECIFIED
    object_options.position_origin_coords = [ORIGIN_PX, ORIGIN_PX]
    object_options.remove_object_probe_ambiguity.enabled = False  # it would scale the counts out of the probe
    options.probe_position_options.optimization_plan.start = POSITIONS_FROM
    options.probe_position_options.step_size = POSITION_STEP
    if method == "ptychi-lsqml":
        reconstructor.rescale_probe_intensity_in_first_epoch = False  # it would spend the first sweep on that alone
    else:
        alpha = RPIE_ALPHA if method == "ptychi-rpie" else 1.0
        object_options.alpha = options.probe_options.alpha = alpha
        object_options.step_size = 1 / (1 + _overlap(problem, alpha) * batch / len(problem.used))
    return options


def _overlap(problem: Problem, alpha: float) -> float:
    """How many full steps all used frames together would make on one pixel of the object, where they are most."""
    intensity = np.sum(np.abs(problem.probe) ** 2, axis=0)
    step = intensity / ((1 - alpha) * intensity + alpha * intensity.max())
    n = step.shape[-1]
    total = np.zeros(problem.object_.shape)
    for y, x in np.rint(problem.positions_px[problem.used]).astype(int) - n // 2:
        total[y : y + n, x : x + n] += step
    return float(total.max())


def _task(new_task: Any, options: Any, problem: Problem) -> Any:
    patterns = problem.patterns[problem.used]
    counts = patterns.astype(np.float32)
    counts[patterns == no_data(patterns.dtype)] = NO_DATA
    y, x = problem.positions_px[problem.used].T
    return new_task(
        options,
        diffraction_data=counts,
        object_data=problem.object_[None],
        probe_data=problem.probe[None] / np.float32(problem.probe.shape[-1]),
        probe_position_y_px=y,
        probe_position_x_px=x,
    )


def _import_ptychi() -> tuple[Any, Any]:
    try:
        import ptychi.api as api  # pyright: ignore[reportMissingImports]
        from ptychi.api.task import PtychographyTask  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise ImportError(f"pty-chi is not installed ({error}); pip install 'bluesky-ptychonn[ptychi]'") from error
    except (ImportError, OSError, RuntimeError) as error:  # torchvision without its operators is a RuntimeError
        raise ImportError(
            f"pty-chi cannot be imported ({error}); install torch and the torchvision built with it from one index"
        ) from error
    return api, PtychographyTask


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def _contained(threads: int | None) -> Iterator[None]:
    """Give pty-chi the torch defaults that it wants, and take back what it changes in the process."""
    import torch

    dtype, device, own_threads = torch.get_default_dtype(), torch.get_default_device(), torch.get_num_threads()
    logger, root, silent = logging.getLogger("ptychi"), logging.getLogger(), logging.NullHandler()
    level = logger.level
    try:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(_device())
        torch.set_num_threads(threads or own_threads)
        logger.setLevel(logging.WARNING)  # above INFO it shows no progress bar either
        root.addHandler(silent)  # else its first word to the root logger would configure that
        yield
    finally:
        root.removeHandler(silent)
        logger.setLevel(level)
        torch.set_num_threads(own_threads)
        torch.set_default_device(None if device.type == "cpu" else device)
        torch.set_default_dtype(dtype)

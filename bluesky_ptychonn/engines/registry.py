"""Engines by name; each imports its library only when it is opened."""

from pathlib import Path

from bluesky_ptychonn.core.protocols import Engine
from bluesky_ptychonn.io.model_store import open_model

NAMES = ("lift", "openvino")

PACKAGED = {name: Path(__file__).parent.parent / "models" / name for name in ("starter", "large")}
"""The models that come with the package."""
STARTER = PACKAGED["starter"]
"""The one that is used where none is named."""


def open_engine(
    name: str, model_dir: Path | None = None, *, max_batch: int = 8, threads: int = 1, frame_px: int = 128
) -> Engine:
    """Open an engine, checked and ready for its probe.

    Parameters
    ----------
    name : {"lift", "openvino"}
    model_dir : Path, optional
        A model store, one version of it, or a name of `PACKAGED`; "starter" by default. Not used by "lift".
    max_batch : int
        Largest batch to infer at once.
    threads : int
        Cores for one batch. Not used by "lift".
    frame_px : int
        Side of the diffraction patterns, for "lift"; a model has its own.

    Raises
    ------
    ValueError
        If the name is unknown or ``max_batch`` is not positive.
    EngineMismatch
        If the model is harmed or does not do what its card says.
    ImportError
        If the library is not installed.

    Examples
    --------
    >>> open_engine("lift").patch_px
    96
    """
    if name not in NAMES:
        raise ValueError(f"engine = {name!r} is unknown; choose one of {', '.join(NAMES)}")
    if max_batch < 1:
        raise ValueError(f"max_batch = {max_batch}; it must be at least 1")
    if name == "lift":
        from bluesky_ptychonn.engines.lift import LiftEngine

        return LiftEngine(frame_px, max_batch=max_batch)
    from bluesky_ptychonn.engines.openvino import OpenVinoEngine

    folder = STARTER if model_dir is None else PACKAGED.get(str(model_dir), model_dir)
    return OpenVinoEngine(open_model(folder), max_batch, threads)

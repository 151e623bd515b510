"""Engines by name; each imports its library only when it is opened."""

import ctypes
import logging
from pathlib import Path

from bluesky_ptychonn.core.protocols import Engine, EngineUnavailable, GraphUnsupported
from bluesky_ptychonn.io.model_store import StoredModel, open_model

logger = logging.getLogger(__name__)

AUTO = ("tensorrt", "torch", "openvino", "onnxruntime")
"""What "auto" tries, the fastest first."""
NAMES = ("auto", *AUTO, "lift")

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
    name : {"auto", "tensorrt", "torch", "openvino", "onnxruntime", "lift"}
        "auto" is the first of `AUTO` that fits machine and model; why others do not is logged.
    model_dir : Path, optional
        A model store, one version of it, or a name of `PACKAGED`; "starter" by default. Not used by "lift".
    max_batch : int
        Largest batch to infer at once.
    threads : int
        Cores for one batch, of "openvino" and "onnxruntime".
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
    EngineUnavailable
        If driver or device do not fit the engine, or, of "auto", if no engine fits.

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
    model = open_model(STARTER if model_dir is None else PACKAGED.get(str(model_dir), model_dir))
    return _best(model, max_batch, threads) if name == "auto" else _open(name, model, max_batch, threads)


def _best(model: StoredModel, max_batch: int, threads: int) -> Engine:
    """The first engine of `AUTO` that opens; a harmed model would be harmed in the next one, too."""
    reasons = []
    for name in AUTO:
        try:
            engine = _open(name, model, max_batch, threads)
        except (ImportError, EngineUnavailable, GraphUnsupported) as error:
            logger.info("engine auto: not %s: %s", name, error)
            reasons.append(f"{name}: {error}")
        else:
            logger.info("engine auto: %s", name)
            return engine
    raise EngineUnavailable(f"no engine fits this machine and model {model.card.version}: {'; '.join(reasons)}")


def _open(name: str, model: StoredModel, max_batch: int, threads: int) -> Engine:
    if name == "tensorrt":
        from bluesky_ptychonn.engines.tensorrt import TensorRtEngine

        return TensorRtEngine(model, max_batch)
    if name == "torch":
        _refuse_without_driver(name)
        from bluesky_ptychonn.engines.torch_cuda import TorchEngine

        return TorchEngine(model, max_batch)
    if name == "openvino":
        from bluesky_ptychonn.engines.openvino import OpenVinoEngine

        return OpenVinoEngine(model, max_batch, threads)
    from bluesky_ptychonn.engines.onnx_runtime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(model, max_batch, threads)


def _refuse_without_driver(name: str) -> None:
    """Say so at once where no GPU is; importing torch takes seconds."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise EngineUnavailable(
            f"engine {name} needs an NVIDIA GPU, and its driver cannot be loaded: {error}; use engine openvino or "
            "onnxruntime"
        ) from error

"""Engines of TensorRT: built from the graph of a model, kept in a cache, read back.

From TensorRT 8.5 to 11 by what the library has, never by its version. Where networks can be strongly typed (10, always
so in 11) the types of the graph decide; before, half precision is a flag, and the preparation is pinned to single
precision layer by layer.
"""

import hashlib
import importlib
import logging
import os
import re
from collections import deque
from pathlib import Path
from typing import Any

from bluesky_ptychonn.core.protocols import EngineUnavailable, GraphUnsupported
from bluesky_ptychonn.engines.cuda_buffers import CudaBuffers
from bluesky_ptychonn.engines.whole_graph import NETWORKS, PATTERNS, whole_graph
from bluesky_ptychonn.io.durable import replace_file
from bluesky_ptychonn.io.model_store import StoredModel

logger = logging.getLogger(__name__)

WORKSPACE_BYTES = 1 << 30
"""Device memory that a layer may use while it computes."""

DIGEST_BYTES = hashlib.sha256().digest_size


def tensorrt_library() -> Any:
    """Import TensorRT.

    Raises
    ------
    ImportError
        If it is not installed.
    EngineUnavailable
        If it is too old.
    """
    try:
        library = importlib.import_module("tensorrt")
    except ImportError as error:
        raise ImportError(
            f"engine tensorrt: TensorRT cannot be imported ({error}). On a Jetson it comes with JetPack, and a virtual "
            f"environment sees it if it was made with --system-site-packages; elsewhere install tensorrt for your CUDA"
        ) from error
    if not hasattr(library.IExecutionContext, "set_tensor_address"):
        raise EngineUnavailable(
            f"engine tensorrt: TensorRT {library.__version__} is too old, its tensors have no names; 8.5 is the first"
        )
    return library


def default_cache() -> Path:
    """Folder for built engines: in ``XDG_CACHE_HOME``, or in ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bluesky_ptychonn" / "tensorrt"


class Plans:
    """Engines of models for one device, built on first use and kept as files.

    A file is named after model, graph, device, version of TensorRT, precision and batch, and begins with the hash of
    the rest. One that is torn, or that TensorRT does not read, is built anew.

    Parameters
    ----------
    library : module
        TensorRT.
    cuda : CudaBuffers
        The device.
    folder : Path, optional
        `default_cache` by default.

    Raises
    ------
    EngineUnavailable
        If TensorRT cannot use the device.
    """

    def __init__(self, library: Any, cuda: CudaBuffers, folder: Path | None = None) -> None:
        self._trt, self._cuda, self._folder = library, cuda, folder or default_cache()
        self._listener = _listener(self._trt)
        self._runtime = self._open("Runtime")

    def engine(self, model: StoredModel, precision: str, batch: int) -> tuple[Any, int | None]:
        """Engine of a model for batches up to ``batch``, and the only batch it takes, where that is fixed.

        Raises
        ------
        EngineMismatch
            If the model does not fit its card, or TensorRT does not take its graph.
        EngineUnavailable
            If TensorRT cannot build here.
        """
        whole = whole_graph(model, half=precision == "fp16")
        batch = whole.batch or batch
        path = self._folder / self._name(model, whole.data, precision, batch)
        plan = _kept(path)
        engine = None if plan is None else self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            if plan is not None:
                logger.warning("%s is not read by TensorRT%s: it is built anew", path, self.reason())
            plan = self._build(model, whole.data, precision, None if whole.batch else batch)
            _keep(path, plan)
            engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineUnavailable(f"engine tensorrt: TensorRT does not read what it has built{self.reason()}")
        return engine, whole.batch

    def reason(self) -> str:
        """What TensorRT complained about last, as the end of a message."""
        return f" ({'; '.join(self._listener.errors)})" if self._listener.errors else ""

    def _name(self, model: StoredModel, graph: bytes, precision: str, batch: int) -> str:
        parts = (
            model.card.sha256[:16],
            hashlib.sha256(graph).hexdigest()[:16],
            self._cuda.device,
            self._trt.__version__,
            precision,
            str(batch),
        )
        return "-".join(re.sub(r"[^\w.+]+", "_", part).strip("_") for part in parts) + ".engine"

    def _open(self, kind: str) -> Any:
        """Make a ``Builder`` or a ``Runtime``: without a usable device TensorRT gives None, or pybind a TypeError."""
        try:
            opened = getattr(self._trt, kind)(self._listener)
        except TypeError as error:
            self._listener.errors.append(str(error))
            opened = None
        if opened is None:
            raise EngineUnavailable(
                f"engine tensorrt: TensorRT {self._trt.__version__} cannot use {self._cuda.device}{self.reason()}; the "
                f"driver is for CUDA {self._cuda.driver}: this TensorRT may need a newer one, or not know the device"
            )
        return opened

    def _build(self, model: StoredModel, graph: bytes, precision: str, batch: int | None) -> bytes:
        trt, builder = self._trt, self._open("Builder")
        logger.info("TensorRT builds an engine for model %s; this takes some minutes once", model.card.version)
        kinds = [
            getattr(trt.NetworkDefinitionCreationFlag, kind)
            for kind in ("EXPLICIT_BATCH", "STRONGLY_TYPED")
            if hasattr(trt.NetworkDefinitionCreationFlag, kind)
        ]
        network = builder.create_network(sum(1 << int(kind) for kind in kinds))
        parser = trt.OnnxParser(network, self._listener)
        if not parser.parse(graph):
            errors = "; ".join(str(parser.get_error(k)) for k in range(parser.num_errors))
            raise GraphUnsupported(
                f"model {model.card.version}: TensorRT {trt.__version__} does not take its graph: {errors[-600:]}"
            )
        config = builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
        (config.clear_flag if precision == "fp32" else config.set_flag)(trt.BuilderFlag.TF32)
        typed = not hasattr(trt.BuilderFlag, "FP16") or hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
        if precision == "fp16" and not typed:
            config.set_flag(trt.BuilderFlag.FP16)
            config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
            _pin_preparation(trt, network)
        if batch is not None:
            profile = builder.create_optimization_profile()
            frame = (model.card.frame_px, model.card.frame_px)
            profile.set_shape(PATTERNS, (1, *frame), (batch, *frame), (batch, *frame))
            config.add_optimization_profile(profile)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise EngineUnavailable(
                f"engine tensorrt: TensorRT {trt.__version__} cannot build model {model.card.version} in {precision} "
                f"on {self._cuda.device}{self.reason()}"
            )
        return bytes(plan)


def _pin_preparation(trt: Any, network: Any) -> None:
    """Keep counts out of half precision, in which they overflow."""
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        outputs = range(layer.num_outputs)
        if layer.name.startswith(NETWORKS) or layer.type == trt.LayerType.CONSTANT:
            continue
        if all(layer.get_output(k).dtype == trt.float32 for k in outputs):
            layer.precision = trt.float32
            for k in outputs:
                layer.set_output_type(k, trt.float32)


def _listener(trt: Any) -> Any:
    class Listener(trt.ILogger):
        """Hands on what TensorRT says, and keeps what went wrong."""

        def __init__(self) -> None:
            super().__init__()
            self.errors = deque(maxlen=3)

        def log(self, severity: Any, msg: str) -> None:
            failed = severity.name in ("ERROR", "INTERNAL_ERROR")
            logger.log(logging.ERROR if failed else logging.DEBUG, "TensorRT: %s", msg)
            if failed:
                self.errors.append(msg.strip())

    return Listener()


def _kept(path: Path) -> bytes | None:
    """Plan of a file, None if it is not there or torn."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        logger.warning("%s cannot be read (%s): it is built anew", path, error)
        return None
    if hashlib.sha256(data[DIGEST_BYTES:]).digest() != data[:DIGEST_BYTES]:
        logger.warning("%s is torn: it is built anew", path)
        return None
    return data[DIGEST_BYTES:]


def _keep(path: Path, plan: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, hashlib.sha256(plan).digest() + plan)
    except OSError as error:
        logger.warning("the engine is not kept, the next start builds it anew: %s", error)

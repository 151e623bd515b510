"""The engine on an NVIDIA device: TensorRT runs the whole graph of a model, its preparation included.

On the device everything from the counts to the phase is one engine (`engines.whole_graph`); what depends on the probe
are inputs that stay there. For each batch the counts go in by one copy and the phase comes out by one, both between
pinned memory and buffers whose addresses never change, and both are recorded together with the computation: a batch is
one launch of a CUDA graph. A call of more patterns than the engine takes at once goes through two slots in turn, so
that the counts of one batch are converted and copied while another computes.
"""

import functools
import itertools
import logging
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from bluesky_ptychonn.core.model_card import ModelCard
from bluesky_ptychonn.core.protocols import EngineUnavailable
from bluesky_ptychonn.engines.cuda_buffers import CudaBuffers, Handle, Work, open_cuda
from bluesky_ptychonn.engines.steps import OneStep, StepsEngine, refuse_patterns
from bluesky_ptychonn.engines.tensorrt_plans import Plans, tensorrt_library
from bluesky_ptychonn.engines.whole_graph import NO_DATA, PATTERNS, PHASE, probe_inputs
from bluesky_ptychonn.io.model_store import StoredModel

logger = logging.getLogger(__name__)

PRECISIONS = ("fp16", "tf32", "fp32")

DEVICE_BATCH = 16
"""Patterns at once: beyond, a device gains little, and a call waits longer."""


class TensorRtEngine(StepsEngine):
    """A model in TensorRT, one CUDA graph for each size of a batch.

    Batches are padded to the next power of two, or to the batch that is fixed in the model's graph; all sizes are
    recorded when the engine is opened, none while it works. Every size has an execution context of its own, with its
    own memory.

    Parameters
    ----------
    model : StoredModel
        In single precision, or with weights stored in half precision.
    max_batch : int
    precision : {"fp16", "tf32", "fp32"}, optional
        What the networks compute in; the preparation is in single precision, its matrix products in TF32 where the
        device has it and "fp32" does not forbid it. By default "fp16", and "tf32" for a model of counts, which half
        precision cannot hold.
    device_batch : int
        Patterns that are computed at once; a larger batch is divided.
    cache_dir : Path, optional
        Where built engines are kept; `tensorrt_plans.default_cache` by default.

    Raises
    ------
    ImportError
        If TensorRT, or a library for CUDA, is not installed.
    EngineUnavailable
        If driver, device or version do not fit.
    EngineMismatch
        If the model does not fit its card, TensorRT does not take its graph, or it misses its golden patches.
    ValueError
        If the precision is unknown.
    """

    name = "tensorrt"
    networks_apart = False

    def __init__(
        self,
        model: StoredModel,
        max_batch: int = 8,
        precision: str | None = None,
        *,
        device_batch: int = DEVICE_BATCH,
        cache_dir: Path | None = None,
    ) -> None:
        chosen = precision or ("tf32" if model.card.preparation == "counts" else "fp16")
        if chosen not in PRECISIONS:
            raise ValueError(f"precision = {precision!r} is unknown; choose one of {', '.join(PRECISIONS)}")
        library, cuda = tensorrt_library(), open_cuda()
        self._plans = Plans(library, cuda, cache_dir)  # its runtime must outlive the engine
        largest = min(max_batch, device_batch)
        engine, fixed = self._plans.engine(model, chosen, largest)
        sizes = [fixed] if fixed else [*(1 << k for k in range((largest - 1).bit_length())), largest]
        try:
            steps = _DeviceSteps(engine, cuda, model.card, chosen, max_batch, sizes)
        except RuntimeError as error:
            raise EngineUnavailable(
                f"engine tensorrt: batches of {largest} do not fit on {cuda.device}: {error}; make the batch smaller"
            ) from error
        super().__init__(model, max_batch, steps)


class _DeviceSteps(OneStep):
    """All steps on the device, for batches of any length."""

    def __init__(
        self, engine: Any, cuda: CudaBuffers, card: ModelCard, precision: str, batch: int, sizes: list[int]
    ) -> None:
        self.batch, self.dtype = batch, precision
        self._cuda, self._card, self._at_once = cuda, card, sizes[-1]
        any_probe = np.ones((card.frame_px, card.frame_px), np.complex64)
        self._of_probe = {name: cuda.memory(values.shape) for name, values in probe_inputs(card, any_probe).items()}
        count = 1 if batch <= self._at_once else 2
        self._slots = [_Slot(engine, cuda, card, sizes, self._of_probe) for _ in range(count)]

    def set_probe(self, probe: np.ndarray) -> None:
        given = probe_inputs(self._card, probe)
        stream = self._slots[0].stream
        for name, values in given.items():
            self._cuda.to_device(self._of_probe[name], values, stream)
        self._cuda.synchronise(stream)

    def infer(self, patterns: np.ndarray, phase: np.ndarray) -> None:
        refuse_patterns(patterns, self._card.frame_px)
        under_way: deque[tuple[_Slot, np.ndarray]] = deque()
        slots = itertools.cycle(self._slots)
        for first in range(0, len(patterns), self._at_once):
            if len(under_way) == len(self._slots):
                slot, found = under_way.popleft()
                slot.finish(found)
            slot, part = next(slots), slice(first, first + self._at_once)
            slot.start(patterns[part])
            under_way.append((slot, phase[part]))
        for slot, found in under_way:
            slot.finish(found)

    def run_networks(self) -> None:
        """Run the whole graph without copies: in it the networks are not apart from their preparation."""
        for _ in range(0, self.batch, self._at_once):
            self._slots[0].compute_alone()


class _Slot:
    """One batch under way: pinned and device memory, a stream, and for each size the recorded work."""

    def __init__(
        self, engine: Any, cuda: CudaBuffers, card: ModelCard, sizes: list[int], of_probe: dict[str, Handle]
    ) -> None:
        self._engine, self._cuda, self._sizes, self._frame_px = engine, cuda, sizes, card.frame_px
        frames, patches = (sizes[-1], card.frame_px, card.frame_px), (sizes[-1], card.patch_px, card.patch_px)
        self._counts, self._phase = cuda.pinned(frames), cuda.pinned(patches)
        self._counts[:] = 0
        self._memory = {PATTERNS: cuda.memory(frames), PHASE: cuda.memory(patches), **of_probe}
        self.stream = cuda.stream()
        self._contexts = {size: self._context(size) for size in sizes}  # a recorded graph needs its context's memory
        self._work = {size: self._recorded(functools.partial(self._copy_and_compute, size)) for size in sizes}
        self._alone: Work | None = None

    def start(self, patterns: np.ndarray) -> None:
        """Put a batch on the stream."""
        fed = self._counts[: len(patterns)]
        np.copyto(fed, patterns, casting="unsafe")
        fed[patterns == np.iinfo(patterns.dtype).max] = NO_DATA
        self._work[next(size for size in self._sizes if size >= len(patterns))]()

    def finish(self, phase: np.ndarray) -> None:
        """Wait for the batch; fill ``phase`` (B, h, h)."""
        self._cuda.synchronise(self.stream)
        phase[:] = self._phase[: len(phase)]

    def compute_alone(self) -> None:
        """Compute the largest batch from what stands in device memory."""
        if self._alone is None:
            self._alone = self._recorded(functools.partial(self._compute, self._sizes[-1]))
        self._alone()
        self._cuda.synchronise(self.stream)

    def _context(self, size: int) -> Any:
        context = self._engine.create_execution_context()
        if context is None:
            raise RuntimeError(f"no execution context for batches of {size}")
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            context.set_tensor_address(name, self._memory[name].value)
        context.set_input_shape(PATTERNS, (size, self._frame_px, self._frame_px))
        return context

    def _recorded(self, work: Work) -> Work:
        """Do some work once as it is, in which TensorRT prepares a new shape, and record it."""
        work()
        self._cuda.synchronise(self.stream)
        try:
            return self._cuda.recorded(work, self.stream)
        except RuntimeError as error:
            logger.warning("no CUDA graph, each batch is enqueued anew: %s", error)
            return work

    def _copy_and_compute(self, size: int) -> None:
        self._cuda.to_device(self._memory[PATTERNS], self._counts[:size], self.stream)
        self._compute(size)
        self._cuda.to_host(self._phase[:size], self._memory[PHASE], self.stream)

    def _compute(self, size: int) -> None:
        if not self._contexts[size].execute_async_v3(self.stream.value):
            raise RuntimeError(f"TensorRT could not enqueue a batch of {size}")

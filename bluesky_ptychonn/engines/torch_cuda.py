"""The engine on a GPU without TensorRT: torch, its work captured once in CUDA graphs."""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator

import numpy as np
import torch

from bluesky_ptychonn.core.model_card import ModelCard
from bluesky_ptychonn.core.protocols import EngineUnavailable
from bluesky_ptychonn.engines.steps import (
    OneStep,
    StepsEngine,
    Wanted,
    counts_of_probe,
    first_wanted,
    refine_wanted,
    refuse_batches,
    refuse_patterns,
)
from bluesky_ptychonn.engines.torch_graph import open_graph
from bluesky_ptychonn.engines.torch_physics import (
    LiftFactors,
    ProjectFactors,
    lift_by,
    lift_factors,
    light,
    project_by,
    project_factors,
)
from bluesky_ptychonn.io.model_store import StoredModel

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
WARM_UP = 4
"""Runs before a capture, in which libraries choose their kernels and take their memory."""
ONE_AT_A_TIME = threading.Lock()
"""Torch captures one graph at a time in a process; meanwhile another engine may run in another thread."""


class TorchEngine(StepsEngine):
    """A network and its preparation on a CUDA device, one graph for each size of a batch.

    Patterns travel as they are, patches return as float32: one copy each way for a batch, from and to pinned memory.
    Batches are padded to the next power of two, at most ``max_batch``, or to the batch that is fixed in the graph. A
    new probe is written into the buffers that the captured graphs read.

    Parameters
    ----------
    model : StoredModel
    max_batch : int
    dtype : {"fp16", "bf16", "fp32"}, optional
        What the networks compute in; lift and projection stay in single precision. By default "fp16", and "fp32" for a
        model of counts, which half precision cannot hold; CUDA convolves that in TF32.
    device : str, optional
        Such as "cuda:1"; by default the first CUDA device. On "cpu" all is computed step by step: for tests.

    Raises
    ------
    EngineUnavailable
        If torch finds no such device, or it has too little memory left.
    EngineMismatch
        If the network has other shapes than its card, holds operators that are not known, or does not give the golden
        patches.
    ValueError
        If the type is unknown.
    """

    name = "torch"

    def __init__(
        self, model: StoredModel, max_batch: int = 8, *, dtype: str | None = None, device: str | None = None
    ) -> None:
        counts = model.card.preparation == "counts"
        chosen = dtype or ("fp32" if counts else "fp16")
        if chosen not in DTYPES:
            raise ValueError(f"dtype = {dtype!r} is unknown; choose one of {', '.join(DTYPES)}")
        place = usable_device(device)
        try:
            chain = (_CountsChain if counts else _LiftChain)(model, max_batch, place, chosen)
            super().__init__(model, max_batch, _Batches(chain, model.card, place, chosen))
        except torch.cuda.OutOfMemoryError as error:
            raise EngineUnavailable(
                f"engine torch: {place} has too little memory left for batches of {max_batch}: {error}; make the batch "
                "smaller, or use engine openvino or onnxruntime"
            ) from error


def usable_device(name: str | None) -> torch.device:
    """Device by its name, tried out; the first CUDA device without one.

    Raises
    ------
    EngineUnavailable
        If it is not there or does not compute.
    """
    device = torch.device(name or "cuda")
    remedy = "use engine openvino or onnxruntime"
    if device.type == "cuda" and not torch.cuda.is_available():
        why = "it was built without CUDA" if torch.version.cuda is None else "it finds no NVIDIA driver or device"
        raise EngineUnavailable(f"engine torch: torch {torch.__version__} cannot use a GPU, {why}; {remedy}")
    try:
        torch.ones(1, device=device).sum().item()
    except RuntimeError as error:
        why = str(error).strip().partition("\n")[0]
        raise EngineUnavailable(f"engine torch: {device} does not compute: {why}; {remedy}") from error
    return device


class _Network:
    """A graph of a model on a device, in some type; takes and gives float32."""

    def __init__(self, model: StoredModel, wanted: Wanted, device: torch.device, dtype: str) -> None:
        network, self.batch = open_graph(model, wanted)
        self.fixed = network.sides[0] is not None
        self.shape = (self.batch, wanted.channels, wanted.side_px, wanted.side_px)
        self._dtype = DTYPES[dtype]
        placed = {"device": device, "dtype": self._dtype, "memory_format": torch.channels_last}
        self._network = network.to(**placed)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return self._network(images.to(self._dtype)).float()


class _LiftChain:
    """The lift, a first guess, and, where the model has it, the projection of the guess and its correction."""

    def __init__(self, model: StoredModel, max_batch: int, device: torch.device, dtype: str) -> None:
        card = model.card
        self._patch_px = card.patch_px
        first = _Network(model, first_wanted(card, max_batch), device, dtype)
        self.networks = [first]
        if card.refine_file:
            self.networks.append(_Network(model, refine_wanted(card, first.batch), device, dtype))
            refuse_batches(card, first.batch, self.networks[1].batch)
        self._of_probe = [part.to(device) for part in self._factors(np.ones((card.frame_px, card.frame_px)))]

    def _factors(self, probe: np.ndarray) -> list[torch.Tensor]:
        """What depends on the probe alone: computed in double precision, kept in single."""
        exact = torch.from_numpy(probe.astype(np.complex128))[None]
        parts = (
            *lift_factors(exact, self._patch_px),
            *project_factors(exact, self._patch_px),
            light(exact, self._patch_px),
        )
        return [part.to(torch.complex64 if part.is_complex() else torch.float32) for part in parts]

    def set_probe(self, probe: np.ndarray, _: float) -> None:
        for held, part in zip(self._of_probe, self._factors(probe)):
            held.copy_(part)

    def phase(self, patterns: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Phase (B, h, h) of patterns (B, N, N) float32, valid where they are data."""
        amplitude, unit, inverse, wave, wave_inverse, bright = self._of_probe
        bright = bright.expand(len(patterns), -1, -1, -1)
        lifted = lift_by(patterns, valid, LiftFactors(amplitude, unit, inverse))
        guess = self.networks[0](torch.cat([lifted, bright], dim=1))
        if len(self.networks) == 1:
            return guess[:, 1]
        asked = project_by(patterns, valid, ProjectFactors(wave, wave_inverse), guess)
        return guess[:, 1] + self.networks[1](torch.cat([asked, guess, bright], dim=1))[:, 1]


class _CountsChain:
    """Counts as they are, or scaled to those of the training."""

    def __init__(self, model: StoredModel, max_batch: int, device: torch.device, dtype: str) -> None:
        self._reference = model.card.reference_counts
        self.networks = [_Network(model, first_wanted(model.card, max_batch), device, dtype)]
        self._scale = torch.ones(1, device=device)

    def set_probe(self, _: np.ndarray, counts: float) -> None:
        if self._reference is not None:
            self._scale.fill_(self._reference / counts)

    def phase(self, patterns: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Phase (B, N, N) of patterns (B, N, N) float32, valid where they are data."""
        given = self.networks[0](torch.where(valid, patterns * self._scale, 0)[:, None])
        return given if given.ndim == 3 else given[:, -1]


class _Wire:
    """The way of counts of one type to the device; all bits set say "no data"."""

    def __init__(self, dtype: np.dtype, shape: tuple[int, int, int], device: torch.device) -> None:
        signed, self._wide = {2: (torch.int16, torch.int32), 4: (torch.int32, torch.int64)}[dtype.itemsize]
        self._mask = int(np.iinfo(dtype).max)
        self._pinned = torch.zeros(shape, dtype=signed, pin_memory=device.type == "cuda")
        self._there = torch.zeros(shape, dtype=signed, device=device)
        self._host = self._pinned.numpy().view(dtype)
        self.work: dict[int, Callable[[], None]] = {}
        """What is done with the counts, by the size of the batch."""

    def send(self, patterns: np.ndarray) -> None:
        """Bring patterns (B, N, N) to the device; what stood behind them stays."""
        count = len(patterns)
        self._host[:count] = patterns
        self._there[:count].copy_(self._pinned[:count], non_blocking=True)

    def counts(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The first counts on the device, (B, N, N) float32, and where they are data."""
        raw = self._there[:size]
        return (raw.to(self._wide) & self._mask).to(torch.float32), raw != -1


class _Batches(OneStep):
    """Steps on a device: buffers that stay, and on CUDA one captured graph for each size of a batch."""

    def __init__(self, chain: _LiftChain | _CountsChain, card: ModelCard, device: torch.device, dtype: str) -> None:
        self._chain, self._card, self._device, self.dtype = chain, card, device, dtype
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.batch = chain.networks[0].batch
        powers = (1 << k for k in range((self.batch - 1).bit_length()))
        self._sizes = [self.batch] if chain.networks[0].fixed else [*powers, self.batch]
        shape = (self.batch, card.patch_px, card.patch_px)
        self._found = torch.zeros(shape, device=device)
        self._pinned = torch.zeros(shape, pin_memory=device.type == "cuda")
        self._host = self._pinned.numpy()
        self._fed: list[torch.Tensor] = []
        self._networks_alone: Callable[[], None] | None = None
        self._wires: dict[np.dtype, _Wire] = {}
        if self._stream is not None:
            torch.cuda.synchronize(device)  # what was made so far was made on another stream
        for size in self._sizes:  # of uint16; others are captured when they come
            self._infer(np.zeros((size, card.frame_px, card.frame_px), np.uint16))

    def set_probe(self, probe: np.ndarray) -> None:
        counts = counts_of_probe(probe, self._card.frame_px)
        with self._queue():
            self._chain.set_probe(probe, counts)

    def infer(self, patterns: np.ndarray, phase: np.ndarray) -> None:
        refuse_patterns(patterns, self._card.frame_px)
        self._infer(patterns)
        phase[:] = self._host[: len(patterns)]

    def run_networks(self) -> None:
        with self._queue():
            if self._networks_alone is None:
                self._fed = [torch.zeros(network.shape, device=self._device) for network in self._chain.networks]
                self._networks_alone = self._captured(self._run_fed)
            self._networks_alone()

    def _run_fed(self) -> None:
        for network, images in zip(self._chain.networks, self._fed):
            network(images)

    def _infer(self, patterns: np.ndarray) -> None:
        """Leave the phase of patterns on the host."""
        patterns, count = _with_two_or_four_bytes(patterns), len(patterns)
        size = next(size for size in self._sizes if size >= count)
        with self._queue():
            if patterns.dtype not in self._wires:
                shape = (self.batch, self._card.frame_px, self._card.frame_px)
                self._wires[patterns.dtype] = _Wire(patterns.dtype, shape, self._device)
            wire = self._wires[patterns.dtype]
            if size not in wire.work:
                wire.work[size] = self._captured(functools.partial(self._compute, wire, size))
            wire.send(patterns)
            wire.work[size]()
            self._pinned[:count].copy_(self._found[:count], non_blocking=True)

    def _compute(self, wire: _Wire, size: int) -> None:
        self._found[:size] = self._chain.phase(*wire.counts(size))

    @contextlib.contextmanager
    def _queue(self) -> Iterator[None]:
        """What is done in it is done on the own stream, and is done at its end."""
        with torch.no_grad():
            if self._stream is None:
                yield
                return
            with torch.cuda.stream(self._stream):
                yield
                self._stream.synchronize()

    def _captured(self, work: Callable[[], None]) -> Callable[[], None]:
        """Work to call again and again, on CUDA as one graph; within `_queue`."""
        if self._stream is None:
            return work
        for _ in range(WARM_UP):
            work()
        graph = torch.cuda.CUDAGraph()
        with ONE_AT_A_TIME, torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            work()
        return graph.replay


def _with_two_or_four_bytes(patterns: np.ndarray) -> np.ndarray:
    """Counts as uint16 or uint32, in the order of bytes of this machine, with their own value for "no data"."""
    size = patterns.dtype.itemsize
    if size == 1:
        wide = patterns.astype(np.uint16)
        wide[patterns == np.iinfo(np.uint8).max] = np.iinfo(np.uint16).max
        return wide
    if size == 8:
        return np.minimum(patterns, np.iinfo(np.uint32).max).astype(np.uint32)
    return patterns.astype(f"u{size}", copy=False)

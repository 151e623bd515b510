"""The engine on a CPU: OpenVINO runs the networks, numba and FFTs prepare their input."""

import functools
from typing import Any

import numpy as np

from bluesky_ptychonn.core.lift import FastLift
from bluesky_ptychonn.core.model_card import ModelCard
from bluesky_ptychonn.core.projection import FastProjection, light
from bluesky_ptychonn.core.protocols import EngineMismatch
from bluesky_ptychonn.engines.lift import lift_for
from bluesky_ptychonn.io.model_store import StoredModel

GOLDEN_TOLERANCE_RAD = 0.02
"""Root mean square by which patches may differ from the golden ones."""


class OpenVinoEngine:
    """A network compiled for the processor it runs on.

    The golden pair of the model is checked here, preparation included, before the engine can be used. A graph of any
    batch is compiled for ``max_batch``, because a fixed one is a tenth faster; one whose batch is fixed runs as it is:
    shorter batches are padded, longer ones divided.

    Parameters
    ----------
    model : StoredModel
    max_batch : int
    threads : int
        Cores for one batch.

    Raises
    ------
    EngineMismatch
        If the network has other shapes than its card or does not give the golden patches.
    """

    name = "openvino"

    def __init__(self, model: StoredModel, max_batch: int = 8, threads: int = 1) -> None:
        card = model.card
        self.card: ModelCard | None = card
        self.frame_px, self.patch_px, self.max_batch = card.frame_px, card.patch_px, max_batch
        self._has_probe = False
        self._steps = (_CountsStep if card.preparation == "counts" else _LiftSteps)(model, max_batch, threads)
        check_golden(self, model)
        self._has_probe = False

    def set_probe(self, probe: np.ndarray) -> None:
        """Take a new probe (N, N), scaled to the counts per frame; the networks stay compiled."""
        self._steps.set_probe(probe)
        self._has_probe = True

    def infer(self, patterns: np.ndarray) -> np.ndarray:
        """Patterns (B, N, N) to phase (B, h, h) float32, rad."""
        if not self._has_probe:
            raise RuntimeError("the engine has no probe yet; call set_probe first")
        if not 1 <= len(patterns) <= self.max_batch:
            raise ValueError(f"a batch of {len(patterns)} patterns; this engine takes 1 to {self.max_batch}")
        phase = np.empty((len(patterns), self.patch_px, self.patch_px), np.float32)
        size = self._steps.batch
        for first in range(0, len(patterns), size):
            self._steps.infer(patterns[first : first + size], phase[first : first + size])
        return phase


@functools.cache
def _core() -> Any:
    """The one OpenVINO core of this process.

    Each core gives the thread a stack for signal handlers, and on its end the one that was there before: with two that
    end in another order than the reverse, the thread is left with a stack that is gone, and dies of the next signal.
    """
    import openvino

    return openvino.Core()


class _Network:
    """One compiled graph, the array it reads and the one it writes.

    Parameters
    ----------
    model : StoredModel
    file : str
        The graph, among the files of the model.
    batch, threads : int
        Compiled for; the graph's own batch where that is fixed.
    channels, side_px : int
        Of its input (B, C, h, h).
    given : tuple of tuple
        Shapes that its output may have behind the batch.
    """

    def __init__(
        self, model: StoredModel, file: str, batch: int, threads: int, channels: int, side_px: int, given: tuple
    ) -> None:
        import openvino

        core, who = _core(), f"model {model.card.version}: {file}"
        try:
            graph = core.read_model(model.directory / file)
            fixed = graph.input(0).partial_shape[0]
            self.batch = batch if fixed.is_dynamic else fixed.get_length()
            shape = [self.batch, channels, side_px, side_px]
            if not graph.input(0).partial_shape.compatible(openvino.PartialShape(shape)):
                raise EngineMismatch(f"{who} takes {graph.input(0).partial_shape}; its card says {shape}")
            graph.reshape(shape)
            found = graph.output(0).partial_shape
            if found.is_dynamic or tuple(found.to_shape()) not in [(self.batch, *behind) for behind in given]:
                wanted = " or ".join(str(("B", *behind)) for behind in given)
                raise EngineMismatch(f"{who} gives {found}; its card says {wanted}")
            options: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
            if model.card.preparation == "counts":  # else bfloat16 where the processor has it: too coarse for counts
                options["INFERENCE_PRECISION_HINT"] = "f32"
            self._request: Any = core.compile_model(graph, "CPU", options).create_infer_request()
        except RuntimeError as error:
            raise EngineMismatch(f"{who} cannot be compiled: {str(error).strip()[-300:]}") from error
        self.input = np.zeros(shape, np.float32)
        self._request.set_input_tensor(openvino.Tensor(self.input, shared_memory=True))
        self._output = self._request.get_output_tensor(0)

    def run(self) -> np.ndarray:
        """Output for what now stands in ``input``; the next run overwrites it."""
        self._request.infer()
        return self._output.data


class _LiftSteps:
    """The lift, a first guess, and, where the model has it, the projection of the guess and its correction."""

    def __init__(self, model: StoredModel, batch: int, threads: int) -> None:
        card = model.card
        self._frame_px, side_px = card.frame_px, card.patch_px
        given = ((2, side_px, side_px),)
        self._first = _Network(model, card.graph_file, batch, threads, 3, side_px, given)
        self.batch = self._first.batch
        self._refine = None
        if card.refine_file:
            self._refine = _Network(model, card.refine_file, self.batch, threads, 5, side_px, given)
            if self._refine.batch != self.batch:
                raise EngineMismatch(
                    f"model {card.version}: {card.graph_file} takes {self.batch} patches at once and "
                    f"{card.refine_file} {self._refine.batch}; export both with the same batch"
                )

    def set_probe(self, probe: np.ndarray) -> None:
        side_px = self._first.input.shape[-1]
        self._lift: FastLift = lift_for(probe, self._frame_px, side_px)
        self._first.input[:, 2] = light(probe, side_px)
        if self._refine is not None:
            self._project = FastProjection(probe, side_px)
            self._refine.input[:, 4] = self._first.input[:, 2]

    def infer(self, patterns: np.ndarray, phase: np.ndarray) -> None:
        count = len(patterns)
        self._lift(patterns, self._first.input[:count, :2])
        guess = self._first.run()[:count]
        if self._refine is None:
            phase[:] = guess[:, 1]
            return
        fed = self._refine.input[:count]
        fed[:, 2:4] = guess
        self._project(patterns, guess, fed[:, :2])
        np.add(guess[:, 1], self._refine.run()[:count, 1], out=phase)


class _CountsStep:
    """Counts as they are, or scaled to those of the training."""

    def __init__(self, model: StoredModel, batch: int, threads: int) -> None:
        side_px, self._reference = model.card.frame_px, model.card.reference_counts
        given = tuple((*channels, side_px, side_px) for channels in ((), (1,), (2,)))
        self._network = _Network(model, model.card.graph_file, batch, threads, 1, side_px, given)
        self.batch = self._network.batch
        self._scale = np.float32(1)

    def set_probe(self, probe: np.ndarray) -> None:
        side_px = self._network.input.shape[-1]
        counts = float(np.sum(np.abs(probe).astype(np.float64) ** 2))
        if np.shape(probe) != (side_px, side_px):
            raise ValueError(f"the probe has shape {np.shape(probe)} px; this engine takes ({side_px}, {side_px})")
        if not (np.isfinite(counts) and counts > 0):
            raise ValueError(f"the probe holds {counts} counts; it must be finite and have power")
        if self._reference is not None:
            self._scale = np.float32(self._reference / counts)

    def infer(self, patterns: np.ndarray, phase: np.ndarray) -> None:
        fed = self._network.input[: len(patterns), 0]
        if patterns.shape != fed.shape or patterns.dtype.kind != "u":
            raise ValueError(
                f"patterns have shape {patterns.shape} and type {patterns.dtype}; the model asks for unsigned counts "
                f"(B, {fed.shape[1]}, {fed.shape[2]})"
            )
        np.multiply(patterns, self._scale, out=fed, casting="unsafe")
        fed[patterns == np.iinfo(patterns.dtype).max] = 0
        given = self._network.run()[: len(patterns)]
        phase[:] = given if given.ndim == 3 else given[:, -1]


def check_golden(engine, model: StoredModel) -> None:
    """Compare what an engine makes of the golden patterns with the golden patches, one batch after another.

    Raises
    ------
    EngineMismatch
        If they differ by more than `GOLDEN_TOLERANCE_RAD`.
    """
    with np.load(model.golden_path, allow_pickle=False) as golden:
        patterns, probe, expected = golden["patterns"], golden["probe"], golden["patches_rad"]
    try:
        engine.set_probe(probe)
        batches = range(0, len(patterns), engine.max_batch)
        found = np.concatenate([engine.infer(patterns[b : b + engine.max_batch]) for b in batches])
        error_rad = float(np.sqrt(np.mean((found - expected) ** 2)))
    except ValueError as error:
        raise EngineMismatch(f"model {model.card.version}: the golden pair does not fit: {error}") from error
    if not error_rad <= GOLDEN_TOLERANCE_RAD:
        raise EngineMismatch(
            f"model {model.card.version} misses its golden patches by {error_rad:.3f} rad (allowed is "
            f"{GOLDEN_TOLERANCE_RAD} rad) in engine {engine.name}; use another engine, or export the model anew"
        )

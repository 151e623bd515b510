"""The engine on a CPU: OpenVINO runs the network, numba and an FFT prepare its input."""

import numpy as np

from bluesky_ptychonn.core.model_card import ModelCard
from bluesky_ptychonn.core.protocols import EngineMismatch
from bluesky_ptychonn.engines.lift import lift_for, lifted
from bluesky_ptychonn.io.model_store import StoredModel

GOLDEN_TOLERANCE_RAD = 0.02
"""Root mean square by which patches may differ from the golden ones."""


class OpenVinoEngine:
    """A network compiled for the processor it runs on.

    The golden pair of the model is checked here, preparation included, before the engine can be used.

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
        import openvino

        self.card: ModelCard | None = model.card
        self.frame_px, self.patch_px = model.card.frame_px, model.card.patch_px
        self.max_batch = max_batch
        self._lift = None
        core = openvino.Core()
        try:
            graph = core.read_model(model.graph_path)
            graph.reshape([max_batch, 2, self.patch_px, self.patch_px])  # a fixed batch is a tenth faster
            shape = graph.output(0).partial_shape
            if shape.rank.get_length() != 3 or [shape[i].get_length() for i in (1, 2)] != 2 * [self.patch_px]:
                raise EngineMismatch(
                    f"model {model.card.version} gives {shape}; its card says (B, {self.patch_px}, {self.patch_px})"
                )
            options = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
            compiled = core.compile_model(graph, "CPU", options)
        except RuntimeError as error:
            raise EngineMismatch(
                f"model {model.card.version} cannot be compiled: {str(error).strip()[-300:]}"
            ) from error
        self._request = compiled.create_infer_request()
        self._input = np.zeros((max_batch, 2, self.patch_px, self.patch_px), np.float32)
        check_golden(self, model)
        self._lift = None

    def set_probe(self, probe: np.ndarray) -> None:
        """Take a new probe (N, N), scaled to the counts per frame; the network stays compiled."""
        self._lift = lift_for(probe, self.frame_px, self.patch_px)

    def infer(self, patterns: np.ndarray) -> np.ndarray:
        """Patterns (B, N, N) to phase (B, h, h) float32, rad."""
        count = len(patterns)
        lifted(self._lift, patterns, self.max_batch, self._input[:count])
        return self._request.infer({0: self._input}, share_inputs=True)[0][:count]


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

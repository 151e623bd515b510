"""The engine on a CPU: OpenVINO runs the networks, numba and FFTs prepare their input."""

import functools
from typing import Any

import numpy as np

from bluesky_ptychonn.core.protocols import EngineMismatch
from bluesky_ptychonn.engines.steps import StepsEngine, Wanted, array_steps, is_eight_bit
from bluesky_ptychonn.io.model_store import StoredModel


class OpenVinoEngine(StepsEngine):
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
        super().__init__(model, max_batch, array_steps(model, max_batch, functools.partial(_Network, model, threads)))


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
    threads : int
        Cores it is compiled for.
    wanted : Wanted
        What the card says of it.
    """

    def __init__(self, model: StoredModel, threads: int, wanted: Wanted) -> None:
        import openvino

        core, who, path = _core(), f"model {model.card.version}: {wanted.file}", model.directory / wanted.file
        try:
            graph = core.read_model(path)
            self.batch = wanted.refuse_input(who, _sides_of(graph.input(0)))
            shape = [self.batch, wanted.channels, wanted.side_px, wanted.side_px]
            graph.reshape(shape)
            wanted.refuse_output(who, _sides_of(graph.output(0)), self.batch)
            # pinning would move the calling thread to a core of OpenVINO's choice
            pinning = {"ENABLE_CPU_PINNING": False}
            options: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, **pinning}
            if model.card.preparation == "counts":  # else bfloat16 where the processor has it: too coarse for counts
                options["INFERENCE_PRECISION_HINT"] = "f32"
            compiled = core.compile_model(graph, "CPU", options)
            self._request: Any = compiled.create_infer_request()
        except RuntimeError as error:
            raise EngineMismatch(f"{who} cannot be compiled: {str(error).strip()[-300:]}") from error
        precision: str = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        self.dtype: str = "int8" if is_eight_bit(path) else {"f32": "fp32", "f16": "fp16"}.get(precision, precision)
        self.input = np.zeros(shape, np.float32)
        self._request.set_input_tensor(openvino.Tensor(self.input, shared_memory=True))
        self._output = self._request.get_output_tensor(0)

    def run(self) -> np.ndarray:
        """Output for what now stands in ``input``; the next run overwrites it."""
        self._request.infer()
        return self._output.data


def _sides_of(port: Any) -> list[int | None]:
    shape = port.partial_shape
    return [None if side.is_dynamic else side.get_length() for side in shape] if shape.rank.is_static else []

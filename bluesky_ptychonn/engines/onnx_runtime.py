"""The engine on any CPU: ONNX Runtime runs the networks, numba and FFTs prepare their input."""

import functools
import importlib
from typing import Any

import numpy as np

from bluesky_ptychonn.core.protocols import EngineMismatch
from bluesky_ptychonn.engines.steps import StepsEngine, Wanted, array_steps, is_eight_bit
from bluesky_ptychonn.io.model_store import StoredModel

ERRORS_ONLY = 3
"""Severity from which ONNX Runtime writes on the terminal."""


class OnnxRuntimeEngine(StepsEngine):
    """A network in ONNX Runtime, in single precision or in the 8 bits of its graph.

    The golden pair of the model is checked here, preparation included, before the engine can be used. Networks always
    run for ``max_batch`` patterns, or for the batch that is fixed in their graph: shorter batches are padded, longer
    ones divided.

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

    name = "onnxruntime"

    def __init__(self, model: StoredModel, max_batch: int = 8, threads: int = 1) -> None:
        super().__init__(model, max_batch, array_steps(model, max_batch, functools.partial(_Network, model, threads)))


class _Network:
    """One graph in a session, the array it reads and the one it writes.

    Parameters
    ----------
    model : StoredModel
    threads : int
        Cores it runs on.
    wanted : Wanted
        What the card says of it.
    """

    def __init__(self, model: StoredModel, threads: int, wanted: Wanted) -> None:
        import onnxruntime

        state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
        who, path = f"model {model.card.version}: {wanted.file}", model.directory / wanted.file
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = ERRORS_ONLY
        faults = (state.Fail, state.InvalidGraph, state.InvalidProtobuf, state.InvalidArgument, state.NotImplemented)
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            taken, given = self._session.get_inputs()[0], self._session.get_outputs()[0]
            sides = [side if isinstance(side, int) else None for side in taken.shape]
            self.batch = wanted.refuse_input(who, sides)
            self.input = np.zeros((self.batch, wanted.channels, wanted.side_px, wanted.side_px), np.float32)
            self._output: Any = self._session.run([given.name], {taken.name: self.input})[0]
        except (*faults, state.RuntimeException) as error:
            raise EngineMismatch(f"{who} cannot be compiled: {str(error).strip()[-300:]}") from error
        wanted.refuse_output(who, self._output.shape, self.batch)
        self.dtype = "int8" if is_eight_bit(path) else "fp32"
        self._binding = self._session.io_binding()
        for bind, name, array in (
            (self._binding.bind_input, taken.name, self.input),
            (self._binding.bind_output, given.name, self._output),
        ):
            bind(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)

    def run(self) -> np.ndarray:
        """Output for what now stands in ``input``; the next run overwrites it."""
        self._session.run_with_iobinding(self._binding)
        return self._output

"""Memory, streams and graphs of a CUDA device, through whichever Python library is there.

cuda-python is tried first: it has wheels for desktops and Jetson, and knows CUDA graphs. pycuda, which is built with
the CUDA toolkit at hand, does the same without graphs. Both use the primary context of the device, which is also that
of TensorRT, so that memory and streams of one may be given to the other. Whatever is allocated here is given back when
nothing refers to it any more.
"""

import ctypes
import importlib
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from typing import Any, Protocol

import numpy as np

from bluesky_ptychonn.core.protocols import EngineUnavailable

NON_BLOCKING = 1
"""Flag of a stream that does not wait for the default stream: the same number in both interfaces of CUDA."""

Work = Callable[[], None]
"""Puts work on a stream and returns at once."""


class Handle:
    """Something that CUDA holds for us: device memory by its address, a stream, a graph.

    Parameters
    ----------
    value : int
        Address or handle, as TensorRT takes it.
    release : callable
        Gives it back.
    native : object, optional
        What the Python library calls it, where that is more than a number.
    """

    def __init__(self, value: int, release: Callable[[], Any], native: Any = None) -> None:
        self.value, self.native = value, native
        weakref.finalize(self, release)


class CudaBuffers(Protocol):
    """What an engine needs of a device; all arrays are float32."""

    library: str
    """Name of the Python library."""

    device: str
    """Name of the device, its compute capability and its number of multiprocessors."""

    driver: str
    """The CUDA version that the driver knows."""

    def pinned(self, shape: tuple[int, ...]) -> np.ndarray:
        """Host array in page-locked memory, from which copies are asynchronous."""
        ...

    def memory(self, shape: tuple[int, ...]) -> Handle:
        """Device memory for an array."""
        ...

    def stream(self) -> Handle:
        """A stream that waits for no other."""
        ...

    def to_device(self, target: Handle, source: np.ndarray, stream: Handle) -> None:
        """Put a copy of a contiguous array to device memory on a stream."""
        ...

    def to_host(self, target: np.ndarray, source: Handle, stream: Handle) -> None:
        """Put a copy of device memory to a contiguous array on a stream."""
        ...

    def synchronise(self, stream: Handle) -> None:
        """Wait until a stream has done all its work."""
        ...

    def recorded(self, work: Work, stream: Handle) -> Work:
        """Record what ``work`` puts on a stream as a CUDA graph; calling the result repeats it, in one launch.

        The work is not done now, and its addresses and shapes are fixed. Without graphs the result is ``work``.
        """
        ...


class CudaPython:
    """CUDA through cuda-python: the runtime API.

    Raises
    ------
    ImportError
        If it is not installed.
    RuntimeError
        If there is no driver or no device.
    """

    library = "cuda-python"

    def __init__(self) -> None:
        try:
            self._api = importlib.import_module("cuda.bindings.runtime")
        except ModuleNotFoundError:
            self._api = importlib.import_module("cuda.cudart")  # before 12.6, and the only name there
        if self._call("cudaGetDeviceCount") < 1:
            raise RuntimeError("there is no CUDA device")
        found = self._call("cudaGetDeviceProperties", self._call("cudaGetDevice"))
        name = found.name.decode() if isinstance(found.name, bytes) else found.name
        self.device = _described(name, (found.major, found.minor), found.multiProcessorCount)
        self.driver = _version(self._call("cudaDriverGetVersion"))

    def pinned(self, shape: tuple[int, ...]) -> np.ndarray:
        size = 4 * prod(shape)
        address = self._call("cudaHostAlloc", size, self._api.cudaHostAllocDefault)
        held = (ctypes.c_byte * size).from_address(int(address))
        weakref.finalize(held, self._api.cudaFreeHost, address)
        return np.frombuffer(memoryview(held), np.float32).reshape(shape)

    def memory(self, shape: tuple[int, ...]) -> Handle:
        address = self._call("cudaMalloc", 4 * prod(shape))
        return Handle(int(address), lambda free=self._api.cudaFree: free(address))

    def stream(self) -> Handle:
        stream = self._call("cudaStreamCreateWithFlags", NON_BLOCKING)
        return Handle(int(stream), lambda destroy=self._api.cudaStreamDestroy: destroy(stream), stream)

    def to_device(self, target: Handle, source: np.ndarray, stream: Handle) -> None:
        kind = self._api.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", target.value, source.ctypes.data, source.nbytes, kind, stream.native)

    def to_host(self, target: np.ndarray, source: Handle, stream: Handle) -> None:
        kind = self._api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", target.ctypes.data, source.value, target.nbytes, kind, stream.native)

    def synchronise(self, stream: Handle) -> None:
        self._call("cudaStreamSynchronize", stream.native)

    def recorded(self, work: Work, stream: Handle) -> Work:
        mode = self._api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream.native, mode)
        try:
            work()
        finally:
            graph = self._call("cudaStreamEndCapture", stream.native)
        launched = self._call("cudaGraphInstantiateWithFlags", graph, 0)
        self._call("cudaGraphDestroy", graph)
        held = Handle(int(launched), lambda destroy=self._api.cudaGraphExecDestroy: destroy(launched), launched)
        return lambda: self._call("cudaGraphLaunch", held.native, stream.native)

    def _call(self, function: str, *arguments: Any) -> Any:
        error, *given = getattr(self._api, function)(*arguments)
        if int(error):
            raise RuntimeError(f"{function} failed: {error.name} ({int(error)})")
        return given[0] if given else None


class PyCuda:
    """CUDA through pycuda: the driver API, without graphs.

    Raises
    ------
    ImportError
        If it is not installed, or libcuda.so.1 is not found.
    RuntimeError
        If there is no device.
    """

    library = "pycuda"

    def __init__(self) -> None:
        self._api = importlib.import_module("pycuda.driver")
        try:
            self._api.init()
            device = self._api.Device(0)
            self._context = device.retain_primary_context()
        except self._api.Error as error:
            raise RuntimeError(str(error)) from error
        multiprocessors = device.get_attribute(self._api.device_attribute.MULTIPROCESSOR_COUNT)
        self.device = _described(device.name(), device.compute_capability(), multiprocessors)
        self.driver = _version(self._api.get_driver_version())

    def pinned(self, shape: tuple[int, ...]) -> np.ndarray:
        with self._current():
            return self._api.pagelocked_empty(shape, np.float32)

    def memory(self, shape: tuple[int, ...]) -> Handle:
        with self._current():
            held = self._api.mem_alloc(4 * prod(shape))
        return Handle(int(held), lambda: self._give_back(held), held)

    def stream(self) -> Handle:
        with self._current():
            stream = self._api.Stream(NON_BLOCKING)
        return Handle(int(stream.handle), lambda: None, stream)

    def to_device(self, target: Handle, source: np.ndarray, stream: Handle) -> None:
        with self._current():
            self._api.memcpy_htod_async(target.value, source, stream.native)

    def to_host(self, target: np.ndarray, source: Handle, stream: Handle) -> None:
        with self._current():
            self._api.memcpy_dtoh_async(target, source.value, stream.native)

    def synchronise(self, stream: Handle) -> None:
        with self._current():
            stream.native.synchronize()

    def recorded(self, work: Work, stream: Handle) -> Work:
        return work

    def _give_back(self, held: Any) -> None:
        with self._current():
            held.free()

    @contextmanager
    def _current(self) -> Iterator[None]:
        """Make the context that of this thread: an engine is opened in one thread and works in another."""
        self._context.push()
        try:
            yield
        except self._api.Error as error:
            raise RuntimeError(str(error)) from error
        finally:
            self._context.pop()


def open_cuda() -> CudaBuffers:
    """Open the current CUDA device through the first library that can.

    Raises
    ------
    ImportError
        If no library is installed.
    EngineUnavailable
        If one is, but finds no driver or no device.
    """
    reasons, installed = [], False
    for interface in (CudaPython, PyCuda):
        try:
            return interface()
        except ImportError as error:
            reasons.append(f"{interface.library}: {error}")
        except RuntimeError as error:
            reasons.append(f"{interface.library}: {error}")
            installed = True
    found = "; ".join(reasons)
    if installed:
        raise EngineUnavailable(
            f"no CUDA device can be used ({found}); see with nvidia-smi, or tegrastats on a Jetson, whether the driver "
            f"of NVIDIA runs and is new enough, and whether CUDA_VISIBLE_DEVICES hides the device"
        )
    raise ImportError(
        f"no library for CUDA can be imported ({found}); install cuda-python in the version of your CUDA, or pycuda, "
        f"which is built with the CUDA toolkit and needs the driver's libcuda.so.1"
    )


def _described(name: str, capability: tuple[int, int], multiprocessors: int) -> str:
    return f"{name} ({capability[0]}.{capability[1]}, {multiprocessors} SM)"


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"

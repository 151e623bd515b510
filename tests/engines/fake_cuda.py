"""A CUDA device made of host memory, behind fakes of cuda-python and pycuda.

What is put on a stream happens only when the stream is waited for, so that whoever reads a result too early, or
overwrites an input too soon, sees it in the numbers. Captured work is kept as a graph and happens at its launches.
"""

import ctypes
import enum
import threading
import types
from collections import Counter

import numpy as np


class CudaError(enum.IntEnum):
    cudaSuccess = 0  # noqa: N815 - the names of CUDA
    cudaErrorInvalidValue = 1  # noqa: N815
    cudaErrorMemoryAllocation = 2  # noqa: N815
    cudaErrorInsufficientDriver = 35  # noqa: N815
    cudaErrorNoDevice = 100  # noqa: N815
    cudaErrorStreamCaptureUnsupported = 900  # noqa: N815
    cudaErrorStreamCaptureInvalidated = 901  # noqa: N815


class Stream:
    """Work in order; while it is captured, in ``captured`` instead of ``queue``."""

    def __init__(self):
        self.queue, self.captured, self.invalid = [], None, False

    def put(self, work):
        (self.queue if self.captured is None else self.captured).append(work)

    def wait(self):
        while self.queue:
            self.queue.pop(0)()


class FakeDevice:
    """Memory and streams of one device.

    Parameters
    ----------
    name : str
    fault : {"", "driver", "device"}
        What is missing.
    """

    def __init__(self, name="NVIDIA Fake", fault=""):
        self.name, self.fault = name, fault
        self.memory, self.pinned, self.streams, self.graphs = {}, {}, {}, {}
        self.done, self.free_bytes = Counter(), 1 << 40

    def allocate(self, held, size):
        """Address of new memory, None if too little is left."""
        if held is self.memory:
            if size > self.free_bytes:
                return None
            self.free_bytes -= size
        buffer = (ctypes.c_byte * size)()
        ctypes.memset(buffer, 0x7F, size)  # 3.4e38 as float32: what was never written shows
        held[ctypes.addressof(buffer)] = buffer
        return ctypes.addressof(buffer)

    def array(self, address, shape):
        """What stands at an address of the device, as float32."""
        size = 4 * int(np.prod(shape))
        if address not in self.memory or len(self.memory[address]) < size:
            raise AssertionError(f"{size} bytes at {address} are not memory of the device")
        return np.frombuffer(memoryview(self.memory[address]), np.float32, size // 4).reshape(shape)

    def new_stream(self):
        stream = Stream()
        self.streams[id(stream)] = stream
        return id(stream)

    def copy(self, target, source, size, to_device, handle):
        """Put a copy on a stream, or capture it."""
        there, here = (target, source) if to_device else (source, target)
        self.array(there, (size // 4,))
        stream = self.streams[handle]
        if stream.captured is not None and not any(p <= here < p + len(b) for p, b in self.pinned.items()):
            raise AssertionError("a copy from memory that is not pinned cannot be captured")
        self.done["captured copies" if stream.captured is not None else "copies"] += 1
        stream.put(lambda: ctypes.memmove(target, source, size))


def cuda_python(device):
    """Modules of cuda-python by their names, the runtime API for one device."""
    runtime, error = types.ModuleType("cuda.bindings.runtime"), CudaError
    runtime.cudaHostAllocDefault = 0
    runtime.cudaMemcpyKind = enum.IntEnum("cudaMemcpyKind", {"cudaMemcpyHostToDevice": 1, "cudaMemcpyDeviceToHost": 2})
    runtime.cudaStreamCaptureMode = enum.IntEnum("cudaStreamCaptureMode", {"cudaStreamCaptureModeThreadLocal": 1})

    def offered(function):
        setattr(runtime, function.__name__, function)

    @offered
    def cudaGetDeviceCount():
        if device.fault:
            return (error.cudaErrorInsufficientDriver if device.fault == "driver" else error.cudaErrorNoDevice), None
        return error.cudaSuccess, 1

    @offered
    def cudaGetDevice():
        return error.cudaSuccess, 0

    @offered
    def cudaGetDeviceProperties(_):
        found = types.SimpleNamespace(name=device.name.encode(), major=8, minor=7, multiProcessorCount=16)
        return error.cudaSuccess, found

    @offered
    def cudaDriverGetVersion():
        return error.cudaSuccess, 12060

    @offered
    def cudaHostAlloc(size, _):
        return error.cudaSuccess, device.allocate(device.pinned, size)

    @offered
    def cudaFreeHost(address):
        del device.pinned[address]
        return (error.cudaSuccess,)

    @offered
    def cudaMalloc(size):
        address = device.allocate(device.memory, size)
        return (error.cudaErrorMemoryAllocation if address is None else error.cudaSuccess), address

    @offered
    def cudaFree(address):
        del device.memory[address]
        return (error.cudaSuccess,)

    @offered
    def cudaStreamCreateWithFlags(flags):
        return (error.cudaSuccess if flags == 1 else error.cudaErrorInvalidValue), device.new_stream()

    @offered
    def cudaStreamDestroy(stream):
        del device.streams[stream]
        return (error.cudaSuccess,)

    @offered
    def cudaMemcpyAsync(target, source, size, kind, stream):
        device.copy(target, source, size, kind == runtime.cudaMemcpyKind.cudaMemcpyHostToDevice, stream)
        return (error.cudaSuccess,)

    @offered
    def cudaStreamSynchronize(stream):
        if device.streams[stream].captured is not None:
            device.streams[stream].invalid = True
            return (error.cudaErrorStreamCaptureUnsupported,)
        device.streams[stream].wait()
        return (error.cudaSuccess,)

    @offered
    def cudaStreamBeginCapture(stream, _):
        device.streams[stream].captured = []
        return (error.cudaSuccess,)

    @offered
    def cudaStreamEndCapture(stream):
        held = device.streams[stream]
        graph, held.captured, invalid, held.invalid = held.captured, None, held.invalid, False
        return (error.cudaErrorStreamCaptureInvalidated, None) if invalid else (error.cudaSuccess, graph)

    @offered
    def cudaGraphInstantiateWithFlags(graph, _):
        device.done["graphs"] += 1
        device.graphs[id(graph)] = graph
        return error.cudaSuccess, id(graph)

    @offered
    def cudaGraphDestroy(_):
        return (error.cudaSuccess,)

    @offered
    def cudaGraphExecDestroy(graph):
        del device.graphs[graph]
        return (error.cudaSuccess,)

    @offered
    def cudaGraphLaunch(graph, stream):
        device.done["launches"] += 1
        for work in device.graphs[graph]:
            device.streams[stream].put(work)
        return (error.cudaSuccess,)

    return {
        "cuda": types.ModuleType("cuda"),
        "cuda.bindings": types.ModuleType("cuda.bindings"),
        runtime.__name__: runtime,
    }


def pycuda(device):
    """Modules of pycuda by their names; whatever needs a context asks for one in its own thread."""
    driver, here = types.ModuleType("pycuda.driver"), threading.local()

    class Error(Exception):
        pass

    class Context:
        def push(self):
            here.depth = getattr(here, "depth", 0) + 1

        def pop(self):
            here.depth -= 1

    def needs_context(function):
        def called(*arguments):
            if not getattr(here, "depth", 0):
                raise Error("invalid device context")
            return function(*arguments)

        return called

    class Allocation:
        @needs_context
        def __init__(self, size):
            self.address = device.allocate(device.memory, size)
            if self.address is None:
                raise Error("cuMemAlloc failed: out of memory")

        def __int__(self):
            return self.address

        @needs_context
        def free(self):
            del device.memory[self.address]

    class PyStream:
        @needs_context
        def __init__(self, flags=0):
            assert flags == 1
            self.handle = device.new_stream()

        @needs_context
        def synchronize(self):
            device.streams[self.handle].wait()

    class Device:
        def __init__(self, index):
            if device.fault:
                raise Error("cuInit failed: no CUDA-capable device is detected")

        def name(self):
            return device.name

        def compute_capability(self):
            return 8, 7

        def get_attribute(self, _):
            return 16

        def retain_primary_context(self):
            return Context()

    @needs_context
    def pagelocked_empty(shape, dtype):
        address = device.allocate(device.pinned, int(np.prod(shape)) * np.dtype(dtype).itemsize)
        return np.frombuffer(memoryview(device.pinned[address]), dtype).reshape(shape)

    @needs_context
    def memcpy_htod_async(target, source, stream):
        device.copy(target, source.ctypes.data, source.nbytes, True, stream.handle)

    @needs_context
    def memcpy_dtoh_async(target, source, stream):
        device.copy(source=source, target=target.ctypes.data, size=target.nbytes, to_device=False, handle=stream.handle)

    driver.init, driver.Error, driver.Device, driver.Stream = (lambda: None), Error, Device, PyStream
    driver.mem_alloc, driver.pagelocked_empty = Allocation, pagelocked_empty
    driver.memcpy_htod_async, driver.memcpy_dtoh_async = memcpy_htod_async, memcpy_dtoh_async
    driver.device_attribute = enum.IntEnum("device_attribute", {"MULTIPROCESSOR_COUNT": 16})
    driver.get_driver_version = lambda: 12060
    return {"pycuda": types.ModuleType("pycuda"), driver.__name__: driver}

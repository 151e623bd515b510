"""A TensorRT of any version from 8.2 to 11, which computes with ONNX Runtime on the memory of a `FakeDevice`.

It has what its version has and refuses what that refuses: types of networks and flags, contexts whose addresses or
shapes are missing, captures before the first run of a shape, and recorded work whose context was changed since.
"""

import enum
import json
import types
import weakref
from collections import Counter

import onnx

from bluesky_ptychonn.training.learning.graphs import open_session

MAGIC = b"plan"
SESSIONS = {}


def fake_tensorrt(version, device, *, builder="works", refused=(), unread=False):
    """Module ``tensorrt``.

    Parameters
    ----------
    version : str
    device : FakeDevice
    builder : {"works", "none", "type error", "fails"}
        What a ``Builder`` does.
    refused : sequence of str
        Operators that the parser does not know.
    unread : bool
        It cannot read what it builds.
    """
    trt = types.ModuleType("tensorrt")
    trt.__version__, trt.done = version, Counter()
    major, minor = (int(part) for part in version.split(".")[:2])
    named = (major, minor) >= (8, 5)
    flags = ["TF32"] if major >= 11 else ["FP16", "INT8", "TF32", "OBEY_PRECISION_CONSTRAINTS"]
    kinds = {8: {"EXPLICIT_BATCH": 0}, 10: {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}, 11: {"STRONGLY_TYPED": 1}}[major]
    trt.BuilderFlag = enum.Enum("BuilderFlag", flags)
    trt.NetworkDefinitionCreationFlag = enum.IntEnum("NetworkDefinitionCreationFlag", kinds)
    trt.LayerType = enum.Enum("LayerType", ["CONSTANT", "CONVOLUTION", "ELEMENTWISE"])
    trt.MemoryPoolType = enum.Enum("MemoryPoolType", ["WORKSPACE"])
    trt.float32, trt.float16, trt.other = "float32", "float16", "other"
    types_of = {onnx.TensorProto.FLOAT: trt.float32, onnx.TensorProto.FLOAT16: trt.float16}

    class ILogger:
        Severity = enum.Enum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"])

        def __init__(self):
            self.made = True

    class Layer:
        """A layer of a strongly typed network, whose precision cannot be set."""

        __slots__ = ("_outputs", "name", "num_outputs", "type")

        def __init__(self, name, kind, outputs):
            self.name, self.type, self.num_outputs, self._outputs = name, kind, len(outputs), outputs

        def get_output(self, index):
            return types.SimpleNamespace(dtype=self._outputs[index])

    class WeaklyTypedLayer(Layer):
        precision = None

        def set_output_type(self, index, dtype):
            self.pinned = {**getattr(self, "pinned", {}), index: dtype}

    class Network:
        def __init__(self, flags):
            self.explicit = bool(flags & 1) if major < 10 else True
            self.typed = major >= 11 or (major >= 10 and bool(flags & 2))
            self.layers, self.graph = [], b""

        @property
        def num_layers(self):
            return len(self.layers)

        def get_layer(self, index):
            return self.layers[index]

    class OnnxParser:
        def __init__(self, network, listener):
            self._network, self._errors = network, []

        @property
        def num_errors(self):
            return len(self._errors)

        def get_error(self, index):
            return self._errors[index]

        def parse(self, data):
            model = onnx.shape_inference.infer_shapes(onnx.load_from_string(data))
            if not self._network.explicit:
                self._errors.append("the network must have an explicit batch dimension")
            for node in model.graph.node:
                if node.op_type in refused:
                    self._errors.append(f"In node {node.name}: no importer for {node.op_type}")
            made = WeaklyTypedLayer if not self._network.typed else Layer
            known = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
            for weight in model.graph.initializer:
                self._network.layers.append(made(weight.name, trt.LayerType.CONSTANT, [types_of.get(weight.data_type)]))
            for node in model.graph.node:
                kind = trt.LayerType.CONVOLUTION if node.op_type == "Conv" else trt.LayerType.ELEMENTWISE
                outputs = [types_of.get(known.get(name), trt.other) for name in node.output]
                self._network.layers.append(made(node.name, kind, outputs))
            self._network.graph = data
            self._network.inputs = {given.name: _sides(given) for given in model.graph.input}
            return not self._errors

    class Config:
        def __init__(self):
            self.flags, self.profiles = {trt.BuilderFlag.TF32}, []

        def set_flag(self, flag):
            self.flags.add(trt.BuilderFlag(flag))

        def clear_flag(self, flag):
            self.flags.discard(trt.BuilderFlag(flag))

        def set_memory_pool_limit(self, pool, size):
            assert trt.MemoryPoolType(pool)
            assert size > 0

        def add_optimization_profile(self, profile):
            self.profiles.append(profile)

    class Profile:
        def __init__(self):
            self.shapes = {}

        def set_shape(self, name, least, best, most):
            self.shapes[name] = [least, best, most]

    class Builder:
        def __new__(cls, listener):
            if builder == "type error":
                raise TypeError("pybind11::init(): factory function returned nullptr")
            if builder == "none":
                listener.log(ILogger.Severity.ERROR, "CUDA initialization failure with error: 35")
                return None
            return super().__new__(cls)

        def __init__(self, listener):
            assert listener.made
            self._listener = listener

        def create_network(self, flags=0):
            if flags >> 2 or (major >= 11 and flags & 1):
                raise TypeError("unknown flags")
            return Network(flags)

        def create_builder_config(self):
            return Config()

        def create_optimization_profile(self):
            return Profile()

        def build_serialized_network(self, network, config):
            names = {flag.name for flag in config.flags}
            fault = "no implementation" if builder == "fails" else _fault(network, config, names)
            if fault:
                self._listener.log(ILogger.Severity.ERROR, fault)
                return None
            trt.done["builds"] += 1
            trt.built = types.SimpleNamespace(flags=names, network=network)
            shapes = {name: shapes for profile in config.profiles for name, shapes in profile.shapes.items()}
            head = json.dumps({"version": version, "device": device.name, "shapes": shapes}).encode()
            return memoryview(MAGIC + len(head).to_bytes(4, "little") + head + network.graph)

    class Runtime:
        def __init__(self, listener):
            assert listener.made
            self._listener = listener

        def deserialize_cuda_engine(self, plan):
            plan = bytes(plan)
            size = int.from_bytes(plan[4:8], "little")
            if plan[:4] != MAGIC or unread:
                self._listener.log(ILogger.Severity.ERROR, "the plan has another magic tag")
                return None
            head = json.loads(plan[8 : 8 + size])
            if (head["version"], head["device"]) != (version, device.name):
                self._listener.log(ILogger.Severity.ERROR, f"the plan is of {head}")
                return None
            return Engine(plan[8 + size :], head["shapes"])

    class Engine:
        def __init__(self, graph, shapes):
            if graph not in SESSIONS:
                SESSIONS[graph] = open_session(graph)
            self.session, self.shapes = SESSIONS[graph], shapes
            self.given = {given.name: given.shape for given in self.session.get_inputs()}
            self._names = [*self.given, *(found.name for found in self.session.get_outputs())]

        if named:

            @property
            def num_io_tensors(self):
                return len(self._names)

            def get_tensor_name(self, index):
                return self._names[index]

        def create_execution_context(self):
            trt.done["contexts"] += 1
            return IExecutionContext(self)

    class IExecutionContext:
        def __init__(self, engine):
            self._engine, self._addresses, self._shapes, self._flushed = engine, {}, {}, False
            self._changes = 0

        if major < 10:

            def execute_async_v2(self, bindings, stream_handle):
                raise AssertionError("the interface of bindings must not be used")

        if named:

            def set_tensor_address(self, name, address):
                assert isinstance(address, int)
                self._addresses[name] = address
                self._changes += 1
                return name in self._engine._names

            def set_input_shape(self, name, shape):
                least, _, most = self._engine.shapes.get(name, [self._engine.given[name]] * 3)
                if not all(low <= side <= high for low, side, high in zip(least, shape, most, strict=True)):
                    return False
                self._shapes[name], self._flushed = tuple(shape), False
                self._changes += 1
                return True

            def execute_async_v3(self, stream_handle):
                assert isinstance(stream_handle, int)
                stream = device.streams[stream_handle]
                wanted = self._engine.given
                shapes = {name: self._shapes.get(name, shape) for name, shape in wanted.items()}
                open_ = any(isinstance(side, str) for shape in shapes.values() for side in shape)
                if open_ or set(self._engine._names) - set(self._addresses):
                    return False
                if stream.captured is not None and not self._flushed:
                    stream.invalid = True
                    return False
                self._flushed = True
                addresses, changes, engine = dict(self._addresses), self._changes, self._engine
                held = weakref.ref(self)

                def compute():
                    assert held() is not None, "the memory of a recorded context is gone"
                    assert changes == held()._changes, "a recorded context was changed"
                    inputs = {name: device.array(addresses[name], shape) for name, shape in shapes.items()}
                    for found, name in zip(engine.session.run(None, inputs), engine._names[len(wanted) :]):
                        device.array(addresses[name], found.shape)[:] = found
                    trt.done["runs"] += 1
                    trt.addresses = addresses

                stream.put(compute)
                return True

    for part in (ILogger, OnnxParser, Builder, Runtime, IExecutionContext):
        setattr(trt, part.__name__, part)
    return trt


def _sides(value):
    return [side.dim_value or side.dim_param for side in value.type.tensor_type.shape.dim]


def _fault(network, config, flags):
    """Why a network cannot be built, if it cannot."""
    halves = any("float16" in (layer.get_output(k).dtype for k in range(layer.num_outputs)) for layer in network.layers)
    if network.typed and flags & {"FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS"}:
        return "a strongly typed network takes no flags of precision"
    if not network.typed and halves and "FP16" not in flags:
        return "the network has tensors in half precision, but the flag FP16 is not set"
    shapes = {name for profile in config.profiles for name in profile.shapes}
    for name, sides in network.inputs.items():
        if any(isinstance(side, str) for side in sides) and name not in shapes:
            return f"{name} has dynamic dimensions, but no optimization profile was defined"
    return ""

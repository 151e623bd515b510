"""ONNX graphs as torch modules: the few operators that networks of images are made of."""

import operator
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional

from bluesky_ptychonn.core.protocols import EngineMismatch, GraphUnsupported
from bluesky_ptychonn.engines.steps import Wanted
from bluesky_ptychonn.io.model_store import StoredModel

FIRST_OPSET = 13
"""Before it, axes and limits were attributes where they are inputs now."""
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
WHOLE = {TensorProto.INT64: torch.int64, TensorProto.INT32: torch.int32, TensorProto.BOOL: torch.bool}


class GraphNetwork(nn.Module):
    """A graph of one input and one output, computed by torch operator by operator.

    Its weights are buffers: ``to`` brings them to a device and into a type, in which everything is computed then, if
    its input has that type. What depends on constants alone is computed once. Shapes, and scales of a shape, stay on
    the CPU, so that the rest can be captured in a CUDA graph.

    Parameters
    ----------
    path : Path
        ONNX file.
    who : str
        What messages call it.

    Raises
    ------
    EngineMismatch
        If the file is no graph of one input.
    GraphUnsupported
        If it holds an operator, or a form of one, that is not known here.
    """

    def __init__(self, path: Path, who: str) -> None:
        super().__init__()
        try:
            model = onnx.load_from_string(path.read_bytes())
        except Exception as error:  # protobuf has its own exceptions, which differ between its versions
            raise EngineMismatch(f"{who} cannot be compiled: {str(error).strip()[-300:]}") from error
        graph, constants = model.graph, {weight.name: _held(weight) for weight in model.graph.initializer}
        inputs = [given for given in graph.input if given.name not in constants]
        if (len(inputs), len(graph.output)) != (1, 1):
            raise EngineMismatch(f"{who} has {len(inputs)} inputs and {len(graph.output)} outputs; 1 of each is known")
        opset = next((known.version for known in model.opset_import if known.domain in ("", "ai.onnx")), 0)
        if opset < FIRST_OPSET:
            raise GraphUnsupported(f"{who} is of opset {opset}; export it with {FIRST_OPSET} or later")
        sides = inputs[0].type.tensor_type.shape.dim
        self.sides = [side.dim_value if side.HasField("dim_value") else None for side in sides]
        """Of its input; None where any will do."""
        self._input, self._output = inputs[0].name, graph.output[0].name
        steps: list[_Step] = []
        for node in graph.node:
            step = _Step.of(node, who)
            if all(name in constants for name in step.takes if name):
                constants[step.gives] = _number_or_tensor(step([constants.get(name) for name in step.takes], NO_IMAGE))
            else:
                steps.append(step)
        self._steps = _with_ends(steps, self._output)
        used = {name for step in steps for name in step.takes} & constants.keys()
        scales = {name for step in steps if step.compute is _resize for name in step.takes[1:]}
        weights = sorted(name for name in used - scales if _is_real(constants[name]))
        self._weights = {name: f"weight_{k}" for k, name in enumerate(weights)}
        self._constants = {name: constants[name] for name in used - self._weights.keys()}
        for name, buffer in self._weights.items():
            self.register_buffer(buffer, constants[name])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """What the graph gives for images (B, C, h, w)."""
        values = {self._input: images, **self._constants}
        values |= {name: getattr(self, buffer) for name, buffer in self._weights.items()}
        for step, ends in self._steps:
            values[step.gives] = step([values.get(name) for name in step.takes], images)
            for name in ends:
                del values[name]
        return values[self._output]


def open_graph(model: StoredModel, wanted: Wanted) -> tuple[GraphNetwork, int]:
    """A graph of a model, which gives what its card says, and the batch to run it for.

    Raises
    ------
    EngineMismatch
        If the graph has other shapes than its card, or cannot be computed.
    """
    who = f"model {model.card.version}: {wanted.file}"
    try:
        network = GraphNetwork(model.directory / wanted.file, who)
        batch = wanted.refuse_input(who, network.sides)
        tried = network.sides[0] or 1
        with torch.no_grad():
            found = network(torch.zeros(tried, wanted.channels, wanted.side_px, wanted.side_px))
    except (RuntimeError, TypeError, AttributeError, LookupError) as error:
        raise EngineMismatch(f"{who} cannot be compiled: {str(error).strip()[-300:]}") from error
    wanted.refuse_output(who, list(found.shape), tried)
    return network, batch


NO_IMAGE = torch.empty(0)


class _Step(NamedTuple):
    """One node of a graph."""

    who: str
    compute: Callable[..., Any]
    attributes: dict[str, Any]
    takes: list[str]
    gives: str

    @classmethod
    def of(cls, node: onnx.NodeProto, who: str) -> "_Step":
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            raise GraphUnsupported(
                f"{who} computes in 8 bits, which engine torch does not; use engine openvino or onnxruntime, "
                "or export the model without 8 bits"
            )
        if node.op_type not in OPERATORS or node.domain not in ("", "ai.onnx"):
            raise GraphUnsupported(
                f"{who} holds the operator {node.op_type}, which engine torch does not know; use another engine"
            )
        attributes = {held.name: helper.get_attribute_value(held) for held in node.attribute}
        attributes = {name: value.decode() if isinstance(value, bytes) else value for name, value in attributes.items()}
        return cls(f"{who}: {node.op_type}", OPERATORS[node.op_type], attributes, list(node.input), node.output[0])

    def __call__(self, given: Sequence[Any], images: torch.Tensor) -> Any:
        try:
            return self.compute(self.attributes, images, *given)
        except GraphUnsupported as error:
            raise GraphUnsupported(f"{self.who} {error}; engine torch does not know that form; use another") from None


def _with_ends(steps: Sequence[_Step], output: str) -> list[tuple[_Step, list[str]]]:
    """Steps, each with the results that nobody needs after it."""
    made, last = {step.gives for step in steps}, {name: k for k, step in enumerate(steps) for name in step.takes}
    ends: list[list[str]] = [[] for _ in steps]
    for name, k in last.items():
        if name in made and name != output:
            ends[k].append(name)
    return list(zip(steps, ends))


def _held(tensor: onnx.TensorProto) -> Any:
    return _number_or_tensor(torch.from_numpy(numpy_helper.to_array(tensor).copy()))


def _number_or_tensor(value: Any) -> Any:
    """A constant; of one without axes its number, which fits tensors of any device and type."""
    return value.item() if isinstance(value, torch.Tensor) and value.ndim == 0 else value


def _is_real(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _padding(attributes: dict[str, Any]) -> list[int]:
    pads = attributes.get("pads", [0, 0, 0, 0])
    if attributes.get("auto_pad", "NOTSET") != "NOTSET" or len(pads) != 4 or pads[:2] != pads[2:]:
        raise GraphUnsupported(f"pads by {attributes.get('auto_pad', pads)}")
    return pads[:2]


def _convolve(attributes, _, images, weight, bias=None):
    more = {"dilation": attributes.get("dilations", [1, 1]), "groups": attributes.get("group", 1)}
    return functional.conv2d(images, weight, bias, attributes.get("strides", [1, 1]), _padding(attributes), **more)


def _convolve_back(attributes, _, images, weight, bias=None):
    if "output_shape" in attributes:
        raise GraphUnsupported("names the shape of its output")
    more = {"dilation": attributes.get("dilations", [1, 1]), "groups": attributes.get("group", 1)}
    more["output_padding"] = attributes.get("output_padding", [0, 0])
    strides = attributes.get("strides", [1, 1])
    return functional.conv_transpose2d(images, weight, bias, strides, _padding(attributes), **more)


def _pool(attributes, _, images):
    options = attributes.get("dilations", [1, 1]), bool(attributes.get("ceil_mode", 0))
    kernel, strides = attributes["kernel_shape"], attributes.get("strides", [1, 1])
    return functional.max_pool2d(images, kernel, strides, _padding(attributes), *options)


def _resize(attributes, _, images, roi=None, scales: Any = None, sizes: Any = None):
    mode = attributes.get("mode", "nearest"), attributes.get("coordinate_transformation_mode", "half_pixel")
    nearest = mode == ("nearest", "asymmetric") and attributes.get("nearest_mode") == "floor"
    linear = mode[0] == "linear" and mode[1] in ("half_pixel", "pytorch_half_pixel", "align_corners")
    if not (nearest or linear) or attributes.get("antialias", 0) or "axes" in attributes or images.ndim != 4:
        raise GraphUnsupported(f"is {', '.join(mode)}")
    how: dict[str, Any] = {"mode": "nearest"}
    if linear:
        how = {"mode": "bilinear", "align_corners": mode[1] == "align_corners"}
    if scales is None or not len(scales):
        return functional.interpolate(images, size=sizes.tolist()[2:], **how)
    return functional.interpolate(images, scale_factor=scales.tolist()[2:], **how)


def _shuffle(attributes, _, images):
    if attributes.get("mode", "DCR") != "CRD":
        raise GraphUnsupported("is of mode DCR")
    return functional.pixel_shuffle(images, attributes["blocksize"])


def _normalise(attributes, _, images, scale, bias, mean, variance):
    return functional.batch_norm(images, mean, variance, scale, bias, eps=attributes.get("epsilon", 1e-5))


def _reshape(attributes, _, values, shape):
    if attributes.get("allowzero", 0):
        raise GraphUnsupported("allows sides of 0")
    return values.reshape([values.shape[k] if side == 0 else side for k, side in enumerate(shape.tolist())])


def _gather(attributes, _, values, where):
    axis = attributes.get("axis", 0)
    if isinstance(where, int):
        return values.select(axis, where)
    if where.ndim != 1:
        raise GraphUnsupported(f"takes indices of {where.ndim} axes")
    return torch.stack([values.select(axis, k) for k in where.tolist()], axis)


def _cast(attributes, images, value):
    if attributes["to"] in FLOATS:
        return torch.as_tensor(value).to(images.dtype)
    if attributes["to"] not in WHOLE:
        raise GraphUnsupported(f"makes {TensorProto.DataType.Name(attributes['to'])}")
    return torch.as_tensor(value).to(WHOLE[attributes["to"]])


def _fill(attributes, images, shape):
    value = numpy_helper.to_array(attributes["value"]).item() if "value" in attributes else 0.0
    if isinstance(value, float):
        return torch.full(shape.tolist(), value, dtype=images.dtype, device=images.device)
    return torch.full(shape.tolist(), value)


def _constant(attributes, _):
    ((name, value),) = attributes.items()
    return _held(value) if name == "value" else torch.tensor(value)


def _unsqueeze(_, __, values, axes):
    values = torch.as_tensor(values)
    for axis in sorted(axes.tolist()):
        values = values.unsqueeze(axis)
    return values


def _divide(_, __, values, by):
    if not any(isinstance(value, float) or _is_real(value) for value in (values, by)):
        raise GraphUnsupported("divides whole numbers")
    return values / by


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda attributes, _, *given: function(*given)


OPERATORS: dict[str, Callable[..., Any]] = {
    "Add": _plain(operator.add),
    "BatchNormalization": _normalise,
    "Cast": _cast,
    "Clip": _plain(lambda values, low=None, high=None: values.clamp(low, high)),
    "Concat": lambda attributes, _, *given: torch.cat(given, attributes["axis"]),
    "Constant": _constant,
    "ConstantOfShape": _fill,
    "Conv": _convolve,
    "ConvTranspose": _convolve_back,
    "DepthToSpace": _shuffle,
    "Div": _divide,
    "Gather": _gather,
    "GreaterOrEqual": _plain(operator.ge),
    "Identity": _plain(lambda values: values),
    "Log": _plain(torch.log),
    "MaxPool": _pool,
    "Mul": _plain(operator.mul),
    "Relu": _plain(torch.relu),
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": lambda attributes, _, values: torch.tensor(values.shape[attributes.get("start") : attributes.get("end")]),
    "Sigmoid": _plain(torch.sigmoid),
    "Sub": _plain(operator.sub),
    "Tanh": _plain(torch.tanh),
    "Transpose": lambda attributes, _, values: values.permute(attributes.get("perm", range(values.ndim)[::-1])),
    "Unsqueeze": _unsqueeze,
    "Where": _plain(torch.where),
}
"""What is known, as functions of attributes, the images that the graph is given, and the inputs of the node."""

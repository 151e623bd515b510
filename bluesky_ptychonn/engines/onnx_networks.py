"""The networks of a model, read to become parts of a larger ONNX graph."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bluesky_ptychonn.core.protocols import EngineMismatch, GraphUnsupported

Shape = tuple[int | None, ...]
"""Sides of an array; None where any will do."""


def read_network(path: Path, who: str) -> onnx.ModelProto:
    """Read a network; weights stored in half precision become what they are computed with.

    Parameters
    ----------
    path : Path
    who : str
        The network, for messages.

    Raises
    ------
    EngineMismatch
        If it cannot be read.
    GraphUnsupported
        If it computes in 8 bits.
    """
    try:
        network = onnx.load(path)
        onnx.checker.check_model(network)
    except Exception as error:  # protobuf and the checker have no error in common
        raise EngineMismatch(f"{who} cannot be read: {str(error).strip()[-300:]}") from error
    stored, kept = {weight.name: weight for weight in network.graph.initializer}, []
    for node in network.graph.node:
        if node.op_type == "QuantizeLinear":
            raise GraphUnsupported(f"{who} computes in 8 bits; export it in single precision, or use another engine")
        if node.op_type == "Cast" and node.input[0] in stored:
            values = numpy_helper.to_array(stored.pop(node.input[0]))
            kind = helper.tensor_dtype_to_np_dtype(node.attribute[0].i)
            stored[node.output[0]] = numpy_helper.from_array(values.astype(kind), node.output[0])
        else:
            kept.append(node)
    del network.graph.initializer[:], network.graph.node[:]
    network.graph.initializer.extend(stored.values())
    network.graph.node.extend(kept)
    return network


def shapes_of(network: onnx.ModelProto) -> tuple[Shape, Shape]:
    """Shapes of the input and the output of a network, their batch None where it is open."""
    given = _shape(network.graph.input[0])
    tried = onnx.ModelProto()
    tried.CopyFrom(network)
    if given and given[0] is None:
        tried.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    found = _shape(onnx.shape_inference.infer_shapes(tried).graph.output[0])
    return given, (*given[:1], *found[1:])


def _shape(value: onnx.ValueInfoProto) -> Shape:
    return tuple(dim.dim_value or None for dim in value.type.tensor_type.shape.dim)


def compute_in_half(network: onnx.ModelProto) -> None:
    """Turn the constants of a network into half precision, apart from the sizes that Resize takes as float32."""
    sizes = {name for node in network.graph.node if node.op_type == "Resize" for name in node.input[1:]}
    held = [weight for weight in network.graph.initializer if weight.name not in sizes]
    for node in network.graph.node:
        if node.op_type == "Constant" and node.output[0] not in sizes:
            held += [attribute.t for attribute in node.attribute if attribute.name == "value"]
    for tensor in held:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))

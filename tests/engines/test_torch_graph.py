"""ONNX graphs in torch: whatever the networks are made of, as ONNX Runtime computes it."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import torch
from onnx import TensorProto, helper

from bluesky_ptychonn.core.protocols import EngineMismatch, GraphUnsupported
from bluesky_ptychonn.engines.torch_graph import GraphNetwork
from bluesky_ptychonn.training.learning.graphs import onnx_graph, open_session, parts_of, run, with_half_weights
from bluesky_ptychonn.training.learning.networks import build_network

SMALL = {
    "ptychonn": {"frame_px": 32, "channels": 4},
    "ptychonn2": {"frame_px": 32, "channels": 4},
    "ptychonn-lift": {"patch_px": 32, "first": (8, 16, 24), "refine": (8, 8, 16)},
}
TENSORS = {
    "kernel": (3, 4, 3, 3),
    "back": (3, 2, 2, 2),
    **dict.fromkeys(("scale", "bias", "mean"), (3,)),
}
WHOLE = {"zero": [], "two": [2], "pair": [2, 0], "axes": [1, 2], "sides": [0, -1, 12], "sizes": [1, 4, 5, 7]}


def network_of(tmp_path, graph):
    (tmp_path / "model.onnx").write_bytes(graph)
    return GraphNetwork(tmp_path / "model.onnx", "model 1: model.onnx")


def graph_of(*nodes, opset=17, inputs=("given",), gives="found"):
    """A graph of images (B, 4, h, w), and of constants by their names."""
    rng = np.random.default_rng(1)
    constants = [
        helper.make_tensor(name, TensorProto.FLOAT, shape, rng.uniform(0.5, 1.5, int(np.prod(shape))))
        for name, shape in {**TENSORS, "half": ()}.items()
    ]
    constants += [
        helper.make_tensor(name, TensorProto.INT64, np.shape(value), np.ravel(value).astype(int))
        for name, value in {**WHOLE, "zero": 0}.items()
    ]
    constants.append(helper.make_tensor("twice", TensorProto.FLOAT, [4], [1, 1, 2, 2]))
    images = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4, 6, 6]) for name in inputs]
    found = [helper.make_tensor_value_info(gives, TensorProto.FLOAT, None)]
    graph = helper.make_graph(list(nodes), "graph", images, found, constants)
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", SMALL)
def test_networks_are_computed_as_by_onnx_runtime(tmp_path, name, half):
    """Every graph of the networks that are exported, in any batch, also with weights in half precision."""
    torch.manual_seed(2)
    rng = np.random.default_rng(2)
    for part in parts_of(build_network(name, SMALL[name])):
        channels = 1 if name != "ptychonn-lift" else part.down0.first.in_channels // 16
        images = rng.normal(0, 3, (3, channels, 32, 32)).astype(np.float32)
        graph = onnx_graph(part, images)
        graph = with_half_weights(graph) if half else graph
        network = network_of(tmp_path, graph)
        assert network.sides == [None, channels, 32, 32]
        for count in (3, 1):
            found = network(torch.from_numpy(images[:count]))
            np.testing.assert_allclose(found, run(open_session(graph), images[:count]), atol=2e-5)
        assert sum(values.numel() for values in network.buffers()) >= sum(
            values.numel() for values in part.parameters()
        )
        coarse = network.to(torch.bfloat16)(torch.from_numpy(images).to(torch.bfloat16))
        np.testing.assert_allclose(coarse.float(), run(open_session(graph), images), atol=0.2)


def test_nothing_that_python_reads_lies_on_the_device(tmp_path):
    """A capture by CUDA forbids to read values of the device; tensors of `meta` have none that could be read."""
    for name, options in SMALL.items():
        channels = [1, 1, 1] if name != "ptychonn-lift" else [3, 5]
        for part, count in zip(parts_of(build_network(name, options)), channels):
            images = np.zeros((2, count, 32, 32), np.float32)
            network = network_of(tmp_path, onnx_graph(part, images)).to("meta")
            assert network(torch.from_numpy(images).to("meta")).device.type == "meta"


NODES = {
    "convolution": [("Conv", ["given", "kernel", "bias"], {"strides": [2, 1], "pads": [1, 0, 1, 0]})],
    "way back": [
        ("Conv", ["given", "kernel"], {}),
        ("ConvTranspose", ["0", "back"], {"strides": [2, 2]}),
    ],
    "normalised": [
        ("Conv", ["given", "kernel"], {"dilations": [2, 2]}),
        ("BatchNormalization", ["0", "scale", "bias", "mean", "scale"], {"epsilon": 0.1}),
    ],
    "pooled": [("MaxPool", ["given"], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]})],
    "larger": [("Resize", ["given", "", "twice"], {"mode": "linear"})],
    "as large as": [
        ("Resize", ["given", "", "", "sizes"], {"mode": "linear", "coordinate_transformation_mode": "align_corners"})
    ],
    "repeated": [
        (
            "Resize",
            ["given", "", "twice"],
            {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
        )
    ],
    "picked": [("Gather", ["given", "pair"], {"axis": 1}), ("Div", ["0", "half"], {}), ("Sub", ["0", "1"], {})],
    "one channel": [("Gather", ["given", "zero"], {"axis": 1}), ("Unsqueeze", ["0", "axes"], {}), ("Tanh", ["1"], {})],
    "another shape": [
        ("Shape", ["given"], {}),
        ("ConstantOfShape", ["0"], {}),
        ("Concat", ["given", "1"], {"axis": 1}),
        ("Transpose", ["2"], {"perm": [0, 3, 1, 2]}),
        ("Reshape", ["3", "sides"], {}),
        ("Sigmoid", ["4"], {}),
    ],
    "where": [("GreaterOrEqual", ["given", "half"], {}), ("Where", ["0", "given", "half"], {}), ("Log", ["1"], {})],
    "cut": [("Clip", ["given", "", "half"], {}), ("Cast", ["0"], {"to": TensorProto.FLOAT}), ("Identity", ["1"], {})],
}


@pytest.mark.parametrize("what", NODES)
def test_operators(tmp_path, what):
    names = [str(k) for k in range(len(NODES[what]) - 1)] + ["found"]
    nodes = [helper.make_node(op, takes, [gives], **more) for (op, takes, more), gives in zip(NODES[what], names)]
    graph = graph_of(*nodes)
    images = np.random.default_rng(3).normal(0, 1, (1, 4, 6, 6)).astype(np.float32)
    with torch.no_grad():
        found = network_of(tmp_path, graph)(torch.from_numpy(images))
    np.testing.assert_allclose(found, run(open_session(graph), images), atol=1e-5)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (("Erf", ["given"], {}), r"model 1: model\.onnx holds the operator Erf, .* use another engine"),
        (("DequantizeLinear", ["given", "half"], {}), "computes in 8 bits, .* use engine openvino"),
        (("Resize", ["given", "", "twice"], {"mode": "cubic"}), "Resize is cubic, half_pixel; .* use another"),
        (("DepthToSpace", ["given"], {"blocksize": 2}), "DepthToSpace is of mode DCR"),
        (("Conv", ["given", "kernel"], {"pads": [0, 0, 1, 1]}), r"Conv pads by \[0, 0, 1, 1\]"),
        (("Conv", ["given", "kernel"], {"auto_pad": "SAME_UPPER"}), "Conv pads by SAME_UPPER"),
        (("Cast", ["given"], {"to": TensorProto.STRING}), "Cast makes STRING"),
    ],
)
def test_what_is_not_known_is_named(tmp_path, node, message):
    op, takes, more = node
    graph = graph_of(helper.make_node(op, takes, ["found"], **more))
    with pytest.raises(GraphUnsupported, match=message):
        network_of(tmp_path, graph)(torch.zeros(1, 4, 6, 6))


def test_other_files_and_graphs_are_refused(tmp_path):
    add = helper.make_node("Add", ["given", "given"], ["found"])
    for graph, message in (
        (b"no network", r"model\.onnx cannot be compiled"),
        (graph_of(add, inputs=("given", "other")), "has 2 inputs and 1 outputs"),
        (graph_of(add, opset=11), "is of opset 11; export it with 13 or later"),
    ):
        with pytest.raises(EngineMismatch, match=message):
            network_of(tmp_path, graph)

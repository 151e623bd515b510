"""The graph from counts to phase, run by ONNX Runtime, against the reference chain."""

import shutil

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

import onnx
from small_models import H, N, counts_model, lift_model, patterns_of, rms, with_fixed_batch

from bluesky_ptychonn.core.optics import Geometry, zone_plate_probe
from bluesky_ptychonn.core.protocols import EngineMismatch, GraphUnsupported
from bluesky_ptychonn.engines.registry import PACKAGED
from bluesky_ptychonn.engines.whole_graph import NETWORKS, NO_DATA, PATTERNS, PHASE, probe_inputs, whole_graph
from bluesky_ptychonn.io.model_store import open_model, read_card, sha256_of, write_card
from bluesky_ptychonn.training.learning.export import write_model
from bluesky_ptychonn.training.learning.graphs import Chain, eight_bit_graphs, open_session


def phase_of(graph, card, patterns, probe):
    counts = patterns.astype(np.float32)
    counts[patterns == 65535] = NO_DATA
    return open_session(graph.data).run([PHASE], {PATTERNS: counts, **probe_inputs(card, probe)})[0]


@pytest.fixture(scope="module", params=PACKAGED)
def packaged(request):
    model = open_model(PACKAGED[request.param])
    graphs = [(model.directory / name).read_bytes() for name in (model.card.graph_file, model.card.refine_file)]
    return model, Chain("lift", graphs, model.card.patch_px), [whole_graph(model, half) for half in (False, True)]


@pytest.mark.parametrize("counts", [1e2, 1e4, 1e6])
def test_models_of_the_package(packaged, counts):
    """At every dose, with masked pixels; the phases themselves are 0.02 to 0.25 rad."""
    model, chain, (single, half) = packaged
    patterns, probe = patterns_of(2, counts, unit=zone_plate_probe(Geometry()))
    wanted = chain.phase(patterns, probe)
    assert rms(phase_of(single, model.card, patterns, probe) - wanted) < 1e-5
    assert 0 < rms(phase_of(half, model.card, patterns, probe) - wanted) < 1e-3


def test_masked_pixels_carry_no_measurement(tmp_path):
    lift_model(tmp_path)
    model = open_model(tmp_path)
    patterns, probe = patterns_of(1)
    masked = phase_of(whole_graph(model), model.card, patterns, probe)
    dark = phase_of(whole_graph(model), model.card, np.where(patterns == 65535, np.uint16(0), patterns), probe)
    assert rms(masked - dark) > 1e-3


@pytest.mark.parametrize("refined", [True, False])
@pytest.mark.parametrize("frames", [1, 5])
def test_any_batch_and_one_network_or_two(tmp_path, refined, frames):
    chain = lift_model(tmp_path, refined=refined)
    model, (patterns, probe) = open_model(tmp_path), patterns_of(frames)
    found = phase_of(whole_graph(model), model.card, patterns, probe)
    assert found.shape == (frames, H, H)
    assert rms(found - chain.phase(patterns, probe)) < 1e-6


@pytest.mark.parametrize("channels", [0, 1, 2])
@pytest.mark.parametrize("batch", [None, 3])
@pytest.mark.parametrize("reference_counts", [None, 1e4])
def test_models_of_counts(tmp_path, channels, batch, reference_counts):
    chain = counts_model(tmp_path, channels, batch, reference_counts)
    model, (patterns, probe) = open_model(tmp_path), patterns_of(3)
    graph = whole_graph(model)
    assert graph.batch == batch
    assert rms(phase_of(graph, model.card, patterns, probe) - chain.phase(patterns, probe)) < 1e-6


def test_only_the_networks_are_in_half_precision(packaged):
    """Also with weights that were stored in half precision, which are constants then, not casts."""
    for half, graph in zip((False, True), packaged[2]):
        nodes = onnx.load_from_string(graph.data).graph
        weights = {weight.name: weight.data_type for weight in nodes.initializer}
        floats = {kind for kind in weights.values() if kind != onnx.TensorProto.INT64}
        of_networks = {weights[node.input[1]] for node in nodes.node if node.op_type == "Conv"}
        of_transforms = {
            weights[name]
            for node in nodes.node
            if node.op_type == "MatMul"
            for name in node.input[:]
            if name in weights
        }
        assert of_networks == {onnx.TensorProto.FLOAT16 if half else onnx.TensorProto.FLOAT}
        assert of_transforms == {onnx.TensorProto.FLOAT}
        assert floats == of_networks | of_transforms
        assert sum(node.op_type == "Cast" for node in nodes.node) == 2 * len(NETWORKS)


def test_multiplications_of_the_transforms(packaged):
    """4 N h (N + h) each, three of them."""
    graph = onnx.load_from_string(packaged[2][0].data)
    graph = onnx.shape_inference.infer_shapes(graph, data_prop=True).graph
    sides = {value.name: [side.dim_value for side in value.type.tensor_type.shape.dim] for value in graph.value_info}
    sides |= {weight.name: list(weight.dims) for weight in graph.initializer}
    products = [node for node in graph.node if node.op_type == "MatMul"]
    counted = sum(sides[node.input[0]][-2] * sides[node.input[0]][-1] * sides[node.input[1]][-1] for node in products)
    n, h = packaged[0].card.frame_px, packaged[0].card.patch_px
    assert counted == 3 * 4 * n * h * (n + h) == 18_874_368


def test_graphs_are_the_same_each_time(tmp_path):
    """So that a built engine is found again by the hash."""
    lift_model(tmp_path)
    assert whole_graph(open_model(tmp_path)).data == whole_graph(open_model(tmp_path)).data


def changed(folder, model, files):
    """Copy of a model with other files, and hashes that fit them."""
    shutil.copytree(model, folder)
    card = read_card(folder)
    for name, data in files.items():
        (folder / name).write_bytes(data)
        card.files[name] = sha256_of(data)
    write_card(folder, card)
    return folder


def test_networks_that_do_not_fit_their_card(tmp_path):
    chain = lift_model(tmp_path / "m")
    first, refine = chain.graphs
    for case, (files, message) in enumerate(
        (
            ({"model.onnx": refine}, r"model\.onnx takes \[\?,5,32,32\]; its card says"),
            ({"refine.onnx": first}, r"refine\.onnx takes"),
            ({"model.onnx": b"no network"}, r"model\.onnx cannot be read"),
            (
                {"model.onnx": with_fixed_batch(first, 3), "refine.onnx": with_fixed_batch(refine, 2)},
                "export both with the same batch",
            ),
        )
    ):
        folder = changed(tmp_path / str(case), tmp_path / "m", files)
        with pytest.raises(EngineMismatch, match=message):
            whole_graph(open_model(folder))


def test_a_batch_that_is_fixed_in_one_network_is_that_of_the_graph(tmp_path):
    chain = lift_model(tmp_path / "m")
    folder = changed(tmp_path / "fixed", tmp_path / "m", {"refine.onnx": with_fixed_batch(chain.graphs[1], 3)})
    model, (patterns, probe) = open_model(folder), patterns_of(3)
    graph = whole_graph(model)
    assert graph.batch == 3
    assert rms(phase_of(graph, model.card, patterns, probe) - chain.phase(patterns, probe)) < 1e-6


def test_eight_bits_are_not_for_this(tmp_path):
    chain = lift_model(tmp_path / "m", refined=False)
    patterns, probe = patterns_of(2)
    scan = type("Scan", (), {"patterns": patterns, "probe": probe})
    small = Chain("lift", eight_bit_graphs(chain, [scan]), H)
    write_model(tmp_path / "8", small, frame_px=N, name="small", version="1", pixel_size_um=None, energy_kev=None)
    with pytest.raises(GraphUnsupported, match="8 bits"):
        whole_graph(open_model(tmp_path / "8"))


def test_probes_that_cannot_be_used(tmp_path):
    lift_model(tmp_path)
    card = open_model(tmp_path).card
    for probe, message in ((np.ones((8, 8)), r"takes \(64, 64\)"), (np.zeros((N, N)), "power")):
        with pytest.raises(ValueError, match=message):
            probe_inputs(card, probe)

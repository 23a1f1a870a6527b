"""``--init fresh`` draws the weights of every kind of layer, with the fan-in that they have."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import conet_graph as cg
from conet_graph.ir.load import LoadedModel
from conet_graph.rewriting.plans import Plan
from tests.graphs import GraphBuilder

Arrays = dict[str, np.ndarray]


def drawn(g: GraphBuilder, init: str = "fresh", seed: int = 1) -> Arrays:
    """The constants of a network with fresh weights, at its old widths but for a first layer's."""
    model = LoadedModel(g.build())
    made = cg.plan(model, widths={"first": 64}, multiple_of=1, init=init, seed=seed)
    made = Plan.loads(made.dumps())  # the file alone says how to draw
    return {
        t.name: numpy_helper.to_array(t) for t in cg.rewrite(model, made, check=False).proto.graph.initializer
    }


def start(channels: int = 32) -> tuple[GraphBuilder, str]:
    g = GraphBuilder(17)
    x = g.relu(g.conv(g.input("x", [1, 3, 6, 6]), 48, 3, name="first"))
    return g, g.conv(x, channels, 3, name="second")


def is_default(array: np.ndarray, fan_in: int) -> None:
    """Uniform within 1 / sqrt(fan_in), to what so many numbers can tell."""
    bound = 1 / math.sqrt(fan_in)
    assert np.abs(array).max() <= bound
    assert np.abs(array).max() > 0.9 * bound
    assert array.std() == pytest.approx(bound / math.sqrt(3), rel=0.15)


def is_kaiming(array: np.ndarray, fan_in: int) -> None:
    assert array.std() == pytest.approx(math.sqrt(2 / fan_in), rel=0.15)


def test_convolutions_and_their_biases() -> None:
    g, x = start()
    g.output(g.conv(x, 16, 3, group=4, name="grouped"))
    made = drawn(g)
    is_default(made["first.weight"], 27)
    is_default(made["second.weight"], 64 * 9)
    is_default(made["second.bias"], 64 * 9)
    is_default(made["grouped.weight"], 8 * 9)


def test_a_bias_before_a_batchnorm_is_zero() -> None:
    g, x = start()
    g.output(g.bn(g.conv(x, 16, 3, name="normed")))
    made = drawn(g)
    assert not made["normed.bias"].any()
    assert made["normed.weight"].any()


def test_kaiming_is_an_option_that_the_plan_keeps() -> None:
    g, x = start()
    g.output(g.conv(x, 16, 3, name="last"))
    made = drawn(g, "fresh-kaiming")
    is_kaiming(made["second.weight"], 64 * 9)
    assert not made["second.bias"].any()
    assert all(np.array_equal(v, drawn(g, "fresh-kaiming")[k]) for k, v in made.items())
    assert not np.array_equal(made["second.weight"], drawn(g, "fresh-kaiming", 2)["second.weight"])


@pytest.mark.parametrize("group", [1, 4])
def test_transposed_convolutions_count_what_they_add_up(group: int) -> None:
    g, x = start()
    g.output(g.conv_transpose(x, 16, 4, stride=2, group=group, name="up"))
    is_default(drawn(g)["up.weight"], 32 // group * 16)


def flat() -> tuple[GraphBuilder, str]:
    g, x = start()
    return g, g.flatten(g.gap(x))


@pytest.mark.parametrize("trans_b", [True, False])
def test_matrices_on_the_right(trans_b: bool) -> None:
    g, x = flat()
    hidden = g.gemm(x, 200, trans_b=trans_b, name="one")
    weight = g.weight(200, 10, name="two")
    g.output(g.add(g.matmul(hidden, weight), g.vector(10, name="bias")))
    made = drawn(g)
    is_default(made["one.weight"], 32)
    is_default(made["one.bias"], 32)
    is_default(made["two"], 200)
    assert np.abs(made["bias"]).max() <= 1 / math.sqrt(200)
    assert made["bias"].std() > 0.3 / math.sqrt(200)


def test_a_matrix_on_the_left() -> None:
    g, x = flat()
    g.output(g.matmul(g.weight(100, 32, name="left"), g.transpose(x, 1, 0)))
    is_default(drawn(g)["left"], 32)


@pytest.mark.parametrize(("kind", "turned"), [("FusedGemm", 1), ("FusedGemm", 0), ("FusedMatMul", 1)])
def test_fused_products_turn_their_matrices(kind: str, turned: int) -> None:
    g, x = flat()
    model = g.build()
    shape = (100, 32) if turned else (32, 100)
    weight = numpy_helper.from_array(np.ones(shape, np.float32), "w")
    more = {"activation": "Relu"} if kind == "FusedGemm" else {}
    node = onnx.helper.make_node(kind, [x, "w"], ["y"], "y", domain="com.microsoft", transB=turned, **more)
    model.graph.node.append(node)
    model.graph.initializer.append(weight)
    model.graph.output.append(onnx.helper.make_tensor_value_info("y", 1, [1, 100]))
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    loaded = LoadedModel(model)
    made = cg.rewrite(loaded, cg.plan(loaded, widths={"first": 64}, multiple_of=1, init="fresh"))
    is_default(numpy_helper.to_array(next(t for t in made.proto.graph.initializer if t.name == "w")), 32)


@pytest.mark.parametrize(("kind", "gates"), [("GRU", 3), ("LSTM", 4), ("RNN", 1)])
def test_recurrent_layers_draw_all_they_have(kind: str, gates: int) -> None:
    g, x = start()
    rows = g.transpose(g.reshape(x, 1, 32, 36), 2, 0, 1)
    hidden = 24
    weights = [
        g.weight(1, gates * hidden, 32, name="W"),
        g.weight(1, gates * hidden, hidden, name="R"),
        g.vector(1, 2 * gates * hidden, name="B", low=5, high=6),
    ]
    g.node(kind, [rows, *weights], ["", "last"], hidden_size=hidden)
    g.output("last")
    made = drawn(g)
    is_default(made["W"], 32)
    is_default(made["R"], hidden)
    is_default(made["B"], hidden)


def test_norms_are_neutral_whole_or_in_pieces() -> None:
    g, x = start()
    x = g.op("PRelu", x, g.vector(32, 1, 1, name="slopes"))
    last = g.transpose(x, 0, 2, 3, 1)
    last = g.op("LayerNormalization", last, g.vector(32, name="gain"), g.vector(32, name="shift"), axis=-1)
    centred = g.op("Sub", last, g.reduce("ReduceMean", last, [-1]))
    spread = g.op("Sqrt", g.add(g.reduce("ReduceMean", g.mul(centred, centred), [-1]), g.scalar(1e-5)))
    pieces = g.mul(g.op("Div", centred, spread), g.vector(32, name="gain2"))
    last = g.add(pieces, g.vector(32, name="shift2"))
    variance = g.op("Sqrt", g.add(g.vector(32, name="variance", low=2, high=3), g.scalar(1e-3)))
    last = g.mul(last, g.op("Div", g.vector(32, name="gain3"), variance))
    g.output(g.conv(g.transpose(last, 0, 3, 1, 2), 4, name="y"))
    made = drawn(g)
    assert (made["slopes"] == 0.25).all()
    for name in ("gain", "gain2", "gain3", "variance"):
        assert (made[name] == 1).all(), name
    for name in ("shift", "shift2"):
        assert not made[name].any(), name


def test_what_scales_the_input_stays() -> None:
    g = GraphBuilder(17)
    x = g.mul(g.input("x", [1, 3, 6, 6]), g.vector(3, 1, 1, name="scale", low=0.1, high=0.2))
    g.output(g.conv(g.conv(x, 48, 3, name="first"), 4, 3, name="y"))
    kept = numpy_helper.to_array(next(t for t in g.build().graph.initializer if t.name == "scale"))
    assert np.array_equal(drawn(g)["scale"], kept)


def test_weights_that_the_graph_makes_are_drawn_where_they_lie() -> None:
    g, x = start()
    turned = g.transpose(g.weight(20, 32, name="stored"), 1, 0)
    last = g.matmul(g.transpose(x, 0, 2, 3, 1), turned)
    g.output(g.conv(g.transpose(last, 0, 3, 1, 2), 4, name="y"))
    is_default(drawn(g)["stored"], 32)

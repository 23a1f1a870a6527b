"""The weights that indicators measure: the right numbers, the right way round, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from corpus import files, needs_corpus
from numpy.typing import NDArray
from onnx import TensorProto, helper

from conet_graph.analysis.analysis import analyze
from conet_graph.analysis.layer_weights import indicators_of_layers, weights_of_layers
from conet_graph.analysis.layers import layer_names, layers_of
from conet_graph.ir.graph import Graph
from conet_graph.ir.load import LoadedModel, load_model
from conet_graph.passes import analysed
from conet_graph.passes.shapes.constant_values import value_of
from tests.graphs import GraphBuilder

Build = Callable[[GraphBuilder, str], str]


def graph_of(build: Build, opset: int = 17) -> Graph:
    g = GraphBuilder(opset)
    g.output(build(g, g.input("x", ["N", 4, 6, 6])))
    return analysed(LoadedModel(g.build()))


def numbers(*shape: int, name: str = "w") -> NDArray[Any]:
    return GraphBuilder().rng(name).standard_normal(shape).astype(np.float32)


def test_convolutions_and_products_have_their_axes_told_apart() -> None:
    def build(g: GraphBuilder, x: str) -> str:
        x = g.relu(g.conv_transpose(g.conv(x, 6, 3, name="c"), 8, 3, name="t"))
        flat = g.flatten(g.gap(g.conv(x, 8, 3, group=8, name="depthwise")))
        y = g.gemm(g.gemm(flat, 5, name="right"), 7, trans_b=False, name="wrong")
        return g.op("MatMul", y, g.const(numbers(7, 3), "w"), name="product")

    graph = graph_of(build)
    found = weights_of_layers(graph)
    assert {name: a.shape for name, a in found.arrays.items()} == {
        "c": (6, 4, 3, 3),
        "t": (6, 8, 3, 3),
        "right": (5, 8),
        "wrong": (5, 7),
        "product": (7, 3),
    }
    assert found.input_first == {"t", "wrong", "product"}
    np.testing.assert_array_equal(found.arrays["product"], numbers(7, 3))


def test_a_weight_on_the_left_and_one_in_batches() -> None:
    def build(g: GraphBuilder, x: str) -> str:
        y = g.op("MatMul", g.const(numbers(5, 6), "l"), x, name="left")
        return g.op("MatMul", y, g.const(numbers(4, 6, 3), "b"), name="batched")

    found = weights_of_layers(graph_of(build))
    assert found.arrays["left"].shape == (5, 6)
    assert found.arrays["batched"].shape == (6, 3, 4)
    assert found.input_first == {"batched"}


def constant_node(g: GraphBuilder, w: NDArray[Any]) -> str:
    return g.const(w, as_node=True)


def transposed_and_reshaped(g: GraphBuilder, w: NDArray[Any]) -> str:
    turned = g.transpose(g.const(w.transpose(2, 3, 1, 0).copy()), 3, 2, 0, 1)
    return g.reshape(g.reshape(turned, -1), *w.shape)


def cast(g: GraphBuilder, w: NDArray[Any]) -> str:
    return g.op("Cast", g.const(w.astype(np.float64)), to=TensorProto.FLOAT)


def standardised(g: GraphBuilder, w: NDArray[Any]) -> str:
    held = g.const(w - w.mean(axis=(1, 2, 3), keepdims=True) + 3)
    middle = g.reduce("ReduceMean", held, [1, 2, 3])
    return g.op("Add", g.op("Sub", held, middle), g.const(w.mean(axis=(1, 2, 3), keepdims=True)))


@pytest.mark.parametrize("store", [constant_node, transposed_and_reshaped, cast, standardised])
@pytest.mark.parametrize("opset", [12, 17, 21])
def test_weights_that_are_computed_from_constants(
    store: Callable[[GraphBuilder, NDArray[Any]], str], opset: int
) -> None:
    w = numbers(6, 4, 3, 3)
    graph = graph_of(lambda g, x: g.conv(x, 6, 3, weight=store(g, w), name="c"), opset)
    np.testing.assert_allclose(weights_of_layers(graph).arrays["c"], w, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("opset", [13, 17, 21])
@pytest.mark.parametrize("per_channel", [True, False])
def test_dequantised_weights(opset: int, per_channel: bool) -> None:
    whole = GraphBuilder().rng("q").integers(-9, 9, (6, 4, 3, 3)).astype(np.int8)
    scale = np.linspace(0.1, 0.2, 6, dtype=np.float32) if per_channel else np.array(0.5, np.float32)
    zero = np.full(scale.shape, 2, np.int8)

    def build(g: GraphBuilder, x: str) -> str:
        parts = [g.const(whole), g.const(scale), g.const(zero)]
        return g.conv(x, 6, 3, weight=g.op("DequantizeLinear", *parts, axis=0), name="c")

    want = (whole.astype(np.float32) - 2) * (scale[:, None, None, None] if per_channel else scale)
    np.testing.assert_allclose(weights_of_layers(graph_of(build, opset)).arrays["c"], want, rtol=1e-6)


def test_weights_of_quantised_operators() -> None:
    whole = GraphBuilder().rng("q").integers(0, 9, (6, 4, 1, 1)).astype(np.uint8)
    scale = np.linspace(0.1, 0.2, 6, dtype=np.float32)
    zero = np.full(6, 4, np.uint8)

    def build(g: GraphBuilder, x: str) -> str:
        one, none = g.scalar(0.1), g.const(np.array(3, np.uint8))
        q = g.op("QuantizeLinear", x, one, none)
        w = [g.const(whole), g.const(scale), g.const(zero)]
        y = g.op("QLinearConv", q, one, none, *w, one, none, name="c")
        return g.op("DequantizeLinear", y, one, none)

    want = (whole.astype(np.float32) - 4) * scale[:, None, None, None]
    np.testing.assert_allclose(weights_of_layers(graph_of(build)).arrays["c"], want)


def random_weight(g: GraphBuilder, x: str) -> str:
    return g.conv(x, 6, weight=g.op("RandomNormalLike", g.weight(6, 4, 1, 1)), name="c")


def weight_of_the_input(g: GraphBuilder, x: str) -> str:
    return g.op("Conv", x, g.transpose(g.slice(g.slice(x, 0, 1, 2), 0, 1, 3), 0, 1, 2, 3), name="c")


@pytest.mark.parametrize("build", [random_weight, weight_of_the_input])
def test_what_is_not_known_before_the_run_is_left_out(build: Build) -> None:
    graph = graph_of(build)
    assert [layer.op.op_type for layer in layers_of(graph)] == ["Conv"]
    assert weights_of_layers(graph).arrays == {}


def test_a_huge_value_is_not_computed() -> None:
    body = helper.make_graph(
        [
            helper.make_node("ConstantOfShape", ["big"], ["w"]),
            helper.make_node("Conv", ["x", "w"], ["y"], name="c"),
        ],
        "huge",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2**20, 1, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [helper.make_tensor("big", TensorProto.INT64, [4], [2**20, 2**20, 1, 1])],
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)])
    graph = analysed(LoadedModel(model))
    assert value_of(graph, "w") is None
    assert indicators_of_layers(graph) == {}


def test_a_low_rank_is_seen_on_both_axes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    low = rng.standard_normal((16, 3)) @ rng.standard_normal((3, 8)) + 0.01 * rng.standard_normal((16, 8))

    def build(g: GraphBuilder, x: str) -> str:
        x = g.relu(g.conv(x, 8, name="first"))
        return g.conv(x, 16, weight=g.const(low.astype(np.float32).reshape(16, 8, 1, 1)), name="low")

    g = GraphBuilder()
    g.output(build(g, g.input("x", ["N", 4, 6, 6])))
    onnx.save(g.build(), tmp_path / "m.onnx")
    entry = next(x for x in analyze(tmp_path / "m.onnx", rank=True).layers if x.name == "low")
    assert entry.rank == {"out": 3 / 16, "in": 3 / 8}
    assert entry.condition is not None
    assert 1 < entry.condition["out"] < 20


# Layers without indicators: a private operator quantises their weights.
UNKNOWN = {"espcn_nnresize_quant": 4}


@needs_corpus
@pytest.mark.parametrize("path", files("open", "exports"), ids=lambda p: p.stem)
def test_every_real_file_has_its_weights(path: Path) -> None:
    graph = analysed(load_model(path))
    found = weights_of_layers(graph)
    names = layer_names(graph)
    wanted = [names[x.op.index] for x in layers_of(graph) if x.kind == "conv" and x.op.op_type != "LSTM"]
    missing = [name for name in wanted if name not in found.arrays]
    assert len(missing) == UNKNOWN.get(path.stem, 0)


@needs_corpus
@pytest.mark.wide
@pytest.mark.parametrize("path", files("open", "exports"), ids=lambda p: p.stem)
def test_every_real_file_is_measured(path: Path) -> None:
    graph = analysed(load_model(path))
    for said in indicators_of_layers(graph).values():
        assert 0 <= said.out_rank <= 1
        assert 0 <= said.in_rank <= 1
        assert said.out_condition >= 1
        assert np.isfinite(said.in_condition)

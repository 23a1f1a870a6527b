"""Batch normalisations become part of the layer before them, and outputs stay."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from batchnorm_case import assert_same, counted, node, weights
from hypothesis import HealthCheck, given, settings
from onnx import TensorProto, helper, numpy_helper

from conet_graph.ir.errors import Refused
from conet_graph.ir.load import LoadedModel
from conet_graph.passes.fold_batchnorm import fold_batchnorm
from tests.graphs import GraphBuilder
from tests.strategies import DISCONTINUOUS, models


def started(opset: int = 17, channels: int = 4) -> tuple[GraphBuilder, str]:
    g = GraphBuilder(opset)
    return g, g.input("x", ["N", channels, 6, 6])


def loaded(g: GraphBuilder, *outputs: str) -> LoadedModel:
    for value in outputs:
        g.output(value)
    return LoadedModel(g.build())


def bn(model: LoadedModel) -> int:
    return counted(model, "BatchNormalization")


@pytest.mark.parametrize("opset", [7, 9, 13, 14, 15, 21])
@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_takes_its_normalisation_in(opset: int, bias: bool) -> None:
    g, x = started(opset)
    c = g.conv(x, 6, 3, bias=bias, name="c")
    before = loaded(g, g.relu(g.bn(c, name="n")))
    after = fold_batchnorm(before)
    assert bn(after) == 0
    assert bn(before) == 1
    assert_same(before, after)
    # y = f W x + f (b - mean) + beta, written down here a second time.
    old, new = weights(before), weights(after)
    factor = old["n.scale"] / np.sqrt(old["n.var"] + 1e-5)
    np.testing.assert_allclose(new["c.weight"], old["c.weight"] * factor[:, None, None, None], rtol=1e-6)
    name = "c.bias" if bias else "n.bias"
    shift = (old.get("c.bias", 0) - old["n.mean"]) * factor + old["n.bias"]
    np.testing.assert_allclose(new[name], shift, rtol=1e-5, atol=1e-6)
    assert list(node(after, "Conv").input) == ["x", "c.weight", name]
    assert list(node(after, "Conv").output) == ["n"]
    assert set(new) == {"c.weight", name}


@pytest.mark.parametrize("group", [1, 2, 4])
def test_transposed_convolutions_have_their_outputs_second(group: int) -> None:
    g, x = started()
    before = loaded(g, g.relu(g.bn(g.conv_transpose(x, 8, 4, stride=2, group=group))))
    after = fold_batchnorm(before)
    assert bn(after) == 0
    assert_same(before, after)


@pytest.mark.parametrize(("trans_b", "bias"), [(True, True), (False, True), (True, False)])
@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_a_gemm_takes_it_in(trans_b: bool, bias: bool, beta: float) -> None:
    g, x = started()
    y = g.gemm(g.flatten(g.gap(x)), 5, trans_b=trans_b, bias=bias)
    g.nodes[-1].attribute.extend([helper.make_attribute("beta", beta), helper.make_attribute("alpha", 2.0)])
    before = loaded(g, g.bn(y))
    after = fold_batchnorm(before)
    assert bn(after) == 0
    assert_same(before, after)


def test_grouped_and_depthwise_convolutions_and_chains() -> None:
    g, x = started()
    y = g.bn(g.bn(g.conv(x, 8, 3, group=2)))
    before = loaded(g, g.bn(g.conv(y, 16, 3, group=8, bias=False)))
    after = fold_batchnorm(before)
    assert bn(after) == 0
    assert_same(before, after)


def test_a_bias_of_zeros_is_not_added() -> None:
    g, x = started()
    ones, zeros = g.const(np.full(6, 2, np.float32)), g.const(np.zeros(6, np.float32))
    y = g.op("BatchNormalization", g.conv(x, 6, bias=False), ones, zeros, zeros, ones)
    after = fold_batchnorm(loaded(g, y))
    assert len(node(after, "Conv").input) == 2
    assert bn(after) == 0


def test_weights_of_constant_nodes_and_identities_are_reached() -> None:
    g, x = started()
    held = g.conv(x, 6, weight=g.weight(6, 4, 1, 1, as_node=True), bias=False)
    y = g.bn(held)
    w, ones = g.weight(6, 6, 1, 1), g.const(np.ones(6, np.float32))
    same = [g.op("Identity", ones) for _ in range(2)]
    shift = [g.vector(6), g.vector(6)]
    y = g.op("BatchNormalization", g.conv(y, 6, weight=g.op("Identity", w)), same[0], *shift, same[1])
    before = loaded(g, y)
    after = fold_batchnorm(before)
    assert {n.op_type for n in after.proto.graph.node} == {"Conv"}
    assert_same(before, after)


def test_a_bias_that_layers_share_is_given_to_each() -> None:
    g, x = started()
    bias = g.vector(4)
    y = g.bn(g.conv(x, 4, bias=bias, name="one"))
    before = loaded(g, g.bn(g.conv(g.relu(y), 4, bias=bias, name="two")))
    after = fold_batchnorm(before)
    assert bn(after) == 0
    assert len({n.input[2] for n in after.proto.graph.node if n.op_type == "Conv"}) == 2
    assert len(weights(after)) == 4
    assert_same(before, after)


def shared_weight(g: GraphBuilder, x: str) -> str:
    w = g.weight(4, 4, 1, 1)
    return g.add(g.bn(g.conv(x, 4, weight=w)), g.relu(g.conv(x, 4, weight=w)))


def read_twice(g: GraphBuilder, x: str) -> str:
    c = g.conv(x, 4)
    return g.add(g.bn(c), c)


def behind_an_activation(g: GraphBuilder, x: str) -> str:
    return g.bn(g.relu(g.conv(x, 4)))


def computed_statistics(g: GraphBuilder, x: str) -> str:
    vectors = [g.vector(4, low=0.5, high=1) for _ in range(3)]
    mean = g.op("ReduceMean", x, axes=[0, 2, 3], keepdims=0)
    return g.op("BatchNormalization", g.conv(x, 4), vectors[0], vectors[1], mean, vectors[2])


def quantised(g: GraphBuilder, x: str) -> str:
    w = g.const(g.rng("q").integers(-9, 9, (4, 4, 1, 1)).astype(np.int8))
    scale, zero = g.scalar(0.1), g.const(np.array(0, np.int8))
    return g.bn(g.conv(x, 4, weight=g.op("DequantizeLinear", w, scale, zero)))


def without_end(g: GraphBuilder, x: str) -> str:
    vectors = [g.vector(4) for _ in range(3)]
    huge = g.const(np.array([1, 1, 1, 3e38], np.float32))
    small = g.const(np.full(4, 1e-12, np.float32))
    y = g.op("BatchNormalization", g.conv(x, 4), huge, *vectors[:2], small)
    return g.clip(y, -1, 1)


@pytest.mark.parametrize(
    "build",
    [shared_weight, read_twice, behind_an_activation, computed_statistics, quantised, without_end],
)
def test_what_cannot_be_folded_stays(build: object) -> None:
    g, x = started()
    assert callable(build)
    before = loaded(g, build(g, x))
    after = fold_batchnorm(before)
    assert bn(after) == 1
    assert after.proto.graph.node == before.proto.graph.node
    assert after.proto.graph.initializer == before.proto.graph.initializer


def test_training_forms_stay() -> None:
    g, x = started()
    g.bn(g.conv(x, 4))
    g.nodes[-1].attribute.append(helper.make_attribute("training_mode", 1))
    assert bn(fold_batchnorm(loaded(g, g.nodes[-1].output[0]))) == 1
    g, x = started(opset=8)
    g.bn(g.conv(x, 4))
    g.nodes[-1].attribute.append(helper.make_attribute("spatial", 0))
    assert bn(fold_batchnorm(loaded(g, g.nodes[-1].output[0]))) == 1


def test_sub_graphs_stay_and_what_they_read() -> None:
    g, x = started()
    c = g.conv(x, 4, name="c")
    g.bn(c, name="n")
    body = helper.make_graph(
        [helper.make_node("Relu", ["c"], ["r"])],
        "body",
        [],
        [helper.make_tensor_value_info("r", TensorProto.FLOAT, None)],
    )
    yes = g.const(np.array(True), "yes")
    g.nodes.append(helper.make_node("If", [yes], ["z"], then_branch=body, else_branch=body))
    g.types["z"] = g.types["c"]
    before = loaded(g, "n", "z")
    after = fold_batchnorm(before)
    assert bn(after) == 1
    assert_same(before, after)


def test_half_floats() -> None:
    g, x = started()
    model = loaded(g, g.relu(g.bn(g.conv(x, 6, 3))))
    half = onnx.ModelProto.FromString(model.proto.SerializeToString())
    for tensor in half.graph.initializer:
        array = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for value in (*half.graph.input, *half.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    before = LoadedModel(half)
    after = fold_batchnorm(before)
    assert bn(after) == 0
    assert {a.dtype for a in weights(after).values()} == {np.dtype(np.float16)}
    assert_same(before, after, tolerance=4e-3)


def test_an_old_operator_set_is_refused() -> None:
    g, x = started(7)
    model = loaded(g, g.bn(g.conv(x, 4)))
    model.proto.opset_import[0].version = 6
    with pytest.raises(Refused, match="opset 6"):
        fold_batchnorm(model)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(models(exclude=DISCONTINUOUS))
def test_random_networks_stay_the_same(model: onnx.ModelProto) -> None:
    before = LoadedModel(model)
    assert_same(before, fold_batchnorm(before), tolerance=1e-4)

"""The cost model says what the rewritten network costs, to the last number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from rewidth_case import graph_of

from conet_graph.costs.cost import cost
from conet_graph.costs.cost_model import CostModel
from conet_graph.ir.errors import Refused
from conet_graph.ir.graph import Graph
from conet_graph.passes.tie_channels import CHANNELS
from conet_graph.passes.widths.rewidth import lay_out, rewrite_model
from tests.graphs import GraphBuilder
from tests.strategies import models


def counts_and_copies(
    graph: Graph, seed: int, widest: float, least: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Random widths: classes of each group, and copies of each class."""
    channels = graph.result(CHANNELS)
    rng = np.random.default_rng(seed)
    counts = np.array([len(g.classes) for g in channels.groups], np.float64)
    copies = np.ones(len(channels.units.frozen_class), np.int64)
    for k, group in enumerate(channels.groups):
        if group.free:
            have = len(group.classes)
            counts[k] = rng.integers(min(least, have), int(widest * have) + 1)
            copies[group.classes] = np.bincount(np.arange(int(counts[k])) % have, minlength=have)
    return counts, copies


def assert_agrees(model: onnx.ModelProto, seed: int, widest: float, least: int = 1) -> None:
    graph = graph_of(model)
    predicted = CostModel(graph)
    counts, copies = counts_and_copies(graph, seed, widest, least)
    try:
        proto = rewrite_model(graph, lay_out(graph, copies))
    except Refused:
        return
    found = cost(graph_of(proto))
    assert predicted.parameters(counts) == found.parameters
    assert predicted.macs(counts) == found.known_macs


# The model counts a convolution's pixels as they are, also where they are a layer's channels; and it does not
# foresee the untied copy that a weight gets whose two readers share a copied channel out differently.
UNFORESEEN = ("einsum_ellipsis", "there_and_back", "tied_matrix", "composed_weight")


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(models(exclude=UNFORESEEN), st.integers(0, 10**6), st.sampled_from([1.0, 2.0]))
def test_random_networks(model: onnx.ModelProto, seed: int, widest: float) -> None:
    # Two channels at least: a shared weight of a single number is no longer recognised as one weight.
    assert_agrees(model, seed, widest, least=2)


def one_channel() -> onnx.ModelProto:
    """A number for each of the channels, that stops being a parameter where one channel is left."""
    b = GraphBuilder()
    a = b.conv(b.input("x", ["N", 3, 4, 4]), 2, bias=False)
    b.output(b.conv(b.mul(a, b.vector(1, 2, 1, 1)), 5))
    return b.build()


def attention() -> onnx.ModelProto:
    """Products of two feature maps over 16 positions, one of them as an Einsum."""
    b = GraphBuilder()
    x = b.input("x", ["N", 3, 4, 4])
    q, k, v = (b.reshape(b.conv(x, 8), 0, 8, 16) for _ in range(3))
    scores = b.op("Softmax", b.matmul(b.transpose(q, 0, 2, 1), k), axis=-1)
    mixed = b.op("Einsum", v, scores, equation="bcj,bij->bci")
    b.output(b.conv(b.reshape(mixed, 0, 0, 4, 4), 5))
    return b.build()


def recurrent() -> onnx.ModelProto:
    b = GraphBuilder()
    x = b.conv(b.input("x", [1, 3, 7]), 6, 3)
    steps = b.transpose(x, 2, 0, 1)
    b.node("GRU", [steps, b.weight(1, 12, 6), b.weight(1, 12, 4)], ["h"], hidden_size=4)
    b.output(b.matmul(b.squeeze("h", 1), b.weight(4, 5)))
    return b.build()


@pytest.mark.parametrize("make", [one_channel, attention, recurrent])
@pytest.mark.parametrize("widest", [1.0, 3.0])
def test_networks_of_other_kinds(make: object, widest: float) -> None:
    assert callable(make)
    for seed in range(4):
        assert_agrees(make(), seed, widest)


def test_a_weight_inside_a_body_is_a_parameter_that_stays() -> None:
    def body(name: str) -> onnx.GraphProto:
        tensor = numpy_helper.from_array(np.ones((2, 3, 1, 1), np.float32), f"{name}_w")
        out = helper.make_tensor_value_info(f"{name}_y", onnx.TensorProto.FLOAT, None)
        node = helper.make_node("Conv", ["x", f"{name}_w"], [f"{name}_y"], name=name)
        return helper.make_graph([node], name, [], [out], [tensor])

    b = GraphBuilder()
    b.conv(b.input("x", ["N", 3, 4, 4]), 4, name="a")
    b.output(b.conv("a", 5))
    model = b.build()
    model.graph.node.extend(
        [
            helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
            helper.make_node("Cast", ["most"], ["yes"], to=onnx.TensorProto.BOOL),
            helper.make_node("If", ["yes"], ["z"], else_branch=body("p"), then_branch=body("q")),
        ]
    )
    model.graph.output.append(helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, ["N", 2, 4, 4]))
    for seed in range(3):
        assert_agrees(model, seed, 1.0)
    graph = graph_of(model)
    now = np.array([len(g.classes) for g in graph.result(CHANNELS).groups], np.float64)
    assert CostModel(graph).parameters(now) == (3 + 1) * 4 + (4 + 1) * 5 + 12


@pytest.mark.parametrize(("kind", "each"), [(np.float32, 4), (np.float16, 2), (np.float64, 8)])
def test_bytes_are_those_of_the_stored_type(kind: type[np.generic], each: int) -> None:
    b = GraphBuilder()
    x = b.input("x", ["N", 1, 4, 4], helper.np_dtype_to_tensor_dtype(np.dtype(kind)))
    a = b.conv(x, 6, weight=b.const(np.ones((6, 1, 3, 3), kind), "a.weight"), bias=False, k=3)
    b.output(b.conv(a, 2, weight=b.const(np.ones((2, 6, 1, 1), kind), "b.weight"), bias=False))
    graph = graph_of(b.build())
    free = [g.free for g in graph.result(CHANNELS).groups]
    counts = np.where(free, 4.0, [len(g.classes) for g in graph.result(CHANNELS).groups])
    assert CostModel(graph).weight_bytes(counts) == each * 4 * (9 + 2)


def test_a_wrong_prediction_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CostModel, "macs", lambda self, counts: 1.0)
    with pytest.raises(AssertionError):
        assert_agrees(one_channel(), 0, 1.0)


@pytest.mark.parametrize("name", ["digits", "resnet20"])
def test_macs_along_one_group_are_differences_of_the_whole(name: str) -> None:
    graph = graph_of(onnx.load(Path(__file__).parents[1] / "models" / "samples" / f"{name}.onnx"))
    model, groups = CostModel(graph), graph.result(CHANNELS).groups
    counts, _ = counts_and_copies(graph, 3, 1.0)
    for number, group in enumerate(groups):
        if not group.free:
            continue
        kept = np.array([1.0, counts[number], len(group.classes)])
        other = np.tile(counts, (3, 1))
        other[:, number] = kept
        wanted = [model.macs(each) - model.macs(counts) for each in other]
        assert model.macs_along(counts, number, kept) == pytest.approx(wanted)
        assert number in model.neighbours(number)

"""Widening keeps the function: weights share out however they are made; what cannot widen stays."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest
from rewidth_case import free, graph_of, rewidthed

from conet_graph.ir.errors import Refused
from conet_graph.rewriting.rewriting import plan_for
from conet_graph.rewriting.targets import WidthRequest, choose_copies
from tests.graphs import GraphBuilder

Make = Callable[[GraphBuilder, str], str]


def network(make: Make, size: int = 4, first: int = 8) -> onnx.ModelProto:
    """A convolution 'a', what ``make`` adds, and a convolution 'y' to five channels."""
    g = GraphBuilder(17)
    x = g.relu(g.conv(g.input("x", [2, 3, size, size]), first, 3, name="a"))
    g.output(g.conv(make(g, x), 5, 3, name="y"))
    return g.build()


# -- weights that are read twice, or made of several constants ---------------------------------------


def autoencoder(g: GraphBuilder, x: str) -> str:
    """One kernel there and, transposed, back again."""
    weight = g.weight(12, 8, 3, 3)
    inner = g.relu(g.conv(x, 12, 3, weight=weight, bias=False))
    made = g.op("ConvTranspose", inner, weight, pads=[1, 1, 1, 1], kernel_shape=[3, 3])
    return g.relu(made)


def turned(g: GraphBuilder, x: str) -> str:
    """A matrix on the channels, and its Transpose behind an activation."""
    weight = g.weight(8, 6)
    last = g.transpose(x, 0, 2, 3, 1)
    inner = g.relu(g.matmul(last, weight))
    return g.transpose(g.matmul(inner, g.transpose(weight, 1, 0)), 0, 3, 1, 2)


def gate(g: GraphBuilder, x: str) -> str:
    """A vector that weighs channels in a sum, and then multiplies them."""
    weight = g.weight(8, 1)
    last = g.transpose(x, 0, 2, 3, 1)
    score = g.sigmoid(g.matmul(last, weight))
    scaled = g.mul(last, g.reshape(weight, 8))
    return g.transpose(g.mul(scaled, score), 0, 3, 1, 2)


def joined_inputs(g: GraphBuilder, x: str) -> str:
    """A kernel that is joined along the channels it reads."""
    weight = g.concat(g.weight(6, 3, 3, 3), g.weight(6, 5, 3, 3))
    return g.conv(x, 6, 3, weight=weight, bias=False)


def joined_outputs(g: GraphBuilder, x: str) -> str:
    """A kernel that is joined along the channels it makes."""
    weight = g.concat(g.weight(2, 8, 3, 3), g.weight(4, 8, 3, 3), axis=0)
    return g.conv(x, 6, 3, weight=weight, bias=False)


def low_rank(g: GraphBuilder, x: str) -> str:
    """W + B A, as adapters are exported."""
    last = g.transpose(x, 0, 2, 3, 1)
    weight = g.add(g.weight(8, 6), g.matmul(g.weight(8, 2), g.weight(2, 6)))
    return g.transpose(g.matmul(last, weight), 0, 3, 1, 2)


def masked(g: GraphBuilder, x: str) -> str:
    """A kernel times a mask of its shape."""
    weight = g.mul(g.weight(6, 8, 3, 3), g.vector(6, 8, 3, 3, low=0.2, high=1.0))
    return g.conv(x, 6, 3, weight=weight, bias=False)


def squashed(g: GraphBuilder, x: str) -> str:
    """A kernel behind Tanh: copies cannot share it in proportion, the first keeps all."""
    return g.conv(x, 6, 3, weight=g.op("Tanh", g.weight(6, 8, 3, 3)), bias=False)


MADE = (autoencoder, turned, gate, joined_inputs, joined_outputs, low_rank, masked, squashed)


@pytest.mark.parametrize("make", MADE, ids=lambda m: m.__name__)
@pytest.mark.parametrize("scale", [0.5, 1.5, 2.0])
def test_a_weight_shares_out_however_it_is_made(make: Make, scale: float) -> None:
    made = rewidthed(network(make), scale=scale)
    assert not made.plan.kept
    assert all(g.new_width != g.old_width for g in made.plan.groups)
    assert made.shape("a.weight")[0] != 8


def test_the_second_use_of_a_tied_matrix_gets_a_copy() -> None:
    model = network(turned)
    before = {t.name for t in model.graph.initializer}
    made = rewidthed(model, scale=1.5)
    assert [name for name in made.arrays() if "untied" in name and name not in before]
    assert not [name for name in rewidthed(model, scale=0.5).arrays() if "untied" in name]


# -- grouped convolutions with one output a group ------------------------------------------------------


def one_output(g: GraphBuilder, x: str) -> str:
    return g.conv(g.conv(x, 24, 3, name="b"), 6, 3, group=6, name="grouped")


def one_output_transposed(g: GraphBuilder, x: str) -> str:
    return g.conv_transpose(g.conv(x, 12, 3, name="b"), 4, 2, stride=2, group=4)


def learned_pooling(g: GraphBuilder, x: str) -> str:
    """Pairs of branches, interleaved, then one channel for each pair."""
    pair = [g.unsqueeze(g.conv(x, 6), 2), g.unsqueeze(g.conv(x, 6, 3), 2)]
    mixed = g.reshape(g.concat(*pair, axis=2), 2, 12, 4, 4)
    return g.conv(mixed, 6, 3, group=6, name="grouped")


@pytest.mark.parametrize(
    "make", [one_output, one_output_transposed, learned_pooling], ids=lambda m: m.__name__
)
def test_a_group_with_one_output_goes_or_is_copied_as_a_whole(make: Make) -> None:
    model = network(make)
    for scale in (0.5, 1.5, 2.0):
        made = rewidthed(model, scale=scale)
        assert not made.plan.kept
        assert all(g.new_width == g.old_width * scale for g in made.plan.groups)


def test_groups_fall_with_their_channels() -> None:
    model = network(one_output)
    assert (24, 4) in free(model)
    made = rewidthed(model, widths={"grouped": 4})
    assert made.attr("grouped", "group") == 4
    assert made.shape(made.node("b").input[1])[0] == 16


# -- what cannot widen stays ---------------------------------------------------------------------------


def shuffled(g: GraphBuilder, x: str) -> str:
    """Grouped, shuffled, depthwise, grouped: the unit of ShuffleNet v1."""
    x = g.conv(x, 16, 3, name="before")
    b = g.reshape(g.conv(x, 8, group=4, name="in"), 2, 4, 2, 4, 4)
    b = g.reshape(g.transpose(b, 0, 2, 1, 3, 4), 2, 8, 4, 4)
    return g.conv(g.conv(b, 8, 3, group=8), 16, group=4)


def tiled(g: GraphBuilder, x: str) -> str:
    """Channels repeated as a whole, added to channels of a convolution, and grouped."""
    repeated = g.op("Tile", g.conv(x, 6, 3), g.ints(1, 2, 1, 1))
    return g.conv(g.add(g.conv(x, 12, 3), repeated), 12, group=2)


def each_repeated(g: GraphBuilder, x: str) -> str:
    """Every channel three times, side by side."""
    repeated = g.op("Tile", g.unsqueeze(g.conv(x, 6, 3), 2), g.ints(1, 1, 3, 1, 1))
    return g.add(g.reshape(repeated, 2, 18, 4, 4), g.conv(x, 18, 3))


def involution(g: GraphBuilder, x: str) -> str:
    """Kernels of four groups by nine positions, over features of four groups by four channels."""
    features = g.conv(x, 16, 3, name="features")
    kernels = g.unsqueeze(g.reshape(g.conv(features, 36, name="kernels"), 2, 4, 9, 4, 4), 2)
    nine = g.op("Expand", g.unsqueeze(features, 2), g.ints(2, 16, 9, 4, 4), shape=[2, 16, 9, 4, 4])
    windows = g.reshape(g.reshape(nine, 2, 144, 16), 2, 4, 4, 9, 4, 4)
    return g.reshape(g.op("ReduceSum", g.mul(kernels, windows), g.ints(3), keepdims=0), 2, 16, 4, 4)


def attention(g: GraphBuilder, x: str) -> str:
    """Products of two feature maps: twice the channels would double the scores."""
    query, key = (g.reshape(g.conv(x, 6, name=n), 2, 6, 16) for n in ("query", "key"))
    value = g.reshape(g.conv(x, 8), 2, 8, 16)
    scores = g.op("Softmax", g.matmul(g.transpose(query, 0, 2, 1), key), axis=2)
    return g.reshape(g.matmul(value, scores), 2, 8, 4, 4)


def summed(g: GraphBuilder, x: str) -> str:
    """A sum over channels without weights."""
    b = g.conv(x, 6, 3)
    return g.mul(x, g.op("ReduceSum", b, g.ints(1)))


def test_positions_of_an_involution_are_no_channels() -> None:
    model = network(involution)
    assert (16, 4) in free(model)
    for scale in (0.5, 1.5):
        rewidthed(model, scale=scale)


@pytest.mark.parametrize("make", [shuffled, tiled, each_repeated], ids=lambda m: m.__name__)
@pytest.mark.parametrize("scale", [0.5, 1.5, 2.0])
def test_copies_keep_a_shuffle_a_shuffle_and_a_repetition_one(make: Make, scale: float) -> None:
    made = rewidthed(network(make), scale=scale)
    assert not made.plan.kept


STUCK = (attention, summed)


@pytest.mark.parametrize("make", STUCK, ids=lambda m: m.__name__)
@pytest.mark.parametrize("scale", [1.5, 2.0, 3.0])
def test_a_group_that_cannot_widen_stays_and_the_rest_widens(make: Make, scale: float) -> None:
    made = rewidthed(network(lambda g, x: make(g, g.conv(x, 8, 3))), scale=scale)
    assert made.plan.kept
    assert all("At these widths" in k.reason and "choose other" not in k.reason for k in made.plan.kept)
    ids = {k.id for k in made.plan.kept}
    assert any(g.new_width > g.old_width for g in made.plan.groups)
    assert not ids & {g.id for g in made.plan.groups}
    assert made.plan.to_json()["kept"][0].keys() == {"id", "reason"}


def test_a_stuck_group_asked_for_by_name_is_refused() -> None:
    model = network(attention)
    graph = graph_of(model)
    request = WidthRequest(widths={"query": 9})
    with pytest.raises(Refused, match="At these widths operator MatMul"):
        plan_for(graph, request, "keep", False, lambda asked: choose_copies(graph, asked))


def test_a_target_is_met_with_the_groups_that_can_widen() -> None:
    graph = graph_of(network(attention))
    request = WidthRequest(params=2000.0, multiple_of=1)
    made, _ = plan_for(graph, request, "keep", False, lambda asked: choose_copies(graph, asked))
    assert made.kept
    widths = {g.id: g.new_width for g in made.groups}
    assert not {k.id for k in made.kept} & widths.keys()
    assert widths


def test_fresh_weights_ask_for_no_function_to_be_kept() -> None:
    graph = graph_of(network(attention))
    request = WidthRequest(scale=1.5, multiple_of=1)
    made, layout = plan_for(graph, request, "fresh", False, lambda asked: choose_copies(graph, asked))
    assert not made.kept
    assert not any(tensor.scale for tensor in layout.tensors.values())


def layer_norm(g: GraphBuilder, x: str) -> str:
    last = g.transpose(x, 0, 2, 3, 1)
    normal = g.op("LayerNormalization", last, g.vector(8, low=0.5, high=1.5), g.vector(8), axis=-1)
    return g.transpose(normal, 0, 3, 1, 2)


def test_a_norm_over_equally_many_copies_of_each_channel_is_exact() -> None:
    rewidthed(network(layer_norm), scale=2.0)
    assert not rewidthed(network(layer_norm), exact=False, scale=1.5).plan.exact

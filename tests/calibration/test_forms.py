"""Every operator form is a table of features times a matrix: checked against what ONNX Runtime computes."""

from __future__ import annotations

import numpy as np
import pytest

from conet_graph.calibration.forms import form_of
from conet_graph.calibration.places import bias_place
from conet_graph.ir.load import LoadedModel
from conet_graph.passes import analysed
from conet_graph.passes.classify_edges import LAYERS
from conet_graph.passes.widths.rewidth import with_constants
from tests.helpers.small_networks import answers, network

RNG = np.random.default_rng(0)

# Attributes, shape of the input, shape of the weight.
CONVOLUTIONS = {
    "plain": ("pads=[1,1,1,1]", (2, 6, 7, 8), (4, 6, 3, 3)),
    "strided": ("strides=[2,3]", (2, 6, 9, 8), (4, 6, 3, 2)),
    "dilated": ("dilations=[2,1], pads=[2,0,1,1]", (2, 3, 9, 8), (4, 3, 3, 3)),
    "grouped": ("group=2, pads=[1,1,1,1]", (2, 6, 5, 5), (4, 3, 3, 3)),
    "depthwise": ("group=6, pads=[1,1,1,1], strides=[2,2]", (2, 6, 7, 7), (12, 1, 3, 3)),
    "same upper": ('auto_pad="SAME_UPPER", strides=[2,2]', (2, 3, 8, 7), (4, 3, 3, 3)),
    "same lower": ('auto_pad="SAME_LOWER", strides=[2,1]', (2, 3, 8, 7), (4, 3, 4, 3)),
    "valid": ('auto_pad="VALID"', (2, 3, 8, 7), (4, 3, 2, 3)),
    "one dimension": ("pads=[2,1], dilations=[2]", (3, 5, 11), (4, 5, 3)),
    "three dimensions": ("pads=[1,0,1,1,0,1], strides=[1,2,1]", (2, 3, 5, 6, 4), (4, 3, 3, 2, 3)),
}
TRANSPOSED = {
    "plain": ("", (2, 6, 5, 4), (6, 4, 3, 3)),
    "strided": ("strides=[2,3], pads=[1,0,0,1]", (2, 6, 5, 4), (6, 4, 3, 4)),
    "output padding": ("strides=[2,2], pads=[1,1,1,1], output_padding=[1,1]", (2, 3, 5, 4), (3, 4, 3, 3)),
    "dilated": ("dilations=[2,1], pads=[1,0,1,0]", (2, 3, 5, 4), (3, 4, 3, 2)),
    "grouped": ("group=2, strides=[2,2]", (2, 6, 4, 4), (6, 3, 2, 2)),
    "depthwise": ("group=4, strides=[2,2], pads=[1,1,1,1]", (2, 4, 4, 4), (4, 1, 4, 4)),
    "same upper": ('auto_pad="SAME_UPPER", strides=[2,2]', (2, 3, 5, 4), (3, 4, 3, 3)),
    "one dimension": ("strides=[3]", (2, 3, 5), (3, 4, 4)),
}
PRODUCTS = {
    "gemm": ("Gemm <transB=1> (x, w)", (5, 6), (4, 6)),
    "gemm of a turned input": ("Gemm <transA=1, alpha=0.5> (x, w)", (6, 5), (6, 4)),
    "matmul": ("MatMul (x, w)", (2, 3, 5, 6), (6, 4)),
    "matmul from the left": ("MatMul (w, x)", (2, 6, 5), (4, 6)),
    "einsum": ('Einsum <equation="btc,cd->btd"> (x, w)', (2, 5, 6), (6, 4)),
    "einsum of a turned matrix": ('Einsum <equation="...c,dc->...d"> (x, w)', (2, 3, 5, 6), (4, 6)),
    "einsum from the left": ('Einsum <equation="dc,bchw->bdhw"> (w, x)', (2, 6, 5, 3), (4, 6)),
    "einsum that moves the places": ('Einsum <equation="bchw,cd->wbdh"> (x, w)', (2, 6, 5, 3), (6, 4)),
}


def _check(node: str, shape: tuple[int, ...], weight_shape: tuple[int, ...], out_rank: int) -> None:
    dims = ",".join(map(str, shape))
    free = ",".join("abcdefg"[:out_rank])
    weight = RNG.standard_normal(weight_shape)
    model = network(f"g (float[{dims}] x) => (float[{free}] y) {{ y = {node} }}", {"w": weight})
    graph = analysed(model)
    (layer,) = graph.result(LAYERS)
    stored = graph.array("w")
    form = form_of(graph, layer, stored)
    assert form is not None
    x = RNG.standard_normal(shape).astype(np.float32)
    (y,) = answers(model, x=x)
    rows = form.rows(x, y.shape, lambda count: None)
    targets = form.targets(y, lambda count: None)
    assert np.abs(rows @ form.matrix(stored) * form.gain - targets).max() < 1e-4
    few = np.array([3, 1])
    assert np.array_equal(form.rows(x, y.shape, lambda count: few), rows[:, few])
    assert np.array_equal(form.targets(y, lambda count: few), targets[:, few])
    assert np.array_equal(form.weight(form.matrix(stored), stored.shape), stored)
    assert rows.shape[2] % form.per_channel == 0


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name: str) -> None:
    attributes, shape, weight = CONVOLUTIONS[name]
    _check(f"Conv <{attributes}> (x, w)", shape, weight, len(shape))


@pytest.mark.parametrize("name", TRANSPOSED)
def test_transposed_convolutions(name: str) -> None:
    attributes, shape, weight = TRANSPOSED[name]
    _check(
        f"ConvTranspose <{attributes}> (x, w)" if attributes else "ConvTranspose (x, w)",
        shape,
        weight,
        len(shape),
    )


@pytest.mark.parametrize("name", PRODUCTS)
def test_products(name: str) -> None:
    node, shape, weight = PRODUCTS[name]
    _check(node, shape, weight, len(shape))


def test_recurrent_inputs() -> None:
    """The input side of a recurrent layer, all gates of both directions at once."""
    weight, again = RNG.standard_normal((2, 12, 5)), RNG.standard_normal((2, 12, 3))
    model = network(
        "g (float[7,2,5] x) => (float[a,b,c,d] y)"
        '{ y = GRU <hidden_size=3, direction="bidirectional"> (x, w, r)}',
        {"w": weight, "r": again},
    )
    graph = analysed(model)
    (layer,) = graph.result(LAYERS)
    form = form_of(graph, layer, weight)
    assert form is not None
    x = RNG.standard_normal((7, 2, 5)).astype(np.float32)
    found = form.rows(x, (), lambda count: None) @ form.matrix(weight)
    wanted = np.einsum("tbi,dgi->tbdg", x, weight).reshape(14, 24)
    assert np.abs(found[0] - wanted).max() < 1e-4


def test_what_has_no_form_has_none() -> None:
    model = network(
        "g (float[2,4,8] x) => (float[2,4,6] y) { y = MatMul (x, w) }", {"w": RNG.standard_normal((2, 8, 6))}
    )
    graph = analysed(model)
    (layer,) = graph.result(LAYERS)
    assert form_of(graph, layer, graph.array("w")) is None


@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("left", [1, 4, 6])
def test_a_depthwise_layer_that_lost_channels(kind: str, left: int) -> None:
    # The operator is that of the original, with 6 groups; the narrowed network has fewer.
    def of(channels: int) -> LoadedModel:
        node = f"{kind} <group={channels}, pads=[1,1,1,1], strides=[2,2]> (x, w)"
        body = f"g (float[2,{channels},7,7] x) => (float[a,b,c,d] y) {{ y = {node} }}"
        return network(body, {"w": RNG.standard_normal((channels, 1, 3, 3))})

    graph, narrow = analysed(of(6)), of(left)
    (layer,) = graph.result(LAYERS)
    weight = analysed(narrow).array("w")
    form = form_of(graph, layer, weight, narrow.proto.graph.node[0])
    assert form is not None
    x = RNG.standard_normal((2, left, 7, 7)).astype(np.float32)
    (y,) = answers(narrow, x=x)
    rows, targets = form.rows(x, y.shape, lambda count: None), form.targets(y, lambda count: None)
    assert form.blocks == left
    assert np.abs(rows @ form.matrix(weight) - targets).max() < 1e-4


ADDED = {
    "along the channels": ('Einsum <equation="bchw,cd->bdhw"> (x, w)', (6, 1, 1), True),
    "along the places": ('Einsum <equation="bchw,cd->bdhw"> (x, w)', (6,), False),
    "along the last channels": ('Einsum <equation="bchw,cd->bhwd"> (x, w)', (6,), True),
    "along the rows of a product from the left": ("MatMul (w, x)", (6, 1), True),
    "along the columns of a product from the left": ("MatMul (w, x)", (6,), False),
}


@pytest.mark.parametrize("case", ADDED)
def test_what_is_added_is_a_bias_along_the_channels_alone(case: str) -> None:
    node, dims, is_bias = ADDED[case]
    left = node.startswith("MatMul")
    model = network(
        f"g (float[{'2,4,6' if left else '2,4,6,6'}] x) => (float[{'a,b,c' if left else 'a,b,c,d'}] y)"
        f" {{ h = {node} y = Add (h, v) }}",
        {"w": RNG.standard_normal((6, 4) if left else (4, 6)), "v": RNG.standard_normal(dims)},
    )
    graph = analysed(model)
    (layer,) = graph.result(LAYERS)
    place = bias_place(graph, layer, with_constants(graph, {}), 6)
    assert (place is not None and place.kind == "added") == is_bias

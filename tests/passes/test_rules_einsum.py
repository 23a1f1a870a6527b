"""Einsums of a feature map and a weight are layers, whatever the order of their letters."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from golden_text import filled
from rewidth_case import free, graph_of, groups, reason, rewidthed

from conet_graph.analysis.layer_weights import weights_of_layers
from conet_graph.costs.cost import cost
from conet_graph.costs.cost_model import CostModel
from conet_graph.ir.errors import BadUsage
from conet_graph.passes.tie_channels import CHANNELS

HEADER = '<ir_version: 9, opset_import: ["": 17]>\n'
TOKENS = (
    "m = Conv(x, stem) shape3 = Constant<value_ints=[0,8,-1]>() f = Reshape(m, shape3)"
    " t = Transpose<perm=[0,2,1]>(f)"
)


def network(body: str, weights: str, out: str = "1,9,5") -> onnx.ModelProto:
    """Nine tokens ``t`` of the eight channels of a map ``m``, then ``body``."""
    declared = f"float[8,3,1,1] stem, {weights}"
    return filled(f"{HEADER}agraph (float[1,3,3,3] x) => (float[{out}] y)<{declared}>{{{TOKENS} {body}}}")


def one(equation: str, weight: str, operands: str = "t, w") -> onnx.ModelProto:
    """Twelve channels made of eight, then five of twelve."""
    return network(
        f'h = Einsum<equation="{equation}">({operands}) y = MatMul(h, wy)',
        f"float[{weight}] w, float[12,5] wy",
    )


MATRICES = {
    "a matrix": one("btc,cd->btd", "8,12"),
    "a matrix turned": one("btc,dc->btd", "12,8"),
    "a matrix first": one("dc,btc->btd", "12,8", "w, t"),
    "no result named": one("...c,cd", "8,12"),
    "channels first": one("bchw,dc->bhwd", "12,8", "m, w"),
}
MATRICES["channels first"].graph.output[0].CopyFrom(
    onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 3, 3, 5])
)


@pytest.mark.parametrize("form", MATRICES)
def test_a_matrix_is_a_layer(form: str) -> None:
    model = MATRICES[form]
    assert free(model) == [(8, 1), (12, 1)]
    inner = rewidthed(model, scale=0.5).shape("w")
    assert sorted(inner) == [4, 6]
    assert sorted(rewidthed(model, scale=1.5).shape("w")) == [12, 18]


HEADS = network(
    'q = Einsum<equation="btd,dhe->bthe">(t, wq) k = Einsum<equation="btd,dhe->bthe">(t, wk)'
    ' v = Einsum<equation="btd,dhe->bthe">(t, wv) s = Einsum<equation="bthe,bshe->bhts">(q, k) p = Softmax(s)'
    ' a = Einsum<equation="bhts,bshe->bthe">(p, v) y = Einsum<equation="bthe,hed->btd">(a, wy)',
    "float[8,3,4] wq, float[8,3,4] wk, float[8,3,4] wv, float[3,4,5] wy",
)


def test_heads_and_their_sizes_are_sizes_of_their_own() -> None:
    """Keras' attention: the weight of a projection has an axis of heads and one of their sizes."""
    found = [g for g in groups(HEADS) if g.free]
    assert [(g.width, g.multiple) for g in found] == [(8, 1), (3, 1), (4, 1), (4, 1)]
    assert len({g.size for g in found}) == 4
    narrow = rewidthed(HEADS, widths={found[1].id: 2, found[2].id: 1})
    assert (narrow.shape("wq"), narrow.shape("wv"), narrow.shape("wy")) == ((8, 2, 1), (8, 2, 4), (2, 4, 5))
    wide = rewidthed(HEADS, widths={found[1].id: 5, found[3].id: 6})
    assert (wide.shape("wq"), wide.shape("wv"), wide.shape("wy")) == ((8, 5, 4), (8, 5, 6), (5, 6, 5))


def test_a_layer_of_several_axes_has_no_one_width() -> None:
    with pytest.raises(BadUsage, match=r"'q' makes several axes of channels: .* g1 \(3\) and g2 \(4\)"):
        rewidthed(HEADS, widths={"q": 6})


def test_several_axes_of_one_weight_share_their_values_out() -> None:
    """Copies of heads, and copies within each: what reads them halves its weights twice."""
    model = network(
        'q = Einsum<equation="btd,dhe->bthe">(t, w) y = Einsum<equation="bthe,hed->btd">(q, wy)',
        "float[8,3,4] w, float[3,4,5] wy",
    )
    found = rewidthed(model, scale=2.0)
    assert found.shape("wy") == (6, 8, 5)
    old = onnx.numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == "wy"))
    assert found.arrays()["wy"].sum() == pytest.approx(old.sum(), rel=1e-5)


def test_a_matrix_for_each_part_of_the_channels() -> None:
    model = network(
        "four = Constant<value_ints=[0,0,2,4]>() r = Reshape(t, four)"
        ' g = Einsum<equation="btgc,gcd->btgd">(r, w) three = Constant<value_ints=[0,0,12]>()'
        " h = Reshape(g, three) y = MatMul(h, wy)",
        "float[2,4,6] w, float[12,5] wy",
    )
    assert free(model) == [(8, 2), (6, 1)]
    found = rewidthed(model, scale=0.5)
    assert (found.shape("w"), found.shape("wy")) == ((2, 2, 3), (6, 5))
    assert rewidthed(model, scale=2.0).shape("wy") == (24, 5)


LAYERS = {"a matrix": 9 * 8 * 12, "a matrix first": 9 * 8 * 12, "channels first": 9 * 8 * 12}


@pytest.mark.parametrize("form", LAYERS)
def test_multiply_accumulates_of_a_layer(form: str) -> None:
    graph = graph_of(MATRICES[form])
    rest = 9 * (3 * 8 + 12 * 5)
    assert cost(graph).macs == LAYERS[form] + rest
    counts = np.array([len(g.classes) for g in graph.result(CHANNELS).groups], np.float64)
    assert CostModel(graph).macs(counts) == LAYERS[form] + rest


def test_the_matrix_that_is_measured_has_inputs_and_outputs() -> None:
    found = weights_of_layers(graph_of(HEADS))
    assert {array.shape for array in found.arrays.values()} == {(8, 3, 1, 1), (8, 12), (12, 5)}
    turned = weights_of_layers(graph_of(MATRICES["a matrix turned"]))
    stored = onnx.numpy_helper.to_array(MATRICES["a matrix turned"].graph.initializer[1])
    assert stored.shape == (12, 8)
    np.testing.assert_array_equal(turned.arrays["h"], stored.T)
    assert "h" in turned.input_first


NO_LAYER = {
    "a factor for each channel": ("btc,c->btc", "8", "8"),
    "a letter twice": ("btc,cc->btc", "8,8", "8"),
    "a sum of the weight alone": ("btc,cz->bt", "8,4", "9"),
}


@pytest.mark.parametrize("form", NO_LAYER)
def test_what_makes_no_channels_is_no_layer(form: str) -> None:
    equation, weight, wide = NO_LAYER[form]
    model = network(
        f'h = Einsum<equation="{equation}">(t, w) y = MatMul(h, wy)',
        f"float[{weight}] w, float[{wide},5] wy",
        "1,5" if wide == "9" else "1,9,5",
    )
    assert [g.width for g in groups(model) if "w" in {layer.op.input(1) for layer in g.producers}] == []
    if form == "a letter twice":
        assert "repeats a letter" in reason(model, "stem")
    else:
        assert rewidthed(model, scale=0.5).shape("w")[0] == 4


@pytest.mark.parametrize(
    ("equation", "weight", "last"), [("bchw,cd->bhwd", "1,12", "12"), ("bchw,cde->bhwed", "1,1,12", "12,1")]
)
def test_a_single_channel_is_one_like_others(equation: str, weight: str, last: str) -> None:
    """It is no length of one that is broadcast: its copies share its weights out."""
    declared = f"float[1,3,1,1] stem, float[{weight}] w"
    model = filled(
        f"{HEADER}agraph (float[1,3,3,3] x) => (float[1,3,3,{last}] y)<{declared}>"
        f'{{m = Conv(x, stem) h = Einsum<equation="{equation}">(m, w) y = Relu(h)}}'
    )
    assert rewidthed(model, widths={"m": 3}).shape("w")[0] == 3


def test_a_weight_that_is_broadcast_along_what_is_summed_weighs_all_channels_alike() -> None:
    model = one("btc,cd->btd", "1,12")
    narrow, wide = rewidthed(model, scale=0.5), rewidthed(model, scale=2.0)
    assert (narrow.shape("stem")[0], narrow.shape("w")) == (4, (1, 6))
    # Copies of the eight channels would count twice.
    assert (wide.shape("stem")[0], wide.shape("w")) == (8, (1, 24))


COMPUTED = {
    "a graph of joints": (
        "a = Conv(m, w1) five = Constant<value_ints=[0,3,4,3,3]>() b = Reshape(a, five)"
        ' c = Einsum<equation="nkctv,kvw->nctw">(b, graph) d = Relu(c) y = Conv(d, wy)',
        "float[12,8,1,1] w1, float[3,3,3] graph, float[5,4,1,1] wy",
        {"w1": (6, 4, 1, 1), "wy": (5, 2, 1, 1)},
    ),
    "a gate": (
        'g = Einsum<equation="bchw->bc">(m) r = Einsum<equation="bc,cr->br">(g, down) a = Relu(r)'
        ' u = Einsum<equation="br,rc->bc">(a, up) s = Sigmoid(u) h = Einsum<equation="bchw,bc->bchw">(m, s)'
        " p = GlobalAveragePool(h) flat = Flatten(p) y = MatMul(flat, wy)",
        "float[8,4] down, float[4,8] up, float[8,5] wy",
        {"down": (4, 2), "up": (2, 4), "wy": (4, 5)},
    ),
    "a matrix of experts for each image": (
        "p = GlobalAveragePool(m) g = Flatten(p) l = MatMul(g, r) q = Sigmoid(l)"
        ' k = Einsum<equation="be,eoc->boc">(q, experts) h = Einsum<equation="bchw,boc->bohw">(m, k)'
        " n = GlobalAveragePool(h) flat = Flatten(n) y = MatMul(flat, wy)",
        "float[8,4] r, float[4,6,8] experts, float[6,5] wy",
        {"experts": (2, 3, 4), "r": (4, 2), "wy": (3, 5)},
    ),
}


@pytest.mark.parametrize("form", COMPUTED)
def test_einsums_of_what_the_network_computes(form: str) -> None:
    body, weights, shapes = COMPUTED[form]
    model = network(body, weights, "1,5,3,3" if "joints" in form else "1,5")
    found = rewidthed(model, scale=0.5)
    assert {name: found.shape(name) for name in shapes} == shapes
    assert rewidthed(model, scale=1.5).report.equality == "passed"
